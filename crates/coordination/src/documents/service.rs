//! The shell around the machine: reads and writes the store.

use std::{mem, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use sinew_core::{Backoff, Clock, Error, Kind, Name, Result};
use sinew_engine::kv::{Condition, Entry, Kv, Outcome, Span, Write};
use tokio::sync::watch;

use super::{
    Change, Config, Document, Followed, Version, Written, error, follow, keys,
    machine::{Decision, decide, oldest_kept, split},
    model::Stored,
};

/// How often a write is tried that others, or the store, got in the way of.
const ATTEMPTS: u32 = 20;
/// The largest part. Small enough for every engine, large enough that most documents are one.
const PART_BYTES: usize = 512 << 10;
/// What a commit needs besides the parts: the description, twice, and the keys.
const OVERHEAD_BYTES: usize = 16 << 10;

/// The documents of one store. Cheap to clone.
#[derive(Clone)]
pub struct Documents(Arc<Inner>);

pub(super) struct Inner {
    pub(super) kv: Arc<dyn Kv>,
    pub(super) clock: Clock,
    config: Config,
}

/// One write over all its attempts.
struct Attempt<'a> {
    name: &'a Name,
    change: &'a Change,
    writer: String,
    parts: Vec<Bytes>,
    /// The version that an attempt whose outcome is not known may have made.
    in_doubt: Option<u64>,
    /// The version for which all but the last parts are written.
    staged: Option<u64>,
}

impl Documents {
    /// The documents in `kv`.
    pub fn new(kv: Arc<dyn Kv>, clock: Clock, config: Config) -> Self {
        Self(Arc::new(Inner { kv, clock, config }))
    }

    /// The current version, if there is any.
    ///
    /// `documents.timeout`, DataLoss `documents.damaged`; the store's.
    pub async fn current(&self, name: &Name) -> Result<Option<Document>> {
        loop {
            let Some((stored, _)) = self.0.newest(name).await? else {
                return Ok(None);
            };
            let number = stored.version.version;
            match self.0.content(name, stored).await {
                // It may have left the history between the two reads.
                Err(error)
                    if error.kind() == Kind::DataLoss
                        && self.0.newest_number(name).await? != number => {}
                other => return other.map(Some),
            }
        }
    }

    /// One version. NotFound `documents.version_unknown`, and as [`Documents::current`].
    pub async fn version(&self, name: &Name, version: u64) -> Result<Document> {
        let unknown = || error::version_unknown(name, version);
        let stored = self.0.described(name, version).await?.ok_or_else(unknown)?;
        match self.0.content(name, stored).await {
            Err(error) if error.kind() == Kind::DataLoss => {
                match self.0.described(name, version).await? {
                    Some(_) => Err(error),
                    None => Err(unknown()),
                }
            }
            other => other,
        }
    }

    /// All versions that are kept, the newest first.
    pub async fn versions(&self, name: &Name) -> Result<Vec<Version>> {
        let mut versions = self.0.history(name).await?;
        versions.reverse();
        Ok(versions)
    }

    /// Replaces the content by a new version. The content that is there already makes none.
    ///
    /// FailedPrecondition `documents.changed_meanwhile` when another version than the expected one is
    /// current, Aborted `documents.contended`; InvalidArgument `documents.too_large`,
    /// `documents.label_invalid`; `documents.timeout`; the store's. After Unavailable and
    /// DeadlineExceeded it may have happened.
    pub async fn write(&self, name: &Name, change: &Change) -> Result<Written> {
        let inner = &self.0;
        change.check()?;
        let (bytes, most) = (change.content.len(), inner.config.document_bytes);
        if bytes > most {
            return Err(error::too_large(name, bytes, most));
        }
        let part = PART_BYTES.min(inner.kv.capability().limits.value_bytes);
        let mut attempt = Attempt {
            name,
            change,
            writer: format!("{:032x}", rand::random::<u128>()),
            parts: split(bytes, part)
                .into_iter()
                .map(|range| change.content.slice(range))
                .collect(),
            in_doubt: None,
            staged: None,
        };
        let written = inner.write(&mut attempt).await;
        if written.as_ref().is_ok_and(|written| written.is_new) {
            inner.tidy(name).await;
        }
        written
    }

