//! Between Rust's types and SQLite's.

use std::{error::Error, str::FromStr};

use rusqlite::{Connection, OptionalExtension, Params, Row, types::Type};
use uuid::Uuid;

use crate::fault::Result;

/// Reads a column that is stored as text, such as an id or a state.
pub(super) fn parsed<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<T>
where
    T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>>,
{
    parse(
        column,
        row.get_ref(column)?
            .as_str()
            .map_err(|error| unfit(column, error))?,
    )
}

/// As [`parsed`], for a column that may be null.
pub(super) fn parsed_optional<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<T>>
where
    T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>>,
{
    let text = row
        .get_ref(column)?
        .as_str_or_null()
        .map_err(|error| unfit(column, error))?;
    text.map(|text| parse(column, text)).transpose()
}

fn parse<T>(column: &str, text: &str) -> rusqlite::Result<T>
where
    T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>>,
{
    text.parse().map_err(|error| unfit(column, error))
}

fn unfit(column: &str, error: impl Into<Box<dyn Error + Send + Sync>>) -> rusqlite::Error {
    let error = format!("column {column}: {}", error.into());
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, error.into())
}

/// An id as it is stored.
pub(super) fn text(id: Uuid) -> String {
    id.to_string()
}

/// Runs a statement that changes rows; answers how many.
pub(super) fn execute(db: &Connection, sql: &str, params: impl Params) -> Result<usize> {
    Ok(db.prepare_cached(sql)?.execute(params)?)
}

/// The one row of a query, if there is one.
pub(super) fn one<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Option<T>> {
    Ok(db.prepare_cached(sql)?.query_one(params, map).optional()?)
}

/// All rows of a query.
pub(super) fn all<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement
        .query_map(params, map)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(rows)
}
