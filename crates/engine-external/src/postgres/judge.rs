//! Decides what a batch of commands does, without I/O: each command against the store as it was
//! read, with everything staged before it in the batch.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use bytes::Bytes;
use sinew_core::Result;
use sinew_engine::kv::{
    Condition, Key, LeaseId, Outcome, Revision, Span, Write, compacted, lease_unknown,
    revision_unknown,
};

use super::command::{Reply, Request};

#[cfg(test)]
mod tests;

/// What must be read before a batch can be judged. Names are the keys' places in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Questions {
    pub(super) keys: BTreeSet<Key>,
    /// Each `Unchanged` with a span that is not empty, in the batch's order.
    pub(super) spans: Vec<(Span, Revision)>,
    /// Leases that are named.
    pub(super) leases: BTreeSet<i64>,
    /// Those whose keys must be known.
    pub(super) ending: BTreeSet<i64>,
    /// Those whose renewals must be known.
    pub(super) expiring: BTreeSet<i64>,
}

impl Questions {
    pub(super) fn of<'a>(requests: impl Iterator<Item = &'a Request>) -> Self {
        let mut questions = Self::default();
        for request in requests {
            match request {
                Request::Commit { conditions, writes } => questions.add(conditions, writes),
                Request::Grant(_) => {}
                Request::Revoke(lease) => {
                    questions.leases.insert(number(*lease));
                    questions.ending.insert(number(*lease));
                }
                Request::Expire(lease, _) => {
                    questions.leases.insert(number(*lease));
                    questions.ending.insert(number(*lease));
                    questions.expiring.insert(number(*lease));
                }
                Request::Revive(lease) => {
                    questions.leases.insert(number(*lease));
                }
            }
        }
        questions
    }

    fn add(&mut self, conditions: &[Condition], writes: &[Write]) {
        for condition in conditions {
            match condition {
                Condition::KeyAt(key, _) | Condition::Absent(key) | Condition::Present(key) => {
                    self.keys.insert(key.clone());
                }
                Condition::Unchanged(span, since) if !span.is_empty() => {
                    self.spans.push((span.clone(), *since));
                }
                Condition::Unchanged(..) => {}
            }
        }
        for write in writes {
            self.keys.insert(write.key().clone());
            if let Write::Put {
                lease: Some(lease), ..
            } = write
            {
                self.leases.insert(number(*lease));
            }
        }
    }
}

/// What was read, at one moment.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) version: i64,
    pub(super) revision: Revision,
    pub(super) floor: Revision,
    pub(super) last_lease: i64,
    /// The keys that exist, of those asked for and those that go with an ending lease.
    pub(super) keys: HashMap<Key, Known>,
    /// Places in [`Questions::spans`] of those that were changed.
    pub(super) touched: HashSet<usize>,
    /// The leases that exist, with their TTLs in microseconds.
    pub(super) leases: HashMap<i64, i64>,
    /// How often they were renewed.
    pub(super) renewals: HashMap<i64, i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) revision: Revision,
    pub(super) lease: Option<i64>,
    /// Of the value.
    pub(super) bytes: usize,
}

/// What was there before a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Nothing,
    /// What the table holds.
    Stored,
    /// What the change at this place of the batch wrote.
    Staged(usize),
}

#[derive(Debug)]
pub(super) struct Change {
    pub(super) revision: Revision,
    pub(super) key: Key,
    /// `None`: deleted.
    pub(super) value: Option<Bytes>,
    pub(super) lease: Option<i64>,
    pub(super) before: Before,
    /// Whether the batch changes this key no more after it.
    pub(super) is_last: bool,
}

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Staged {
    pub(super) revision: Revision,
    pub(super) last_lease: i64,
    /// By revision; of one revision by key.
    pub(super) changes: Vec<Change>,
    /// By which the history grows.
    pub(super) bytes: usize,
    /// Leases with their TTLs.
    pub(super) granted: Vec<(i64, i64)>,
    pub(super) revived: Vec<(i64, i64)>,
    pub(super) ended: Vec<i64>,
}

impl Staged {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.granted.is_empty()
            && self.revived.is_empty()
            && self.ended.is_empty()
    }
}

/// Judges the requests in their order.
pub(super) fn judge<'a>(
    view: &View,
    requests: impl Iterator<Item = &'a Request>,
) -> (Vec<Result<Reply>>, Staged) {
    let mut attached: HashMap<i64, Vec<Key>> = HashMap::new();
    for (key, known) in &view.keys {
        if let Some(lease) = known.lease {
            attached.entry(lease).or_default().push(key.clone());
        }
    }
    let mut judge = Judge {
        view,
        attached,
        staged: Staged {
            revision: view.revision,
            last_lease: view.last_lease,
            ..Staged::default()
        },
        latest: HashMap::new(),
        leases: view.leases.clone(),
        span: 0,
    };
    let replies = requests.map(|request| judge.one(request)).collect();
    for place in judge.latest.values() {
        judge.staged.changes[*place].is_last = true;
    }
    (replies, judge.staged)
}

/// A value, and the lease that it goes with.
type Put = (Bytes, Option<i64>);

struct Judge<'a> {
    view: &'a View,
    staged: Staged,
    /// The place of the last change of each key.
    latest: HashMap<Key, usize>,
    leases: HashMap<i64, i64>,
    /// The keys that go, or went, with a lease.
    attached: HashMap<i64, Vec<Key>>,
    /// The next of [`Questions::spans`].
    span: usize,
}

