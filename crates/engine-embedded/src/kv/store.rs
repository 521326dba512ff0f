//! The store under the transactions: a log that makes groups durable, the newest of them in memory,
//! and the rest in a redb database, the index, that is brought up to date behind the writer's back.
//!
//! ```text
//! write ─▶ log (one record a group, one fsync) ─▶ active layer ─▶ frozen layer ─▶ index
//!                                                      ▲               ▲            ▲
//! snapshot ────────────────────────────────────────────┴───────────────┴────────────┘
//! ```
//!
//! - A group is one record: durable as a whole or not at all.
//! - A read looks into the active layer, then the frozen one, then the index; the first that knows
//!   the key knows it best. Layers hold every revision of a key, so a snapshot is a revision and
//!   neither side waits for the other.
//! - When the active layer is full it is frozen, and a checkpoint writes it into the index in one
//!   transaction that also says how far in the log the index is. After that the log lets go.
//! - Opening replays what the index has not got yet: two layers at most, whatever the store's size.
//!
//! Rejected: writing the index without durability in the writer's thread. redb has one write
//! transaction at a time, so every commit would wait for the checkpoint (357 ms measured).

mod checkpoint;
mod disk;
mod failure;
mod format;
mod index;
mod layer;
mod page;
mod record;
mod tables;

use std::{collections::BTreeMap, io, path::Path, sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};
use redb::ReadTransaction;
use sinew_core::Result;
use sinew_engine::kv::{Entry, LeaseId, Page, Revision, Span, compacted, revision_unknown};

use self::{checkpoint::Checkpointer, index::Index, layer::Layer};
pub(super) use self::{
    disk::Faults,
    failure::{StoreError, disk_full},
    record::MOST_BYTES as RECORD_BYTES,
    tables::Tables,
};
use super::{Options, change::Commit};
use crate::log::{self, Entry as LogEntry, FailedSync, OwnedLog, Sequence};

type Stored<T> = Result<T, StoreError>;

/// The numbers that the store goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) revision: Revision,
    /// History holds exactly the commits after this one.
    pub(super) floor: Revision,
    pub(super) history_bytes: u64,
    pub(super) last_lease: u64,
    /// Counts groups, so that one whose fate is unknown can be looked up.
    pub(super) group: u64,
}

impl Head {
    /// Whether everything after `revision` is still known.
    pub(super) fn check_history(&self, revision: Revision) -> Result<()> {
        if revision > self.revision {
            Err(revision_unknown(revision, self.revision))
        } else if revision < self.floor {
            Err(compacted(revision, self.floor))
        } else {
            Ok(())
        }
    }

    pub(super) fn history_commits(&self) -> u64 {
        self.revision - self.floor
    }
}

pub(super) struct Store {
    state: Arc<State>,
    /// Used by the writer alone.
    log: Mutex<OwnedLog>,
    checkpointer: Checkpointer,
}

/// What readers, the writer and the checkpoint share.
struct State {
    index: Index,
    view: RwLock<View>,
    /// All leases and their TTL in nanoseconds: few, and asked for at every commit.
    leases: Mutex<BTreeMap<u64, u64>>,
}

/// Where to look.
#[derive(Clone)]
struct View {
    head: Head,
    active: Arc<Layer>,
    frozen: Option<Arc<Frozen>>,
}

/// A layer that does not change any more, and what is true at its end.
struct Frozen {
    layer: Arc<Layer>,
    head: Head,
    /// The log's first record that it does not hold.
    next: Sequence,
}

impl View {
    /// The layers, newest first.
    fn layers(&self) -> impl Iterator<Item = &Layer> {
        let frozen = self.frozen.as_ref().map(|frozen| &*frozen.layer);
        std::iter::once(&*self.active).chain(frozen)
    }
}

impl Store {
    pub(super) fn open(dir: &Path, options: &Options) -> Stored<Self> {
        let context = |StoreError(error)| StoreError(error.with_context(dir.display().to_string()));
        Self::open_inner(dir, options).map_err(context)
    }

