use std::{
    collections::BTreeMap,
    future::Future,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use sinew_core::{Backoff, Error, Kind, Result};

use super::{Condition, Entry, Key, Kv, LeaseId, Outcome, Revision, Span, Write};

/// How often a transaction is tried. With the delays below the last try comes after some six
/// seconds of lost races.
const ATTEMPTS: u32 = 50;
const FIRST_DELAY: Duration = Duration::from_millis(2);
const LONGEST_DELAY: Duration = Duration::from_millis(200);

/// Runs `body` as one serialisable transaction and answers what it returned, with the revision of
/// the commit (for a transaction without effective writes, a revision at which all it read held).
///
/// ```
/// # use sinew_engine::kv::{MemoryKv, transact};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sinew_core::Result<()> {
/// # let kv = MemoryKv::new(sinew_core::Clock::system());
/// let (visits, _revision) = transact(&kv, |tx| async move {
///     let before = tx.get("visits").await?.map_or(0, |entry| entry.value[0]);
///     tx.put("visits", vec![before + 1]);
///     Ok(before + 1)
/// })
/// .await?;
/// assert_eq!(visits, 1);
/// # Ok(()) }
/// ```
///
/// The body's reads are recorded and become conditions of the commit. When another commit came
/// between, the body runs again, after a jittered delay, so it must do nothing but read and write
/// through `tx`. After 50 lost races the answer is `kv.contention` (Aborted).
///
/// A run whose reads were not of one moment never decides anything: its writes are not committed,
/// and an error that it returns is only passed on once its reads are confirmed. An error drops the
/// writes. Errors of the store pass through; after Unavailable and DeadlineExceeded from the commit,
/// it may have happened.
pub async fn transact<'k, T, B, F>(kv: &'k dyn Kv, mut body: B) -> Result<(T, Revision)>
where
    B: FnMut(Transaction<'k>) -> F,
    F: Future<Output = Result<T>>,
{
    let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
    loop {
        let record = Arc::new(Mutex::new(Record::default()));
        let result = body(Transaction {
            kv,
            record: record.clone(),
        })
        .await;
        let record = mem::take(&mut *lock(&record));
        match record.finish(kv, result).await? {
            Finish::Done(value, revision) => return Ok((value, revision)),
            Finish::Raced if backoff.attempts() + 1 >= ATTEMPTS => {
                return Err(Error::new(
                    Kind::Aborted,
                    "kv.contention",
                    format!(
                        "the transaction lost {ATTEMPTS} races against others; try again later"
                    ),
                ));
            }
            Finish::Raced => tokio::time::sleep(backoff.next_delay()).await,
        }
    }
}

/// One run of a transaction's body. Made by [`transact`].
pub struct Transaction<'k> {
    kv: &'k dyn Kv,
    record: Arc<Mutex<Record>>,
}

/// What a run read and wants to write.
#[derive(Default)]
struct Record {
    required: Vec<Condition>,
    /// What each key held when it was first read.
    keys: BTreeMap<Key, Option<Entry>>,
    /// The stretches that were listed, and when.
    spans: Vec<(Span, Revision)>,
    writes: BTreeMap<Key, Write>,
}

enum Finish<T> {
    Done(T, Revision),
    Raced,
}