impl Judge<'_> {
    fn one(&mut self, request: &Request) -> Result<Reply> {
        match request {
            Request::Commit { conditions, writes } => {
                // The places go on even where a condition before decides.
                let first = self.span;
                self.span += conditions.iter().filter(|c| asks(c)).count();
                self.commit(conditions, writes, first).map(Reply::Outcome)
            }
            Request::Grant(ttl) => {
                self.staged.last_lease += 1;
                let lease = self.staged.last_lease;
                self.leases.insert(lease, *ttl);
                self.staged.granted.push((lease, *ttl));
                Ok(Reply::Granted(LeaseId(lease.unsigned_abs())))
            }
            Request::Revoke(lease) => {
                self.end(*lease)?;
                Ok(Reply::Ended)
            }
            Request::Expire(lease, seen) => {
                // Kept alive meanwhile, or gone: nothing is to be done.
                if self.view.renewals.get(&number(*lease)) == Some(seen) {
                    let _ = self.end(*lease);
                }
                Ok(Reply::Ended)
            }
            Request::Revive(lease) => {
                let id = number(*lease);
                let ttl = *self.leases.get(&id).ok_or_else(|| lease_unknown(*lease))?;
                if !self.staged.revived.contains(&(id, ttl)) {
                    self.staged.revived.push((id, ttl));
                }
                Ok(Reply::Alive(Duration::from_micros(ttl.unsigned_abs())))
            }
        }
    }

    fn commit(
        &mut self,
        conditions: &[Condition],
        writes: &[Write],
        mut span: usize,
    ) -> Result<Outcome> {
        for (index, condition) in conditions.iter().enumerate() {
            if !self.holds(condition, span)? {
                return Ok(Outcome::Conflict(index));
            }
            span += usize::from(asks(condition));
        }
        for write in writes {
            if let Write::Put {
                lease: Some(lease), ..
            } = write
                && !self.leases.contains_key(&number(*lease))
            {
                return Err(lease_unknown(*lease));
            }
        }
        let writes = writes.iter().map(|write| match write {
            Write::Put { key, value, lease } => {
                (key.clone(), Some((value.clone(), lease.map(number))))
            }
            Write::Delete { key } => (key.clone(), None),
        });
        self.write(writes.collect());
        Ok(Outcome::Committed(self.staged.revision))
    }

    fn holds(&self, condition: &Condition, place: usize) -> Result<bool> {
        Ok(match condition {
            Condition::KeyAt(key, revision) => self
                .known(key)
                .is_some_and(|known| known.revision == *revision),
            Condition::Absent(key) => self.known(key).is_none(),
            Condition::Present(key) => self.known(key).is_some(),
            Condition::Unchanged(span, since) => {
                if *since > self.staged.revision {
                    return Err(revision_unknown(*since, self.staged.revision));
                }
                if *since < self.view.floor {
                    return Err(compacted(*since, self.view.floor));
                }
                let staged = self.staged.changes.iter().rev();
                let is_touched = asks(condition) && self.view.touched.contains(&place);
                !is_touched
                    && !staged
                        .take_while(|change| change.revision > *since)
                        .any(|change| span.contains(&change.key))
            }
        })
    }

    fn known(&self, key: &Key) -> Option<Known> {
        match self.latest.get(key) {
            Some(place) => {
                let change = &self.staged.changes[*place];
                change.value.as_ref().map(|value| Known {
                    revision: change.revision,
                    lease: change.lease,
                    bytes: value.len(),
                })
            }
            None => self.view.keys.get(key).copied(),
        }
    }

    /// Ends a lease, with all its keys in one commit.
    fn end(&mut self, lease: LeaseId) -> Result<()> {
        let id = number(lease);
        self.leases
            .remove(&id)
            .ok_or_else(|| lease_unknown(lease))?;
        if let Some(place) = self
            .staged
            .granted
            .iter()
            .position(|(lease, _)| *lease == id)
        {
            self.staged.granted.remove(place);
        }
        self.staged.revived.retain(|(lease, _)| *lease != id);
        self.staged.ended.push(id);
        let keys: BTreeSet<Key> = self
            .attached
            .remove(&id)
            .unwrap_or_default()
            .into_iter()
            .filter(|key| self.known(key).is_some_and(|known| known.lease == Some(id)))
            .collect();
        self.write(keys.into_iter().map(|key| (key, None)).collect());
        Ok(())
    }

    /// Writes with the next revision, unless nothing changes.
    fn write(&mut self, mut writes: Vec<(Key, Option<Put>)>) {
        writes.retain(|(key, put)| put.is_some() || self.known(key).is_some());
        if writes.is_empty() {
            return;
        }
        writes.sort_by(|a, b| a.0.cmp(&b.0));
        self.staged.revision += 1;
        for (key, put) in writes {
            let known = self.known(&key);
            let before = match (self.latest.get(&key), known) {
                (_, None) => Before::Nothing,
                (Some(place), Some(_)) => Before::Staged(*place),
                (None, Some(_)) => Before::Stored,
            };
            let (value, lease) = put.map_or((None, None), |(value, lease)| (Some(value), lease));
            self.staged.bytes += key.len()
                + value.as_ref().map_or(0, Bytes::len)
                + known.map_or(0, |known| known.bytes);
            if let Some(lease) = lease {
                self.attached.entry(lease).or_default().push(key.clone());
            }
            self.latest.insert(key.clone(), self.staged.changes.len());
            self.staged.changes.push(Change {
                revision: self.staged.revision,
                key,
                value,
                lease,
                before,
                is_last: false,
            });
        }
    }
}

/// Whether the condition has a place in [`Questions::spans`].
fn asks(condition: &Condition) -> bool {
    matches!(condition, Condition::Unchanged(span, _) if !span.is_empty())
}

/// As the database counts. What it cannot count to was never granted.
pub(super) fn number(lease: LeaseId) -> i64 {
    i64::try_from(lease.0).unwrap_or(i64::MAX)
}
