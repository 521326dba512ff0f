//! What became of the keys that were written in a turn. The keys themselves are in the part of the
//! record that is being made.

use std::ops::Range;

use hashbrown::HashTable;
use sinew_engine::kv::{LeaseId, Revision};

/// Beyond this the memory for keys is given back after a turn.
const KEPT: usize = 1 << 14;

#[derive(Default)]
pub(super) struct StagedKeys {
    /// In the order of their revisions.
    all: Vec<Staged>,
    /// Of each key the last one.
    newest: HashTable<usize>,
}

#[derive(Clone)]
pub(super) struct Staged {
    pub(super) hash: u64,
    /// Where the key lies in the part.
    pub(super) key: Range<usize>,
    pub(super) revision: Revision,
    pub(super) is_there: bool,
    pub(super) lease: Option<LeaseId>,
}

impl StagedKeys {
    pub(super) fn insert(&mut self, staged: Staged, part: &[u8]) {
        let (all, index) = (&self.all, self.all.len());
        let key = &part[staged.key.clone()];
        let is_same = |other: &usize| is_key(&all[*other], key, staged.hash, part);
        match self.newest.find_mut(staged.hash, is_same) {
            Some(newest) => *newest = index,
            None => {
                let hash = |index: &usize| all.get(*index).map_or(staged.hash, |other| other.hash);
                self.newest.insert_unique(staged.hash, index, hash);
            }
        }
        self.all.push(staged);
    }

    pub(super) fn get(&self, key: &[u8], hash: u64, part: &[u8]) -> Option<&Staged> {
        let is_same = |index: &usize| is_key(&self.all[*index], key, hash, part);
        let index = self.newest.find(hash, is_same)?;
        self.all.get(*index)
    }

    /// The keys that go with a lease.
    pub(super) fn with_lease<'p>(
        &self,
        lease: LeaseId,
        part: &'p [u8],
    ) -> impl Iterator<Item = &'p [u8]> {
        let newest = self.newest.iter().filter_map(|index| self.all.get(*index));
        newest
            .filter(move |staged| staged.lease == Some(lease))
            .map(|staged| &part[staged.key.clone()])
    }

    /// The keys that were written after a revision, the newest first.
    pub(super) fn after<'p>(
        &self,
        revision: Revision,
        part: &'p [u8],
    ) -> impl Iterator<Item = &'p [u8]> {
        let newest_first = self.all.iter().rev();
        newest_first
            .take_while(move |staged| staged.revision > revision)
            .map(|staged| &part[staged.key.clone()])
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn clear(&mut self) {
        if self.all.capacity() > KEPT {
            *self = Self::default();
        } else {
            self.all.clear();
            self.newest.clear();
        }
    }
}

fn is_key(staged: &Staged, key: &[u8], hash: u64, part: &[u8]) -> bool {
    staged.hash == hash && part[staged.key.clone()] == *key
}
