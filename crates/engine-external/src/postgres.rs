//! `Kv` over PostgreSQL 13 or newer.
//!
//! ```text
//! commit, grant, revoke ─▶ bounded queue ─▶ writer: one read, one judgement, one statement for all that waited
//! keep_alive ─▶ one update of an unlogged table for all that waited         │ own commits
//! get, range ─▶ pool of connections                                          ▼
//! watch ◀── recent commits in memory ◀── looking every 250 ms, and at once when notified
//! ```
//!
//! # Writing
//! Each instance gathers the transactions that wait and writes them in two round trips: one statement reads
//! what their conditions ask for, at one moment; the batch is judged here, each transaction against
//! everything before it; one statement writes all that follows. It is a transaction of its own, durable when it answers
//! (`synchronous_commit` is raised to `on` if it was less). A conflict in one transaction does not
//! concern the others.
//!
//! The statement writes only if the store is as it was read: the one row of the table `head` has a
//! version that each batch counts up. So several instances may write, no lock outlives a statement, and an
//! instance that stands still in the middle stops nobody. After a lost race an instance takes the row's
//! lock first for some batches, so that one far away has its turn too; such a transaction is ended by
//! the server when it waits for its client for 3 s. Rejected: serialisable isolation, which aborts
//! what a row's version orders, and keeps a predicate lock for each key; the logic in the
//! database (PL/pgSQL), which would have to be upgraded under running instances.
//!
//! A batch whose answer is lost is looked for by its number when the server is back, after the
//! version was counted up, so that it cannot happen any more if it has not: callers that still wait get
//! the truth, the others `engine.timeout`.
//!
//! # Leases
//! Measured by one instance at a time: see `postgres/leases.rs`.
//!
//! # Limits
//! It needs sessions of its own, with their settings given at the start: no pooler like PgBouncer between.
//! A failover that loses commits (to an asynchronous standby) loses them here too; watchers that have
//! seen them end with `kv.compacted`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use sinew_core::{Clock, Result};
use sinew_engine::{
    Health,
    kv::{
        Capability, Condition, Entry, Kv, LeaseId, Limits, Outcome, Page, Retention, Revision,
        Span, Watch, Write,
    },
};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::AbortHandle,
};

use self::{
    command::{Command, Reply, Request},
    feed::{Feed, PostgresWatch},
    leases::{Renewal, Warden},
    server::{Server, Trouble},
    writer::Writer,
};
use crate::{Address, fault};

mod command;
mod feed;
mod judge;
mod leases;
mod schema;
mod server;
mod statement;
mod upkeep;
mod writer;

/// How often an instance looks for what others have written, and whether the server answers.
const PULSE: Duration = Duration::from_millis(250);
/// Transactions that wait for the writer, at most.
const QUEUE: usize = 4096;
/// Bytes of the transactions that wait or are being written, at most.
const QUEUE_BYTES: usize = 32 << 20;

const CAPABILITY: Capability = Capability {
    engine: "postgresql",
    durable: true,
    historical_reads: true,
    dense_revisions: true,
    atomic_with_bus: false,
    limits: Limits {
        key_bytes: 1024,
        value_bytes: 1 << 20,
        transaction_operations: 1024,
        transaction_bytes: 8 << 20,
        page_entries: 1024,
        lease_minimum: Duration::from_secs(1),
    },
};

/// How a [`PostgresKv`] behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// History kept in the database. It may be exceeded by a sixteenth, so that it is trimmed in
    /// strokes. Instances over one namespace should agree on it: the least of them counts.
    pub retention: Retention,
    /// Of the history, the newest part that is in memory for watchers.
    pub recent: Retention,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retention: Retention {
                commits: 100_000,
                bytes: 64 << 20,
            },
            recent: Retention {
                commits: 4096,
                bytes: 4 << 20,
            },
        }
    }
}

/// The store in a PostgreSQL database. See the module's text.
pub struct PostgresKv {
    shared: Arc<Shared>,
    /// The only strong one: the writer ends with it.
    _commands: mpsc::Sender<Command>,
    renewals: mpsc::Sender<Renewal>,
    tasks: Vec<AbortHandle>,
    _closing: watch::Sender<()>,
}

/// What calls and tasks have in common.
struct Shared {
    server: Arc<Server>,
    feed: Arc<Feed>,
    commands: mpsc::WeakSender<Command>,
    /// Bytes that waiting transactions may still take.
    budget: Arc<Semaphore>,
    retention: Retention,
    recent_commits: usize,
    /// The oldest revision that is kept, as far as is known here.
    floor: AtomicU64,
    /// There may be new commits in the database.
    fetch: Notify,
    /// Others should know of new commits.
    announce: Notify,
    /// There may be something to forget.
    trim: Notify,
}

impl Shared {
    fn commands(&self) -> Option<mpsc::Sender<Command>> {
        self.commands.upgrade()
    }

    /// A commit of ours is durable.
    fn committed(&self, revision: Revision) {
        self.announce.notify_one();
        if self.is_long(revision) {
            self.trim.notify_one();
        }
    }

    /// Whether the history has more commits than it should.
    fn is_long(&self, revision: Revision) -> bool {
        let most = self
            .retention
            .commits
            .saturating_add(self.retention.commits / 16);
        revision.saturating_sub(self.floor.load(Ordering::Relaxed)) > most as u64
    }
}

