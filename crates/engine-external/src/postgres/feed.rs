//! How watchers learn of commits: the newest ones are in memory, shared by all watchers of this
//! instance, each of which is only a place in them. A watcher that has fallen behind reads the
//! history in the database, until that too has forgotten its place. So no watcher takes memory or a
//! writer's time.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use sinew_core::{Error, Kind, Result};
use sinew_engine::kv::{
    Batch, Entry, Event, Key, LeaseId, Retention, Revision, Span, Watch, compacted,
};
use tokio::sync::watch;

use super::{
    judge::Staged,
    server::Server,
    statement::{self, Head},
};

/// Commits that a watcher looks at in one go, while it holds the lock.
const STRETCH: usize = 256;

/// One commit, as watchers see it.
pub(super) struct Commit {
    pub(super) revision: Revision,
    /// In key order.
    events: Vec<Event>,
    bytes: usize,
}

impl Commit {
    pub(super) fn new(revision: Revision) -> Self {
        Self {
            revision,
            events: Vec::new(),
            bytes: 0,
        }
    }

    /// Adds the next change, in key order.
    pub(super) fn add(&mut self, key: Key, value: Option<Bytes>, lease: Option<LeaseId>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        self.events.push(match value {
            Some(value) => Event::Put(Entry {
                key,
                value,
                revision: self.revision,
                lease,
            }),
            None => Event::Delete(key),
        });
    }

    fn batch(&self, span: &Span) -> Option<Batch> {
        let inside = self
            .events
            .iter()
            .filter(|event| span.contains(event.key()));
        let events: Vec<Event> = inside.cloned().collect();
        (!events.is_empty()).then_some(Batch {
            revision: self.revision,
            events,
        })
    }

    /// The commits of a batch that was written.
    pub(super) fn of(staged: Staged) -> Vec<Self> {
        let mut commits: Vec<Self> = Vec::new();
        for change in staged.changes {
            if commits
                .last()
                .is_none_or(|last| last.revision != change.revision)
            {
                commits.push(Self::new(change.revision));
            }
            if let Some(commit) = commits.last_mut() {
                let lease = change.lease.map(|lease| LeaseId(lease.unsigned_abs()));
                commit.add(change.key, change.value, lease);
            }
        }
        commits
    }
}

#[derive(Clone, Copy)]
struct Newest {
    /// `None` until the server has been asked.
    revision: Option<Revision>,
    closed: bool,
}

/// Holds exactly the commits after `floor`.
struct Recent {
    floor: Revision,
    commits: VecDeque<Arc<Commit>>,
    bytes: usize,
}

pub(super) struct Feed {
    kept: Retention,
    recent: Mutex<Recent>,
    newest: watch::Sender<Newest>,
}

enum Found {
    Batch(Batch),
    NothingUntil(Revision),
    /// The place is older than what is in memory.
    InTheDatabase,
    /// The place is ahead of what this instance knows.
    InTheFuture,
}

impl Feed {
    pub(super) fn new(kept: Retention) -> Self {
        let (newest, _) = watch::channel(Newest {
            revision: None,
            closed: false,
        });
        Self {
            kept,
            recent: Mutex::new(Recent {
                floor: 0,
                commits: VecDeque::new(),
                bytes: 0,
            }),
            newest,
        }
    }

    /// The newest revision that watchers know of.
    pub(super) fn newest(&self) -> Option<Revision> {
        self.newest.borrow().revision
    }

    pub(super) fn is_watched(&self) -> bool {
        self.newest.receiver_count() > 0
    }

    /// Adds commits if they follow the ones already there, and wakes the watchers; otherwise they
    /// come from the history. Whether they were added.
    pub(super) fn publish(&self, commits: Vec<Commit>) -> bool {
        let (Some(first), Some(last)) = (commits.first(), commits.last()) else {
            return true;
        };
        let (first, last) = (first.revision, last.revision);
        let mut recent = self.lock();
        let known = recent.floor + recent.commits.len() as u64;
        if self.newest().is_none() || first > known + 1 {
            return false;
        }
        if last <= known {
            return true;
        }
        for commit in commits.into_iter().filter(|commit| commit.revision > known) {
            recent.bytes += commit.bytes;
            recent.commits.push_back(Arc::new(commit));
        }
        while recent.commits.len() > self.kept.commits || recent.bytes > self.kept.bytes {
            let Some(oldest) = recent.commits.pop_front() else {
                break;
            };
            recent.bytes -= oldest.bytes;
            recent.floor = oldest.revision;
        }
        // Told under the lock, so that `newest` never goes back.
        self.newest.send_modify(|state| state.revision = Some(last));
        true
    }