    fn open_inner(dir: &Path, options: &Options) -> Stored<Self> {
        // The index first: it holds the lock of the folder.
        let index = Index::open(dir, options)?;
        let sync_failure = options.sync_failure.clone();
        let log_options = log::Options {
            failed_sync: FailedSync::call(move |message| {
                sync_failure.react(&io::Error::other(message.to_owned()));
            }),
            ..options.log.clone()
        };
        let log = OwnedLog::open(disk::storage(options), &dir.join("log"), &log_options)?;
        let (mut head, next) = index.head()?;
        if log.recovery().oldest > next || log.next() < next {
            return Err(failure::corrupt(
                "the log and the index do not fit together",
            ));
        }

        let layer = Arc::new(Layer::default());
        let view = View {
            head,
            active: Arc::clone(&layer),
            frozen: None,
        };
        let leases = index.leases()?;
        let state = State {
            index,
            view: RwLock::new(view),
            leases: Mutex::new(leases),
        };
        let mut reader = log.reader(next)?;
        while let Some(entry) = reader.next()? {
            let LogEntry::Record(found) = entry else {
                return Err(failure::corrupt(
                    "the log has a gap that the index does not fill",
                ));
            };
            let snapshot = state.snapshot()?;
            let group = record::decode(found.payload, |key| snapshot.get(key))?;
            head = group.head;
            state.take_over(&layer, group, head);
        }
        let state = Arc::new(state);
        let checkpointer =
            Checkpointer::start(Arc::clone(&state), log.releaser(), options.layer_bytes)?;
        checkpointer.freeze_if_full(&state, log.next());
        Ok(Self {
            state,
            log: Mutex::new(log),
            checkpointer,
        })
    }

    pub(super) fn snapshot(&self) -> Stored<Snapshot> {
        self.state.snapshot()
    }

    pub(super) fn head(&self) -> Stored<Head> {
        Ok(self.state.view.read().head)
    }

    /// Every lease and its TTL.
    pub(super) fn leases(&self) -> Stored<Vec<(LeaseId, Duration)>> {
        let leases = self.state.leases.lock();
        Ok(leases
            .iter()
            .map(|(lease, ttl)| (LeaseId(*lease), Duration::from_nanos(*ttl)))
            .collect())
    }

    /// Runs `change` and writes what it changed, if anything: on stable storage before it returns
    /// if `durable`, else with the next write that is. After an error nothing was written, unless
    /// it was the fsync that failed.
    pub(super) fn write<T>(
        &self,
        durable: bool,
        change: impl FnOnce(&mut Tables<'_>) -> Stored<T>,
    ) -> Stored<T> {
        self.checkpointer.wait_for_room(&self.state)?;
        let mut tables = Tables::new(&self.state)?;
        let result = change(&mut tables)?;
        let Some(group) = tables.finish() else {
            return Ok(result);
        };
        let (layer, head) = (Arc::clone(&self.state.view.read().active), group.head);
        if durable {
            let mut log = self.log.lock();
            log.append(&record::encode(&group))?;
            self.state.take_over(&layer, group, head);
            self.checkpointer.freeze_if_full(&self.state, log.next());
        } else {
            self.state.take_over(&layer, group, head);
        }
        Ok(result)
    }
}

impl State {
    /// Makes a group visible, all at once.
    fn take_over(&self, layer: &Layer, group: record::Group, head: Head) {
        {
            let mut leases = self.leases.lock();
            for (lease, ttl) in &group.leases {
                match ttl {
                    Some(ttl) => leases.insert(*lease, *ttl),
                    None => leases.remove(lease),
                };
            }
        }
        layer.add(group);
        self.view.write().head = head;
    }

    fn snapshot(&self) -> Stored<Snapshot> {
        // Under one lock: an index that is newer than the view would show the future.
        let view = self.view.read();
        let transaction = self.index.begin_read()?;
        Ok(Snapshot {
            view: view.clone(),
            transaction,
        })
    }
}

/// A state of the store that stands still.
pub(super) struct Snapshot {
    view: View,
    transaction: ReadTransaction,
}

impl Snapshot {
    pub(super) fn head(&self) -> Stored<Head> {
        Ok(self.view.head)
    }

    pub(super) fn get(&self, key: &[u8]) -> Stored<Option<Entry>> {
        for layer in self.view.layers() {
            if let Some(known) = layer.get(key, self.view.head.revision) {
                return Ok(known);
            }
        }
        index::entry(&self.transaction, key)
    }

    /// At most `count` commits after `revision`, in order.
    pub(super) fn history(&self, revision: Revision, count: usize) -> Stored<Vec<Commit>> {
        let mut commits = index::history(&self.transaction, revision, count)?;
        // The index may hold what the frozen layer holds, too.
        for layer in self.view.layers().collect::<Vec<_>>().into_iter().rev() {
            let after = commits.last().map_or(revision, |commit| commit.revision);
            layer.history(
                after,
                self.view.head.revision,
                count - commits.len(),
                &mut commits,
            )?;
        }
        Ok(commits)
    }

    /// The inner error is the caller's: there is no such snapshot.
    pub(super) fn range(
        &self,
        span: &Span,
        limit: usize,
        at: Option<Revision>,
    ) -> Stored<Result<Page>> {
        page::range(self, span, limit, at)
    }
}
