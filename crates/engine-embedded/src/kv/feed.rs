//! How watchers learn of commits: the newest ones are in memory, shared by all watchers, each of
//! which is only a place in them. A watcher that has fallen behind reads the history in the files,
//! until that too has forgotten its place. So no watcher takes memory or the writer's time.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use sinew_core::Result;
use sinew_engine::kv::{Batch, Retention, Revision, Span, Watch};
use tokio::sync::watch;

use super::{Shared, change::Commit, closed, index::StoreError, unavailable};

/// Commits that a watcher looks at in one go, while it holds the lock or a blocking thread.
const STRETCH: usize = 256;
/// What a commit in memory takes beside its bytes, about.
const OVERHEAD: usize = 64;

pub(super) struct Feed {
    recent: Mutex<Recent>,
    newest: watch::Sender<Newest>,
}

#[derive(Clone, Copy)]
struct Newest {
    revision: Revision,
    closed: bool,
}

/// Holds exactly the commits after `floor`.
struct Recent {
    floor: Revision,
    commits: VecDeque<Commit>,
    bytes: usize,
}

/// What [`Feed::after`] finds.
enum Found {
    /// The next batch of the span.
    Batch(Batch),
    /// Nothing for the span up to this revision.
    NothingUntil(Revision),
    /// The place is older than what is in memory.
    InTheFile,
}

impl Feed {
    pub(super) fn new() -> Self {
        let revision = 0;
        let recent = Recent {
            floor: revision,
            commits: VecDeque::new(),
            bytes: 0,
        };
        let (newest, _) = watch::channel(Newest {
            revision,
            closed: false,
        });
        Self {
            recent: Mutex::new(recent),
            newest,
        }
    }

    /// Adds commits, which follow the ones already there, and wakes the watchers.
    pub(super) fn publish(&self, commits: Vec<Commit>, retention: Retention) {
        let Some(newest) = commits.last().map(|commit| commit.revision) else {
            return;
        };
        let mut recent = self.lock();
        for commit in commits {
            recent.bytes += commit.changes.len() + OVERHEAD;
            recent.commits.push_back(commit);
        }
        while recent.commits.len() > retention.commits || recent.bytes > retention.bytes {
            let Some(oldest) = recent.commits.pop_front() else {
                break;
            };
            recent.bytes -= oldest.changes.len() + OVERHEAD;
            recent.floor = oldest.revision;
        }
        drop(recent);
        self.newest.send_modify(|state| state.revision = newest);
    }

    /// Begins at `revision`: everything until then is only in the files.
    pub(super) fn start(&self, revision: Revision) {
        self.lock().floor = revision;
        self.newest.send_modify(|state| state.revision = revision);
    }

    /// What it has in memory.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    pub(super) fn close(&self) {
        self.newest.send_modify(|state| state.closed = true);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.newest.borrow().closed
    }

    /// Whether a commit after `revision` that is in memory touches the span, and the revision after
    /// which all commits are in memory.
    pub(super) fn touched(&self, span: &Span, revision: Revision) -> (bool, Revision) {
        let recent = self.lock();
        let mut newest_first = recent.commits.iter().rev();
        let touched = newest_first
            .by_ref()
            .take_while(|commit| commit.revision > revision)
            .any(|commit| commit.touches(span));
        (touched, recent.floor)
    }

    fn after(&self, span: &Span, seen: Revision) -> Found {
        let recent = self.lock();
        if seen < recent.floor {
            return Found::InTheFile;
        }
        // One commit a revision, so the place follows from the number.
        let place = usize::try_from(seen - recent.floor).unwrap_or(usize::MAX);
        let mut until = seen;
        for commit in recent.commits.iter().skip(place).take(STRETCH) {
            if let Some(batch) = commit.batch(span) {
                return Found::Batch(batch);
            }
            until = commit.revision;
        }
        Found::NothingUntil(until)
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct EmbeddedWatch {
    shared: Arc<Shared>,
    newest: watch::Receiver<Newest>,
    span: Span,
    /// Everything up to here was delivered, waits in `ready`, or does not concern the span.
    seen: Revision,
    /// Read from the file and not delivered yet.
    ready: VecDeque<Batch>,
}

impl EmbeddedWatch {
    pub(super) fn new(shared: Arc<Shared>, span: Span, after: Revision) -> Self {
        let newest = shared.feed.newest.subscribe();
        Self {
            shared,
            newest,
            span,
            seen: after,
            ready: VecDeque::new(),
        }
    }

    /// Reads on in the file. `seen` moves only when the read is done, so giving up loses nothing.
    async fn catch_up(&mut self) -> Result<()> {
        let (shared, seen) = (self.shared.clone(), self.seen);
        let reading = tokio::task::spawn_blocking(move || {
            let snapshot = shared.snapshot()?;
            Ok(match snapshot.check_history(seen) {
                Ok(()) => Ok(snapshot.history(seen, STRETCH)?),
                Err(error) => Err(error),
            })
        });
        let read = reading
            .await
            .map_err(|error| unavailable("a read broke off").with_source(error))?;
        let commits = read.map_err(|StoreError(error)| error)??;
        self.ready
            .extend(commits.iter().filter_map(|commit| commit.batch(&self.span)));
        self.seen = commits.last().map_or(self.seen, |commit| commit.revision);
        Ok(())
    }
}

#[async_trait]
impl Watch for EmbeddedWatch {
    async fn next(&mut self) -> Result<Batch> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            let newest = *self.newest.borrow_and_update();
            if newest.closed {
                return Err(closed());
            }
            match self.shared.feed.after(&self.span, self.seen) {
                Found::Batch(batch) => {
                    self.seen = batch.revision;
                    return Ok(batch);
                }
                Found::NothingUntil(revision) if revision > self.seen => self.seen = revision,
                // The sender lives in `shared`, so this cannot fail.
                Found::NothingUntil(_) => drop(self.newest.changed().await),
                Found::InTheFile => self.catch_up().await?,
            }
        }
    }
}
