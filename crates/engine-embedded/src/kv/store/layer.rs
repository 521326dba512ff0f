//! The newest part of the store, in memory.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    ops::Bound,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use parking_lot::{Mutex, RwLock};
use sinew_engine::kv::{Entry, Key, Revision, Span};

use super::{Stored, record::Group};
use crate::kv::change::Commit;

type Version = (Key, Reverse<Revision>);

/// What some groups changed: the entries of each key by revision, newest first, and the commits as
/// the history has them. One thread adds; any number reads meanwhile, and none waits.
#[derive(Default)]
pub(super) struct Layer {
    entries: SkipMap<Version, Option<Entry>>,
    /// Held for an instant only.
    commits: RwLock<Vec<(Revision, Bytes)>>,
    bytes: AtomicUsize,
    /// Only the writer and the checkpoint look at this.
    leased: Mutex<Leased>,
}

/// Leases and what goes with them, as far as they changed.
#[derive(Default)]
pub(super) struct Leased {
    /// The TTL in nanoseconds; none when the lease has ended.
    pub(super) leases: BTreeMap<u64, Option<u64>>,
    /// Whether the key goes with the lease.
    pub(super) attached: BTreeMap<(u64, Key), bool>,
}

/// What an entry in memory takes beside its bytes, about.
const OVERHEAD: usize = 160;

impl Layer {
    pub(super) fn add(&self, group: Group) {
        let mut bytes = 0;
        for commit in &group.commits {
            bytes += commit.encoded.len() + OVERHEAD * commit.changes.len();
            for change in &commit.changes {
                let version = (change.key.clone(), Reverse(commit.revision));
                self.entries.insert(version, change.after.clone());
            }
        }
        let encoded = group
            .commits
            .into_iter()
            .map(|commit| (commit.revision, commit.encoded));
        self.commits.write().extend(encoded);
        let mut leased = self.leased.lock();
        leased.leases.extend(group.leases);
        leased.attached.extend(group.attached);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What it knows of a key as of a revision: its entry, or that there is none.
    pub(super) fn get(&self, key: &[u8], at: Revision) -> Option<Option<Entry>> {
        let from = (Key::copy_from_slice(key), Reverse(at));
        let found = self.entries.lower_bound(Bound::Included(&from))?;
        (found.key().0 == key).then(|| found.value().clone())
    }

    /// What it knows of the keys of a span as of a revision, in key order.
    pub(super) fn range<'l>(
        &'l self,
        span: &Span,
        at: Revision,
    ) -> impl Iterator<Item = (Key, Option<Entry>)> + use<'l> {
        let from: Bound<Version> = Bound::Included((span.start.clone(), Reverse(Revision::MAX)));
        let to = match &span.end {
            Some(end) => Bound::Excluded((end.clone(), Reverse(Revision::MAX))),
            None => Bound::Unbounded,
        };
        let mut last = None;
        self.entries.range((from, to)).filter_map(move |found| {
            let (key, Reverse(revision)) = found.key();
            if *revision > at || last.as_ref() == Some(key) {
                return None;
            }
            last = Some(key.clone());
            Some((key.clone(), found.value().clone()))
        })
    }

    /// The newest entry of each key, in key order.
    pub(super) fn newest(&self) -> impl Iterator<Item = (Key, Option<Entry>)> + '_ {
        self.range(&Span::all(), Revision::MAX)
    }

    /// Appends the commits after `after` up to `until` to `to`, at most `count`.
    pub(super) fn history(
        &self,
        after: Revision,
        until: Revision,
        count: usize,
        to: &mut Vec<Commit>,
    ) -> Stored<()> {
        let found: Vec<_> = {
            let commits = self.commits.read();
            let from = commits.partition_point(|(revision, _)| *revision <= after);
            let fits = |(revision, _): &&(Revision, Bytes)| *revision <= until;
            commits[from..]
                .iter()
                .take_while(fits)
                .take(count)
                .cloned()
                .collect()
        };
        for (revision, encoded) in found {
            to.push(Commit::decode(revision, encoded)?);
        }
        Ok(())
    }

    /// The size of one commit of the history.
    pub(super) fn commit_bytes(&self, revision: Revision) -> Option<u64> {
        let commits = self.commits.read();
        let at = commits
            .binary_search_by_key(&revision, |(revision, _)| *revision)
            .ok()?;
        Some(commits[at].1.len() as u64)
    }

    /// All commits as the history has them.
    pub(super) fn commits(&self) -> Vec<(Revision, Bytes)> {
        self.commits.read().clone()
    }

    pub(super) fn with_leased<T>(&self, look: impl FnOnce(&Leased) -> T) -> T {
        look(&self.leased.lock())
    }
}
