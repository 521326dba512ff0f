//! Follows the store, and wakes those who wait for a change.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use sinew_core::{Backoff, Error, Kind, Result};
use sinew_engine::kv::{Batch, Event, Key, Revision, Span};
use tokio::sync::Notify;

use super::{changes::Changes, keys, service::Inner};

/// What somebody follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One key.
    Key(Arc<str>),
    /// All keys that begin so.
    Prefix(Arc<str>),
    /// One session.
    Session(Arc<str>),
    /// All sessions.
    Sessions,
}

/// What this node knows of the store without asking it.
#[derive(Default)]
pub(super) struct Shared {
    changes: Changes,
    sessions: BTreeSet<Arc<str>>,
    /// Those that have gone and may still hold locks.
    pub(super) abandoned: BTreeSet<Arc<str>>,
    followers: HashMap<u64, (Span, Arc<Notify>)>,
    next_follower: u64,
}

/// Follows a key, a prefix or sessions. It holds no queue.
pub struct Follower {
    inner: Arc<Inner>,
    number: u64,
    scope: Scope,
    span: Span,
    woken: Arc<Notify>,
}

impl Shared {
    /// How many sessions and followers there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.sessions.len(), self.followers.len())
    }

    fn wake(&self, keys: &[Key]) {
        for (span, woken) in self.followers.values() {
            if keys.iter().any(|key| span.contains(key)) {
                woken.notify_one();
            }
        }
    }
}

impl Follower {
    pub(super) fn new(inner: Arc<Inner>, scope: Scope) -> Self {
        let span = match &scope {
            Scope::Key(key) => Span::key(keys::key(key)),
            Scope::Prefix(prefix) => keys::prefix(prefix),
            Scope::Session(id) => Span::key(keys::session(id)),
            Scope::Sessions => keys::sessions(),
        };
        let woken = Arc::new(Notify::new());
        let mut shared = inner.shared.lock();
        let number = shared.next_follower;
        shared.next_follower += 1;
        shared
            .followers
            .insert(number, (span.clone(), woken.clone()));
        drop(shared);
        Self {
            inner,
            number,
            scope,
            span,
            woken,
        }
    }

    /// The index of what is followed, when it was just read and these are the revisions of what was
    /// found. At least 1. What is read later than this index says wakes once without a change.
    pub fn index(&self, found: impl IntoIterator<Item = Revision>) -> Revision {
        let newest = found.into_iter().max();
        match (&self.scope, newest) {
            // Whatever is there has been there since.
            (Scope::Key(_) | Scope::Session(_), Some(newest)) => newest,
            _ => {
                let known = self.inner.shared.lock().changes.index(&self.span);
                known.max(newest.unwrap_or(0)).max(1)
            }
        }
    }

    /// The revision up to which changes wake this node's followers.
    pub fn seen(&self) -> Revision {
        *self.inner.seen.borrow()
    }

    /// Waits until that revision is at least so.
    pub async fn wait_for(&self, revision: Revision) {
        let mut seen = self.inner.seen.subscribe();
        // The sender lives as long as this.
        let _ = seen.wait_for(|seen| *seen >= revision).await;
    }

    /// Waits for a change since the follower was made or this returned last. Cancel safe.
    pub async fn changed(&self) {
        self.woken.notified().await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.inner.shared.lock().followers.remove(&self.number);
    }
}

/// Follows the store for ever.
pub(super) async fn follow(inner: Arc<Inner>) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
    let mut from = None;
    loop {
        let error = match from {
            None => match begin(&inner).await {
                Ok(revision) => {
                    backoff.reset();
                    from = Some(revision);
                    continue;
                }
                Err(error) => error,
            },
            Some(ref mut from) => watch(&inner, from, &mut backoff).await,
        };
        if error.kind() == Kind::OutOfRange {
            tracing::info!(
                error = error.detail(),
                "the keyspace's watch is too far behind; beginning anew"
            );
            inner.restarts.fetch_add(1, Relaxed);
            from = None;
        } else {
            tracing::warn!(
                error = error.detail(),
                "the keyspace cannot be followed; trying again"
            );
        }
        inner.clock.sleep(backoff.next_delay()).await;
    }
}

/// Finds out which sessions exist, and which have gone that still hold locks. Answers the revision
/// to watch from.
async fn begin(inner: &Inner) -> Result<Revision> {
    let revision = inner.within("revision", inner.kv.revision()).await?;
    let mut bytes = 0;
    let listed = inner.list(keys::sessions(), &mut bytes).await?;
    let ids = listed.iter().filter_map(|e| keys::parse_session(&e.key));
    let sessions: BTreeSet<Arc<str>> = ids.map(Into::into).collect();
    let marks = inner.list(keys::held_by_all(), &mut bytes).await?;
    let holders = marks.iter().filter_map(|mark| keys::parse_held(&mark.key));
    let gone: BTreeSet<Arc<str>> = holders
        .map(|(session, _)| session)
        .filter(|session| !sessions.contains(*session))
        .map(Into::into)
        .collect();
    let mut shared = inner.shared.lock();
    shared.changes.restart(revision);
    shared.sessions = sessions;
    shared.abandoned.extend(gone);
    shared
        .followers
        .values()
        .for_each(|(_, woken)| woken.notify_one());
    drop(shared);
    inner.abandoned.notify_one();
    inner.seen.send_replace(revision);
    Ok(revision)
}

async fn watch(inner: &Inner, from: &mut Revision, backoff: &mut Backoff) -> Error {
    let watch = inner.kv.watch(keys::all(), *from);
    let mut watch = match inner.within("watch", watch).await {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    loop {
        match watch.next().await {
            Ok(batch) => {
                *from = batch.revision;
                backoff.reset();
                observe(inner, batch);
            }
            Err(error) => return error,
        }
    }
}

fn observe(inner: &Inner, batch: Batch) {
    let mut changed = Vec::new();
    let mut shared = inner.shared.lock();
    let mut gone = false;
    for event in batch.events {
        if let Some(id) = keys::parse_session(event.key()) {
            match &event {
                Event::Put(_) => drop(shared.sessions.insert(id.into())),
                Event::Delete(_) => {
                    shared.sessions.remove(id);
                    shared.abandoned.insert(id.into());
                    gone = true;
                }
            }
        } else if keys::parse_key(event.key()).is_none() {
            continue;
        }
        changed.push(event.key().clone());
    }
    let most = inner.config.remembered;
    shared
        .changes
        .record(batch.revision, changed.iter().cloned(), most);
    shared.wake(&changed);
    drop(shared);
    if gone {
        inner.abandoned.notify_one();
    }
    inner.seen.send_replace(batch.revision);
}
