//! `Kv` over a real PostgreSQL.

mod faults;
mod measure;
mod opening;
mod suite;
mod tls;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sinew_core::Clock;
use sinew_engine::kv::{Kv, Outcome, Revision, Write};
use sinew_engine_external::{
    Address,
    postgres::{Options, PostgresKv},
};
use sinew_testbed::{Postgres, Server};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

fn server() -> Arc<Server> {
    let program = Postgres::default().with("max_connections", "400");
    Arc::new(Server::start(program).expect("PostgreSQL starts"))
}

/// A namespace that no other test has.
fn namespace() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn address(server: &str, namespace: &str) -> Address {
    let url = format!("postgres://sinew@{server}/postgres?namespace={namespace}");
    PostgresKv::address(&url).expect("an address")
}

fn open(server: &str, namespace: &str) -> PostgresKv {
    open_with(server, namespace, Options::default())
}

fn open_with(server: &str, namespace: &str, options: Options) -> PostgresKv {
    let address = address(server, namespace);
    PostgresKv::open_with(address, Clock::system(), options).expect("a store")
}

fn put(key: &str, value: &str) -> Write {
    Write::Put {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        lease: None,
    }
}

async fn commit(kv: &dyn Kv, key: &str, value: &str) -> sinew_core::Result<Revision> {
    match kv.commit(vec![], vec![put(key, value)]).await? {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Conflict(index) => panic!("condition {index} of none"),
    }
}

/// Waits for something that must happen soon.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("this should have happened soon")
}

/// Does something to the database that Sinew would not.
async fn sql(server: &Server, text: &str) {
    let url = format!("postgres://sinew@{}/postgres", server.address());
    let mut connection = PgConnection::connect(&url).await.expect("a connection");
    sqlx::raw_sql(AssertSqlSafe(text.to_owned()))
        .execute(&mut connection)
        .await
        .expect("the statement");
}
