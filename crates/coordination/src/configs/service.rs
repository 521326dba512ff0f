//! The shell around the machine: reads and writes the store, and hands the snapshot out.

mod content;
mod drafts;
mod history;
mod rotation;
mod transfer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::RwLock;
use sinew_core::{Backoff, Clock, Error, Kind, Result, Retry, Timestamp};
use sinew_engine::kv::{Condition, Entry, Key, Kv, Outcome, Revision, Span, Write};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{
    AuditEntry, By, Config, Content, Effective, Item, ItemId, MasterKeys, Query, Rule, Stats,
    Watcher, Written, error, follow, keys,
    machine::{Command, Decision, step},
    model::{self, Stored},
    resolve,
    state::State,
};

/// How often a change is tried that others, or the store, got in the way of.
const ATTEMPTS: u32 = 20;
/// Old entries of the audit log are looked for once in so many changes.
const TIDY_EVERY: u64 = 64;

/// The config centre of one node. Cheap to clone; it stops when told so, or when the last clone is dropped.
#[derive(Clone)]
pub struct Configs(Arc<Handle>);

struct Handle {
    inner: Arc<Inner>,
    task: AbortOnDropHandle<()>,
}

pub(super) struct Inner {
    pub(super) kv: Arc<dyn Kv>,
    pub(super) clock: Clock,
    pub(super) counters: Counters,
    config: Config,
    masters: MasterKeys,
    state: RwLock<State>,
    /// The revision that readers see; sent after they do.
    applied: watch::Sender<Revision>,
}

#[derive(Default)]
pub(super) struct Counters {
    /// Numbers what this node writes into the audit log.
    audits: AtomicU64,
    changes: AtomicU64,
    reveals: AtomicU64,
    pub(super) relists: AtomicU64,
    pub(super) is_stale: AtomicBool,
}

/// One change over all its attempts.
struct Attempt<'a> {
    id: &'a ItemId,
    by: &'a By,
    /// The audit entry that only this change writes: it tells whether an attempt of unknown outcome happened.
    mark: Key,
    time: Timestamp,
    is_in_doubt: bool,
    /// A draft that goes with it, as it must still be.
    draft: Option<Entry>,
}

