use std::{ops::Index, sync::Arc};

use bytes::Bytes;
use uuid::Uuid;

/// A value, as a parameter or in a row. A type that has no place here is refused with `sql.value_invalid`: cast it to text in the statement.
///
/// | value | PostgreSQL | MariaDB, MySQL | SQLite |
/// |---|---|---|---|
/// | `Null` | null of any type | null; zero dates are read as null | null |
/// | `Bool` | boolean | written as 0 or 1; never read: `boolean` is a small integer | written as 0 or 1, never read |
/// | `Integer` | smallint, integer, bigint, oid | all signed integers, smaller unsigned ones, year | integer |
/// | `Unsigned` | written as numeric when it passes `i64`, else as bigint; never read | bigint unsigned, bit | as an integer; refused when it passes `i64` |
/// | `Float` | real, double precision | float, double | real; not-a-number is refused |
/// | `Decimal` | numeric | decimal | written as text, never read |
/// | `Text` | text, varchar, char, name, enums | char, varchar, text, enum, set; `uuid` and `json` of MariaDB | text |
/// | `Bytes` | bytea | binary, varbinary, blob | blob |
/// | `Timestamp` | timestamptz | timestamp | written as text `2026-01-31T23:59:59.123456Z`, never read |
/// | `DateTime` | timestamp | datetime | written as text, the same without `Z` |
/// | `Date` | date | date | written as text `2026-01-31` |
/// | `Time` | time | time | written as text `23:59:59.123456` |
/// | `Uuid` | uuid | written as text with hyphens, never read | written as text with hyphens, never read |
/// | `Json` | json, jsonb; written as jsonb | JSON of MySQL | written as text, never read |
///
/// Infinite dates and times of PostgreSQL are refused when read.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// True or false.
    Bool(bool),
    /// A signed integer.
    Integer(i64),
    /// An unsigned integer.
    Unsigned(u64),
    /// A binary floating-point number.
    Float(f64),
    /// A decimal number, exactly as the database writes it: `-12.340`, `NaN`.
    Decimal(String),
    /// Characters.
    Text(String),
    /// Bytes.
    Bytes(Bytes),
    /// A moment: microseconds since 1970-01-01T00:00:00Z.
    Timestamp(i64),
    /// A day and a time on some wall: microseconds since 1970-01-01 00:00 there.
    DateTime(i64),
    /// A day: days since 1970-01-01.
    Date(i32),
    /// Microseconds since midnight; a span of time in MariaDB and MySQL, which may be negative.
    Time(i64),
    /// A UUID.
    Uuid(Uuid),
    /// JSON as text.
    Json(String),
}

impl Value {
    /// What it is, for messages: never the value itself.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Integer(_) => "integer",
            Self::Unsigned(_) => "unsigned",
            Self::Float(_) => "float",
            Self::Decimal(_) => "decimal",
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "timestamp",
            Self::DateTime(_) => "date and time",
            Self::Date(_) => "date",
            Self::Time(_) => "time",
            Self::Uuid(_) => "uuid",
            Self::Json(_) => "json",
        }
    }

    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// As an integer; a boolean is 0 or 1, and a decimal without a fraction is one too: sums of integers are decimals in some databases.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            Self::Unsigned(value) => i64::try_from(*value).ok(),
            Self::Bool(value) => Some(i64::from(*value)),
            Self::Decimal(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// As a boolean; 0 and 1 are, too.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::Integer(0) | Self::Unsigned(0) => Some(false),
            Self::Integer(1) | Self::Unsigned(1) => Some(true),
            _ => None,
        }
    }

    /// As a floating-point number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// As characters: text, decimals and JSON.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Decimal(text) | Self::Json(text) => Some(text),
            _ => None,
        }
    }

    /// As bytes.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

macro_rules! from {
    ($($type:ty => $variant:ident),* $(,)?) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}
from! {
    bool => Bool,
    i64 => Integer, i32 => Integer, i16 => Integer, u32 => Integer,
    u64 => Unsigned,
    f64 => Float,
    &str => Text, String => Text,
    Bytes => Bytes, Vec<u8> => Bytes,
    Uuid => Uuid,
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as the database calls it.
    pub type_name: String,
}

/// A row of an answer. `row["name"]` and `row[0]` are values; both panic when there is no such column, [`Row::get`] does not.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    columns: Arc<[Column]>,
    values: Vec<Value>,
}

impl Row {
    /// A row with as many values as there are columns.
    pub fn new(columns: Arc<[Column]>, values: Vec<Value>) -> Self {
        Self { columns, values }
    }

    /// The columns, shared by all rows of an answer.
    pub fn columns(&self) -> &Arc<[Column]> {
        &self.columns
    }

    /// The values, in the order of the columns.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The values themselves.
    pub fn into_values(self) -> Vec<Value> {
        self.values
    }

    /// The value of the first column of this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let index = self.columns.iter().position(|column| column.name == name)?;
        self.values.get(index)
    }
}

impl Index<usize> for Row {
    type Output = Value;

    fn index(&self, index: usize) -> &Value {
        &self.values[index]
    }
}

impl Index<&str> for Row {
    type Output = Value;

    fn index(&self, name: &str) -> &Value {
        self.get(name)
            .expect("the caller names a column of its own statement")
    }
}
