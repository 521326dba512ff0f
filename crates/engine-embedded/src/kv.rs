use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use sinew_core::{Clock, Error, Kind, Result};
use sinew_engine::kv::{
    Capability, Condition, Entry, Kv, LeaseId, Limits, Outcome, Page, Revision, Span, Watch, Write,
};
use tokio::sync::{Semaphore, mpsc};

use command::{Answer, Command, Request};
use feed::{EmbeddedWatch, Feed};
use leases::Leases;
pub use options::{Options, SyncFailure};
use store::{Snapshot, Store, StoreError};
use writer::Writer;

mod change;
mod command;
mod feed;
mod leases;
mod options;
mod store;
mod transaction;
mod writer;

#[cfg(test)]
mod tests;

/// The embedded [`Kv`]: one file under a data folder, one thread that writes it.
///
/// ```text
/// commit ──▶ bounded queue ──▶ writer thread: many transactions, one fsync ──▶ answers
///                                   │ publishes
/// get, range ──▶ snapshot           ▼
/// watch ◀── recent commits in memory, older ones from the history in the file
/// ```
///
/// - Conditions are checked by the writer, against everything before them in the same group.
/// - Readers work on snapshots and never wait for the writer.
/// - Leases are in the file, their deadlines in memory; the writer ends those that are due.
/// - When a write fails, for want of space or a broken disk, the store is opened anew, which tells
///   what became of the group; reads go on. A failed fsync ends the process: what the kernel has
///   kept of the data is then unknown, and only a restart finds out
///   ("Can Applications Recover from fsync Failures?", Rebello et al. 2020).
pub struct EmbeddedKv {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    /// Bytes that queued transactions may still take.
    budget: Arc<Semaphore>,
    options: Options,
}

/// What readers, watchers and the writer see.
struct Shared {
    clock: Clock,
    /// `None` when the store is closed, or broken and not open again yet. Readers hold the lock only
    /// to take a snapshot; the writer is the one that replaces the store.
    store: RwLock<Option<Store>>,
    feed: Feed,
    leases: Leases,
}

const CAPABILITY: Capability = Capability {
    engine: "embedded",
    durable: true,
    historical_reads: true,
    dense_revisions: true,
    limits: Limits {
        key_bytes: 1024,
        value_bytes: 1 << 20,
        transaction_operations: 1024,
        transaction_bytes: 8 << 20,
        page_entries: 1024,
        lease_minimum: Duration::from_millis(100),
    },
};

/// Pages up to this size are read where the caller runs, larger ones on the blocking pool.
const SHORT_PAGE: usize = 64;

impl EmbeddedKv {
    /// Opens the store in `dir`, which is made if it does not exist, and starts its writer. Blocks for
    /// the time of reading the file's head; after a crash, for that of a quick repair.
    ///
    /// Errors: `kv.locked` (FailedPrecondition) when another process has it open, `kv.format_newer`
    /// (FailedPrecondition) when a newer Sinew wrote it, `kv.corrupt` (DataLoss), `kv.disk_full`
    /// (ResourceExhausted), `kv.unavailable` (Unavailable) for other failures of the disk.
    pub fn open(dir: impl AsRef<Path>, clock: Clock, options: Options) -> Result<Self> {
        let dir = dir.as_ref();
        let store = Store::open(dir, &options).map_err(|StoreError(error)| error)?;
        let head = store.head().map_err(|StoreError(error)| error)?;
        let leases = store.leases().map_err(|StoreError(error)| error)?;
        let shared = Arc::new(Shared {
            store: RwLock::new(Some(store)),
            feed: Feed::new(head.revision),
            leases: Leases::new(leases, clock.monotonic()),
            clock,
        });
        let (commands, queue) = mpsc::channel(options.queue_transactions);
        let budget = Arc::new(Semaphore::new(
            options.queue_bytes.min(Semaphore::MAX_PERMITS),
        ));
        let runtime = Writer::runtime()?;
        let writer = Writer::new(shared.clone(), queue, dir.to_owned(), options.clone());
        thread::Builder::new()
            .name("kv-writer".to_owned())
            .spawn(move || writer.run(&runtime))
            .map_err(|error| unavailable("the writer thread could not start").with_source(error))?;
        Ok(Self {
            shared,
            commands,
            budget,
            options,
        })
    }

    /// Writes what is queued, closes the file and frees its lock. Everything later answers
    /// `kv.closed`. Dropping the store does the same in the background; a process that just ends loses nothing that was acknowledged.
    pub async fn close(&self) -> Result<()> {
        self.ask(Request::Close, 1).await
    }

