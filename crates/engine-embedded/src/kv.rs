use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use sinew_core::{Clock, Error, Kind, Result};
use sinew_engine::kv::{
    Capability, Condition, Entry, Kv, LeaseId, Limits, Outcome, Page, Revision, Span, Watch, Write,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{
    journal::{Journal, Opening, Slot},
    log::OwnedLog,
    storage::Storage,
};
pub(crate) use command::weight;
use command::{Answer, Command, Request};
pub(crate) use face::{KvFace, refusal};
use feed::{EmbeddedWatch, Feed};
use index::{Index, Pressure, Progress, Snapshot, State, StoreError, disk_full};
use leases::Leases;
pub use options::{Options, SyncFailure};
pub(crate) use writes::Writes;

mod change;
mod command;
mod face;
mod feed;
pub(crate) mod index;
mod leased;
mod leases;
mod options;
mod writes;

#[cfg(test)]
mod power_loss;
#[cfg(test)]
mod tests;

/// The embedded [`Kv`]: a log and sorted files under a data folder.
///
/// ```text
/// commit ──▶ bounded queue ──▶ commit thread: many transactions, one record, one fsync ──▶ answers
///                                   │ publishes
/// get, range ──▶ snapshot           ▼
/// watch ◀── recent commits in memory, older ones from the history in files
/// ```
///
/// - Conditions are checked by the commit thread, against everything before them in the same record.
/// - What is durable in the log is in memory first, and in sorted files soon after (module `index`).
/// - Readers work on snapshots and never wait for the writer.
/// - Leases are in the log and the files, their deadlines in memory; the commit thread ends those that
///   are due.
/// - A write that fails, for want of space or a broken disk, is taken back; reads go on. A failed fsync
///   ends the process: what the kernel has kept of the data is then unknown, and only a restart finds
///   out ("Can Applications Recover from fsync Failures?", Rebello et al. 2020).
pub struct EmbeddedKv {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    /// Bytes that queued transactions may still take.
    budget: Arc<Semaphore>,
    options: Options,
    /// What it runs on; nothing when it is a face of a store.
    journal: Option<Journal>,
}

/// What an [`EmbeddedKv`] holds in memory, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvMemory {
    /// What it should stay within.
    pub budget: usize,
    /// What is not in files yet.
    pub layers: usize,
    /// Pages of the index.
    pub pages: usize,
    /// What leads to the pages, and tells that a key is not there: 10 bits a key.
    pub filters: usize,
    /// The newest history; it is shared with the layers as long as those hold it.
    pub recent: usize,
    /// What waits to be written, or is being written.
    pub queued: usize,
}

impl KvMemory {
    /// All of it.
    pub fn used(&self) -> usize {
        self.layers + self.pages + self.filters + self.recent + self.queued
    }
}

/// What readers, watchers and the commit thread see.
struct Shared {
    clock: Clock,
    state: Arc<State>,
    feed: Feed,
    leases: Leases,
}

