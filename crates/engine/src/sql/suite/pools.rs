use std::{sync::Arc, time::Duration};

use sinew_core::{Kind, Retry};

use super::{
    Case, Opening, case,
    stand::{Stand, add, fails, long, until},
};
use crate::sql::{Dialect, Sql, Statement};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            connections_are_bounded,
            Nothing,
            "Who finds none free waits for at most the pool's wait, then gets `sql.pool_exhausted`."
        ),
        case!(
            connections_come_back,
            Nothing,
            "Connections are bounded, and given back."
        ),
        case!(
            calls_given_up_leak_nothing,
            Nothing,
            "Connections are bounded, and given back."
        ),
        case!(
            statements_have_a_time_limit,
            Server,
            "`engine.timeout`: the statement may have happened."
        ),
        case!(health_is_told, Nothing, "Whether the primary answers."),
    ]
}

async fn small(stand: &Stand, connections: u32) -> Arc<dyn Sql> {
    let sql = stand
        .subject
        .open(Opening {
            connections: Some(connections),
            pool_wait: Some(Duration::from_millis(300)),
            ..Opening::default()
        })
        .await;
    let mut health = sql.health();
    health.wait_for(crate::Health::is_up).await.unwrap();
    sql
}

async fn connections_are_bounded(stand: Stand) {
    stand.accounts(1).await;
    let sql = small(&stand, 2).await;
    let reader = long().read_only();
    let mut open = vec![
        sql.begin(reader).await.unwrap(),
        sql.begin(reader).await.unwrap(),
    ];
    let refused = sql.query("select 1".into()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::ResourceExhausted, "{refused:?}");
    assert_eq!(refused.code(), "sql.pool_exhausted");
    assert_eq!(refused.retry(), Retry::Yes);
    let statistics = sql.statistics();
    assert_eq!((statistics.open, statistics.most), (2, 2));
    open.pop().unwrap().rollback().await.unwrap();
    sql.query("select 1".into()).await.unwrap();
    drop(open);
    sql.query("select 1".into()).await.unwrap();
}

async fn connections_come_back(stand: Stand) {
    stand.accounts(1).await;
    let sql = small(&stand, 2).await;
    for n in 0..30 {
        match n % 5 {
            0 => drop(
                sql.execute("insert into accounts values (1, 1)".into())
                    .await,
            ),
            1 => drop(sql.query("select".into()).await),
            2 => drop(sql.begin(long()).await.unwrap()),
            3 => sql.begin(long()).await.unwrap().rollback().await.unwrap(),
            _ => {
                let mut open = sql.begin(long()).await.unwrap();
                let _ = open
                    .execute("insert into accounts values (1, 1)".into())
                    .await;
            }
        }
    }
    sql.execute(add(1, 1)).await.unwrap();
    assert!(sql.statistics().open <= 2);
    assert_eq!(stand.balance(1).await, 101);
}

async fn calls_given_up_leak_nothing(stand: Stand) {
    stand.accounts(1).await;
    let sql = small(&stand, 2).await;
    for n in 0..40_u64 {
        let statement = Statement::new("select count(*) from accounts a, accounts b");
        let call = sql.query(statement);
        let _ = tokio::time::timeout(Duration::from_micros(n * 50), call).await;
    }
    until!(sql.query("select 1".into()).await.is_ok());
    assert!(sql.statistics().open <= 2);
}

async fn statements_have_a_time_limit(stand: Stand) {
    stand.accounts(1).await;
    let sleep = match stand.dialect() {
        Dialect::Postgres => "select pg_sleep(60)",
        _ => "select sleep(60)",
    };
    let sql = stand.sql();
    let slow = Statement::new(sleep).within(Duration::from_millis(200));
    fails(
        sql.query(slow).await,
        Kind::DeadlineExceeded,
        "engine.timeout",
    );
    let limited = stand
        .subject
        .open(Opening {
            connections: Some(1),
            statement: Some(Duration::from_secs(1)),
            ..Opening::default()
        })
        .await;
    let slow = limited.query(sleep.into()).await;
    // MariaDB lets this function answer early instead of failing.
    if stand.dialect() == Dialect::Postgres {
        fails(slow, Kind::DeadlineExceeded, "engine.timeout");
    }
    limited.query("select 1".into()).await.unwrap();
    // Waiting for a lock is limited as well, and undoes what waits.
    let mut holder = sql.begin(long()).await.unwrap();
    holder.execute(add(1, 1)).await.unwrap();
    let waits = limited.execute(add(1, 100)).await.unwrap_err();
    assert!(
        matches!(waits.code(), "engine.timeout" | "sql.conflict"),
        "{waits:?}"
    );
    holder.commit().await.unwrap();
    limited.execute(add(1, 10)).await.unwrap();
    assert_eq!(stand.balance(1).await, 111);
}

async fn health_is_told(stand: Stand) {
    let mut health = stand.sql().health();
    health.wait_for(crate::Health::is_up).await.unwrap();
}
