use std::{fmt, io, process, sync::Arc, time::Duration};

use sinew_engine::kv::Retention;

use crate::{
    journal::RECORD_BYTES,
    log::{self, FailedSync},
    storage::{RealStorage, Storage},
};

/// How an [`EmbeddedKv`](super::EmbeddedKv) behaves. The defaults suit a node of 40 MB.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory for what leads to entries in the files, bytes. The kernel caches the files themselves.
    pub cache_bytes: usize,
    /// What is written is collected in memory up to this size, bytes, before it goes into a file;
    /// while that lags behind, up to four times as much.
    pub layer_bytes: usize,
    /// History kept in files. It may be exceeded by a sixteenth, so that it is trimmed in strokes.
    pub retention: Retention,
    /// Of the history, the newest part that is in memory for watchers.
    pub recent: Retention,
    /// Transactions that wait for the writer, at most.
    pub queue_transactions: usize,
    /// Bytes of the transactions that wait or are being written, at most.
    pub queue_bytes: usize,
    /// How long a transaction may wait for room in the queue before `kv.overloaded`.
    pub queue_timeout: Duration,
    /// How long it may then take before `kv.deadline`.
    pub answer_timeout: Duration,
    /// With less free space than this on the disk, writes are refused with `kv.disk_full`, bytes.
    pub reserve_bytes: u64,
    /// What happens after a failed fsync.
    pub sync_failure: SyncFailure,
    /// The budget that they come from, bytes; see [`Options::with_memory`].
    pub memory: usize,
    pub(crate) log: log::Options,
    /// Another disk than the machine's.
    pub(crate) storage: Arc<dyn Storage>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 16 << 20,
            layer_bytes: 16 << 20,
            retention: Retention {
                commits: 100_000,
                bytes: 64 << 20,
            },
            recent: Retention {
                commits: 4096,
                bytes: 4 << 20,
            },
            queue_transactions: 4096,
            queue_bytes: 32 << 20,
            queue_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(30),
            reserve_bytes: 16 << 20,
            sync_failure: SyncFailure::default(),
            memory: Self::MEMORY,
            log: log::Options {
                record_bytes: RECORD_BYTES,
                ..log::Options::default()
            },
            storage: Arc::new(RealStorage),
        }
    }
}

impl Options {
    /// What the defaults take in memory, about, bytes.
    pub const MEMORY: usize = 160 << 20;
    /// With less nothing sensible can be done.
    pub const LEAST_MEMORY: usize = 20 << 20;

    /// What may be held in memory in proportion to a budget, bytes: four layers take two fifths of
    /// it, what waits to be written a fifth, pages of the index a tenth. The rest is for filters (10
    /// bits a key), and what is at work.
    #[must_use]
    pub fn with_memory(self, bytes: usize) -> Self {
        let bytes = bytes.max(Self::LEAST_MEMORY);
        Self {
            cache_bytes: bytes / 10,
            layer_bytes: bytes / 10,
            queue_bytes: bytes / 5,
            recent: Retention {
                bytes: bytes / 40,
                ..self.recent
            },
            memory: bytes,
            ..self
        }
    }

    /// As the log wants them.
    pub(crate) fn of_log(&self) -> log::Options {
        let sync_failure = self.sync_failure.clone();
        log::Options {
            failed_sync: FailedSync::call(move |message| {
                sync_failure.react(&io::Error::other(message.to_owned()));
            }),
            ..self.log.clone()
        }
    }
}

/// What happens after a failed fsync. By default the process is aborted: nobody can know any more
/// which of the data the kernel has kept, and to go on would be to acknowledge what may be lost.
#[derive(Clone)]
pub struct SyncFailure(Arc<dyn Fn(&io::Error) + Send + Sync>);

impl SyncFailure {
    /// Calls `react` instead. When it returns, the fsync counts as any failed write. For tests.
    pub fn call(react: impl Fn(&io::Error) + Send + Sync + 'static) -> Self {
        Self(Arc::new(react))
    }

    pub(super) fn react(&self, error: &io::Error) {
        (self.0)(error);
    }
}

impl Default for SyncFailure {
    fn default() -> Self {
        Self::call(|error| {
            tracing::error!(%error, "fsync failed; the process ends so that no lost write is acknowledged");
            process::abort();
        })
    }
}

impl fmt::Debug for SyncFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SyncFailure")
    }
}
