use sinew_core::Kind;
use uuid::Uuid;

use super::{
    Case, case,
    stand::{Stand, fails},
};
use crate::sql::{Dialect, Statement, Value};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            values_come_back,
            Nothing,
            "What each value is written as, and each type read as, stands at `Value`."
        ),
        case!(
            the_ends_of_ranges_come_back,
            Nothing,
            "What each value is written as, and each type read as, stands at `Value`."
        ),
        case!(
            null_is_null_of_every_type,
            Nothing,
            "`Null`: null of any type."
        ),
        case!(
            what_has_no_place_is_refused,
            Nothing,
            "A type that has no place here is refused with `sql.value_invalid`."
        ),
        case!(
            large_values_come_back,
            Nothing,
            "Bytes and text of megabytes."
        ),
    ]
}

const UUID: Uuid = Uuid::from_u128(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210);
/// 2026-01-31T23:59:59.123456Z.
const MOMENT: i64 = 1_769_903_999_123_456;

/// A type of the dialect, what is written, what is read.
fn table(dialect: Dialect) -> Vec<(&'static str, Value, Value)> {
    use Value::{
        Bool, Bytes, Date, DateTime, Decimal, Float, Integer, Json, Text, Time, Timestamp,
        Unsigned, Uuid,
    };
    let same = |kind, value: Value| (kind, value.clone(), value);
    let text = |text: &str| Text(text.into());
    let bytes = || Bytes(vec![0, 1, 39, 92, 255].into());
    let decimal = || Decimal("-12345678901234567890.1230".into());
    match dialect {
        Dialect::Postgres => vec![
            same("boolean", Bool(true)),
            same("smallint", Integer(-7)),
            same("integer", Integer(-7)),
            same("bigint", Integer(i64::MIN)),
            same("real", Float(1.5)),
            same("double precision", Float(-0.1)),
            same("numeric(40,4)", decimal()),
            ("numeric", Unsigned(u64::MAX), Decimal(u64::MAX.to_string())),
            ("bigint", Unsigned(7), Integer(7)),
            same("numeric", Decimal("NaN".into())),
            same("text", text("ä \u{1f600} '")),
            same("varchar(9)", text("x")),
            same("char(3)", text("abc")),
            same("bytea", bytes()),
            same("timestamptz", Timestamp(MOMENT)),
            same("timestamptz", Timestamp(-1)),
            same("timestamp", DateTime(MOMENT)),
            same("date", Date(-1)),
            same("time", Time(86_399_999_999)),
            same("uuid", Uuid(UUID)),
            same("json", Json("{\"a\": [1, null]}".into())),
            same("jsonb", Json("{\"a\": [1, null]}".into())),
        ],
        Dialect::Mysql => vec![
            ("boolean", Bool(true), Integer(1)),
            same("tinyint", Integer(-7)),
            same("smallint", Integer(-7)),
            same("mediumint", Integer(-7)),
            same("integer", Integer(-7)),
            same("bigint", Integer(i64::MIN)),
            same("integer unsigned", Integer(4_294_967_295)),
            same("bigint unsigned", Unsigned(u64::MAX)),
            same("year", Integer(2026)),
            ("bit(12)", Integer(0xabc), Unsigned(0xabc)),
            same("float", Float(1.5)),
            same("double", Float(-0.1)),
            same("decimal(40,4)", decimal()),
            same("varchar(40)", text("ä \u{1f600} '")),
            same("longtext", text("x")),
            same(
                "varchar(9) character set utf8mb4 collate utf8mb4_bin",
                text("x"),
            ),
            same("enum('a','b')", text("b")),
            same("varbinary(9)", bytes()),
            same("blob", bytes()),
            same("timestamp(6)", Timestamp(MOMENT)),
            same("datetime(6)", DateTime(MOMENT)),
            same("datetime(6)", DateTime(-1)),
            same("date", Date(20_000)),
            same("time(6)", Time(-3_600_000_001)),
            same("time(6)", Time(86_399_999_999)),
            ("char(36)", Uuid(UUID), text(&UUID.to_string())),
            ("longtext", Json("{\"a\": 1}".into()), text("{\"a\": 1}")),
        ],
        Dialect::Sqlite => vec![
            ("integer", Bool(true), Integer(1)),
            same("integer", Integer(i64::MIN)),
            ("integer", Unsigned(7), Integer(7)),
            same("real", Float(-0.1)),
            ("text", decimal(), text("-12345678901234567890.1230")),
            same("text", text("ä \u{1f600} '")),
            same("blob", bytes()),
            (
                "text",
                Timestamp(MOMENT),
                text("2026-01-31T23:59:59.123456Z"),
            ),
            ("text", DateTime(MOMENT), text("2026-01-31T23:59:59.123456")),
            ("text", Date(-1), text("1969-12-31")),
            ("text", Time(86_399_999_999), text("23:59:59.999999")),
            ("text", Uuid(UUID), text(&UUID.to_string())),
            ("text", Json("{\"a\": 1}".into()), text("{\"a\": 1}")),
        ],
    }
}

