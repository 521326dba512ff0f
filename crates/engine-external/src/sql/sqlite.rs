//! SQLite: a file beside the service. One writer at a time, no branches, no replicas.

use std::{fmt::Write, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture, stream::BoxStream};
use sinew_core::{Error, Kind, Result};
use sinew_engine::sql::{
    Begin, BranchId, Column, Dialect as Language, Executed, Prepared, Row, Value,
    fault as sql_fault,
};
use sqlx::{
    Arguments as _, AssertSqlSafe, Column as _, Executor, Row as _, Sqlite, SqliteConnection,
    TypeInfo, ValueRef,
    error::DatabaseError,
    sqlite::{
        SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqliteQueryResult, SqliteRow,
        SqliteSynchronous,
    },
};

use super::{
    calendar,
    dialect::{Answer, Connection, Dialect, Position, Unsettled},
};
use crate::fault;

pub(super) struct Lite;

/// What a connection needs: durable before the answer, readers beside the writer, references checked.
pub(super) fn connect(path: &str, busy: Duration) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(busy)
}

fn no_branches<T>() -> sqlx::Result<T> {
    Err(sqlx::Error::InvalidArgument("no branches".into()))
}

fn unwritable(value: &Value) -> Error {
    sql_fault::value_invalid(format!(
        "SQLite cannot keep this {}: it is out of its range",
        value.kind()
    ))
}

impl Dialect for Lite {
    type Db = Sqlite;

    const NAME: &'static str = "sqlite";
    const LANGUAGE: Language = Language::Sqlite;
    const PARAMETERS: usize = 32_766;
    const BRANCHES: bool = false;
    const BRANCH_HOLDS_SESSION: bool = false;
    const REPLICAS: bool = false;

    fn bind(parameters: Vec<Value>, _text: &mut String) -> Result<SqliteArguments> {
        let mut arguments = SqliteArguments::default();
        for value in parameters {
            let added = match value {
                Value::Null => arguments.add(None::<i64>),
                Value::Bool(value) => arguments.add(i64::from(value)),
                Value::Integer(value) => arguments.add(value),
                Value::Unsigned(number) => match i64::try_from(number) {
                    Ok(number) => arguments.add(number),
                    Err(_) => return Err(unwritable(&value)),
                },
                // SQLite would make it null.
                Value::Float(number) if number.is_nan() => return Err(unwritable(&value)),
                Value::Float(number) => arguments.add(number),
                Value::Decimal(text) | Value::Text(text) | Value::Json(text) => arguments.add(text),
                Value::Bytes(bytes) => arguments.add(bytes.to_vec()),
                Value::Timestamp(micros) => match calendar::moment(micros, 'T') {
                    Some(mut text) => {
                        text.push('Z');
                        arguments.add(text)
                    }
                    None => return Err(unwritable(&value)),
                },
                Value::DateTime(micros) => match calendar::moment(micros, 'T') {
                    Some(text) => arguments.add(text),
                    None => return Err(unwritable(&value)),
                },
                Value::Date(days) => match calendar::date(days.into()) {
                    Some(text) => arguments.add(text),
                    None => return Err(unwritable(&value)),
                },
                Value::Time(micros) => arguments.add(calendar::time(micros)),
                Value::Uuid(uuid) => {
                    let mut text = String::new();
                    let _ = write!(text, "{}", uuid.hyphenated());
                    arguments.add(text)
                }
            };
            added.map_err(|why| sql_fault::value_invalid(why.to_string()))?;
        }
        Ok(arguments)
    }

