//! The shell around the machine: reads and writes the store.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use bytes::Bytes;
use parking_lot::Mutex;
use sinew_core::{Clock, Kind, Result};
use sinew_engine::kv::{Entry, Kv, Revision, Span, transact};
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Action, Config, Follower, Item, Mode, Refused, Scope, Stats,
    desk::{Applied, apply, item},
    error,
    follow::{self, Shared},
    keys, model, sweep,
};

/// How often a request meets a lock whose session has gone before it is told that it is held.
const ATTEMPTS: usize = 4;
/// How often a list is begun anew because the store no longer had the revision of its first page.
const LISTINGS: usize = 3;
/// What a transaction needs per key, at most: a condition, the key, and two marks of who holds it.
const OPERATIONS_PER_KEY: usize = 4;

/// The keyspace of one store. Cheap to clone.
#[derive(Clone)]
pub struct Keyspace(Arc<Handle>);

struct Handle {
    inner: Arc<Inner>,
    tasks: [AbortOnDropHandle<()>; 2],
}

pub(super) struct Inner {
    pub(super) kv: Arc<dyn Kv>,
    pub(super) clock: Clock,
    pub(super) config: Config,
    pub(super) shared: Mutex<Shared>,
    /// The revision up to which followers were woken.
    pub(super) seen: watch::Sender<Revision>,
    /// There are sessions that have gone whose locks are to be released.
    pub(super) abandoned: Notify,
    pub(super) released: AtomicU64,
    pub(super) restarts: AtomicU64,
}

impl Keyspace {
    /// The keyspace in `kv`. Must be called within a tokio runtime, which then runs what follows the
    /// store and releases the locks of sessions that have gone.
    pub fn start(kv: Arc<dyn Kv>, clock: Clock, config: Config) -> Self {
        let inner = Arc::new(Inner {
            kv,
            clock,
            config,
            shared: Mutex::default(),
            seen: watch::Sender::new(0),
            abandoned: Notify::new(),
            released: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
        });
        let follower = tokio::spawn(follow::follow(inner.clone()));
        let sweeper = tokio::spawn(sweep::sweep_for_ever(inner.clone()));
        let tasks = [follower, sweeper].map(AbortOnDropHandle::new);
        Self(Arc::new(Handle { inner, tasks }))
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.0.inner
    }

    /// A key, if it exists.
    ///
    /// InvalidArgument `keyspace.key_invalid`; `keyspace.timeout`, DataLoss `keyspace.damaged`; the
    /// store's.
    pub async fn get(&self, key: &str) -> Result<Option<Item>> {
        let inner = self.inner();
        inner.check_key(key)?;
        let stored = keys::key(key);
        let entry = inner.within("get", inner.kv.get(&stored)).await?;
        entry.map(|entry| model::decode(key, &entry)).transpose()
    }

