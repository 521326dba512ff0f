//! The newest part of the store, in memory.

mod version;

use std::{
    collections::BTreeSet,
    ops::Bound,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use parking_lot::RwLock;
use sinew_engine::kv::{Entry, Key, Revision, Span};

use self::version::{Place, Version};
use super::{
    Stored,
    filter::{self, Filter},
    source::{self, Source},
};
use crate::kv::change::{self, Commit, Operation};

/// Versions that a walk takes along at once.
const STRETCH: usize = 64;

/// What some parts of records changed: each key's values by revision, newest first, and the parts
/// themselves. One thread adds, a commit at a time, and any number reads; the locks are held for
/// an instant only.
pub(super) struct Layer {
    entries: RwLock<BTreeSet<Version>>,
    filter: Filter,
    parts: RwLock<Vec<Part>>,
    bytes: AtomicUsize,
    count: AtomicUsize,
    /// The revision before its first commit.
    pub(super) before: Revision,
}

/// A part of a record, and the commits in it.
#[derive(Clone)]
pub(super) struct Part {
    /// The revision before its first commit.
    pub(super) before: Revision,
    /// The revision of its last commit.
    pub(super) last: Revision,
    pub(super) bytes: Bytes,
}

/// What an entry in memory takes beside its bytes, at most: half of it in a node of the tree that is half full.
const OVERHEAD: usize = 190;

impl Layer {
    /// One that will be full with `bytes`, for what comes after a revision.
    pub(super) fn new(bytes: usize, before: Revision) -> Self {
        Self {
            entries: RwLock::default(),
            filter: Filter::new(bytes / (OVERHEAD + 40), usize::MAX),
            parts: RwLock::default(),
            bytes: AtomicUsize::new(0),
            count: AtomicUsize::new(0),
            before,
        }
    }

    /// Adds the commits of a part.
    pub(super) fn add(&self, before: Revision, bytes: &Bytes, commits: &[Commit]) -> Stored<()> {
        let mut count = 0;
        for commit in commits {
            let mut entries = self.entries.write();
            for change in commit.places() {
                let change = change?;
                self.filter.add(filter::hash(&commit.changes[change.key()]));
                entries.insert(Version::new(commit, &change));
                count += 1;
            }
        }
        self.parts.write().push(Part {
            before,
            last: commits.last().map_or(before, |commit| commit.revision),
            bytes: bytes.clone(),
        });
        self.count.fetch_add(count, Ordering::Relaxed);
        let bytes = bytes.len() + 64 + count * OVERHEAD;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The versions of keys that it holds.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    fn find<T>(
        &self,
        key: &[u8],
        hash: u64,
        at: Revision,
        found: impl FnOnce(&Version) -> T,
    ) -> Option<T> {
        if !self.filter.may_have(hash) {
            return None;
        }
        let entries = self.entries.read();
        let from: &dyn Place = &(key, at);
        let first = entries.range::<dyn Place, _>((Bound::Included(from), Bound::Unbounded));
        let first = first.take(1).find(|version| version.key() == key)?;
        Some(found(first))
    }

    /// The revision that the key has as of another one, and whether it exists then; nothing when
    /// the layer does not know the key.
    pub(super) fn version(&self, key: &[u8], hash: u64, at: Revision) -> Option<(Revision, bool)> {
        self.find(key, hash, at, |found| {
            (found.revision, found.value().is_some())
        })
    }

    /// The entry of a key as of a revision, if it exists then; nothing when the layer does not know
    /// the key.
    pub(super) fn get(&self, key: &[u8], hash: u64, at: Revision) -> Option<Option<Entry>> {
        self.find(key, hash, at, Version::entry)
    }

    /// All versions of the keys of a span.
    pub(super) fn source(&self, span: &Span) -> impl Source + use<'_> {
        let mut versions = Versions {
            layer: self,
            end: span.end.clone(),
            stretch: Vec::new(),
            at: 0,
        };
        versions.fill(Bound::Included(&(&*span.start, Revision::MAX)));
        versions
    }

    /// Appends the commits after `after` up to `until` to `to`, at most `count`.
    pub(super) fn history(
        &self,
        after: Revision,
        until: Revision,
        count: usize,
        to: &mut Vec<Commit>,
    ) -> Stored<()> {
        let parts = {
            let parts = self.parts.read();
            let from = parts.partition_point(|part| part.last <= after);
            let fits = |part: &&Part| part.before < until && part.before < after + count as u64;
            parts[from..]
                .iter()
                .take_while(fits)
                .cloned()
                .collect::<Vec<_>>()
        };
        let fits = |revision: Revision| after < revision && revision <= until;
        for part in parts {
            for operation in change::operations(&part.bytes) {
                match operation? {
                    Operation::Commit(commit) if fits(commit.revision) && to.len() < count => {
                        to.push(commit);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    pub(super) fn parts(&self) -> Vec<Part> {
        self.parts.read().clone()
    }
}

/// A walk. It holds no lock: what is added meanwhile is newer than what it is asked for.
struct Versions<'l> {
    layer: &'l Layer,
    end: Option<Key>,
    stretch: Vec<Version>,
    at: usize,
}

impl Versions<'_> {
    fn fill(&mut self, from: Bound<&dyn Place>) {
        let entries = self.layer.entries.read();
        let is_inside = |version: &&Version| {
            let end = self.end.as_ref();
            end.is_none_or(|end| version.key() < &**end)
        };
        let versions = entries.range::<dyn Place, _>((from, Bound::Unbounded));
        let stretch = versions.take_while(is_inside).take(STRETCH);
        self.stretch = stretch.cloned().collect();
        self.at = 0;
    }
}

impl Source for Versions<'_> {
    fn key(&self) -> Option<&[u8]> {
        self.stretch.get(self.at).map(Version::key)
    }

    fn revision(&self) -> Revision {
        let current = self.stretch.get(self.at);
        current.map_or(0, |current| current.revision)
    }

    fn value(&self) -> source::Value<'_> {
        self.stretch.get(self.at)?.value()
    }

    fn entry(&self) -> Option<Entry> {
        self.stretch.get(self.at)?.entry()
    }

    fn advance(&mut self) -> Stored<()> {
        self.at += 1;
        if self.at == self.stretch.len()
            && let Some(last) = self.stretch.pop()
        {
            self.fill(Bound::Excluded(&last));
        }
        Ok(())
    }
}
