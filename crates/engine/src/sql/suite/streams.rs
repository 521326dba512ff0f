use std::time::Duration;

use sinew_core::Kind;

use super::{
    Case, Opening, case,
    stand::{Stand, fails, until},
};
use crate::sql::{Freshness, Statement, Value};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            a_stream_has_every_row,
            Nothing,
            "As `read`, row by row: a bounded number is fetched ahead."
        ),
        case!(
            a_stream_has_no_time_limit,
            Nothing,
            "The stream as a whole has no time limit."
        ),
        case!(
            a_dropped_stream_gives_its_place_back,
            Nothing,
            "Dropping it ends the query and its connection."
        ),
        case!(
            a_stream_ends_with_an_error,
            Nothing,
            "After an error there are none."
        ),
    ]
}

const ROWS: i64 = 5_000;

async fn fill(stand: &Stand) {
    stand
        .execute("create table t (id integer primary key, filler varchar(200))")
        .await;
    for from in (0..ROWS).step_by(500) {
        let rows: Vec<_> = (from..from + 500)
            .map(|id| format!("({id}, '{}')", "x".repeat(200)))
            .collect();
        stand
            .execute(format!("insert into t values {}", rows.join(",")))
            .await;
    }
}

async fn a_stream_has_every_row(stand: Stand) {
    fill(&stand).await;
    let sql = stand.sql();
    let statement = Statement::new("select id from t where id >= $1 order by id").bind(3);
    let mut stream = sql.stream(statement, Freshness::Newest).await.unwrap();
    for id in 3..ROWS {
        let row = stream.next().await.unwrap().unwrap();
        assert_eq!(row[0], Value::Integer(id));
    }
    assert_eq!(stream.next().await.unwrap(), None);
    assert_eq!(stream.next().await.unwrap(), None);
}

async fn a_stream_has_no_time_limit(stand: Stand) {
    fill(&stand).await;
    let limit = Duration::from_secs(1);
    let sql = stand
        .subject
        .open(Opening {
            statement: Some(limit),
            ..Opening::default()
        })
        .await;
    let statement = Statement::new("select id, filler from t");
    let mut stream = sql.stream(statement, Freshness::Newest).await.unwrap();
    let mut rows = 0;
    while stream.next().await.unwrap().is_some() {
        rows += 1;
        if rows % 1000 == 0 {
            tokio::time::sleep(limit / 2).await;
        }
    }
    assert_eq!(rows, ROWS);
}

async fn a_dropped_stream_gives_its_place_back(stand: Stand) {
    fill(&stand).await;
    let sql = stand
        .subject
        .open(Opening {
            connections: Some(1),
            ..Opening::default()
        })
        .await;
    for _ in 0..5 {
        let all = "select * from t".into();
        let mut stream = sql.stream(all, Freshness::Newest).await.unwrap();
        assert!(stream.next().await.unwrap().is_some());
        drop(stream);
        // The only connection is there again.
        let count = sql.query("select 1".into()).await.unwrap();
        assert_eq!(count.len(), 1);
    }
    until!(sql.statistics().open <= 1);
}

async fn a_stream_ends_with_an_error(stand: Stand) {
    let sql = stand.sql();
    let nowhere = "select * from nowhere".into();
    let mut stream = sql.stream(nowhere, Freshness::Newest).await.unwrap();
    let error = stream.next().await;
    fails(error, Kind::InvalidArgument, "sql.statement_invalid");
    assert_eq!(stream.next().await.unwrap(), None);
}