    /// Starts afresh at `revision`: everything until then is only in the database.
    pub(super) fn restart(&self, revision: Revision) {
        let mut recent = self.lock();
        *recent = Recent {
            floor: revision,
            commits: VecDeque::new(),
            bytes: 0,
        };
        self.newest
            .send_modify(|state| state.revision = Some(revision));
    }

    pub(super) fn close(&self) {
        self.newest.send_modify(|state| state.closed = true);
    }

    fn after(&self, span: &Span, seen: Revision) -> Found {
        let recent = self.lock();
        if seen < recent.floor {
            return Found::InTheDatabase;
        }
        let known = recent.floor + recent.commits.len() as u64;
        if seen > known {
            return Found::InTheFuture;
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

pub(super) fn closed() -> Error {
    Error::new(Kind::Unavailable, "kv.closed", "the store is closed")
}

pub(super) struct PostgresWatch {
    server: Arc<Server>,
    feed: Arc<Feed>,
    newest: watch::Receiver<Newest>,
    span: Span,
    /// Everything up to here was delivered, waits in `ready`, or does not concern the span.
    seen: Revision,
    /// Read from the database and not delivered yet.
    ready: VecDeque<Batch>,
}

impl PostgresWatch {
    pub(super) fn new(server: Arc<Server>, feed: Arc<Feed>, span: Span, after: Revision) -> Self {
        let newest = feed.newest.subscribe();
        Self {
            server,
            feed,
            newest,
            span,
            seen: after,
            ready: VecDeque::new(),
        }
    }

    /// Reads on in the database. `seen` moves only when the read is done, so giving up loses nothing.
    /// Nothing when the server is away: it is asked again.
    async fn catch_up(&mut self) -> Result<()> {
        let seen = self.seen;
        let read = self.server.try_rows(statement::history(seen)).await;
        let read = read.and_then(|rows| statement::read_history(&rows));
        let (head, commits): (Head, Vec<Commit>) = match read {
            Ok(read) => read,
            Err(trouble) => {
                tracing::debug!(reason = trouble.reason(), "a watcher waits for postgresql");
                tokio::time::sleep(super::PULSE).await;
                return Ok(());
            }
        };
        head.check_history(seen)?;
        self.ready
            .extend(commits.iter().filter_map(|commit| commit.batch(&self.span)));
        self.seen = commits.last().map_or(self.seen, |commit| commit.revision);
        Ok(())
    }

    /// The place is ahead of the newest revision known here: either that comes in a moment, or the
    /// database went back, as one that was restored from a backup does.
    async fn wait_or_end(&mut self) -> Result<()> {
        let waited = tokio::time::timeout(super::PULSE * 2, self.newest.changed()).await;
        if waited.is_ok() {
            return Ok(());
        }
        let head = self.server.try_rows(statement::head()).await;
        match head.and_then(|rows| statement::read_head(&rows)) {
            Ok(head) if head.revision < self.seen => Err(compacted(self.seen, head.revision)),
            Ok(_) => Ok(()),
            Err(_) => {
                tokio::time::sleep(super::PULSE).await;
                Ok(())
            }
        }
    }
}

#[async_trait]
impl Watch for PostgresWatch {
    async fn next(&mut self) -> Result<Batch> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            let newest = *self.newest.borrow_and_update();
            if newest.closed {
                return Err(closed());
            }
            if newest.revision.is_none() {
                // The sender lives in `feed`, so this cannot fail.
                drop(self.newest.changed().await);
                continue;
            }
            match self.feed.after(&self.span, self.seen) {
                Found::Batch(batch) => {
                    self.seen = batch.revision;
                    return Ok(batch);
                }
                Found::NothingUntil(until) if until > self.seen => self.seen = until,
                Found::NothingUntil(_) => drop(self.newest.changed().await),
                Found::InTheFuture => self.wait_or_end().await?,
                Found::InTheDatabase => self.catch_up().await?,
            }
        }
    }
}
