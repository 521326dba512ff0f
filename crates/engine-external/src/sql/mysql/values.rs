//! Values of MariaDB and MySQL.

use std::sync::Arc;

use sinew_core::{Error, Result};
use sinew_engine::sql::{Column, Row, Value, fault as sql_fault};
use sqlx::{
    Arguments as _, Column as _, MySql, Row as _, Type, TypeInfo, ValueRef,
    error::BoxDynError,
    mysql::{MySqlArguments, MySqlColumn, MySqlRow},
};

use super::super::calendar::{self, DAY};

/// Days and times go as text, which the server takes for what it stands beside.
pub(super) fn bind(parameters: Vec<Value>) -> Result<MySqlArguments> {
    let mut arguments = MySqlArguments::default();
    for value in parameters {
        let kind = value.kind();
        let out_of_range =
            || sql_fault::value_invalid(format!("this {kind} is out of the database's range"));
        let added = match value {
            Value::Null => arguments.add(None::<String>),
            Value::Bool(value) => arguments.add(i64::from(value)),
            Value::Integer(value) => arguments.add(value),
            Value::Unsigned(value) => arguments.add(value),
            Value::Float(value) if !value.is_finite() => return Err(out_of_range()),
            Value::Float(value) => arguments.add(value),
            Value::Decimal(text) | Value::Text(text) | Value::Json(text) => arguments.add(text),
            Value::Bytes(bytes) => arguments.add(bytes.to_vec()),
            Value::Timestamp(micros) | Value::DateTime(micros) => {
                arguments.add(calendar::moment(micros, ' ').ok_or_else(out_of_range)?)
            }
            Value::Date(days) => {
                arguments.add(calendar::date(days.into()).ok_or_else(out_of_range)?)
            }
            Value::Time(micros) => arguments.add(calendar::time(micros)),
            Value::Uuid(uuid) => arguments.add(uuid.hyphenated().to_string()),
        };
        added.map_err(|why| sql_fault::value_invalid(why.to_string()))?;
    }
    Ok(arguments)
}

pub(super) fn row(row: &MySqlRow, columns: &mut Option<Arc<[Column]>>) -> Result<Row> {
    let columns = columns.get_or_insert_with(|| {
        let column = |column: &MySqlColumn| Column {
            name: column.name().to_owned(),
            type_name: column.type_info().name().to_owned(),
        };
        row.columns().iter().map(column).collect()
    });
    let mut values = Vec::with_capacity(columns.len());
    for (index, column) in columns.iter().enumerate() {
        let value = read(row, index, column).map_err(|_| unreadable(column))?;
        values.push(value);
    }
    Ok(Row::new(Arc::clone(columns), values))
}

fn unreadable(column: &Column) -> Error {
    sql_fault::value_invalid(format!(
        "column {:?} is {}, which has no value here; cast it to char",
        column.name, column.type_name
    ))
}

fn read(row: &MySqlRow, index: usize, column: &Column) -> Result<Value, BoxDynError> {
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let is_text = <str as Type<MySql>>::compatible(&raw.type_info());
    let bytes = || row.try_get_unchecked::<&[u8], _>(index);
    let text = || row.try_get_unchecked::<String, _>(index);
    Ok(match column.type_name.as_str() {
        "BOOLEAN" | "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "BIGINT" => {
            Value::Integer(row.try_get_unchecked(index)?)
        }
        "TINYINT UNSIGNED" | "SMALLINT UNSIGNED" | "MEDIUMINT UNSIGNED" | "INT UNSIGNED"
        | "YEAR" => Value::Integer(i64::try_from(row.try_get_unchecked::<u64, _>(index)?)?),
        "BIGINT UNSIGNED" => Value::Unsigned(row.try_get_unchecked(index)?),
        "BIT" => Value::Unsigned(
            bytes()?
                .iter()
                .fold(0, |all, byte| all << 8 | u64::from(*byte)),
        ),
        "FLOAT" => Value::Float(row.try_get_unchecked::<f32, _>(index)?.into()),
        "DOUBLE" => Value::Float(row.try_get_unchecked(index)?),
        "DECIMAL" => Value::Decimal(text()?),
        "JSON" => Value::Json(text()?),
        "TIMESTAMP" => Value::Timestamp(moment(bytes()?)?),
        "DATETIME" => Value::DateTime(moment(bytes()?)?),
        "DATE" => Value::Date(i32::try_from(moment(bytes()?)?.div_euclid(DAY))?),
        "TIME" => Value::Time(span(bytes()?)?),
        "ENUM" | "SET" => Value::Text(text()?),
        "GEOMETRY" | "NULL" => return Err("no value for it".into()),
        _ if is_text => Value::Text(text()?),
        _ => Value::Bytes(bytes()?.to_vec().into()),
    })
}

/// Length, year in two bytes, month, day; then hour, minute, second; then microseconds in four. What is zero at the end is left out.
/// (MySQL client/server protocol, "Binary Protocol Value".)
fn moment(bytes: &[u8]) -> Result<i64, BoxDynError> {
    let mut at = [0_u8; 11];
    let bytes = bytes.get(1..).ok_or("too short")?;
    at.get_mut(..bytes.len())
        .ok_or("too long")?
        .copy_from_slice(bytes);
    let year = i64::from(u16::from_le_bytes([at[0], at[1]]));
    let (month, day) = (i64::from(at[2]), i64::from(at[3]));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return Err("a date with zeros".into());
    }
    let seconds = i64::from(at[4]) * 3600 + i64::from(at[5]) * 60 + i64::from(at[6]);
    let micros = i64::from(u32::from_le_bytes([at[7], at[8], at[9], at[10]]));
    Ok(calendar::days(year, month, day) * DAY + seconds * 1_000_000 + micros)
}

/// Length, sign, days in four bytes, hour, minute, second, microseconds in four.
fn span(bytes: &[u8]) -> Result<i64, BoxDynError> {
    let mut at = [0_u8; 12];
    let bytes = bytes.get(1..).ok_or("too short")?;
    at.get_mut(..bytes.len())
        .ok_or("too long")?
        .copy_from_slice(bytes);
    let days = i64::from(u32::from_le_bytes([at[1], at[2], at[3], at[4]]));
    let seconds = i64::from(at[5]) * 3600 + i64::from(at[6]) * 60 + i64::from(at[7]);
    let micros = i64::from(u32::from_le_bytes([at[8], at[9], at[10], at[11]]));
    let all = days * DAY + seconds * 1_000_000 + micros;
    Ok(if at[0] == 0 { all } else { -all })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_spans_may_be_cut_short() {
        assert_eq!(moment(&[4, 0xb2, 0x07, 1, 2]).unwrap(), DAY);
        let whole = [11, 0xb2, 0x07, 1, 1, 1, 1, 1, 5, 0, 0, 0];
        assert_eq!(moment(&whole).unwrap(), 3_661_000_005);
        assert!(moment(&[]).is_err());
        assert!(moment(&[4, 0xb2, 0x07, 0, 2]).is_err());
        assert!(moment(&[0; 40]).is_err());
        assert_eq!(span(&[0]).unwrap(), 0);
        let back = [8, 1, 1, 0, 0, 0, 1, 0, 0];
        assert_eq!(span(&back).unwrap(), -(DAY + 3_600_000_000));
    }
}
