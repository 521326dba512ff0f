use std::collections::HashSet;

use sinew_core::Kind;

use super::{
    Case, case,
    stand::{Stand, fails, only},
};
use crate::sql::{Dialect, Freshness, Source, Statement, Value};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            statements_do_and_answer,
            Nothing,
            "Rows that it inserted, changed or deleted."
        ),
        case!(
            parameters_have_one_notation,
            Nothing,
            "Parameters are written `$1`, `$2`, … in every dialect; one may occur often."
        ),
        case!(
            what_is_quoted_is_no_parameter,
            Nothing,
            "What looks like one inside quotes, comments or names is none."
        ),
        case!(
            values_never_become_text,
            Nothing,
            "Values never become part of the text."
        ),
        case!(
            one_text_takes_values_of_any_type,
            Nothing,
            "A statement is one SQL statement with its parameters."
        ),
        case!(
            the_last_id_is_told,
            Nothing,
            "The number that SQLite, MariaDB or MySQL gave to the last inserted row."
        ),
        case!(
            columns_have_names,
            Nothing,
            "Column names and types, shared by all rows of an answer."
        ),
        case!(
            a_batch_is_all_or_nothing,
            Nothing,
            "Runs many statements as one transaction, in order."
        ),
        case!(batches_are_bounded, Nothing, "At most `Limits::batch`."),
        case!(
            rows_are_bounded,
            Nothing,
            "`sql.too_many_rows` when there are more than it asks for."
        ),
        case!(
            transactions_are_no_statements,
            Nothing,
            "What begins, ends or names a transaction is refused."
        ),
        case!(
            a_read_only_reads,
            Nothing,
            "One that writes is refused with `sql.read_only`."
        ),
        case!(
            instances_see_one_database,
            Nothing,
            "Every engine is correct with several opened instances."
        ),
    ]
}

async fn statements_do_and_answer(stand: Stand) {
    stand
        .execute("create table t (id integer primary key, name varchar(40))")
        .await;
    assert_eq!(stand.query("select * from t").await, []);
    let insert = "insert into t values ($1, $2), ($3, $4), (7, null)";
    let insert = Statement::new(insert)
        .bind(1)
        .bind("one")
        .bind(2)
        .bind("two");
    assert_eq!(stand.execute(insert).await.affected, 3);
    // Found counts as changed, whatever was there.
    let update = Statement::new("update t set name = $1 where id < 3").bind("one");
    assert_eq!(stand.execute(update.clone()).await.affected, 2);
    assert_eq!(stand.execute(update).await.affected, 2);
    let rows = stand.query("select id, name from t order by id").await;
    let names: Vec<_> = rows.iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["one".into(), "one".into(), Value::Null]);
    assert_eq!(rows[2]["id"], Value::Integer(7));
    assert_eq!(
        stand.execute("delete from t where id = 1").await.affected,
        1
    );
    assert_eq!(
        stand.execute("delete from t where id = 1").await.affected,
        0
    );
    assert_eq!(stand.count("t").await, 2);
}

async fn parameters_have_one_notation(stand: Stand) {
    stand
        .execute("create table t (a integer, b integer, c integer)")
        .await;
    let insert = "insert into t values ($3, $1, $2)";
    stand
        .execute(Statement::new(insert).bind(10).bind(20).bind(30))
        .await;
    let rows = stand.query("select a, b, c from t").await;
    let all: Vec<_> = [30, 10, 20].map(Value::from).into();
    assert_eq!(rows[0].values(), all);
    let twice = "select count(*) from t where a = $2 and (b = $1 or c = $1) and a = $2";
    let twice = Statement::new(twice).bind(20).bind(30);
    assert_eq!(stand.value(twice).await.as_i64(), Some(1));
    for (text, values) in [
        ("select $1", 0),
        ("select 1", 1),
        ("select $2", 2),
        ("select $1", 2),
    ] {
        let mut statement = Statement::new(text);
        for _ in 0..values {
            statement = statement.bind(1);
        }
        let refused = stand.sql().query(statement).await;
        fails(refused, Kind::InvalidArgument, "sql.statement_invalid");
    }
}