impl Configs {
    /// Reads what is configured and begins to follow the store. Must be called within a tokio runtime, which
    /// then runs its task. A store that is away is waited for in the background: until it answers there is
    /// nothing to read, and changes fail with what it answers.
    pub async fn start(
        kv: Arc<dyn Kv>,
        clock: Clock,
        config: Config,
        masters: MasterKeys,
    ) -> Result<Self> {
        let inner = Arc::new(Inner {
            kv,
            clock,
            counters: Counters::default(),
            config,
            masters,
            state: RwLock::default(),
            applied: watch::Sender::new(0),
        });
        let from = match follow::list(&inner).await {
            Ok(from) => Some(from),
            Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded) => {
                tracing::warn!(
                    error = error.detail(),
                    "the store is away; the config centre begins when it answers"
                );
                inner.counters.is_stale.store(true, Relaxed);
                None
            }
            Err(error) => return Err(error),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(follow::follow(inner.clone(), from)));
        Ok(Self(Arc::new(Handle { inner, task })))
    }

    /// Its bounds.
    pub fn config(&self) -> &Config {
        &self.0.inner.config
    }

    /// An item as this node sees it, also one that is only in gray release.
    pub fn item(&self, id: &ItemId) -> Option<Arc<Item>> {
        let item = self.0.inner.state.read().items.get(id).cloned();
        item.filter(|item| item.current().is_some() || item.gray().is_some())
    }

    /// An item as the store has it now. `configs.timeout`, `configs.damaged`; the store's.
    pub async fn item_now(&self, id: &ItemId) -> Result<Option<Arc<Item>>> {
        let inner = &self.0.inner;
        let Some(entry) = inner.within("read", inner.kv.get(&keys::head(id))).await? else {
            return Ok(None);
        };
        let item = Item::decode(id.clone(), &entry.value, entry.revision);
        let item = Arc::new(item.ok_or_else(|| error::damaged(id))?);
        Ok(Some(item).filter(|item| item.current().is_some() || item.gray().is_some()))
    }

    /// The items that `wanted` says yes to, in order, at the revision that comes with them.
    pub fn list(&self, wanted: impl Fn(&ItemId) -> bool) -> (Vec<Arc<Item>>, Revision) {
        let state = self.0.inner.state.read();
        let items = state
            .items
            .values()
            .filter(|item| (item.current().is_some() || item.gray().is_some()) && wanted(&item.id));
        (items.cloned().collect(), state.revision)
    }

    /// What the one who asks shall see, from memory.
    ///
    /// InvalidArgument `configs.item_invalid`, `configs.query_invalid`.
    pub fn resolve(&self, query: &Query) -> Result<Effective> {
        query.check()?;
        let (items, revision) = self.0.inner.candidates(query);
        let items: Vec<_> = items.into_iter().flatten().collect();
        Ok(resolve::merge(query, &items, revision))
    }

    /// As [`Configs::resolve`], from the store: no change that was answered before the call is missing.
    /// `configs.timeout`, `configs.damaged`; the store's.
    pub async fn resolve_now(&self, query: &Query) -> Result<Effective> {
        query.check()?;
        let revision = self.0.inner.revision_now().await?;
        let mut items = Vec::new();
        for id in query.candidates() {
            items.extend(self.item_now(&id).await?);
        }
        Ok(resolve::merge(query, &items, revision))
    }

    /// Follows what the one who asks shall see. `known` is the [`Effective::version`] that it has already.
    pub fn watch(&self, query: Query, known: Option<String>) -> Result<Watcher> {
        query.check()?;
        Ok(Watcher::new(&self.0.inner, query, known))
    }

    /// The revision that readers see, now and whenever it grows.
    pub fn applied(&self) -> watch::Receiver<Revision> {
        self.0.inner.applied()
    }

    /// Writes a new version for everybody. On return this node's readers see it.
    ///
    /// FailedPrecondition `configs.changed_meanwhile`, `configs.gray_running`, `configs.key_unavailable`;
    /// Aborted `configs.contended`; ResourceExhausted `configs.full`; InvalidArgument
    /// `configs.content_invalid`, `configs.schema_invalid`, `configs.schema_mismatch`,
    /// `configs.secret_invalid`, `configs.text_invalid`, `configs.too_large`; `configs.timeout`; the store's.
    /// After Unavailable and DeadlineExceeded it may have happened.
    pub async fn put(&self, id: &ItemId, content: &Content, by: &By) -> Result<Written> {
        let inner = &self.0.inner;
        let put = |stored: Option<&Stored>| {
            let body = inner.body(id, stored, content, None)?;
            Ok(Command::Put(body))
        };
        inner.change(id, by, None, put).await
    }

    /// Writes a new version that only those see whom the rule names. As [`Configs::put`], and InvalidArgument
    /// `configs.rule_invalid`. One that is in gray release already gives way to it.
    pub async fn gray(
        &self,
        id: &ItemId,
        content: &Content,
        rule: &Rule,
        by: &By,
    ) -> Result<Written> {
        let inner = &self.0.inner;
        let gray = |stored: Option<&Stored>| {
            let body = inner.body(id, stored, content, None)?;
            Ok(Command::Gray(body, rule.clone()))
        };
        inner.change(id, by, None, gray).await
    }

    /// Lets others see the version in gray release. FailedPrecondition `configs.gray_absent`, and as above.
    pub async fn widen(&self, id: &ItemId, rule: &Rule, by: &By) -> Result<Written> {
        let command = Command::Widen(rule.clone());
        self.0
            .inner
            .change(id, by, None, |_| Ok(command.clone()))
            .await
    }

    /// Puts the version in gray release in force for everybody.
    pub async fn promote(&self, id: &ItemId, by: &By) -> Result<Written> {
        self.0
            .inner
            .change(id, by, None, |_| Ok(Command::Promote))
            .await
    }

    /// Ends the gray release; everybody sees the current version.
    pub async fn abort(&self, id: &ItemId, by: &By) -> Result<Written> {
        self.0
            .inner
            .change(id, by, None, |_| Ok(Command::Abort))
            .await
    }

    /// Deletes an item; its history stays. NotFound `configs.item_unknown`.
    pub async fn delete(&self, id: &ItemId, by: &By) -> Result<Written> {
        self.0
            .inner
            .change(id, by, None, |_| Ok(Command::Delete))
            .await
    }

    /// Stops following the store, before the store is closed. Readers keep what they have.
    pub fn stop(&self) {
        self.0.task.abort();
    }

    /// What it holds and has done.
    pub fn stats(&self) -> Stats {
        let counters = &self.0.inner.counters;
        let state = self.0.inner.state.read();
        let items = || state.items.values();
        Stats {
            items: items().filter(|item| item.current().is_some()).count(),
            gray: items().filter(|item| item.gray().is_some()).count(),
            bytes: items().map(|item| item.bytes()).sum(),
            changes: counters.changes.load(Relaxed),
            reveals: counters.reveals.load(Relaxed),
            relists: counters.relists.load(Relaxed),
            revision: state.revision,
            is_stale: counters.is_stale.load(Relaxed),
        }
    }
}