impl PostgresKv {
    /// Reads a URL: `postgres://user@host:5432/database?namespace=…`. Beside the options that all engines know:
    /// `connections` for reads (8). Several hosts, with commas between, are tried in turn until one is
    /// found that takes writes. `engine.address` (InvalidArgument) says what is wrong.
    pub fn address(url: &str) -> Result<Address> {
        let address = Address::parse(url, 5432, &["connections"])?;
        if !matches!(address.scheme.as_str(), "postgres" | "postgresql") {
            return Err(fault::address("the URL begins with postgres://"));
        }
        connections(&address)?;
        Server::new(&address, 1, Clock::system())?;
        Ok(address)
    }

    /// The store in a namespace of a database, which is made when there is none. Answers at once; the server may be away.
    /// Wants a tokio runtime.
    pub fn open(address: Address, clock: Clock) -> Result<Self> {
        Self::open_with(address, clock, Options::default())
    }

    /// The same with other options.
    pub fn open_with(address: Address, clock: Clock, options: Options) -> Result<Self> {
        let server = Server::new(&address, connections(&address)?, clock.clone())?;
        // In memory there is never more than what is kept.
        let recent = Retention {
            commits: options.recent.commits.min(options.retention.commits),
            bytes: options.recent.bytes.min(options.retention.bytes),
        };
        let (commands, queue) = mpsc::channel(QUEUE);
        let (renewals, renewal_queue) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            server: Arc::new(server),
            feed: Arc::new(Feed::new(recent)),
            commands: commands.downgrade(),
            budget: Arc::new(Semaphore::new(QUEUE_BYTES)),
            retention: options.retention,
            recent_commits: recent.commits,
            floor: AtomicU64::new(0),
            fetch: Notify::new(),
            announce: Notify::new(),
            trim: Notify::new(),
        });
        // Names this instance in the database, together with the numbers of its batches.
        let node = rand::random::<i64>();
        let (closing, closed) = watch::channel(());
        let writer = Writer::new(shared.clone(), queue, node);
        let warden = Warden::new(shared.clone(), clock, node);
        tokio::spawn(warden.run(closed));
        let tasks = vec![
            tokio::spawn(writer.run()).abort_handle(),
            tokio::spawn(upkeep::pulse(shared.clone())).abort_handle(),
            tokio::spawn(upkeep::listen(shared.clone(), node)).abort_handle(),
            tokio::spawn(upkeep::announce(shared.clone(), node)).abort_handle(),
            tokio::spawn(upkeep::trim(shared.clone())).abort_handle(),
            tokio::spawn(leases::renew(shared.clone(), renewal_queue)).abort_handle(),
        ];
        Ok(Self {
            shared,
            _commands: commands,
            renewals,
            tasks,
            _closing: closing,
        })
    }

    /// Whether the server answers.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.shared.server.health()
    }

    async fn ask(&self, request: Request, bytes: usize) -> Result<Reply> {
        writer::ask(&self.shared, request, bytes).await
    }
}

impl Drop for PostgresKv {
    fn drop(&mut self) {
        self.shared.feed.close();
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn connections(address: &Address) -> Result<usize> {
    let Some(text) = address.option("connections") else {
        return Ok(8);
    };
    text.parse()
        .ok()
        .filter(|count| (1..=1000).contains(count))
        .ok_or_else(|| fault::address("connections is a number from 1 to 1000"))
}

fn failed(trouble: Trouble) -> sinew_core::Error {
    trouble.error()
}

#[async_trait]
impl Kv for PostgresKv {
    fn capability(&self) -> &Capability {
        &CAPABILITY
    }

    async fn revision(&self) -> Result<Revision> {
        let rows = self.shared.server.rows(statement::head).await?;
        let head = statement::read_head(&rows).map_err(failed)?;
        Ok(head.revision)
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        let rows = self.shared.server.rows(|| statement::get(key)).await?;
        statement::read_get(key, &rows).map_err(failed)
    }

    async fn range(&self, span: Span, limit: usize, at: Option<Revision>) -> Result<Page> {
        let limit = CAPABILITY.limits.page_size(limit);
        let ask = || statement::range(&span, limit, at);
        let rows = self.shared.server.rows(ask).await?;
        statement::read_range(limit, at, &rows).map_err(failed)?
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Outcome> {
        CAPABILITY.limits.check_transaction(&conditions, &writes)?;
        let bytes = command::weight(&conditions, &writes);
        match self
            .ask(Request::Commit { conditions, writes }, bytes)
            .await?
        {
            Reply::Outcome(outcome) => Ok(outcome),
            other => Err(mixed_up(&other)),
        }
    }

    async fn watch(&self, span: Span, after: Revision) -> Result<Box<dyn Watch>> {
        // First, so that what is committed from now on is kept for it.
        let (server, feed) = (self.shared.server.clone(), self.shared.feed.clone());
        let watch = PostgresWatch::new(server, feed, span, after);
        let rows = self.shared.server.rows(statement::head).await?;
        let head = statement::read_head(&rows).map_err(failed)?;
        head.check_history(after)?;
        Ok(Box::new(watch))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        CAPABILITY.limits.check_ttl(ttl)?;
        // Rounded up: never shorter.
        let micros = ttl.as_nanos().div_ceil(1000);
        let micros = i64::try_from(micros).unwrap_or(i64::MAX);
        match self.ask(Request::Grant(micros), 64).await? {
            Reply::Granted(lease) => Ok(lease),
            other => Err(mixed_up(&other)),
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        leases::keep_alive(&self.shared, &self.renewals, lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.ask(Request::Revoke(lease), 64).await.map(drop)
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        upkeep::compact(&self.shared, revision).await
    }
}

/// The writer answered another question than it was asked.
fn mixed_up(reply: &Reply) -> sinew_core::Error {
    fault::unexpected(server::ENGINE, format!("a reply out of place: {reply:?}"))
}
