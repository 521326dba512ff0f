use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use sinew_core::Result;

use crate::kv::{
    Batch, Condition, Entry, Event, Key, LeaseId, Outcome, Page, Retention, Revision, Span, Write,
    compacted, lease_unknown, revision_unknown,
};

/// The whole store as a plain value. Invariants: `history` holds exactly the commits of the
/// revisions `floor + 1 ..= revision`, in order; every lease named by an entry is in `leases`.
pub(super) struct State {
    revision: Revision,
    entries: BTreeMap<Key, Entry>,
    floor: Revision,
    history: VecDeque<Commit>,
    history_bytes: usize,
    retention: Retention,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: u64,
}

struct Lease {
    ttl: Duration,
    /// On the monotonic clock.
    deadline: Duration,
}

struct Commit {
    revision: Revision,
    /// In key order; never empty.
    changes: Vec<Change>,
}

struct Change {
    key: Key,
    before: Option<Entry>,
    after: Option<Entry>,
}

impl State {
    pub(super) fn new(retention: Retention) -> Self {
        Self {
            revision: 0,
            entries: BTreeMap::new(),
            floor: 0,
            history: VecDeque::new(),
            history_bytes: 0,
            retention,
            leases: BTreeMap::new(),
            last_lease: 0,
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn range(&self, span: &Span, limit: usize, at: Revision) -> Result<Page> {
        self.check_history(at)?;
        let mut found = BTreeMap::new();
        if !span.is_empty() {
            found.extend(self.entries.range::<[u8], _>(span.bounds()));
        }
        // Back in time: undo the later commits, newest first.
        for change in self
            .later_changes(at)
            .rev()
            .filter(|change| span.contains(&change.key))
        {
            match &change.before {
                Some(entry) => found.insert(&change.key, entry),
                None => found.remove(&change.key),
            };
        }
        let next = found.keys().nth(limit).map(|key| Key::clone(key));
        let entries = found.into_values().take(limit).cloned().collect();
        Ok(Page {
            entries,
            revision: at,
            next,
        })
    }

    pub(super) fn commit(
        &mut self,
        conditions: &[Condition],
        writes: Vec<Write>,
    ) -> Result<Outcome> {
        for (index, condition) in conditions.iter().enumerate() {
            if !self.holds(condition)? {
                return Ok(Outcome::Conflict(index));
            }
        }
        for write in &writes {
            if let Write::Put {
                lease: Some(lease), ..
            } = write
                && !self.leases.contains_key(lease)
            {
                return Err(lease_unknown(*lease));
            }
        }
        self.apply(writes);
        Ok(Outcome::Committed(self.revision))
    }

    fn holds(&self, condition: &Condition) -> Result<bool> {
        Ok(match condition {
            Condition::KeyAt(key, revision) => self
                .entries
                .get(key)
                .is_some_and(|entry| entry.revision == *revision),
            Condition::Absent(key) => !self.entries.contains_key(key),
            Condition::Present(key) => self.entries.contains_key(key),
            Condition::Unchanged(span, revision) => {
                self.check_history(*revision)?;
                !self
                    .later_changes(*revision)
                    .any(|change| span.contains(&change.key))
            }
        })
    }

    /// Writes with the next revision, unless nothing changes.
    fn apply(&mut self, writes: Vec<Write>) {
        let revision = self.revision + 1;
        let mut changes = Vec::new();
        for write in writes {
            let (key, after) = match write {
                Write::Put { key, value, lease } => {
                    let entry = Entry {
                        key: key.clone(),
                        value,
                        revision,
                        lease,
                    };
                    (key, Some(entry))
                }
                Write::Delete { key } => (key, None),
            };
            let before = match &after {
                Some(entry) => self.entries.insert(key.clone(), entry.clone()),
                None => self.entries.remove(&key),
            };
            if before.is_some() || after.is_some() {
                changes.push(Change { key, before, after });
            }
        }
        if changes.is_empty() {
            return;
        }
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        let commit = Commit { revision, changes };
        self.revision = revision;
        self.history_bytes += commit.bytes();
        self.history.push_back(commit);
        while self.history.len() > self.retention.commits
            || self.history_bytes > self.retention.bytes
        {
            self.forget_oldest();
        }
    }

    pub(super) fn compact(&mut self, revision: Revision) -> Result<()> {
        if revision > self.revision {
            return Err(revision_unknown(revision, self.revision));
        }
        while self.floor < revision {
            self.forget_oldest();
        }
        Ok(())
    }

    fn forget_oldest(&mut self) {
        if let Some(commit) = self.history.pop_front() {
            self.history_bytes -= commit.bytes();
            self.floor = commit.revision;
        }
    }

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

    fn later_commits(&self, revision: Revision) -> impl DoubleEndedIterator<Item = &Commit> {
        self.history
            .iter()
            .filter(move |commit| commit.revision > revision)
    }

    fn later_changes(&self, revision: Revision) -> impl DoubleEndedIterator<Item = &Change> {
        self.later_commits(revision)
            .flat_map(|commit| &commit.changes)
    }

    /// The first commit after `revision` that touches the span, as a watcher sees it.
    pub(super) fn first_batch(&self, span: &Span, revision: Revision) -> Option<Batch> {
        self.later_commits(revision).find_map(|commit| {
            let events: Vec<Event> = commit
                .changes
                .iter()
                .filter(|change| span.contains(&change.key))
                .map(|change| match &change.after {
                    Some(entry) => Event::Put(entry.clone()),
                    None => Event::Delete(change.key.clone()),
                })
                .collect();
            (!events.is_empty()).then_some(Batch {
                revision: commit.revision,
                events,
            })
        })
    }

    pub(super) fn grant(&mut self, ttl: Duration, now: Duration) -> LeaseId {
        self.last_lease += 1;
        let lease = LeaseId(self.last_lease);
        self.leases.insert(
            lease,
            Lease {
                ttl,
                deadline: now.saturating_add(ttl),
            },
        );
        lease
    }

    pub(super) fn keep_alive(&mut self, lease: LeaseId, now: Duration) -> Result<Duration> {
        let known = self
            .leases
            .get_mut(&lease)
            .ok_or_else(|| lease_unknown(lease))?;
        known.deadline = now.saturating_add(known.ttl);
        Ok(known.ttl)
    }

    pub(super) fn revoke(&mut self, lease: LeaseId) -> Result<()> {
        self.leases
            .remove(&lease)
            .ok_or_else(|| lease_unknown(lease))?;
        let attached: Vec<Write> = self
            .entries
            .values()
            .filter(|entry| entry.lease == Some(lease))
            .map(|entry| Write::Delete {
                key: entry.key.clone(),
            })
            .collect();
        self.apply(attached);
        Ok(())
    }

    /// Ends the leases that are due, in the order of their deadlines; tells whether there were any.
    pub(super) fn expire(&mut self, now: Duration) -> bool {
        let mut due: Vec<(Duration, LeaseId)> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.deadline <= now)
            .map(|(id, lease)| (lease.deadline, *id))
            .collect();
        due.sort_unstable();
        for (_, lease) in &due {
            self.revoke(*lease)
                .expect("a lease that was just listed is there");
        }
        !due.is_empty()
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.leases.values().map(|lease| lease.deadline).min()
    }
}

impl Commit {
    fn bytes(&self) -> usize {
        let size = |entry: &Option<Entry>| entry.as_ref().map_or(0, |entry| entry.value.len());
        let change =
            |change: &Change| change.key.len() + size(&change.before) + size(&change.after);
        self.changes.iter().map(change).sum()
    }
}
