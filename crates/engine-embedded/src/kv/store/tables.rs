//! The store as a group of transactions sees and changes it.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use sinew_engine::kv::{Entry, Key, LeaseId, Revision};

use super::{
    Head, Snapshot, State, Stored, index,
    record::{self, Group, GroupCommit},
};
use crate::kv::change::{self, Change, Commit};

/// What is stored, and on it what the group has changed so far.
pub(in crate::kv) struct Tables<'s> {
    pub(in crate::kv) head: Head,
    changed: bool,
    state: &'s State,
    snapshot: Snapshot,
    entries: BTreeMap<Key, Option<Entry>>,
    commits: Vec<GroupCommit>,
    leases: BTreeMap<u64, Option<u64>>,
    attached: BTreeMap<(u64, Key), bool>,
}

impl<'s> Tables<'s> {
    pub(super) fn new(state: &'s State) -> Stored<Self> {
        let snapshot = state.snapshot()?;
        Ok(Self {
            head: snapshot.view.head,
            changed: false,
            state,
            snapshot,
            entries: BTreeMap::new(),
            commits: Vec::new(),
            leases: BTreeMap::new(),
            attached: BTreeMap::new(),
        })
    }

    /// What there is to write, if anything.
    pub(super) fn finish(self) -> Option<Group> {
        let head = Head {
            group: self.head.group + 1,
            ..self.head
        };
        self.changed.then_some(Group {
            head,
            commits: self.commits,
            leases: self.leases,
            attached: self.attached,
        })
    }

    pub(in crate::kv) fn get(&self, key: &[u8]) -> Stored<Option<Entry>> {
        match self.entries.get(key) {
            Some(known) => Ok(known.clone()),
            None => self.snapshot.get(key),
        }
    }

    /// The revision of a key.
    pub(in crate::kv) fn revision_of(&self, key: &[u8]) -> Stored<Option<Revision>> {
        Ok(self.get(key)?.map(|entry| entry.revision))
    }

    /// Sets or deletes a key, whose entry before is known.
    pub(in crate::kv) fn set(&mut self, change: &Change) -> Stored<()> {
        self.changed = true;
        self.entries
            .insert(change.key.clone(), change.after.clone());
        record::attach(&mut self.attached, change);
        Ok(())
    }

    /// Appends a commit with the next revision to the history.
    pub(in crate::kv) fn append(&mut self, changes: &[Change]) -> Stored<Commit> {
        let encoded = Bytes::from(change::encode_changes(changes));
        self.head.revision += 1;
        self.head.history_bytes += encoded.len() as u64;
        let revision = self.head.revision;
        let commit = Commit::decode(revision, encoded.clone())?;
        let Commit { changes, .. } = Commit::decode(revision, encoded.clone())?;
        self.commits.push(GroupCommit {
            revision,
            changes,
            encoded,
        });
        Ok(commit)
    }

    /// At most `count` commits after `revision`, in order. Those of the group itself are left out.
    pub(in crate::kv) fn history(&self, revision: Revision, count: usize) -> Stored<Vec<Commit>> {
        self.snapshot.history(revision, count)
    }

    /// Forgets the oldest commit of the history.
    pub(in crate::kv) fn forget_oldest(&mut self) -> Stored<()> {
        self.changed = true;
        if self.head.floor == self.head.revision {
            return Ok(());
        }
        self.head.floor += 1;
        let bytes = self.commit_bytes(self.head.floor)?;
        self.head.history_bytes = self.head.history_bytes.saturating_sub(bytes);
        Ok(())
    }

    fn commit_bytes(&self, revision: Revision) -> Stored<u64> {
        let own = self
            .commits
            .iter()
            .find(|commit| commit.revision == revision);
        if let Some(own) = own {
            return Ok(own.encoded.len() as u64);
        }
        let mut layers = self.snapshot.view.layers();
        match layers.find_map(|layer| layer.commit_bytes(revision)) {
            Some(bytes) => Ok(bytes),
            None => index::commit_bytes(&self.snapshot.transaction, revision),
        }
    }

    pub(in crate::kv) fn grant(&mut self, ttl: Duration) -> Stored<LeaseId> {
        self.changed = true;
        self.head.last_lease += 1;
        let ttl = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
        self.leases.insert(self.head.last_lease, Some(ttl));
        Ok(LeaseId(self.head.last_lease))
    }

    pub(in crate::kv) fn has_lease(&self, lease: LeaseId) -> Stored<bool> {
        Ok(match self.leases.get(&lease.0) {
            Some(known) => known.is_some(),
            None => self.state.leases.lock().contains_key(&lease.0),
        })
    }

    pub(in crate::kv) fn remove_lease(&mut self, lease: LeaseId) -> Stored<bool> {
        let there = self.has_lease(lease)?;
        if there {
            self.leases.insert(lease.0, None);
        }
        self.changed |= there;
        Ok(there)
    }

    /// The keys that go with a lease, in order.
    pub(in crate::kv) fn attached(&self, lease: LeaseId) -> Stored<Vec<Key>> {
        let mut keys = index::attached(&self.snapshot.transaction, lease)?;
        let span = (lease.0, Key::new())..(lease.0 + 1, Key::new());
        let mut apply = |known: &BTreeMap<(u64, Key), bool>| {
            for ((_, key), goes) in known.range(span.clone()) {
                if *goes {
                    keys.insert(key.clone());
                } else {
                    keys.remove(key);
                }
            }
        };
        let layers: Vec<_> = self.snapshot.view.layers().collect();
        for layer in layers.into_iter().rev() {
            layer.with_leased(|leased| apply(&leased.attached));
        }
        apply(&self.attached);
        Ok(keys.into_iter().collect())
    }
}
