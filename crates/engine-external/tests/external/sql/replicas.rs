//! Reads from real replicas: what they state about their staleness holds while they lag, stand still, die and come back.

use std::{sync::Arc, time::Duration};

use sinew_core::Clock;
use sinew_engine::sql::{Freshness, Source, Sql, Statement};

/// A replica that its test can hold up.
pub(crate) struct Controls {
    /// Over the primary and its replica.
    pub(crate) sql: Arc<dyn Sql>,
    /// The replica by itself.
    pub(crate) replica: Arc<dyn Sql>,
    pub(crate) pause: &'static str,
    pub(crate) resume: &'static str,
}

/// Rows that were acknowledged, each with the time of that.
struct Log {
    clock: Clock,
    acknowledged: Vec<Duration>,
}

impl Log {
    async fn insert(&mut self, sql: &dyn Sql) {
        let id = i64::try_from(self.acknowledged.len()).expect("few");
        let insert = Statement::new("insert into t values ($1)").bind(id);
        sql.execute(insert).await.expect("it is inserted");
        self.acknowledged.push(self.clock.monotonic());
    }

    /// Reads, and holds the answer against what it says of itself.
    async fn read(&self, sql: &dyn Sql, freshness: Freshness) -> Source {
        let asked = self.clock.monotonic();
        let statement = "select id from t order by id".into();
        let read = sql.read(statement, freshness).await.expect("it is read");
        let staleness = match &read.source {
            Source::Primary => Duration::ZERO,
            Source::Replica { staleness, .. } => *staleness,
        };
        if let Freshness::Within(most) = freshness {
            assert!(staleness <= most, "{staleness:?} is more than {most:?}");
        }
        // Everything that was acknowledged that long before the question must be in the answer.
        let due = asked.saturating_sub(staleness);
        let expected = self.acknowledged.iter().filter(|at| **at <= due).count();
        assert!(
            read.rows.len() >= expected,
            "{:?}: {} of {expected} rows",
            read.source,
            read.rows.len()
        );
        read.source
    }

    async fn until_replica(&self, sql: &dyn Sql, freshness: Freshness, wanted: bool) {
        loop {
            let source = self.read(sql, freshness).await;
            if matches!(source, Source::Replica { .. }) == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// `last` ends the replica's process.
pub(crate) async fn check(controls: Controls, last: impl FnOnce() + Send + 'static) {
    let Controls {
        sql,
        replica,
        pause,
        resume,
    } = controls;
    let mut log = Log {
        clock: Clock::system(),
        acknowledged: Vec::new(),
    };
    let create = "create table t (id integer primary key)".into();
    sql.execute(create).await.expect("a table");
    let close = Freshness::Within(Duration::from_secs(2));
    let far = Freshness::Within(Duration::from_secs(3600));
    // Until the replica has the table itself, only the primary can answer; a replica that says otherwise fails the read.
    log.until_replica(&*sql, close, true).await;
    let mut from_replica = 0;
    for _ in 0..300 {
        log.insert(&*sql).await;
        let source = log.read(&*sql, close).await;
        from_replica += u32::from(source != Source::Primary);
        assert_eq!(log.read(&*sql, Freshness::Newest).await, Source::Primary);
    }
    assert!(from_replica > 100, "{from_replica} of 300");
    // It stands still: for a while it is fresh enough, then no more; and it says how far behind it is.
    replica.execute(pause.into()).await.expect("it pauses");
    for _ in 0..5 {
        log.insert(&*sql).await;
    }
    log.until_replica(&*sql, close, false).await;
    let Source::Replica { staleness, .. } = log.read(&*sql, far).await else {
        panic!("it is fresh enough for that");
    };
    assert!(staleness > Duration::from_secs(2));
    replica.execute(resume.into()).await.expect("it resumes");
    log.until_replica(&*sql, close, true).await;
    // It dies: the primary answers, without an error in between.
    let ended = tokio::task::spawn_blocking(last);
    while !ended.is_finished() {
        log.read(&*sql, far).await;
    }
    log.until_replica(&*sql, far, false).await;
}
