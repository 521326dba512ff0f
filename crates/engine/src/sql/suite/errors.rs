use sinew_core::{Kind, Retry};

use super::{
    Case, case,
    stand::{Stand, fails},
};
use crate::sql::{Dialect, Statement};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            constraints_are_told_apart,
            Nothing,
            "`sql.unique`, `sql.foreign_key`, `sql.not_null`, `sql.check`."
        ),
        case!(
            wrong_statements_are_the_callers,
            Nothing,
            "`sql.statement_invalid`: its text, its tables, the number of its parameters."
        ),
        case!(
            values_that_do_not_fit_are_refused,
            ConcurrentWriters,
            "`sql.value_invalid`: a value does not fit its place."
        ),
        case!(
            errors_hold_no_values,
            Nothing,
            "Messages name constraints, never values."
        ),
        case!(
            after_an_error_nothing_happened,
            Nothing,
            "After every other error it did not."
        ),
    ]
}

async fn tables(stand: &Stand) {
    stand
        .execute("create table parent (id integer primary key)")
        .await;
    stand
        .execute(
            "create table child (id integer primary key, parent integer not null, age integer, \
             name varchar(20) unique, constraint of_age check (age > 17), \
             constraint has_parent foreign key (parent) references parent (id))",
        )
        .await;
    stand.execute("insert into parent values (1)").await;
    stand
        .execute("insert into child values (1, 1, 20, 'secret')")
        .await;
}

async fn constraints_are_told_apart(stand: Stand) {
    tables(&stand).await;
    let sql = stand.sql();
    for (text, kind, code) in [
        (
            "insert into child values (1, 1, 20, 'x')",
            Kind::AlreadyExists,
            "sql.unique",
        ),
        (
            "insert into child values (2, 1, 20, 'secret')",
            Kind::AlreadyExists,
            "sql.unique",
        ),
        (
            "insert into child values (2, 9, 20, 'x')",
            Kind::FailedPrecondition,
            "sql.foreign_key",
        ),
        (
            "delete from parent",
            Kind::FailedPrecondition,
            "sql.foreign_key",
        ),
        (
            "insert into child values (2, null, 20, 'x')",
            Kind::FailedPrecondition,
            "sql.not_null",
        ),
        (
            "insert into child values (2, 1, 10, 'x')",
            Kind::FailedPrecondition,
            "sql.check",
        ),
    ] {
        fails(sql.execute(text.into()).await, kind, code);
    }
    assert_eq!(stand.count("child").await, 1);
}

async fn wrong_statements_are_the_callers(stand: Stand) {
    tables(&stand).await;
    let sql = stand.sql();
    for text in [
        "selec 1",
        "select * from nowhere",
        "select nothing from parent",
        "insert into parent values (1, 2, 3)",
        "select ?",
        "",
        "select 'open",
    ] {
        let error = sql.query(text.into()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{text}: {error:?}");
        assert_eq!(error.retry(), Retry::No);
    }
    assert_eq!(stand.value("select 1").await.as_i64(), Some(1));
}

async fn values_that_do_not_fit_are_refused(stand: Stand) {
    stand
        .execute("create table t (a smallint, b varchar(3))")
        .await;
    let sql = stand.sql();
    let a = Statement::new("insert into t (a) values ($1)").bind(100_000);
    fails(
        sql.execute(a).await,
        Kind::InvalidArgument,
        "sql.value_invalid",
    );
    let b = Statement::new("insert into t (b) values ($1)").bind("long");
    fails(
        sql.execute(b).await,
        Kind::InvalidArgument,
        "sql.value_invalid",
    );
    assert_eq!(stand.count("t").await, 0);
}

async fn errors_hold_no_values(stand: Stand) {
    tables(&stand).await;
    let sql = stand.sql();
    let insert = "insert into child values ($1, $2, $3, $4)";
    let insert = |id: i64, parent: i64, age: i64, name: &str| {
        Statement::new(insert)
            .bind(id)
            .bind(parent)
            .bind(age)
            .bind(name)
    };
    let mut wrong = vec![
        insert(2, 1, 20, "secret"),
        insert(2, 424_242, 20, "secret2"),
        insert(2, 1, 10, "secret2"),
        Statement::new("select secretcolumn from child where name = $1").bind("secret2"),
    ];
    if stand.dialect() == Dialect::Postgres {
        let cast = Statement::new("select $1::integer").bind("secret");
        wrong.push(cast);
    }
    for statement in wrong {
        let error = sql.query(statement).await.unwrap_err();
        let told = format!("{error} {}", error.detail());
        let held = told.replace("secretcolumn", "");
        assert!(
            !held.contains("secret") && !held.contains("424242"),
            "{told}"
        );
    }
}

async fn after_an_error_nothing_happened(stand: Stand) {
    stand
        .execute("create table t (id integer primary key)")
        .await;
    stand.execute("insert into t values (2)").await;
    let sql = stand.sql();
    let many = sql
        .execute("insert into t values (1), (2), (3)".into())
        .await;
    fails(many, Kind::AlreadyExists, "sql.unique");
    assert_eq!(stand.count("t").await, 1);
}
