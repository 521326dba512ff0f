//! Values of PostgreSQL, in its binary format.

use std::sync::Arc;

use sinew_core::{Error, Result};
use sinew_engine::sql::{Column, Row, Value, fault as sql_fault};
use sqlx::{
    Arguments as _, Column as _, Encode, Postgres, Row as _, Type, TypeInfo, ValueRef,
    encode::IsNull,
    error::BoxDynError,
    postgres::{
        PgArgumentBuffer, PgArguments, PgColumn, PgRow, PgTypeInfo, PgTypeKind, PgValueFormat,
        types::Oid,
    },
};
use uuid::Uuid;

use super::{super::calendar::DAY, numeric};

/// Between PostgreSQL's epoch, 2000-01-01, and ours.
const EPOCH_DAYS: i64 = 10_957;

// The object ids of built-in types (`pg_type.dat`), which never change.
const BOOL: u32 = 16;
const BYTEA: u32 = 17;
const INT8: u32 = 20;
const TEXT: u32 = 25;
const FLOAT8: u32 = 701;
const UNKNOWN: u32 = 705;
const DATE: u32 = 1082;
const TIME: u32 = 1083;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
const NUMERIC: u32 = 1700;
const UUID: u32 = 2950;
const JSONB: u32 = 3802;

/// A parameter in the binary format of its type.
struct Parameter {
    kind: u32,
    bytes: Option<Vec<u8>>,
}

impl Type<Postgres> for Parameter {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(UNKNOWN))
    }
}

impl Encode<'_, Postgres> for Parameter {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match &self.bytes {
            Some(bytes) => {
                buffer.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
            None => Ok(IsNull::Yes),
        }
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(self.kind)))
    }
}

/// The library keeps prepared statements by their text alone, while the types of parameters belong to the statement: the comment at the end
/// keeps apart what only differs in those, so that the bytes of one type are never read as another.
pub(super) fn bind(parameters: Vec<Value>, text: &mut String) -> Result<PgArguments> {
    let mut arguments = PgArguments::default();
    if parameters.is_empty() {
        return Ok(arguments);
    }
    // On a line of its own: the text may end in a comment.
    text.push_str("\n/*");
    for value in parameters {
        let (letter, parameter) = encode(value)?;
        text.push(letter);
        arguments
            .add(parameter)
            .map_err(|why| sql_fault::value_invalid(why.to_string()))?;
    }
    text.push_str("*/");
    Ok(arguments)
}

fn encode(value: Value) -> Result<(char, Parameter)> {
    let kind = value.kind();
    let out_of_range =
        || sql_fault::value_invalid(format!("this {kind} is out of the database's range"));
    let some = |kind, bytes: Vec<u8>| {
        let bytes = Some(bytes);
        Parameter { kind, bytes }
    };
    let moment = |micros: i64| {
        let since = micros
            .checked_sub(EPOCH_DAYS * DAY)
            .ok_or_else(out_of_range)?;
        // The ends of the range are infinities there.
        match since {
            i64::MIN | i64::MAX => Err(out_of_range()),
            since => Ok(since.to_be_bytes().to_vec()),
        }
    };
    Ok(match value {
        Value::Null => {
            let (kind, bytes) = (UNKNOWN, None);
            ('0', Parameter { kind, bytes })
        }
        Value::Bool(value) => ('b', some(BOOL, vec![u8::from(value)])),
        Value::Integer(value) => ('i', some(INT8, value.to_be_bytes().to_vec())),
        Value::Unsigned(value) => match i64::try_from(value) {
            Ok(value) => ('i', some(INT8, value.to_be_bytes().to_vec())),
            Err(_) => {
                let bytes = numeric::write(&value.to_string()).ok_or_else(out_of_range)?;
                ('n', some(NUMERIC, bytes))
            }
        },
        Value::Float(value) => ('f', some(FLOAT8, value.to_be_bytes().to_vec())),
        Value::Decimal(text) => {
            let bytes = numeric::write(&text)
                .ok_or_else(|| sql_fault::value_invalid("a decimal is not written as one"))?;
            ('n', some(NUMERIC, bytes))
        }
        Value::Text(text) => ('t', some(TEXT, text.into_bytes())),
        Value::Bytes(bytes) => ('y', some(BYTEA, bytes.to_vec())),
        Value::Timestamp(micros) => ('z', some(TIMESTAMPTZ, moment(micros)?)),
        Value::DateTime(micros) => ('l', some(TIMESTAMP, moment(micros)?)),
        Value::Date(days) => {
            let since = i64::from(days) - EPOCH_DAYS;
            let since = i32::try_from(since).map_err(|_| out_of_range())?;
            ('d', some(DATE, since.to_be_bytes().to_vec()))
        }
        Value::Time(micros) if !(0..=DAY).contains(&micros) => return Err(out_of_range()),
        Value::Time(micros) => ('c', some(TIME, micros.to_be_bytes().to_vec())),
        Value::Uuid(uuid) => ('u', some(UUID, uuid.as_bytes().to_vec())),
        Value::Json(text) => {
            // The version of the format, then the text.
            let mut bytes = vec![1];
            bytes.extend_from_slice(text.as_bytes());
            ('j', some(JSONB, bytes))
        }
    })
}