    /// All keys that begin so, in their order, with their values.
    ///
    /// ResourceExhausted `keyspace.answer_too_large`, and as [`Keyspace::get`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<Item>> {
        let inner = self.inner();
        let mut bytes = 0;
        let entries = inner.list(keys::prefix(prefix), &mut bytes).await?;
        entries.iter().map(item).collect()
    }

    /// All keys that begin so. With a separator, those that have it after the prefix are shown once, up to and
    /// with it.
    ///
    /// As [`Keyspace::list`].
    pub async fn keys(&self, prefix: &str, separator: &str) -> Result<Vec<String>> {
        let inner = self.inner();
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut span = keys::prefix(prefix);
        'pages: loop {
            let page = inner.kv.range(span.clone(), usize::MAX, None);
            let page = inner.within("list", page).await?;
            for entry in page.entries {
                let Some(key) = keys::parse_key(&entry.key) else {
                    continue;
                };
                let rest = &key[prefix.len()..];
                let group = rest.find(separator).filter(|_| !separator.is_empty());
                let shown = match group {
                    None => key,
                    Some(at) => &key[..prefix.len() + at + separator.len()],
                };
                bytes += shown.len();
                if bytes > inner.config.answer_bytes {
                    return Err(error::answer_too_large(inner.config.answer_bytes));
                }
                found.push(shown.to_owned());
                if group.is_some() {
                    // What else is in the group is not read.
                    let Some(rest) = keys::after_group(prefix, shown) else {
                        return Ok(found);
                    };
                    span = rest;
                    continue 'pages;
                }
            }
            match page.next {
                Some(next) => span.start = next,
                None => return Ok(found),
            }
        }
    }

    /// Sets a key. Answers whether the condition held. On return this node's followers are woken.
    ///
    /// InvalidArgument `keyspace.key_invalid`, `keyspace.value_too_large`; NotFound
    /// `keyspace.session_unknown`; Aborted `kv.contention`; as [`Keyspace::get`]. After Unavailable and
    /// DeadlineExceeded it may have happened.
    pub async fn put(&self, key: &str, value: Bytes, flags: u64, mode: Mode) -> Result<bool> {
        let put = Action::Put {
            key: key.into(),
            value,
            flags,
            mode,
        };
        self.one(put).await
    }

    /// Deletes a key; with a revision, only if it was last changed then. Answers whether the
    /// condition held; one that does not exist is deleted already.
    ///
    /// As [`Keyspace::put`].
    pub async fn delete(&self, key: &str, expected: Option<Revision>) -> Result<bool> {
        self.one(Action::Delete(key.into(), expected)).await
    }

    /// Deletes all keys that begin so: many of them in steps, each as a whole.
    ///
    /// As [`Keyspace::put`].
    pub async fn delete_tree(&self, prefix: &str) -> Result<()> {
        let inner = self.inner();
        let mut span = keys::prefix(prefix);
        loop {
            let page = inner.kv.range(span.clone(), inner.keys_at_once(), None);
            let page = inner.within("list", page).await?;
            let keys = page.entries.iter().filter_map(|e| keys::parse_key(&e.key));
            let deletes: Vec<_> = keys.map(|key| Action::Delete(key.into(), None)).collect();
            if !deletes.is_empty() {
                inner.run(&deletes).await?;
            }
            match page.next {
                Some(next) => span.start = next,
                None => return Ok(()),
            }
        }
    }

    /// Does all of these, or none if one is refused. Answers what the steps set and read, in their
    /// order, each with the number of its step from 0.
    ///
    /// As [`Keyspace::put`], and InvalidArgument `kv.transaction_invalid`.
    pub async fn transact(
        &self,
        actions: &[Action],
    ) -> Result<Result<Vec<(usize, Item)>, Refused>> {
        actions
            .iter()
            .try_for_each(|action| self.inner().check(action))?;
        Ok(match self.inner().run(actions).await? {
            Applied::Done { items, .. } => Ok(items),
            Applied::Refused(refused) => Err(refused),
            Applied::UnknownSession(step, session) => Err(Refused {
                step,
                why: error::session_unknown(&session).message().to_owned(),
            }),
            Applied::Abandoned(_) => unreachable!("a lock that stays abandoned is refused"),
        })
    }

    /// Follows a key, a prefix or sessions.
    pub fn follow(&self, scope: Scope) -> Follower {
        Follower::new(self.inner().clone(), scope)
    }

    /// What it holds and has done.
    pub fn stats(&self) -> Stats {
        let inner = self.inner();
        let (sessions, followers) = inner.shared.lock().counts();
        Stats {
            sessions,
            followers,
            released: inner.released.load(Relaxed),
            restarts: inner.restarts.load(Relaxed),
        }
    }

    /// Stops following the store, before the store is closed.
    pub fn stop(&self) {
        self.0.tasks.iter().for_each(|task| task.abort());
    }

    async fn one(&self, action: Action) -> Result<bool> {
        self.inner().check(&action)?;
        match self.inner().run(&[action]).await? {
            Applied::Done { .. } => Ok(true),
            Applied::UnknownSession(_, session) => Err(error::session_unknown(&session)),
            Applied::Refused(_) | Applied::Abandoned(_) => Ok(false),
        }
    }
}

