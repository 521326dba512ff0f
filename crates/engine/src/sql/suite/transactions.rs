use std::time::Duration;

use sinew_core::Kind;

use super::{
    Case, Opening, case,
    stand::{Stand, add, balance_in, fails, long, until},
};
use crate::sql::{Begin, Statement};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            a_commit_makes_it_visible,
            Nothing,
            "A transaction is all or nothing, and durable when `commit` answers."
        ),
        case!(a_rollback_undoes_it, Nothing, "`rollback` undoes it."),
        case!(
            dropping_it_undoes_it,
            Nothing,
            "It is rolled back when it is dropped."
        ),
        case!(
            a_failed_statement_ends_it,
            Nothing,
            "It is rolled back when one of its statements fails, in every dialect."
        ),
        case!(
            a_statement_given_up_ends_it,
            Nothing,
            "It is rolled back when a statement's future is dropped before it is done."
        ),
        case!(
            a_read_only_one_writes_nothing,
            Nothing,
            "Whether writes are refused (`sql.read_only`)."
        ),
        case!(
            its_time_is_limited,
            Nothing,
            "A transaction that outlives `Begin::timeout` is rolled back."
        ),
        case!(
            the_schema_is_rolled_back_with_it,
            TransactionalSchema,
            "Creating and dropping tables is rolled back with its transaction."
        ),
        case!(
            nothing_commits_it_implicitly,
            ImplicitCommits,
            "A transaction is all or nothing."
        ),
    ]
}

async fn a_commit_makes_it_visible(stand: Stand) {
    stand.accounts(2).await;
    let sql = stand.sql();
    let mut open = sql.begin(long()).await.unwrap();
    assert_eq!(open.execute(add(1, -30)).await.unwrap().affected, 1);
    open.execute(add(2, 30)).await.unwrap();
    assert_eq!(balance_in(&mut *open, 1).await, 70);
    assert_eq!(stand.balance(1).await, 100);
    open.commit().await.unwrap();
    assert_eq!((stand.balance(1).await, stand.balance(2).await), (70, 130));
}

async fn a_rollback_undoes_it(stand: Stand) {
    stand.accounts(1).await;
    for _ in 0..20 {
        let mut open = stand.sql().begin(long()).await.unwrap();
        open.execute(add(1, -30)).await.unwrap();
        open.rollback().await.unwrap();
    }
    assert_eq!(stand.balance(1).await, 100);
}

async fn dropping_it_undoes_it(stand: Stand) {
    stand.accounts(1).await;
    for _ in 0..20 {
        let mut open = stand.sql().begin(long()).await.unwrap();
        open.execute(add(1, -30)).await.unwrap();
        drop(open);
    }
    // Its locks are given back, too.
    stand.execute(add(1, 1)).await;
    assert_eq!(stand.balance(1).await, 101);
}

async fn a_failed_statement_ends_it(stand: Stand) {
    stand.accounts(1).await;
    let sql = stand.sql();
    for wrong in ["insert into accounts values (1, 1)", "selec", "select $1"] {
        let mut open = sql.begin(long()).await.unwrap();
        open.execute(add(1, -30)).await.unwrap();
        assert!(open.execute(wrong.into()).await.is_err());
        let after = open.execute(add(1, -30)).await;
        fails(after, Kind::FailedPrecondition, "sql.transaction_failed");
        fails(
            open.commit().await,
            Kind::FailedPrecondition,
            "sql.transaction_failed",
        );
        assert_eq!(stand.balance(1).await, 100);
    }
}

async fn a_statement_given_up_ends_it(stand: Stand) {
    stand.accounts(1).await;
    let sql = stand.sql();
    let mut given_up = false;
    while !given_up {
        let mut open = sql.begin(long()).await.unwrap();
        open.execute(add(1, 5)).await.unwrap();
        let statement = Statement::new("select count(*) from accounts a, accounts b");
        let mut waiting = Box::pin(open.query(statement));
        // Polled once, then dropped; a quick answer does not count.
        given_up = futures_util::poll!(&mut waiting).is_pending();
        drop(waiting);
        if given_up {
            let after = open.execute(add(1, 1)).await;
            fails(after, Kind::FailedPrecondition, "sql.transaction_failed");
            let commit = open.commit().await;
            fails(commit, Kind::FailedPrecondition, "sql.transaction_failed");
        }
    }
    stand.execute(add(1, 1)).await;
    assert_eq!(stand.balance(1).await, 101);
}

async fn a_read_only_one_writes_nothing(stand: Stand) {
    stand.accounts(1).await;
    let mut open = stand.sql().begin(long().read_only()).await.unwrap();
    assert_eq!(balance_in(&mut *open, 1).await, 100);
    let write = open.execute(add(1, 1)).await;
    fails(write, Kind::FailedPrecondition, "sql.read_only");
    open.rollback().await.unwrap();
    assert_eq!(stand.balance(1).await, 100);
}

async fn its_time_is_limited(stand: Stand) {
    stand.accounts(1).await;
    let sql = stand
        .subject
        .open(Opening {
            connections: Some(1),
            ..Opening::default()
        })
        .await;
    let short = Begin::default().within(Duration::from_millis(200));
    let mut open = sql.begin(short).await.unwrap();
    open.execute(add(1, 1)).await.unwrap();
    // The only connection, and the lock, are there again although nobody ended it.
    until!(sql.execute(add(1, 10)).await.is_ok());
    fails(
        open.commit().await,
        Kind::FailedPrecondition,
        "sql.transaction_failed",
    );
    assert_eq!(stand.balance(1).await, 110);
}

async fn the_schema_is_rolled_back_with_it(stand: Stand) {
    stand.accounts(1).await;
    let mut open = stand.sql().begin(long()).await.unwrap();
    open.execute("create table other (id integer)".into())
        .await
        .unwrap();
    open.execute("drop table accounts".into()).await.unwrap();
    open.rollback().await.unwrap();
    assert_eq!(stand.balance(1).await, 100);
    let gone = stand.sql().query("select * from other".into()).await;
    fails(gone, Kind::InvalidArgument, "sql.statement_invalid");
}

async fn nothing_commits_it_implicitly(stand: Stand) {
    stand.accounts(1).await;
    let mut open = stand.sql().begin(long()).await.unwrap();
    open.execute(add(1, 1)).await.unwrap();
    let schema = open.execute("create table other (id integer)".into()).await;
    fails(schema, Kind::InvalidArgument, "sql.statement_invalid");
    drop(open);
    stand.execute(add(1, 10)).await;
    assert_eq!(stand.balance(1).await, 110);
}