async fn values_come_back(stand: Stand) {
    for (n, (kind, written, read)) in table(stand.dialect()).into_iter().enumerate() {
        stand
            .execute(format!("create table t{n} (a {kind} null)"))
            .await;
        let insert = Statement::new(format!("insert into t{n} values ($1)")).bind(written);
        stand.execute(insert).await;
        let got = stand.value(format!("select a from t{n}")).await;
        assert_eq!(got, read, "{kind}");
    }
}

async fn the_ends_of_ranges_come_back(stand: Stand) {
    let floating = match stand.dialect() {
        Dialect::Postgres => "double precision",
        Dialect::Mysql => "double",
        Dialect::Sqlite => "real",
    };
    stand
        .execute(format!(
            "create table t (n integer primary key, a bigint, b {floating}, c varchar(9))"
        ))
        .await;
    let rows = [
        (i64::MIN, f64::MIN, ""),
        (i64::MAX, f64::MAX, " "),
        (0, f64::MIN_POSITIVE, "\u{10ffff}"),
        (-1, 0.1 + 0.2, "\\"),
    ];
    for (n, (a, b, c)) in rows.into_iter().enumerate() {
        let insert = Statement::new("insert into t values ($1, $2, $3, $4)")
            .bind(i64::try_from(n).unwrap())
            .bind(a)
            .bind(b)
            .bind(c);
        stand.execute(insert).await;
    }
    let got = stand.query("select a, b, c from t order by n").await;
    for (row, (a, b, c)) in got.iter().zip(rows) {
        assert_eq!(row.values(), [a.into(), b.into(), c.into()]);
    }
    assert_eq!(got.len(), 4);
}

async fn null_is_null_of_every_type(stand: Stand) {
    for (n, (kind, _, _)) in table(stand.dialect()).into_iter().enumerate() {
        stand
            .execute(format!("create table t{n} (a {kind} null)"))
            .await;
        let insert = Statement::new(format!("insert into t{n} values ($1)")).bind(Value::Null);
        stand.execute(insert).await;
        let got = stand.value(format!("select a from t{n}")).await;
        assert_eq!(got, Value::Null, "{kind}");
    }
}

async fn what_has_no_place_is_refused(stand: Stand) {
    let sql = stand.sql();
    let refused: Vec<(&str, Value)> = match stand.dialect() {
        Dialect::Postgres => vec![
            ("select $1", Value::Decimal("1,5".into())),
            ("select $1", Value::Time(-1)),
            ("select $1", Value::DateTime(i64::MIN)),
            ("select array[1, 2] where $1 = 1", Value::Integer(1)),
            (
                "select 'infinity'::timestamptz where $1 = 1",
                Value::Integer(1),
            ),
        ],
        Dialect::Mysql => vec![
            ("select $1", Value::Float(f64::INFINITY)),
            ("select $1", Value::DateTime(i64::MAX)),
        ],
        Dialect::Sqlite => vec![
            ("select $1", Value::Unsigned(u64::MAX)),
            ("select $1", Value::Float(f64::NAN)),
            ("select $1", Value::Date(i32::MAX)),
        ],
    };
    for (text, value) in refused {
        let refused = sql.query(Statement::new(text).bind(value)).await;
        fails(refused, Kind::InvalidArgument, "sql.value_invalid");
    }
    // The connection is in order afterwards.
    assert_eq!(stand.value("select 1").await.as_i64(), Some(1));
}

async fn large_values_come_back(stand: Stand) {
    let (text, blob) = match stand.dialect() {
        Dialect::Postgres => ("text", "bytea"),
        Dialect::Mysql => ("longtext", "longblob"),
        Dialect::Sqlite => ("text", "blob"),
    };
    stand
        .execute(format!("create table t (a {text}, b {blob})"))
        .await;
    let a = "ä".repeat(1 << 20);
    let b: Vec<u8> = (0..3 << 20)
        .map(|n: u32| n.to_le_bytes()[n as usize % 3])
        .collect();
    let insert = Statement::new("insert into t values ($1, $2)");
    stand.execute(insert.bind(a.as_str()).bind(b.clone())).await;
    let rows = stand.query("select a, b from t").await;
    assert!(rows[0]["a"].as_str() == Some(&a));
    assert!(rows[0]["b"].as_bytes() == Some(&b));
}