impl Inner {
    fn check_key(&self, key: &str) -> Result<()> {
        let most = self.kv.capability().limits.key_bytes - keys::OVERHEAD_BYTES;
        if (1..=most).contains(&key.len()) {
            return Ok(());
        }
        Err(error::key_invalid(most))
    }

    fn check(&self, action: &Action) -> Result<()> {
        match action {
            Action::DeleteTree(_) | Action::GetTree(_) => Ok(()),
            Action::Put { key, value, .. } => {
                let most = self.config.value_bytes;
                if value.len() > most {
                    return Err(error::value_too_large(value.len(), most));
                }
                self.check_key(key)
            }
            Action::Delete(key, _)
            | Action::Get(key)
            | Action::CheckRevision(key, _)
            | Action::CheckSession(key, _)
            | Action::CheckAbsent(key) => self.check_key(key),
        }
    }

    /// Of how many keys a transaction can be.
    fn keys_at_once(&self) -> usize {
        (self.kv.capability().limits.transaction_operations / OPERATIONS_PER_KEY).max(1)
    }

    async fn run(&self, actions: &[Action]) -> Result<Applied> {
        let most = self.keys_at_once();
        for _ in 0..ATTEMPTS {
            let run = transact(&*self.kv, |tx| apply(tx, actions, most));
            let (applied, revision) = self.within("write", run).await?;
            match applied {
                Applied::Abandoned(session) => self.sweep(&session).await?,
                Applied::Done { mut items, wrote } => {
                    if wrote {
                        self.visible(revision).await;
                    }
                    for (_, item) in &mut items {
                        // What this transaction wrote did not know its revision.
                        if item.modified == 0 {
                            item.modified = revision;
                        }
                        if item.created == 0 {
                            item.created = revision;
                        }
                    }
                    return Ok(Applied::Done { items, wrote });
                }
                other => return Ok(other),
            }
        }
        Ok(Applied::Refused(Refused {
            step: 0,
            why: "another session holds the lock".to_owned(),
        }))
    }

    /// Everything within a span, as of one revision where the store can.
    pub(super) async fn list(&self, span: Span, bytes: &mut usize) -> Result<Vec<Entry>> {
        let mut listings = 1;
        'listing: loop {
            *bytes = 0;
            let (mut entries, mut at) = (Vec::new(), None);
            let mut rest = span.clone();
            loop {
                let page = self.kv.range(rest.clone(), usize::MAX, at);
                let page = match self.within("list", page).await {
                    Err(error) if error.kind() == Kind::OutOfRange && at.is_some() => {
                        listings += 1;
                        continue 'listing;
                    }
                    page => page?,
                };
                for entry in &page.entries {
                    *bytes += entry.key.len() + entry.value.len();
                }
                if *bytes > self.config.answer_bytes {
                    return Err(error::answer_too_large(self.config.answer_bytes));
                }
                entries.extend(page.entries);
                // Where writes are many and the store keeps no history, the pages are each of its moment.
                at = (listings <= LISTINGS).then_some(page.revision);
                match page.next {
                    Some(next) => rest.start = next,
                    None => return Ok(entries),
                }
            }
        }
    }

    /// Waits until this node's followers are woken by `revision`; not for ever, for the write has
    /// happened.
    pub(super) async fn visible(&self, revision: Revision) {
        let mut seen = self.seen.subscribe();
        tokio::select! {
            biased;
            _ = seen.wait_for(|seen| *seen >= revision) => {}
            () = self.clock.sleep(self.config.visible_within) => {
                tracing::warn!(revision, "a write is not visible yet; the keyspace's watch is behind");
            }
        }
    }

    /// Bounds the time that the store may take.
    pub(super) async fn within<T>(
        &self,
        what: &str,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            biased;
            outcome = request => outcome,
            () = self.clock.sleep(self.config.store_timeout) => {
                Err(error::timeout(what, self.config.store_timeout))
            }
        }
    }
}