pub(super) fn row(row: &PgRow, columns: &mut Option<Arc<[Column]>>) -> Result<Row> {
    let columns = columns.get_or_insert_with(|| {
        let column = |column: &PgColumn| Column {
            name: column.name().to_owned(),
            type_name: column.type_info().name().to_ascii_lowercase(),
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
        "column {:?} is {}, which has no value here; cast it to text",
        column.name, column.type_name
    ))
}

fn read(row: &PgRow, index: usize, column: &Column) -> Result<Value, BoxDynError> {
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let bytes = raw.as_bytes()?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec());
    if raw.format() == PgValueFormat::Text {
        // Statements that are not prepared answer so: `show`, `explain`.
        return Ok(Value::Text(text(bytes)?));
    }
    Ok(match column.type_name.as_str() {
        "bool" => Value::Bool(bytes == [1]),
        "int2" => Value::Integer(i16::from_be_bytes(bytes.try_into()?).into()),
        "int4" => Value::Integer(i32::from_be_bytes(bytes.try_into()?).into()),
        "int8" => Value::Integer(i64::from_be_bytes(bytes.try_into()?)),
        "oid" => Value::Integer(u32::from_be_bytes(bytes.try_into()?).into()),
        "float4" => Value::Float(f32::from_be_bytes(bytes.try_into()?).into()),
        "float8" => Value::Float(f64::from_be_bytes(bytes.try_into()?)),
        "numeric" => Value::Decimal(numeric::read(bytes).ok_or("no numeric")?),
        "text" | "varchar" | "char" | "bpchar" | "name" | "unknown" | "\"char\"" | "citext" => {
            Value::Text(text(bytes)?)
        }
        "bytea" => Value::Bytes(bytes.to_vec().into()),
        "timestamptz" => Value::Timestamp(moment(bytes)?),
        "timestamp" => Value::DateTime(moment(bytes)?),
        "date" => match i32::from_be_bytes(bytes.try_into()?) {
            i32::MIN | i32::MAX => return Err("infinite".into()),
            days => Value::Date(i32::try_from(i64::from(days) + EPOCH_DAYS)?),
        },
        "time" => Value::Time(i64::from_be_bytes(bytes.try_into()?)),
        "uuid" => Value::Uuid(Uuid::from_slice(bytes)?),
        "json" => Value::Json(text(bytes)?),
        "jsonb" => Value::Json(text(bytes.get(1..).ok_or("too short")?)?),
        "void" => Value::Null,
        _ if matches!(raw.type_info().kind(), PgTypeKind::Enum(_)) => Value::Text(text(bytes)?),
        _ => return Err("no value for it".into()),
    })
}

fn moment(bytes: &[u8]) -> Result<i64, BoxDynError> {
    match i64::from_be_bytes(bytes.try_into()?) {
        i64::MIN | i64::MAX => Err("infinite".into()),
        micros => Ok(micros.checked_add(EPOCH_DAYS * DAY).ok_or("out of range")?),
    }
}