impl Inner {
    pub(super) fn show(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.write();
        change(&mut state);
        let revision = state.revision;
        drop(state);
        self.counters.is_stale.store(false, Relaxed);
        self.applied.send_replace(revision);
    }

    fn audit_key(&self, time: Timestamp) -> Key {
        keys::audit(time, self.counters.audits.fetch_add(1, Relaxed))
    }

    pub(super) fn applied(&self) -> watch::Receiver<Revision> {
        self.applied.subscribe()
    }

    /// The items that could have a say, with gaps for those that are not.
    fn candidates(&self, query: &Query) -> (Vec<Option<Arc<Item>>>, Revision) {
        let candidates = query.candidates();
        let state = self.state.read();
        let items = candidates.iter().map(|id| state.items.get(id).cloned());
        (items.collect(), state.revision)
    }

    /// The items that have a say, if any of them is another than `seen`, which is set to what they are.
    pub(super) fn changed(
        &self,
        query: &Query,
        seen: &mut Option<Vec<Revision>>,
    ) -> Option<(Vec<Arc<Item>>, Revision)> {
        let (items, revision) = self.candidates(query);
        let revisions = items
            .iter()
            .map(|item| item.as_ref().map_or(0, |item| item.revision));
        let revisions: Vec<_> = revisions.collect();
        if seen.as_ref() == Some(&revisions) {
            return None;
        }
        *seen = Some(revisions);
        Some((items.into_iter().flatten().collect(), revision))
    }

    async fn revision_now(&self) -> Result<Revision> {
        self.within("revision", self.kv.revision()).await
    }