    /// The newest version, now and whenever it changes, until the receiver is dropped. Must be called
    /// within a tokio runtime, which then runs the task.
    pub fn follow(&self, name: &Name) -> watch::Receiver<Followed> {
        let (sender, receiver) = watch::channel(Followed::default());
        tokio::spawn(follow::follow(self.0.clone(), name.clone(), sender));
        receiver
    }
}

impl Inner {
    async fn write(&self, attempt: &mut Attempt<'_>) -> Result<Written> {
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(500));
        let mut failure = error::contended(attempt.name);
        let mut failures = 0;
        while backoff.attempts() < ATTEMPTS {
            match self.try_write(attempt).await {
                Ok(Some(written)) => return Ok(written),
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
    async fn try_write(&self, attempt: &mut Attempt<'_>) -> Result<Option<Written>> {
        let (name, change) = (attempt.name, attempt.change);
        let newest = self.newest(name).await?;
        if let Some(version) = attempt.in_doubt
            && let Some(made) = self.described(name, version).await?
            && made.writer == attempt.writer
        {
            return Ok(Some(Written {
                version: made.version,
                is_new: true,
            }));
        }
        let (current, entry) = newest.unzip();
        let (writer, parts) = (&attempt.writer, attempt.parts.len());
        let stored = match decide(
            name,
            current.as_ref(),
            change,
            writer,
            parts,
            self.clock.now(),
        )? {
            Decision::Store(stored) => stored,
            Decision::Nothing(version) => {
                return Ok(Some(Written {
                    version,
                    is_new: false,
                }));
            }
        };
        let number = stored.version.version;
        let mut groups = self.part_writes(attempt, number);
        let mut writes = groups.pop().unwrap_or_default();
        if attempt.staged != Some(number) {
            for group in groups {
                self.commit_always(group).await?;
            }
            attempt.staged = Some(number);
        }
        let put = |key, value| Write::Put {
            key,
            value,
            lease: None,
        };
        writes.push(put(keys::current(name), stored.encode()));
        writes.push(put(keys::version(name, number), stored.encode()));
        let current_is_the_same = match entry {
            Some(entry) => Condition::KeyAt(entry.key, entry.revision),
            None => Condition::Absent(keys::current(name)),
        };
        // Set before, so that it stands also when this future is dropped or fails on the way.
        attempt.in_doubt = Some(number);
        match self.commit(vec![current_is_the_same], writes).await? {
            Outcome::Committed(_) => Ok(Some(Written {
                version: stored.version,
                is_new: true,
            })),
            Outcome::Conflict(_) => Ok(None),
        }
    }

    /// The parts as writes, in groups that one commit takes each.
    fn part_writes(&self, attempt: &Attempt<'_>, number: u64) -> Vec<Vec<Write>> {
        let limits = self.kv.capability().limits;
        let room = limits.transaction_bytes.saturating_sub(OVERHEAD_BYTES);
        let most = limits.transaction_operations.saturating_sub(8).max(1);
        let mut groups = vec![Vec::new()];
        let mut bytes = 0;
        for (index, part) in attempt.parts.iter().enumerate() {
            let group = groups.last_mut().expect("there is always one");
            bytes += part.len();
            let write = Write::Put {
                key: keys::part(attempt.name, number, &attempt.writer, index),
                value: part.clone(),
                lease: None,
            };
            if !group.is_empty() && (bytes > room || group.len() >= most) {
                bytes = part.len();
                groups.push(vec![write]);
            } else {
                group.push(write);
            }
        }
        groups
    }

    /// Deletes what is no longer kept. What fails is done after the next write.
    async fn tidy(&self, name: &Name) {
        if let Err(error) = self.try_tidy(name).await {
            tracing::warn!(document = %name, error = error.detail(), "old versions cannot be deleted now");
        }
    }

    async fn try_tidy(&self, name: &Name) -> Result<()> {
        let versions = self.history(name).await?;
        let oldest = oldest_kept(&versions, &self.config);
        // First the descriptions: a version that is listed can be read.
        self.delete(keys::versions_before(name, oldest), None)
            .await?;
        self.delete(keys::parts_before(name, oldest), None).await?;
        // Others may have tried to make the newest version, and failed or died.
        if let Some((newest, _)) = self.newest(name).await? {
            let number = newest.version.version;
            let own = keys::parts(name, number, &newest.writer);
            self.delete(keys::parts_of_all_writers(name, number), Some(own))
                .await?;
        }
        Ok(())
    }

    async fn delete(&self, mut span: Span, but: Option<Span>) -> Result<()> {
        let most = self.kv.capability().limits.transaction_operations / 2;
        loop {
            let page = self
                .within("list", self.kv.range(span.clone(), most, None))
                .await?;
            let is_to_go =
                |entry: &Entry| !but.as_ref().is_some_and(|but| but.contains(&entry.key));
            let entries = page.entries.into_iter().filter(is_to_go);
            let deletes: Vec<_> = entries
                .map(|entry| Write::Delete { key: entry.key })
                .collect();
            if !deletes.is_empty() {
                self.commit_always(deletes).await?;
            }
            match page.next {
                Some(next) => span.start = next,
                None => return Ok(()),
            }
        }
    }

    async fn history(&self, name: &Name) -> Result<Vec<Version>> {
        let entries = self.list(keys::versions(name)).await?;
        let stored = entries
            .iter()
            .filter_map(|entry| Stored::decode(&entry.value));
        Ok(stored.map(|stored| stored.version).collect())
    }

    async fn newest(&self, name: &Name) -> Result<Option<(Stored, Entry)>> {
        let key = keys::current(name);
        let Some(entry) = self.within("read", self.kv.get(&key)).await? else {
            return Ok(None);
        };
        let stored = Stored::decode(&entry.value)
            .ok_or_else(|| error::damaged(name, 0, "its description cannot be read"))?;
        Ok(Some((stored, entry)))
    }

    async fn newest_number(&self, name: &Name) -> Result<u64> {
        let newest = self.newest(name).await?;
        Ok(newest.map_or(0, |(stored, _)| stored.version.version))
    }

    async fn described(&self, name: &Name, version: u64) -> Result<Option<Stored>> {
        let key = keys::version(name, version);
        let entry = self.within("read", self.kv.get(&key)).await?;
        Ok(entry.and_then(|entry| Stored::decode(&entry.value)))
    }

    /// Reads the content of a version, and checks it.
    pub(super) async fn content(&self, name: &Name, stored: Stored) -> Result<Document> {
        let Stored {
            version,
            writer,
            parts,
        } = stored;
        let mut entries = self
            .list(keys::parts(name, version.version, &writer))
            .await?;
        let damaged = |why: String| Err(error::damaged(name, version.version, why));
        if entries.len() != parts {
            return damaged(format!("{} of {parts} parts are there", entries.len()));
        }
        let content = match entries.as_mut_slice() {
            [one] => mem::take(&mut one.value),
            many => {
                let mut whole = BytesMut::with_capacity(version.bytes);
                many.iter()
                    .for_each(|entry| whole.extend_from_slice(&entry.value));
                whole.freeze()
            }
        };
        if super::hash(&content) != version.hash {
            return damaged("its hash is another".to_owned());
        }
        Ok(Document { version, content })
    }

    async fn list(&self, mut span: Span) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        loop {
            let range = self.kv.range(span.clone(), usize::MAX, None);
            let page = self.within("list", range).await?;
            entries.extend(page.entries);
            match page.next {
                Some(next) => span.start = next,
                None => return Ok(entries),
            }
        }
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Outcome> {
        self.within("write", self.kv.commit(conditions, writes))
            .await
    }

    async fn commit_always(&self, writes: Vec<Write>) -> Result<()> {
        self.commit(Vec::new(), writes).await.map(|_| ())
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

/// Whether the same may succeed when it is tried again.
fn may_pass(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded)
        || error.retry() != sinew_core::Retry::No
}