    /// Passes a request to the writer and waits for its answer.
    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request, bytes: usize) -> Result<T> {
        let (answer, answered) = Answer::new();
        let command = async {
            let bytes = u32::try_from(bytes.min(self.options.queue_bytes)).unwrap_or(u32::MAX);
            let budget = self.budget.clone().acquire_many_owned(bytes).await.ok()?;
            let slot = self.commands.reserve().await.ok()?;
            slot.send(Command {
                request: request(answer),
                bytes: bytes as usize,
                _budget: budget,
            });
            Some(())
        };
        tokio::select! {
            queued = command => queued.ok_or_else(closed)?,
            () = self.shared.clock.sleep(self.options.queue_timeout) => {
                return Err(Error::new(
                    Kind::ResourceExhausted,
                    "kv.overloaded",
                    "the store has more to write than it can; nothing was written, try again later",
                ));
            }
        }
        tokio::select! {
            answer = answered => answer.unwrap_or_else(|_| Err(closed())),
            () = self.shared.clock.sleep(self.options.answer_timeout) => Err(Error::new(
                Kind::DeadlineExceeded,
                "kv.deadline",
                "the disk has not answered in time; the transaction may or may not be written",
            )),
        }
    }

    /// A snapshot of the newest state, for a short read right here.
    fn here<T>(&self, read: impl FnOnce(Snapshot) -> Result<T, StoreError>) -> Result<T> {
        let result = self.shared.snapshot().and_then(read);
        result.map_err(|error| self.report(error))
    }

    /// The same for a long read.
    async fn elsewhere<T: Send + 'static>(
        &self,
        read: impl FnOnce(Snapshot) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T> {
        let shared = self.shared.clone();
        let reading = tokio::task::spawn_blocking(move || shared.snapshot().and_then(read));
        let result = reading
            .await
            .map_err(|error| unavailable("a read broke off").with_source(error))?;
        result.map_err(|error| self.report(error))
    }

    /// After a failed read of the file, the writer shall open it anew.
    fn report(&self, StoreError(error): StoreError) -> Error {
        if error.code() == "kv.unavailable"
            && let Ok(budget) = self.budget.clone().try_acquire_owned()
        {
            let command = Command {
                request: Request::Reopen,
                bytes: 1,
                _budget: budget,
            };
            // A full queue means that the writer will meet the failure itself.
            let _ = self.commands.try_send(command);
        }
        error
    }
}

impl Shared {
    fn store(&self) -> RwLockReadGuard<'_, Option<Store>> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_store(&self, store: Option<Store>) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = store;
    }

    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        match &*self.store() {
            Some(store) => store.snapshot(),
            None if self.feed.is_closed() => Err(StoreError(closed())),
            None => Err(StoreError(unavailable("the store's disk does not work"))),
        }
    }
}

#[async_trait]
impl Kv for EmbeddedKv {
    fn capability(&self) -> &Capability {
        &CAPABILITY
    }

    async fn revision(&self) -> Result<Revision> {
        self.here(|snapshot| Ok(snapshot.head()?.revision))
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        self.here(|snapshot| snapshot.get(key))
    }

    async fn range(&self, span: Span, limit: usize, at: Option<Revision>) -> Result<Page> {
        let limit = CAPABILITY.limits.page_size(limit);
        if limit <= SHORT_PAGE && at.is_none() {
            return self.here(|snapshot| snapshot.range(&span, limit, None))?;
        }
        self.elsewhere(move |snapshot| snapshot.range(&span, limit, at))
            .await?
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Outcome> {
        CAPABILITY.limits.check_transaction(&conditions, &writes)?;
        let bytes = command::weight(&conditions, &writes);
        self.ask(
            |answer| Request::Commit {
                conditions,
                writes,
                answer,
            },
            bytes,
        )
        .await
    }

    async fn watch(&self, span: Span, after: Revision) -> Result<Box<dyn Watch>> {
        // Asked of the file rather than of the feed, which hears of a commit an instant later
        // than readers can see it.
        self.here(|snapshot| snapshot.head())?
            .check_history(after)?;
        Ok(Box::new(EmbeddedWatch::new(
            self.shared.clone(),
            span,
            after,
        )))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        CAPABILITY.limits.check_ttl(ttl)?;
        self.ask(|answer| Request::Grant { ttl, answer }, 1).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        if self.shared.feed.is_closed() {
            return Err(closed());
        }
        self.shared
            .leases
            .keep_alive(lease, self.shared.clock.monotonic())
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.ask(|answer| Request::Revoke { lease, answer }, 1)
            .await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.ask(|answer| Request::Compact { revision, answer }, 1)
            .await
    }
}

fn closed() -> Error {
    Error::new(Kind::Unavailable, "kv.closed", "the store is closed")
}

fn unavailable(message: &str) -> Error {
    Error::new(Kind::Unavailable, "kv.unavailable", message)
}