    /// Makes one change, with `command` made of what is stored at each attempt.
    async fn change(
        &self,
        id: &ItemId,
        by: &By,
        draft: Option<Entry>,
        command: impl Fn(Option<&Stored>) -> Result<Command>,
    ) -> Result<Written> {
        by.check()?;
        let time = self.clock.now();
        let mut attempt = Attempt {
            id,
            by,
            mark: self.audit_key(time),
            time,
            is_in_doubt: false,
            draft,
        };
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(500));
        let mut failure = error::contended(id);
        let mut failures = 0;
        while backoff.attempts() < ATTEMPTS {
            match self.try_change(&mut attempt, &command).await {
                Ok(Some(written)) => {
                    self.visible(written.revision).await;
                    if written.is_new {
                        self.counted().await;
                    }
                    return Ok(written);
                }
                Ok(None) => {}
                Err(error) if may_pass(&error) && failures < 4 => {
                    failures += 1;
                    failure = error;
                }
                Err(error) => return Err(error),
            }
            self.clock.sleep(backoff.next_delay()).await;
        }
        Err(failure)
    }

    /// `None` when somebody else was quicker.
    async fn try_change(
        &self,
        attempt: &mut Attempt<'_>,
        command: impl Fn(Option<&Stored>) -> Result<Command>,
    ) -> Result<Option<Written>> {
        let id = attempt.id;
        if attempt.is_in_doubt
            && let Some(written) = self.made(attempt).await?
        {
            return Ok(Some(written));
        }
        let key = keys::head(id);
        let entry = self.within("read", self.kv.get(&key)).await?;
        let stored = match &entry {
            Some(entry) => Some(Stored::decode(&entry.value).ok_or_else(|| error::damaged(id))?),
            None if self.state.read().items.len() >= self.config.items => {
                return Err(error::full(self.config.items));
            }
            None => None,
        };
        let command = command(stored.as_ref())?;
        let config = &self.config;
        let decision = step(
            id,
            stored.as_ref(),
            &command,
            attempt.by,
            attempt.time,
            config,
        )?;
        let mut conditions = vec![match &entry {
            Some(entry) => Condition::KeyAt(key.clone(), entry.revision),
            None => Condition::Absent(key.clone()),
        }];
        let mut writes = Vec::new();
        if let Some(draft) = &attempt.draft {
            conditions.push(Condition::KeyAt(draft.key.clone(), draft.revision));
            writes.push(delete(draft.key.clone()));
        }
        let (action, version) = match decision {
            Decision::Nothing(version) => {
                // A draft that says nothing new is still done with.
                if !writes.is_empty() {
                    match self.commit(conditions, writes).await? {
                        Outcome::Committed(_) => {}
                        Outcome::Conflict(0) => return Ok(None),
                        Outcome::Conflict(_) => return Err(error::draft_unknown(id)),
                    }
                }
                let revision = entry.map_or(0, |entry| entry.revision);
                return Ok(Some(Written {
                    version,
                    is_new: false,
                    revision,
                }));
            }
            Decision::Store {
                stored,
                made,
                forget,
                action,
                version,
            } => {
                writes.push(put(key, stored.encode()));
                if let Some(content) = made {
                    let value = model::encode(&version, &[&content]);
                    writes.push(put(keys::version(id, version.version), value));
                }
                let forget = forget.into_iter().map(|number| keys::version(id, number));
                writes.extend(forget.map(delete));
                (action, version)
            }
        };
        let entry = AuditEntry {
            time: attempt.time,
            author: attempt.by.author.clone(),
            action,
            item: Some(id.clone()),
            version: Some(version.version),
            note: attempt.by.note.clone(),
        };
        writes.push(put(attempt.mark.clone(), json(&entry)));
        // Set before, so that it stands also when the commit fails on the way.
        attempt.is_in_doubt = true;
        match self.commit(conditions, writes).await? {
            Outcome::Committed(revision) => Ok(Some(Written {
                version,
                is_new: true,
                revision,
            })),
            Outcome::Conflict(1) => Err(error::draft_unknown(id)),
            Outcome::Conflict(_) => Ok(None),
        }
    }

    /// What an attempt of unknown outcome made, if it did.
    async fn made(&self, attempt: &Attempt<'_>) -> Result<Option<Written>> {
        let Some(mark) = self.within("read", self.kv.get(&attempt.mark)).await? else {
            return Ok(None);
        };
        let entry: Option<AuditEntry> = serde_json::from_slice(&mark.value).ok();
        let number = entry.and_then(|entry| entry.version).unwrap_or_default();
        let made = self.version(attempt.id, number).await?;
        Ok(Some(Written {
            version: made.version,
            is_new: true,
            revision: mark.revision,
        }))
    }

    /// Counts a change, and looks for old entries of the audit log now and then.
    async fn counted(&self) {
        if !(self.counters.changes.fetch_add(1, Relaxed) + 1).is_multiple_of(TIDY_EVERY) {
            return;
        }
        let now = self.clock.now().as_millis();
        let age = u64::try_from(self.config.audit_age.as_millis()).unwrap_or(u64::MAX);
        let oldest = Timestamp(now.saturating_sub(age));
        if let Err(error) = self.delete_all(keys::audits_before(oldest)).await {
            tracing::warn!(
                error = error.detail(),
                "old audit entries cannot be deleted now"
            );
        }
    }

    /// Waits until this node's readers see `revision`; not for ever, for the write has happened.
    async fn visible(&self, revision: Revision) {
        let mut applied = self.applied.subscribe();
        tokio::select! {
            biased;
            _ = applied.wait_for(|applied| *applied >= revision) => {}
            () = self.clock.sleep(self.config.visible_within) => {
                tracing::warn!(revision, "a change is not visible yet; the watch of the configurations is behind");
            }
        }
    }

    /// Deletes what the span holds, some at a time.
    async fn delete_all(&self, mut span: Span) -> Result<()> {
        let most = self.kv.capability().limits.transaction_operations / 2;
        loop {
            let range = self.kv.range(span.clone(), most, None);
            let page = self.within("list", range).await?;
            let deletes: Vec<_> = page
                .entries
                .into_iter()
                .map(|entry| delete(entry.key))
                .collect();
            if !deletes.is_empty() {
                let _ = self.commit(Vec::new(), deletes).await?;
            }
            match page.next {
                Some(next) => span.start = next,
                None => return Ok(()),
            }
        }
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Outcome> {
        self.within("write", self.kv.commit(conditions, writes))
            .await
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

fn put(key: Key, value: bytes::Bytes) -> Write {
    Write::Put {
        key,
        value,
        lease: None,
    }
}

fn delete(key: Key) -> Write {
    Write::Delete { key }
}

fn json<T: serde::Serialize>(value: &T) -> bytes::Bytes {
    let text = serde_json::to_vec(value).expect("strings and numbers serialise");
    text.into()
}

/// Whether the same may succeed when it is tried again.
fn may_pass(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded) || error.retry() != Retry::No
}