async fn what_is_quoted_is_no_parameter(stand: Stand) {
    stand
        .execute("create table t (a integer primary key, b varchar(40))")
        .await;
    stand
        .execute(
            Statement::new("insert into t values ($1, $2) -- '$3\n /* $4 */")
                .bind(1)
                .bind("x"),
        )
        .await;
    let text = "select '$1 it''s /* -- ' from t where a = $1 /* '$2' */ -- $3";
    let got = stand.value(Statement::new(text).bind(1)).await;
    assert_eq!(got.as_str(), Some("$1 it's /* -- "));
    let own = match stand.dialect() {
        Dialect::Postgres => "select $q$ $1 ' $q$ || E'\\'' || b from t where a = $1",
        Dialect::Mysql => "select concat(' $1 \\'', \" '\", b) from t where a = $1 # '$2",
        Dialect::Sqlite => "select ' $1 '' ''' || [b] from t where \"a\" = $1",
    };
    let got = stand.value(Statement::new(own).bind(1)).await;
    assert_eq!(got.as_str(), Some(" $1 ' 'x"));
}

async fn values_never_become_text(stand: Stand) {
    stand.execute("create table t (a text)").await;
    let nasty = "'; drop table t; -- \\' \" ` $1 ? /* \u{0001}\u{fffd}";
    stand
        .execute(Statement::new("insert into t values ($1)").bind(nasty))
        .await;
    assert_eq!(stand.value("select a from t").await.as_str(), Some(nasty));
}

async fn one_text_takes_values_of_any_type(stand: Stand) {
    stand
        .execute("create table t (id integer primary key, name varchar(40))")
        .await;
    // One connection keeps what it prepared; the same text with values of other types is another statement.
    let insert = |id: i64, name: Value| {
        Statement::new("insert into t values ($1, $2)")
            .bind(id)
            .bind(name)
    };
    stand.execute(insert(1, Value::Null)).await;
    stand.execute(insert(2, "eightbyt".into())).await;
    stand.execute(insert(3, Value::Null)).await;
    let find = |value: Value| Statement::new("select $1 is null").bind(value);
    for _ in 0..3 {
        let values: [Value; 4] = [7.into(), "text".into(), 1.5.into(), "eightbyt".into()];
        for value in values {
            let answer = stand.value(find(value)).await;
            assert_eq!(answer.as_bool(), Some(false));
        }
    }
    let rows = stand.query("select name from t order by id").await;
    let names: Vec<_> = rows.into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(names, [Value::Null, "eightbyt".into(), Value::Null]);
}

async fn the_last_id_is_told(stand: Stand) {
    let key = match stand.dialect() {
        Dialect::Postgres => "id serial primary key",
        Dialect::Mysql => "id integer auto_increment primary key",
        Dialect::Sqlite => "id integer primary key autoincrement",
    };
    stand
        .execute(format!("create table t ({key}, name varchar(9))"))
        .await;
    for id in 1..=3 {
        let insert = "insert into t (name) values ('x')";
        if stand.dialect() == Dialect::Postgres {
            assert_eq!(stand.execute(insert).await.last_id, None);
            continue;
        }
        assert_eq!(stand.execute(insert).await.last_id, Some(id));
    }
}

async fn columns_have_names(stand: Stand) {
    stand
        .execute("create table t (id integer, name varchar(9))")
        .await;
    stand
        .execute("insert into t values (1, 'x'), (2, 'y')")
        .await;
    let rows = stand.query("select name as n, id from t order by id").await;
    let names: Vec<_> = rows[1]
        .columns()
        .iter()
        .map(|column| &column.name[..])
        .collect();
    assert_eq!(names, ["n", "id"]);
    let types: HashSet<_> = rows[0]
        .columns()
        .iter()
        .map(|column| &column.type_name)
        .collect();
    assert_eq!(types.len(), 2, "{types:?}");
    assert_eq!(rows[1].get("n"), Some(&"y".into()));
    assert_eq!(rows[1].get("x"), None);
}

