//! etcd and PostgreSQL, in processes of their own: by their own clients, and below Sinew's stores.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use sinew_core::Clock;
use sinew_engine_external::{
    etcd::{
        Client, EtcdKv,
        wire::{Compare, Is, Operand, RangeRequest, RequestOp, TxnRequest},
    },
    postgres::PostgresKv,
};
use sinew_testbed::Server;
use sqlx::{Connection, Executor, PgConnection, Row};
use tokio::sync::{Mutex, MutexGuard};

use super::stores::{OverKv, Store, Transaction};

const ETCD: &str = "etcd's fsync of its log";
const POSTGRES: &str = "fsync, synchronous_commit=on";

/// Started where it may block.
async fn start(program: impl sinew_testbed::Program) -> Result<Server> {
    tokio::task::spawn_blocking(|| Server::start(program)).await?
}

fn etcd_program() -> sinew_testbed::Etcd {
    // All its history stays while it is measured.
    sinew_testbed::Etcd::default().with("--quota-backend-bytes=8589934592")
}

/// etcd by its own calls: a transaction is one of its transactions.
pub(crate) struct Etcd {
    clients: Vec<Client>,
    next: AtomicUsize,
    server: Server,
}

impl Etcd {
    /// With so many connections, used in turn.
    pub(crate) async fn start(connections: usize) -> Result<Self> {
        let server = start(etcd_program()).await?;
        let address = EtcdKv::address(&format!("etcd://{}?timeout=30s", server.address()))?;
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(Client::connect(&address, &address.hosts[0]).await?);
        }
        Ok(Self {
            clients,
            next: AtomicUsize::new(0),
            server,
        })
    }

    fn client(&self) -> &Client {
        &self.clients[self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len()]
    }
}

#[async_trait]
impl Store for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn durability(&self) -> &'static str {
        ETCD
    }

    fn server(&self) -> Option<u32> {
        self.server.pid()
    }

    async fn commit(&self, transaction: Transaction) -> Result<()> {
        let compare = transaction.checks.into_iter().map(|(key, there)| {
            let is = if there { Is::Greater } else { Is::Equal };
            Compare::key(key.into(), is, Operand::Version(0))
        });
        let puts = transaction.puts.into_iter();
        let txn = TxnRequest {
            compare: compare.collect(),
            success: puts
                .map(|(key, value)| RequestOp::put(key.into(), value.into()))
                .collect(),
            failure: Vec::new(),
        };
        ensure!(self.client().txn(txn).await?.succeeded, "a conflict");
        Ok(())
    }

    async fn get(&self, key: &[u8]) -> Result<bool> {
        let range = RangeRequest::key(key.to_vec().into());
        let answer = self.client().range(range).await?;
        Ok(answer.kvs.first().is_some_and(|kv| !kv.value.is_empty()))
    }
}

/// Sinew's store over etcd.
pub(crate) async fn over_etcd() -> Result<OverKv> {
    let server = start(etcd_program()).await?;
    let address = EtcdKv::address(&format!("etcd://{}?timeout=30s", server.address()))?;
    Ok(OverKv {
        name: "EtcdKv",
        durability: ETCD,
        kv: Arc::new(EtcdKv::open(address, Clock::system())?),
        server: Some(server),
    })
}

/// PostgreSQL by sqlx, over 32 connections: a transaction is one statement. There are no revisions, no history and no watches.
pub(crate) struct Postgres {
    connections: Vec<Mutex<PgConnection>>,
    next: AtomicUsize,
    server: Server,
}

const TABLE: &str = "
CREATE TABLE entries (key bytea PRIMARY KEY, value bytea NOT NULL, revision bigint, lease bigint)";

const COMMIT: &str = "
INSERT INTO entries SELECT *, 1 FROM unnest($1::bytea[], $2::bytea[])
WHERE NOT EXISTS (SELECT FROM entries WHERE key = ANY($3))
    AND (SELECT count(*) FROM entries WHERE key = ANY($4)) = cardinality($4)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision";

const GET: &str = "SELECT value, revision, lease FROM entries WHERE key = $1";

impl Postgres {
    pub(crate) async fn start() -> Result<Self> {
        let server = start(sinew_testbed::Postgres::default()).await?;
        let url = format!("postgres://sinew@{}/postgres", server.address());
        let mut connections = Vec::new();
        // Its pool would ask the server after each use whether it is there.
        for _ in 0..32 {
            connections.push(Mutex::new(PgConnection::connect(&url).await?));
        }
        connections[0].get_mut().execute(TABLE).await?;
        Ok(Self {
            connections,
            next: AtomicUsize::new(0),
            server,
        })
    }

    async fn connection(&self) -> MutexGuard<'_, PgConnection> {
        let place = self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len();
        self.connections[place].lock().await
    }
}

#[async_trait]
impl Store for Postgres {
    fn name(&self) -> &'static str {
        "sqlx, postgres"
    }

    fn durability(&self) -> &'static str {
        POSTGRES
    }

    fn server(&self) -> Option<u32> {
        self.server.pid()
    }

    async fn commit(&self, transaction: Transaction) -> Result<()> {
        let (keys, values): (Vec<_>, Vec<_>) = transaction.puts.into_iter().unzip();
        let count = keys.len() as u64;
        let (there, absent): (Vec<_>, Vec<_>) = transaction
            .checks
            .into_iter()
            .partition(|(_, there)| *there);
        let names = |checks: Vec<(Vec<u8>, bool)>| -> Vec<Vec<u8>> {
            checks.into_iter().map(|(key, _)| key).collect()
        };
        let done = sqlx::query(COMMIT)
            .bind(keys)
            .bind(values)
            .bind(names(absent))
            .bind(names(there))
            .execute(&mut *self.connection().await)
            .await?;
        ensure!(done.rows_affected() == count, "a conflict");
        Ok(())
    }

    async fn get(&self, key: &[u8]) -> Result<bool> {
        let row = sqlx::query(GET)
            .bind(key)
            .fetch_optional(&mut *self.connection().await)
            .await?
            .context("no such key")?;
        let value: Vec<u8> = row.try_get(0)?;
        let (_, _): (i64, Option<i64>) = (row.try_get(1)?, row.try_get(2)?);
        Ok(!value.is_empty())
    }
}

/// Sinew's store over PostgreSQL.
pub(crate) async fn over_postgres() -> Result<OverKv> {
    let server = start(sinew_testbed::Postgres::default()).await?;
    let url = format!("postgres://sinew@{}/postgres?timeout=30s", server.address());
    let address = PostgresKv::address(&url)?;
    Ok(OverKv {
        name: "PostgresKv",
        durability: POSTGRES,
        kv: Arc::new(PostgresKv::open(address, Clock::system())?),
        server: Some(server),
    })
}