const CAPABILITY: Capability = Capability {
    engine: "embedded",
    durable: true,
    historical_reads: true,
    dense_revisions: true,
    atomic_with_bus: true,
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
    /// Opens the store in `dir`, which is made if it does not exist, and starts its threads. Blocks
    /// for the time of reading what leads to the data, and of replaying the end of the log. A folder
    /// of an older format is brought to today's, which takes as long as copying it.
    ///
    /// Errors: `kv.locked` (FailedPrecondition) when another process has it open, `kv.format_newer`,
    /// `store.format_newer`, `log.version` (FailedPrecondition) when a newer Sinew wrote it,
    /// `kv.corrupt`, `store.corrupt`, `log.corrupt` (DataLoss), `kv.disk_full`, `log.full`
    /// (ResourceExhausted), `kv.unavailable`, `log.io` (Unavailable) for other failures of the disk.
    pub fn open(dir: impl AsRef<Path>, clock: Clock, options: Options) -> Result<Self> {
        let dir = dir.as_ref();
        Self::open_inner(dir, clock, options)
            .map_err(|error| error.with_context(format!("folder {}", dir.display())))
    }

    fn open_inner(dir: &Path, clock: Clock, options: Options) -> Result<Self> {
        let folder = Folder::open(dir, &options)?;
        let KvOpening { mut kv, slot } = open(&folder, clock.clone(), options)?;
        kv.journal = Some(folder.opening.start(slot, clock, folder.lock)?);
        Ok(kv)
    }

    /// Writes what is queued, closes the files and frees their lock. Everything later answers
    /// `kv.closed`. As a face of a [`Store`](crate::Store) it is closed with that, and this does nothing. Dropping the store does the same in the background; a process that just ends
    /// loses nothing that was acknowledged.
    pub async fn close(&self) -> Result<()> {
        if self.shared.feed.is_closed() {
            return Err(closed());
        }
        if let Some(journal) = &self.journal {
            journal.close().await;
        }
        Ok(())
    }

    /// Passes a request to the commit thread and waits for its answer.
    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request, bytes: usize) -> Result<T> {
        let (answer, answered) = Answer::new();
        let command = async {
            self.wait_for_room().await?;
            let budget = self.room(bytes).await?;
            let slot = self.commands.reserve().await.map_err(|_| closed())?;
            slot.send(Command {
                request: request(answer),
                room: budget,
            });
            Ok::<_, Error>(())
        };
        // Looked at in this order: with room in the queue no time is waited for.
        tokio::select! {
            biased;
            queued = command => queued?,
            () = self.shared.clock.sleep(self.options.queue_timeout) => {
                return Err(overloaded());
            }
        }
        tokio::select! {
            biased;
            answer = answered => answer.map_or_else(|_| Err(closed()), |answer| answer.result),
            () = self.shared.clock.sleep(self.options.answer_timeout) => Err(Error::new(
                Kind::DeadlineExceeded,
                "kv.deadline",
                "the disk has not answered in time; the transaction may or may not be written",
            )),
        }
    }

    /// Room in the queue for what takes so many bytes.
    pub(crate) async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes.min(self.options.queue_bytes)).unwrap_or(u32::MAX);
        let room = self.budget.clone().acquire_many_owned(bytes);
        room.await.map_err(|_| closed())
    }

    /// What it holds in memory now.
    pub fn memory(&self) -> KvMemory {
        let (layers, pages, filters) = self.shared.state.memory();
        KvMemory {
            budget: self.options.memory,
            layers,
            pages,
            filters,
            recent: self.shared.feed.bytes(),
            queued: self
                .options
                .queue_bytes
                .saturating_sub(self.budget.available_permits()),
        }
    }

    /// Holds up a writer while the files lag behind the log: a little at first, so that nobody meets
    /// a wall. When that will not change by itself, the error says why.
    pub(crate) async fn wait_for_room(&self) -> Result<()> {
        let mut pressure = self.shared.state.pressure();
        if pressure == Pressure::None {
            return Ok(());
        }
        let mut progress = self.shared.state.progress();
        loop {
            match pressure {
                Pressure::None => return Ok(()),
                Pressure::Slow(time) => {
                    tokio::select! {
                        () = self.shared.clock.sleep(time) => {}
                        _ = progress.changed() => {}
                    }
                    return Ok(());
                }
                Pressure::Stop => {
                    let outcome = *progress.borrow_and_update();
                    match outcome {
                        Progress::Well => {}
                        Progress::Full => return Err(disk_full()),
                        Progress::Failed => {
                            return Err(unavailable("the store's files cannot be written"));
                        }
                    }
                    if progress.changed().await.is_err() {
                        return Err(closed());
                    }
                }
            }
            pressure = self.shared.state.pressure();
        }
    }

    /// A snapshot of the newest state, for a short read right here.
    fn here<T>(&self, read: impl FnOnce(Snapshot) -> Result<T, StoreError>) -> Result<T> {
        let result = self.shared.snapshot().and_then(read);
        result.map_err(|StoreError(error)| error)
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
        result.map_err(|StoreError(error)| error)
    }
}

