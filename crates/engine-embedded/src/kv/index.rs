//! The state of the store: the newest in memory, the rest in sorted files, which are made behind
//! the commit thread's back.
//!
//! ```text
//! record of the log ─▶ active layer ─▶ frozen layers ─▶ runs, small ones ─▶ runs, large ones
//!                           ▲               ▲                ▲                   ▲
//! snapshot ─────────────────┴───────────────┴────────────────┴───────────────────┘
//! ```
//!
//! - Every source holds *versions*: a key with its value, or that it was deleted, at a revision. A
//!   source's revisions all lie before those of the one on its left, so the first that knows a key as
//!   of a revision knows it best. A snapshot is a revision and a list of sources, and neither readers
//!   nor the writer wait for each other.
//! - A full layer is frozen and written as one sorted file, front to back: that is the checkpoint,
//!   after which the log lets go. The commits are written beside it as they came, for watchers that
//!   have fallen behind.
//! - Runs of like size are merged into one, four or more at a time, so there are few (a log-structured
//!   merge tree: "The Log-Structured Merge-Tree", O'Neil et al., 1996, with tiers as in Apache
//!   Cassandra). Versions that nobody can ask for any more are left out.
//! - Opening reads the manifest, the root and the filter of each run, and replays what the log has of
//!   the layers.
//!
//! Rejected: a B-tree, of which a checkpoint rewrites a leaf page for nearly every random key.

mod checkpoint;
mod failure;
mod filter;
mod history;
mod layer;
mod manifest;
mod page;
mod retained;
mod run;
pub(crate) mod salvage;
mod source;
mod upgrade;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::RwLock;
use sinew_core::Result;
use sinew_engine::kv::{Entry, Page, Revision, Span, compacted, revision_unknown};
use tokio::sync::watch;

use self::{
    checkpoint::Checkpointer,
    history::HistoryFile,
    layer::Layer,
    run::{Cursor, Run},
    source::Source,
};
pub(super) use self::{
    failure::{StoreError, disk_full},
    filter::hash,
};
use super::{Options, change::Commit, leased::Leased};
use crate::{journal::Hold, log::Sequence, storage::Storage};

pub(super) type Stored<T> = Result<T, StoreError>;

/// Frozen layers that wait for their checkpoint, at most; then the active one grows, and writers are
/// held up.
const MOST_FROZEN: usize = 3;
/// From so many runs on writers are slowed down, since reads look into each.
const MANY_RUNS: usize = 24;

/// The index, as the commit thread has it.
pub(super) struct Index {
    state: Arc<State>,
    checkpointer: Checkpointer,
}

/// What readers, the commit thread and the checkpoint share.
pub(super) struct State {
    view: RwLock<View>,
    layer_bytes: usize,
    pages: Arc<run::PageBudget>,
    /// Changes when a checkpoint or a merge has ended.
    progress: watch::Sender<Progress>,
}

/// How the last checkpoint ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Progress {
    #[default]
    Well,
    /// It is tried again soon.
    Full,
    Failed,
}

/// Where to look.
#[derive(Clone)]
struct View {
    revision: Revision,
    floor: Revision,
    sources: Arc<Sources>,
}

/// All of them the newest first, but for the history.
struct Sources {
    active: Arc<Layer>,
    frozen: Vec<Arc<Frozen>>,
    runs: Vec<Arc<Run>>,
    history: Vec<Arc<HistoryFile>>,
}

/// A layer that does not change any more, and what is true at its end.
struct Frozen {
    layer: Arc<Layer>,
    revision: Revision,
    last_lease: u64,
    /// The log's first record that it does not hold.
    next: Sequence,
}

/// What opening found.
pub(super) struct Opened {
    pub(super) index: Index,
    pub(super) next: Sequence,
    pub(super) revision: Revision,
    pub(super) floor: Revision,
    pub(super) last_lease: u64,
    pub(super) leased: Leased,
    /// The sizes of the commits after the floor.
    pub(super) sizes: Vec<u32>,
}

/// What is durable after a part was.
pub(super) struct Head {
    pub(super) revision: Revision,
    pub(super) floor: Revision,
    pub(super) last_lease: u64,
    /// The record that comes next.
    pub(super) next: Sequence,
}

impl Index {
    /// Makes what a store needs, or brings the files of an older format to this one.
    pub(super) fn prepare(storage: &Arc<dyn Storage>, dir: &Path, options: &Options) -> Stored<()> {
        upgrade::prepare(storage, dir, options)
    }

    pub(super) fn open(
        storage: &Arc<dyn Storage>,
        dir: &Path,
        options: &Options,
        hold: Hold,
    ) -> Stored<Opened> {
        checkpoint::open(storage, &dir.join(FOLDER), options, hold)
    }