    fn run(
        connection: &mut SqliteConnection,
        text: String,
        arguments: Option<SqliteArguments>,
    ) -> BoxStream<'_, Answer<Self>> {
        connection.fetch_many((AssertSqlSafe(text), arguments))
    }

    fn row(row: &SqliteRow, columns: &mut Option<Arc<[Column]>>) -> Result<Row> {
        let columns = columns.get_or_insert_with(|| {
            let column = |column: &sqlx::sqlite::SqliteColumn| Column {
                name: column.name().to_owned(),
                type_name: column.type_info().name().to_owned(),
            };
            row.columns().iter().map(column).collect()
        });
        let mut values = Vec::with_capacity(columns.len());
        for index in 0..columns.len() {
            let value = read(row, index).map_err(|_| unreadable(&columns[index]))?;
            values.push(value);
        }
        Ok(Row::new(Arc::clone(columns), values))
    }

    fn executed(result: &SqliteQueryResult) -> Executed {
        Executed {
            affected: result.rows_affected(),
            last_id: Some(result.last_insert_rowid()),
        }
    }

    fn fault(error: &dyn DatabaseError, limit: Duration) -> Option<Error> {
        let code: i64 = error.code().and_then(|code| code.parse().ok()).unwrap_or(0);
        let context = format!("SQLite error {code}");
        // Its messages name columns, never values: "UNIQUE constraint failed: users.name".
        let named = error.message().rsplit_once(": ").map(|(_, name)| name);
        // https://www.sqlite.org/rescode.html; the low byte is the primary code.
        Some(match (code, code & 0xff) {
            (2067 | 1555 | 2579, _) => sql_fault::unique(named),
            (787 | 1811, _) => sql_fault::foreign_key(None),
            (1299, _) => sql_fault::not_null(named),
            (275, _) => sql_fault::check(named),
            (_, 19) => sql_fault::check(None),
            (_, 5 | 6) => sql_fault::conflict(context),
            (_, 1) => sql_fault::statement_invalid(format!("SQLite: {}", error.message())),
            (_, 25) => sql_fault::statement_invalid("SQLite: the parameters do not fit"),
            (_, 20 | 18) => sql_fault::value_invalid("a value does not fit its place"),
            (_, 8) => sql_fault::read_only(),
            (_, 13) => sql_fault::full(context),
            (_, 11 | 26) => sql_fault::damaged(context),
            (_, 9) => fault::timeout(Self::NAME, limit),
            (_, 3 | 23) => fault::denied(Self::NAME, context),
            (_, 14) => fault::unavailable(Self::NAME, "the file cannot be opened"),
            // An I/O error: what had been under way is not known.
            (_, 10) => return None,
            _ => Error::new(
                Kind::Internal,
                "engine.unexpected",
                "sqlite gave an answer that is not understood; see the log",
            )
            .with_context(context),
        })
    }

    fn settle(
        _connection: &mut Connection<Self>,
        _limit: Duration,
    ) -> BoxFuture<'_, sqlx::Result<()>> {
        std::future::ready(Ok(())).boxed()
    }

    fn begin(options: &Begin) -> String {
        // A writer takes its place at once: to find out later that another was first would mean to begin anew.
        let how = if options.read_only { "" } else { " IMMEDIATE" };
        format!("BEGIN{how}")
    }

    fn branch(_namespace: &str, _id: &BranchId) -> String {
        String::new()
    }

    fn begin_branch<'a>(
        _connection: &'a mut SqliteConnection,
        _branch: &'a str,
        _options: &'a Begin,
    ) -> BoxFuture<'a, sqlx::Result<bool>> {
        std::future::ready(no_branches()).boxed()
    }

    fn prepare(_branch: &str) -> String {
        String::new()
    }

    fn rollback_branch(_branch: &str) -> String {
        String::new()
    }

    fn commit_prepared(_branch: &str) -> String {
        String::new()
    }

    fn rollback_prepared(_branch: &str) -> String {
        String::new()
    }

    fn is_taken(_error: &dyn DatabaseError) -> bool {
        false
    }

    fn unsettled(_error: &dyn DatabaseError) -> Unsettled {
        Unsettled::Other
    }

    fn is_absent<'a>(
        _connection: &'a mut SqliteConnection,
        _branch: &'a str,
    ) -> BoxFuture<'a, sqlx::Result<bool>> {
        std::future::ready(no_branches()).boxed()
    }

    fn prepared<'a>(
        _connection: &'a mut SqliteConnection,
        _namespace: &'a str,
    ) -> BoxFuture<'a, sqlx::Result<Vec<Prepared>>> {
        std::future::ready(no_branches()).boxed()
    }

    fn written(_connection: &mut SqliteConnection) -> BoxFuture<'_, sqlx::Result<Position>> {
        std::future::ready(Ok(Position::default())).boxed()
    }

    fn applied(_connection: &mut SqliteConnection) -> BoxFuture<'_, sqlx::Result<Position>> {
        std::future::ready(Ok(Position::default())).boxed()
    }
}

fn unreadable(column: &Column) -> Error {
    sql_fault::value_invalid(format!(
        "column {:?} ({}) holds what cannot be read",
        column.name, column.type_name
    ))
}

/// Reads a value as what it is stored as: columns of SQLite hold anything.
fn read(row: &SqliteRow, index: usize) -> sqlx::Result<Value> {
    let kind = {
        let raw = row.try_get_raw(index)?;
        if raw.is_null() {
            return Ok(Value::Null);
        }
        raw.type_info().name().to_owned()
    };
    Ok(match kind.as_str() {
        "INTEGER" => Value::Integer(row.try_get_unchecked(index)?),
        "REAL" => Value::Float(row.try_get_unchecked(index)?),
        "TEXT" => Value::Text(row.try_get_unchecked(index)?),
        "BLOB" => Value::Bytes(row.try_get_unchecked::<Vec<u8>, _>(index)?.into()),
        "NULL" => Value::Null,
        other => return Err(sqlx::Error::Decode(other.into())),
    })
}
