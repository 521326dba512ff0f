//! `Sql` over SQLite, PostgreSQL and MariaDB or MySQL.

use std::{fmt::Write, sync::Arc};

use sinew_engine::sql::{
    Sql,
    suite::{Group, Harness, Opening, run},
};
use sinew_engine_external::sql::open;

#[cfg(feature = "sql-mysql")]
mod mariadb;
#[cfg(all(feature = "sql-postgres", feature = "sql-mysql"))]
mod mixed;
#[cfg(all(
    feature = "sql-sqlite",
    feature = "sql-postgres",
    feature = "sql-mysql"
))]
mod overhead;
#[cfg(feature = "sql-postgres")]
mod postgres;
#[cfg(any(feature = "sql-postgres", feature = "sql-mysql"))]
mod replicas;
#[cfg(any(feature = "sql-postgres", feature = "sql-mysql"))]
mod server;
#[cfg(feature = "sql-sqlite")]
mod sqlite;

/// Opens `base` (which has an option already) as the suite wants it.
fn open_as(mut base: String, opening: &Opening, namespace: &str) -> Arc<dyn Sql> {
    let namespace = opening.namespace.unwrap_or(namespace);
    let _ = write!(base, "&namespace={namespace}");
    if let Some(connections) = opening.connections {
        let _ = write!(base, "&pool={connections}");
    }
    if let Some(wait) = opening.pool_wait {
        let _ = write!(base, "&pool_wait={}ms", wait.as_millis());
    }
    if let Some(statement) = opening.statement {
        let _ = write!(base, "&timeout={}ms", statement.as_millis());
    }
    open(&base).expect("the URL is right")
}

/// Runs a group in a runtime of its own.
fn conform(group: Group, harness: impl Harness) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run(group, Arc::new(harness)));
    runtime.shutdown_background();
}

/// One test for each group.
macro_rules! conforms {
    ($harness:expr) => {
        #[test]
        fn contract() {
            crate::sql::conform(sinew_engine::sql::suite::Group::Contract, $harness);
        }

        #[test]
        fn transactions() {
            crate::sql::conform(sinew_engine::sql::suite::Group::Transactions, $harness);
        }

        #[test]
        fn branches() {
            crate::sql::conform(sinew_engine::sql::suite::Group::Branches, $harness);
        }

        #[test]
        fn pools() {
            crate::sql::conform(sinew_engine::sql::suite::Group::Pools, $harness);
        }

        #[test]
        fn faults() {
            crate::sql::conform(sinew_engine::sql::suite::Group::Faults, $harness);
        }

        #[test]
        fn concurrency() {
            crate::sql::conform(sinew_engine::sql::suite::Group::Concurrency, $harness);
        }
    };
}
use conforms;