    pub(super) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state)
    }

    /// Makes a durable part visible, all at once, and freezes the layer when it is full.
    pub(super) fn add(&self, part: &Bytes, commits: &[Commit], head: &Head) -> Stored<()> {
        let (active, before) = {
            let view = self.state.view.read();
            (Arc::clone(&view.sources.active), view.revision)
        };
        active.add(before, part, commits)?;
        let mut view = self.state.view.write();
        view.revision = head.revision;
        view.floor = head.floor;
        let sources = &view.sources;
        if active.bytes() >= self.state.layer_bytes && sources.frozen.len() < MOST_FROZEN {
            let mut frozen = sources.frozen.clone();
            frozen.insert(
                0,
                Arc::new(Frozen {
                    layer: active,
                    revision: head.revision,
                    last_lease: head.last_lease,
                    next: head.next,
                }),
            );
            view.sources = Arc::new(Sources {
                active: Arc::new(Layer::new(self.state.layer_bytes, head.revision)),
                frozen,
                runs: sources.runs.clone(),
                history: sources.history.clone(),
            });
            drop(view);
            self.checkpointer.wake();
        }
        Ok(())
    }
}

/// The folder of the index in that of the store.
const FOLDER: &str = "kv";

/// How writers are to be held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pressure {
    None,
    /// Each commit waits this long, so that nobody meets a wall.
    Slow(Duration),
    /// Nothing more fits into memory until a checkpoint has ended.
    Stop,
}

impl State {
    pub(super) fn snapshot(&self) -> Snapshot {
        let view = self.view.read();
        Snapshot {
            revision: view.revision,
            floor: view.floor,
            sources: Arc::clone(&view.sources),
        }
    }

    /// What layers, pages and filters take, bytes.
    pub(super) fn memory(&self) -> (usize, usize, usize) {
        let sources = Arc::clone(&self.view.read().sources);
        let frozen = sources.frozen.iter().map(|frozen| frozen.layer.bytes());
        let layers = sources.active.bytes() + frozen.sum::<usize>();
        let filters = sources.runs.iter().map(|run| run.resident()).sum();
        (layers, self.pages.used(), filters)
    }

    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Whether nothing is only in memory and the log.
    #[cfg(test)]
    pub(super) fn is_in_files(&self) -> bool {
        let view = self.view.read();
        view.sources.active.is_empty() && view.sources.frozen.is_empty()
    }

    pub(super) fn pressure(&self) -> Pressure {
        let view = self.view.read();
        let Sources {
            active,
            frozen,
            runs,
            ..
        } = &*view.sources;
        let full = self.layer_bytes.max(1);
        let waiting = frozen.len() * full + active.bytes();
        let most = (MOST_FROZEN + 1) * full;
        let soft = most * 5 / 8;
        if waiting >= most {
            return Pressure::Stop;
        }
        // Up to 20 ms, in proportion.
        let late = waiting.saturating_sub(soft) * 20_000 / (most - soft);
        let many = runs.len().saturating_sub(MANY_RUNS) * 1000;
        match late.max(many) {
            0 => Pressure::None,
            micros => Pressure::Slow(Duration::from_micros(micros.min(50_000) as u64)),
        }
    }
}

/// A state of the store that stands still.
pub(super) struct Snapshot {
    pub(super) revision: Revision,
    pub(super) floor: Revision,
    sources: Arc<Sources>,
}

impl Snapshot {
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

    fn layers(&self) -> impl DoubleEndedIterator<Item = &Layer> {
        let frozen = self.sources.frozen.iter().map(|frozen| &*frozen.layer);
        std::iter::once(&*self.sources.active).chain(frozen)
    }

    pub(super) fn get(&self, key: &[u8]) -> Stored<Option<Entry>> {
        let hash = filter::hash(key);
        for layer in self.layers() {
            if let Some(known) = layer.get(key, hash, self.revision) {
                return Ok(known);
            }
        }
        for run in &self.sources.runs {
            if let Some(known) = run.get(key, hash, self.revision)? {
                return Ok(known);
            }
        }
        Ok(None)
    }

    /// The revision that last changed a key, if that is known still, and whether it exists.
    pub(super) fn version(&self, key: &[u8], hash: u64) -> Stored<Option<(Revision, bool)>> {
        for layer in self.layers() {
            if let Some(known) = layer.version(key, hash, self.revision) {
                return Ok(Some(known));
            }
        }
        for run in &self.sources.runs {
            if let Some(known) = run.version(key, hash, self.revision)? {
                return Ok(Some(known));
            }
        }
        Ok(None)
    }

    /// At most `count` commits after `after`, in order.
    pub(super) fn history(&self, after: Revision, count: usize) -> Stored<Vec<Commit>> {
        let mut commits = Vec::new();
        let files = &self.sources.history;
        let from = files.partition_point(|file| file.last() <= after);
        for file in &files[from..] {
            if commits.len() < count {
                file.read(after.max(file.before), count, &mut commits)?;
                if commits
                    .last()
                    .is_some_and(|last| last.revision < file.last())
                {
                    // What comes next must follow on this.
                    return Ok(commits);
                }
            }
        }
        for layer in self.layers().rev() {
            if commits.len() < count {
                let after = commits.last().map_or(after, |commit| commit.revision);
                layer.history(after, self.revision, count, &mut commits)?;
            }
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

    fn sources(&self, span: &Span) -> Stored<Vec<Box<dyn Source + '_>>> {
        let mut sources: Vec<Box<dyn Source + '_>> = Vec::new();
        for layer in self.layers().filter(|layer| !layer.is_empty()) {
            sources.push(Box::new(layer.source(span)));
        }
        for run in &self.sources.runs {
            let cursor = Cursor::new(run, &span.start, span.end.clone())?;
            sources.push(Box::new(cursor));
        }
        Ok(sources)
    }
}
