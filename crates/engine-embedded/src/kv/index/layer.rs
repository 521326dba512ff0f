//! The newest part of the store, in memory.

use std::{
    cmp::Reverse,
    ops::Bound,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use crossbeam_skiplist::{SkipMap, map};
use parking_lot::RwLock;
use sinew_engine::kv::{Entry, Key, LeaseId, Revision, Span};

use super::{
    Stored,
    filter::{self, Filter},
    source::{self, Source},
};
use crate::kv::change::{self, Commit, Operation};

type Version = (Key, Reverse<Revision>);
type Value = Option<(Bytes, Option<LeaseId>)>;

/// What some parts of records changed: each key's values by revision, newest first, and the parts
/// themselves. One thread adds; any number reads meanwhile, and none waits.
pub(super) struct Layer {
    entries: SkipMap<Version, Value>,
    filter: Filter,
    /// Held for an instant only.
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

/// What an entry in memory takes beside its bytes, about.
const OVERHEAD: usize = 190;

impl Layer {
    /// One that will be full with `bytes`, for what comes after a revision.
    pub(super) fn new(bytes: usize, before: Revision) -> Self {
        Self {
            entries: SkipMap::new(),
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
            for change in commit.changes() {
                let change = change?;
                self.filter.add(filter::hash(&change.key));
                let version = (change.key, Reverse(commit.revision));
                self.entries.insert(version, change.value);
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

    fn find(&self, key: &[u8], hash: u64, at: Revision) -> Option<map::Entry<'_, Version, Value>> {
        if !self.filter.may_have(hash) {
            return None;
        }
        let from = (Key::copy_from_slice(key), Reverse(at));
        let found = self.entries.lower_bound(Bound::Included(&from))?;
        (found.key().0 == key).then_some(found)
    }

    /// The revision that the key has as of another one, and whether it exists then; nothing when
    /// the layer does not know the key.
    pub(super) fn version(&self, key: &[u8], hash: u64, at: Revision) -> Option<(Revision, bool)> {
        let found = self.find(key, hash, at)?;
        Some((found.key().1.0, found.value().is_some()))
    }

    /// The entry of a key as of a revision, if it exists then; nothing when the layer does not know
    /// the key.
    pub(super) fn get(&self, key: &[u8], hash: u64, at: Revision) -> Option<Option<Entry>> {
        let found = self.find(key, hash, at)?;
        let (key, Reverse(revision)) = found.key();
        Some(found.value().clone().map(|(value, lease)| Entry {
            key: key.clone(),
            value,
            revision: *revision,
            lease,
        }))
    }

    /// All versions of the keys of a span.
    pub(super) fn source(&self, span: &Span) -> impl Source + use<'_> {
        let from = Bound::Included((span.start.clone(), Reverse(Revision::MAX)));
        let to = match &span.end {
            Some(end) => Bound::Excluded((end.clone(), Reverse(Revision::MAX))),
            None => Bound::Unbounded,
        };
        let mut versions = self.entries.range((from, to));
        Versions {
            current: versions.next(),
            versions,
        }
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

struct Versions<'l, I> {
    current: Option<map::Entry<'l, Version, Value>>,
    versions: I,
}

impl<'l, I: Iterator<Item = map::Entry<'l, Version, Value>>> Source for Versions<'l, I> {
    fn key(&self) -> Option<&[u8]> {
        Some(&self.current.as_ref()?.key().0)
    }

    fn revision(&self) -> Revision {
        let current = self.current.as_ref();
        current.map_or(0, |current| current.key().1.0)
    }

    fn value(&self) -> source::Value<'_> {
        let (value, lease) = self.current.as_ref()?.value().as_ref()?;
        Some((value, *lease))
    }

    fn entry(&self) -> Option<Entry> {
        let current = self.current.as_ref()?;
        let (key, Reverse(revision)) = current.key();
        let (value, lease) = current.value().clone()?;
        Some(Entry {
            key: key.clone(),
            value,
            revision: *revision,
            lease,
        })
    }

    fn advance(&mut self) -> Stored<()> {
        self.current = self.versions.next();
        Ok(())
    }
}