async fn a_batch_is_all_or_nothing(stand: Stand) {
    stand
        .execute("create table t (id integer primary key)")
        .await;
    let sql = stand.sql();
    let insert = |id: i64| Statement::new("insert into t values ($1)").bind(id);
    let done = sql.batch(vec![
        insert(1),
        insert(2),
        "delete from t".into(),
        insert(3),
    ]);
    let done = done.await.unwrap();
    let affected: Vec<_> = done.iter().map(|one| one.affected).collect();
    assert_eq!(affected, [1, 1, 2, 1]);
    let broken = sql.batch(vec![insert(4), insert(3), insert(5)]).await;
    fails(broken, Kind::AlreadyExists, "sql.unique");
    let broken = sql.batch(vec![insert(4), "select $1".into()]).await;
    fails(broken, Kind::InvalidArgument, "sql.statement_invalid");
    assert_eq!(stand.count("t").await, 1);
    assert_eq!(sql.batch(vec![]).await.unwrap(), []);
}

async fn batches_are_bounded(stand: Stand) {
    stand.execute("create table t (id integer)").await;
    let most = stand.sql().capability().limits.batch;
    let statements = vec![Statement::new("insert into t values (1)"); most + 1];
    let refused = stand.sql().batch(statements.clone()).await;
    fails(refused, Kind::InvalidArgument, "sql.statement_invalid");
    stand
        .sql()
        .batch(statements[..most].to_vec())
        .await
        .unwrap();
    assert_eq!(stand.count("t").await, i64::try_from(most).unwrap());
}

async fn rows_are_bounded(stand: Stand) {
    stand.execute("create table t (id integer)").await;
    stand.execute("insert into t values (1), (2), (3)").await;
    let sql = stand.sql();
    let all = Statement::new("select id from t");
    assert_eq!(sql.query(all.clone().at_most(3)).await.unwrap().len(), 3);
    let more = sql.query(all.clone().at_most(2)).await;
    fails(more, Kind::OutOfRange, "sql.too_many_rows");
    let more = sql.read(all.at_most(0), Freshness::Newest).await;
    fails(more, Kind::OutOfRange, "sql.too_many_rows");
}

async fn transactions_are_no_statements(stand: Stand) {
    let sql = stand.sql();
    for text in [
        "begin",
        "commit",
        "ROLLBACK",
        " /* x */ savepoint a",
        "set x = 1",
    ] {
        fails(
            sql.execute(text.into()).await,
            Kind::InvalidArgument,
            "sql.statement_invalid",
        );
        let mut open = sql.begin(super::stand::long()).await.unwrap();
        fails(
            open.execute(text.into()).await,
            Kind::InvalidArgument,
            "sql.statement_invalid",
        );
        open.rollback().await.unwrap();
    }
    let two = sql.execute("select 1; select 2".into()).await;
    fails(two, Kind::InvalidArgument, "sql.statement_invalid");
}

async fn a_read_only_reads(stand: Stand) {
    stand.execute("create table t (id integer)").await;
    let sql = stand.sql();
    for freshness in [
        Freshness::Newest,
        Freshness::Within(std::time::Duration::ZERO),
    ] {
        let write = sql.read("insert into t values (1)".into(), freshness).await;
        fails(write, Kind::FailedPrecondition, "sql.read_only");
        let write = sql.stream("delete from t".into(), freshness).await;
        fails(write, Kind::FailedPrecondition, "sql.read_only");
        let read = sql
            .read("select count(*) from t".into(), freshness)
            .await
            .unwrap();
        assert_eq!(only(read.rows).as_i64(), Some(0));
        assert_eq!(read.source, Source::Primary);
    }
}

async fn instances_see_one_database(stand: Stand) {
    stand.execute("create table t (id integer)").await;
    let other = stand.subject.open(super::Opening::default()).await;
    other
        .execute("insert into t values (1)".into())
        .await
        .unwrap();
    assert_eq!(stand.count("t").await, 1);
    other.close().await;
    let closed = other.execute("insert into t values (2)".into()).await;
    fails(closed, Kind::Unavailable, "engine.unavailable");
    assert_eq!(stand.count("t").await, 1);
}