/// The folder of a store, locked and of today's format, and its log.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) lock: Box<dyn Send>,
    pub(crate) opening: Opening,
}

impl Folder {
    pub(crate) fn open(path: &Path, options: &Options) -> Result<Self> {
        let storage = Arc::clone(&options.storage);
        let lock = prepare(&storage, path, options)?;
        let log = OwnedLog::open(Arc::clone(&storage), &path.join("log"), &options.of_log())?;
        Ok(Self {
            path: path.to_owned(),
            storage,
            lock,
            opening: Opening::new(log),
        })
    }
}

/// A store that is open, and not served yet.
pub(crate) struct KvOpening {
    pub(crate) kv: EmbeddedKv,
    pub(crate) slot: Slot<KvFace>,
}

/// Opens the files of Kv in a folder.
pub(crate) fn open(folder: &Folder, clock: Clock, options: Options) -> Result<KvOpening> {
    let hold = folder.opening.hold();
    let opened = Index::open(&folder.storage, &folder.path, &options, hold.share())
        .map_err(|StoreError(error)| error)?;
    let shared = Arc::new(Shared {
        state: opened.index.state(),
        feed: Feed::new(),
        leases: Leases::default(),
        clock,
    });
    let (commands, queue) = mpsc::channel(options.queue_transactions);
    let path = folder.path.clone();
    let face = KvFace::new(Arc::clone(&shared), opened, options.clone(), path);
    let budget = options.queue_bytes.min(Semaphore::MAX_PERMITS);
    let kv = EmbeddedKv {
        shared,
        commands,
        budget: Arc::new(Semaphore::new(budget)),
        options,
        journal: None,
    };
    let slot = Slot::new(face, hold, queue);
    Ok(KvOpening { kv, slot })
}

/// Takes the lock of the folder, and makes it what this version reads.
fn prepare(storage: &Arc<dyn Storage>, dir: &Path, options: &Options) -> Result<Box<dyn Send>> {
    let failed = |error: std::io::Error| StoreError::from(error).0;
    storage.create_dir(dir).map_err(failed)?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        storage.sync_dir(parent).map_err(failed)?;
    }
    let lock = storage.lock(&dir.join("lock"));
    let lock = lock.map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => Error::new(
            Kind::FailedPrecondition,
            "kv.locked",
            "another process has the store open; only one may",
        ),
        _ => failed(error),
    })?;
    Index::prepare(storage, dir, options).map_err(|StoreError(error)| error)?;
    Ok(lock)
}

impl Shared {
    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        if self.feed.is_closed() {
            return Err(StoreError(closed()));
        }
        Ok(self.state.snapshot())
    }
}

#[async_trait]
impl Kv for EmbeddedKv {
    fn capability(&self) -> &Capability {
        &CAPABILITY
    }

    async fn revision(&self) -> Result<Revision> {
        self.here(|snapshot| Ok(snapshot.revision))
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
        let transaction = Box::new((conditions, Writes::new(&writes)));
        drop(writes);
        self.ask(
            |answer| Request::Commit {
                transaction,
                answer,
            },
            bytes,
        )
        .await
    }

    async fn watch(&self, span: Span, after: Revision) -> Result<Box<dyn Watch>> {
        // Asked of the state rather than of the feed, which hears of a commit an instant later
        // than readers can see it.
        self.here(Ok)?.check_history(after)?;
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

pub(crate) fn overloaded() -> Error {
    Error::new(
        Kind::ResourceExhausted,
        "kv.overloaded",
        "the store has more to write than it can; nothing was written, try again later",
    )
}

fn closed() -> Error {
    Error::new(Kind::Unavailable, "kv.closed", "the store is closed")
}

fn unavailable(message: &str) -> Error {
    Error::new(Kind::Unavailable, "kv.unavailable", message)
}