impl Transaction<'_> {
    /// The entry of a key, as this transaction would leave it. The same key answers the same however
    /// often it is read. An entry that this transaction wrote has revision 0.
    pub async fn get(&self, key: impl Into<Key>) -> Result<Option<Entry>> {
        let key = key.into();
        if let Some(known) = lock(&self.record).known(&key) {
            return Ok(known);
        }
        let entry = self.kv.get(&key).await?;
        lock(&self.record).keys.insert(key, entry.clone());
        Ok(entry)
    }

    /// At most `limit` entries of the span, in key order, as this transaction would leave them. What
    /// was listed, gaps included, must not change until the commit.
    pub async fn range(&self, span: Span, limit: usize) -> Result<Vec<Entry>> {
        let mut found = Vec::new();
        let mut rest = span.clone();
        let mut as_of = None;
        while found.len() < limit {
            let page = self
                .kv
                .range(rest.clone(), limit - found.len(), None)
                .await?;
            // Pages may be of different moments. The span is required to be unchanged since the
            // first of them, so that a transaction which saw a mixture cannot commit.
            let revision = *as_of.get_or_insert(page.revision);
            let covered = Span {
                start: rest.start.clone(),
                end: page.next.clone().or_else(|| span.end.clone()),
            };
            let mut record = lock(&self.record);
            record.merge(&covered, page.entries, &mut found);
            record.spans.push((covered, revision));
            match page.next {
                Some(next) => rest.start = next,
                None => break,
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Sets a key. The last write of a key counts.
    pub fn put(&self, key: impl Into<Key>, value: impl Into<Bytes>) {
        self.write(Write::Put {
            key: key.into(),
            value: value.into(),
            lease: None,
        });
    }

    /// Sets a key that goes with `lease`.
    pub fn put_with_lease(&self, key: impl Into<Key>, value: impl Into<Bytes>, lease: LeaseId) {
        self.write(Write::Put {
            key: key.into(),
            value: value.into(),
            lease: Some(lease),
        });
    }

    /// Deletes a key, if it exists.
    pub fn delete(&self, key: impl Into<Key>) {
        self.write(Write::Delete { key: key.into() });
    }

    /// Demands something that was known before this transaction, such as the ownership key that
    /// fences it. If it does not hold, [`transact`] does not try again but answers
    /// `kv.condition_failed` (FailedPrecondition).
    pub fn require(&self, condition: Condition) {
        lock(&self.record).required.push(condition);
    }

    fn write(&self, write: Write) {
        lock(&self.record).writes.insert(write.key().clone(), write);
    }
}

impl Record {
    fn known(&self, key: &Key) -> Option<Option<Entry>> {
        match self.writes.get(key) {
            Some(write) => Some(written(write)),
            None => self.keys.get(key).cloned(),
        }
    }

    /// Appends to `found` what `covered` holds: the store's entries under the transaction's writes.
    fn merge(&self, covered: &Span, stored: Vec<Entry>, found: &mut Vec<Entry>) {
        if self.writes.is_empty() || covered.is_empty() {
            found.extend(stored);
            return;
        }
        let mut merged: BTreeMap<Key, Entry> = stored
            .into_iter()
            .map(|entry| (entry.key.clone(), entry))
            .collect();
        for (key, write) in self.writes.range::<[u8], _>(covered.bounds()) {
            match written(write) {
                Some(entry) => merged.insert(key.clone(), entry),
                None => merged.remove(key),
            };
        }
        found.extend(merged.into_values());
    }

    async fn finish<T>(self, kv: &dyn Kv, result: Result<T>) -> Result<Finish<T>> {
        let required = self.required.len();
        let (conditions, writes) = self.conditions_and_writes(result.is_ok());
        if conditions.is_empty()
            && let Err(error) = result
        {
            return Err(error);
        }
        let outcome = match kv.commit(conditions, writes).await {
            Ok(outcome) => outcome,
            // So slow a run that the history of what it listed is gone: start afresh.
            Err(error) if error.code() == "kv.compacted" => return Ok(Finish::Raced),
            Err(error) => return Err(error),
        };
        match outcome {
            Outcome::Committed(revision) => Ok(Finish::Done(result?, revision)),
            Outcome::Conflict(index) if index < required => Err(Error::new(
                Kind::FailedPrecondition,
                "kv.condition_failed",
                "what the transaction relies on no longer holds",
            )),
            Outcome::Conflict(_) => Ok(Finish::Raced),
        }
    }

    /// Required conditions come first: the first that fails decides.
    fn conditions_and_writes(self, write: bool) -> (Vec<Condition>, Vec<Write>) {
        let mut conditions = self.required;
        conditions.extend(self.keys.into_iter().map(|(key, entry)| match entry {
            Some(entry) => Condition::KeyAt(key, entry.revision),
            None => Condition::Absent(key),
        }));
        let spans = self.spans.into_iter();
        conditions.extend(spans.map(|(span, revision)| Condition::Unchanged(span, revision)));
        let writes = if write {
            self.writes.into_values().collect()
        } else {
            Vec::new()
        };
        (conditions, writes)
    }
}

fn written(write: &Write) -> Option<Entry> {
    match write {
        Write::Put { key, value, lease } => Some(Entry {
            key: key.clone(),
            value: value.clone(),
            revision: 0,
            lease: *lease,
        }),
        Write::Delete { .. } => None,
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
