//! Transactions over PostgreSQL and MariaDB.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use sinew_engine::sql::suite::{Group, Harness, Subject};
use sinew_testbed::{Mariadb, Postgres};

use super::server::Servers;

/// Gives a database of one, then of the other.
struct Mixed {
    postgres: Servers,
    mariadb: Servers,
    other: AtomicBool,
}

#[async_trait]
impl Harness for Mixed {
    async fn create(&self) -> Box<dyn Subject> {
        match self.other.fetch_xor(true, Ordering::Relaxed) {
            false => self.postgres.create().await,
            true => self.mariadb.create().await,
        }
    }
}

#[test]
fn concurrency() {
    let mixed = Mixed {
        postgres: Servers::start("postgres", "postgres", Postgres::default()),
        mariadb: Servers::start("mariadb", "test", Mariadb::default()),
        other: AtomicBool::new(false),
    };
    super::conform(Group::Concurrency, mixed);
}
