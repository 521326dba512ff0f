use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use sinew_core::Kind;
use tokio::task::JoinHandle;

use super::{
    Case, Network, case,
    stand::{Stand, until},
};
use crate::sql::{Begin, Sql, Statement, Value};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            a_killed_server_loses_nothing,
            Server,
            "Durable when `commit` answers."
        ),
        case!(
            a_stopped_server_loses_nothing,
            Server,
            "Durable when `commit` answers; goes on by itself."
        ),
        case!(
            a_cut_network_ends_calls_in_time,
            Server,
            "An error of kind DeadlineExceeded says that the statement, or the commit, may have happened."
        ),
        case!(
            ended_connections_are_replaced,
            Server,
            "After every other error it did not happen."
        ),
        case!(
            health_follows_the_network,
            Server,
            "Whether the primary answers."
        ),
    ]
}

/// What a writer was told about each row that it inserted.
struct Told {
    done: Vec<i64>,
    not_done: Vec<i64>,
}

/// Writers that go on through everything, every other row in a transaction.
struct Workload {
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicI64>,
    writers: Vec<JoinHandle<Told>>,
}

impl Workload {
    fn start(sql: &Arc<dyn Sql>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let progress = Arc::new(AtomicI64::new(0));
        let writers = (0..4)
            .map(|writer| {
                let (sql, stop) = (Arc::clone(sql), Arc::clone(&stop));
                let progress = Arc::clone(&progress);
                tokio::spawn(async move {
                    let mut told = Told {
                        done: Vec::new(),
                        not_done: Vec::new(),
                    };
                    let mut id = writer * 1_000_000;
                    while !stop.load(Ordering::Relaxed) {
                        id += 1;
                        match insert(&*sql, id).await {
                            Ok(()) => {
                                told.done.push(id);
                                progress.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) if error.kind() == Kind::DeadlineExceeded => {}
                            Err(error) => {
                                assert!(
                                    matches!(
                                        error.code(),
                                        "engine.unavailable"
                                            | "sql.pool_exhausted"
                                            | "sql.transaction_failed"
                                    ),
                                    "{error:?}"
                                );
                                told.not_done.push(id);
                                tokio::time::sleep(Duration::from_millis(20)).await;
                            }
                        }
                    }
                    told
                })
            })
            .collect();
        Self {
            stop,
            progress,
            writers,
        }
    }

    /// Waits until more is done.
    async fn goes_on(&self) {
        let before = self.progress.load(Ordering::Relaxed);
        until!(self.progress.load(Ordering::Relaxed) > before + 20);
    }

    /// Ends it and compares what was told with what is there.
    async fn check(self, stand: &Stand) {
        self.stop.store(true, Ordering::Relaxed);
        let all = Statement::new("select id from t").at_most(10_000_000);
        let mut told = Vec::new();
        for writer in self.writers {
            told.push(writer.await.unwrap());
        }
        let rows = stand.query(all).await;
        let there: std::collections::HashSet<i64> =
            rows.iter().filter_map(|row| row[0].as_i64()).collect();
        for told in told {
            assert!(!told.done.is_empty());
            for id in told.done {
                assert!(there.contains(&id), "row {id} was acknowledged and is lost");
            }
            for id in told.not_done {
                assert!(!there.contains(&id), "row {id} was refused and is there");
            }
        }
    }
}

async fn insert(sql: &dyn Sql, id: i64) -> sinew_core::Result<()> {
    let insert = Statement::new("insert into t values ($1)").bind(Value::Integer(id));
    if id % 2 == 0 {
        sql.execute(insert).await?;
        return Ok(());
    }
    let mut open = sql.begin(Begin::default()).await?;
    open.execute(insert).await?;
    open.commit().await
}

async fn a_killed_server_loses_nothing(stand: Stand) {
    stand
        .execute("create table t (id integer primary key)")
        .await;
    let workload = Workload::start(&stand.sql());
    for _ in 0..3 {
        workload.goes_on().await;
        stand.subject.crash().await;
    }
    workload.goes_on().await;
    workload.check(&stand).await;
}

async fn a_stopped_server_loses_nothing(stand: Stand) {
    stand
        .execute("create table t (id integer primary key)")
        .await;
    let workload = Workload::start(&stand.sql());
    for _ in 0..2 {
        workload.goes_on().await;
        stand.subject.restart().await;
    }
    workload.goes_on().await;
    workload.check(&stand).await;
}

/// How long the network is cut: 3 s, or what `SINEW_TEST_OUTAGE` says.
fn outage() -> Duration {
    let seconds = std::env::var("SINEW_TEST_OUTAGE").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(3))
}

async fn a_cut_network_ends_calls_in_time(stand: Stand) {
    stand
        .execute("create table t (id integer primary key)")
        .await;
    let sql = stand.distant(Duration::from_secs(1)).await;
    let workload = Workload::start(&sql);
    workload.goes_on().await;
    stand.subject.network(Network::Cut).await;
    tokio::time::sleep(outage()).await;
    stand.subject.network(Network::Mended).await;
    workload.goes_on().await;
    workload.check(&stand).await;
}

async fn ended_connections_are_replaced(stand: Stand) {
    stand
        .execute("create table t (id integer primary key)")
        .await;
    let sql = stand.distant(Duration::from_secs(2)).await;
    let workload = Workload::start(&sql);
    for _ in 0..10 {
        workload.goes_on().await;
        stand.subject.network(Network::Reset).await;
    }
    workload.goes_on().await;
    workload.check(&stand).await;
}

async fn health_follows_the_network(stand: Stand) {
    let sql = stand.distant(Duration::from_secs(1)).await;
    let mut health = sql.health();
    health.wait_for(crate::Health::is_up).await.unwrap();
    stand.subject.network(Network::Cut).await;
    health.wait_for(|health| !health.is_up()).await.unwrap();
    stand.subject.network(Network::Mended).await;
    health.wait_for(crate::Health::is_up).await.unwrap();
    sql.query("select 1".into()).await.unwrap();
}
