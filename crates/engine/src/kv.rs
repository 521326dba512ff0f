//! `Kv`: a transactional, ordered key-value store with revisions, leases and watches.
//!
//! The text of this module is the contract; the conformance suite (module `suite`, behind the cargo
//! feature of that name) quotes it and runs against every engine.
//!
//! # Revisions
//! A *revision* is one strictly growing `u64` per store. Every transaction that writes takes exactly
//! one; [`Entry::revision`] tells the one that last wrote the key. An empty store is at revision 0.
//! Revisions never go back, not after a crash either, and are never used twice. Where
//! [`Capability::dense_revisions`] is true, each is the one before plus one; otherwise there may be
//! numbers between two commits that no commit of this store has, such as those of others on one
//! server. Whatever answers a revision answers one that a commit of this store has, or 0.
//!
//! # Durability and atomicity
//! When [`Kv::commit`] answers [`Outcome::Committed`], the writes are on stable storage, all of them,
//! and every later read sees them. When it answers [`Outcome::Conflict`], nothing was written. When it
//! answers an error of kind Unavailable or DeadlineExceeded, the transaction happened wholly or not
//! at all, and only a read can tell which; every other error means that nothing was written.
//!
//! # Order
//! Commits are linearizable: the revision order is the real-time order. A read without a revision
//! sees every commit acknowledged before the read began.
//!
//! # Leases
//! A lease lives for its TTL after the grant or the last keep-alive, measured on the engine's
//! monotonic clock. When it expires or is revoked, all keys attached to it are deleted in one commit,
//! with one revision, that watchers see like any other. Keep-alives are cheap: they write nothing
//! durable. After a restart of the engine every lease that had not expired has its full TTL again: a
//! lease may therefore live longer than its TTL, never shorter. Overwriting a key detaches it from
//! the old lease and attaches it to the new one, if any.
//!
//! # Watches
//! [`Kv::watch`] delivers every commit that touches its span after the given revision, in revision
//! order, one [`Batch`] a commit, none lost and none twice. History is kept for a bounded
//! time; a watch from before it gets `kv.compacted` (OutOfRange), and the caller lists again and watches from the
//! list's revision. A watcher that is too slow for its bounded queue ends with the same error rather
//! than growing the memory; a watcher never slows a writer.

mod forward;
mod limits;
mod memory;
#[cfg(feature = "suite")]
pub mod suite;
mod transact;

use std::{ops::Bound, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use sinew_core::{Error, Kind, Result};

pub use limits::Limits;
pub use memory::MemoryKv;
pub use transact::{Transaction, transact};

/// A key: 1 to [`Limits::key_bytes`] bytes, ordered bytewise.
pub type Key = Bytes;
/// The number of a commit. 0 is before the first.
pub type Revision = u64;

/// Names a lease of one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A key with its value, as of some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Bytes,
    /// The revision that last wrote the key.
    pub revision: Revision,
    /// The lease that the key goes with.
    pub lease: Option<LeaseId>,
}

/// A half-open stretch of the key space, `[start, end)`; no `end` means to the last key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The first key that belongs.
    pub start: Key,
    /// The first key that no longer belongs.
    pub end: Option<Key>,
}

impl Span {
    /// Every key.
    pub fn all() -> Self {
        Self {
            start: Key::new(),
            end: None,
        }
    }

    /// Just `key`.
    pub fn key(key: impl Into<Key>) -> Self {
        let start = key.into();
        let mut end = start.to_vec();
        end.push(0);
        Self {
            start,
            end: Some(end.into()),
        }
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Key>) -> Self {
        let start = prefix.into();
        let mut end = start.to_vec();
        // The successor of a prefix: drop trailing 0xff bytes, then add one to the last.
        while let Some(last) = end.pop() {
            if last < 0xff {
                end.push(last + 1);
                return Self {
                    start,
                    end: Some(end.into()),
                };
            }
        }
        Self { start, end: None }
    }

    /// The keys from `start` up to, but without, `end`.
    pub fn between(start: impl Into<Key>, end: impl Into<Key>) -> Self {
        Self {
            start: start.into(),
            end: Some(end.into()),
        }
    }

    /// Whether `key` belongs.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }

    /// Whether no key can belong.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end <= &self.start)
    }

    /// As bounds for ordered maps.
    pub fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        let end = self
            .end
            .as_ref()
            .map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..]));
        (Bound::Included(&self.start[..]), end)
    }
}

/// One page of a range read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The entries, in key order.
    pub entries: Vec<Entry>,
    /// The revision that the page is a snapshot of. Ask for further pages at this revision.
    pub revision: Revision,
    /// Where the next page starts, when there is more.
    pub next: Option<Key>,
}

/// What must hold for a transaction to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The key exists and was last written by exactly this revision.
    KeyAt(Key, Revision),
    /// The key does not exist.
    Absent(Key),
    /// The key exists.
    Present(Key),
    /// No key of the span was written or deleted after this revision.
    /// `kv.compacted` (OutOfRange) when the revision is older than the kept history,
    /// `kv.revision_unknown` (OutOfRange) when it does not exist yet.
    Unchanged(Span, Revision),
}

/// One write of a transaction. A key may be written once in a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets the key.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Bytes,
        /// The lease it shall go with; an unknown one fails the commit with `kv.lease_unknown` (NotFound).
        lease: Option<LeaseId>,
    },
    /// Deletes the key; nothing happens, and watchers see nothing, when it does not exist.
    Delete {
        /// The key.
        key: Key,
    },
}

impl Write {
    /// The key that is written.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// The answer to a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a conflict means that nothing was written"]
pub enum Outcome {
    /// Written with this revision. A transaction without effective writes takes no revision and
    /// answers the store's current one.
    Committed(Revision),
    /// Nothing was written: the condition with this index did not hold.
    Conflict(usize),
}

/// One change of one key, as a watcher sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was set.
    Put(Entry),
    /// The key was deleted, by a transaction or with its lease.
    Delete(Key),
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete(key) => key,
        }
    }
}

/// All changes of one commit that fall into a watch's span, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The commit's revision.
    pub revision: Revision,
    /// Its changes; never empty.
    pub events: Vec<Event>,
}

/// How much history an engine keeps for watches, snapshots and [`Condition::Unchanged`]. The oldest
/// commits go first when either bound is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Commits kept.
    pub commits: usize,
    /// Bytes kept: keys and values of the changes, before and after.
    pub bytes: usize,
}

/// What an engine can do; it selects the cases of the conformance suite and is shown in the
/// documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// The engine's name.
    pub engine: &'static str,
    /// Whether data outlives the process.
    pub durable: bool,
    /// Whether range reads can be asked for at an older revision while it is in the history. An
    /// engine that cannot answers `kv.compacted` for every revision but the newest.
    pub historical_reads: bool,
    /// Whether the revisions of one store follow each other without gaps.
    pub dense_revisions: bool,
    /// Whether a commit can be one durable step with publishes and acknowledgements of the engine's `Bus`,
    /// where both are opened as one store.
    pub atomic_with_bus: bool,
    /// Its limits.
    pub limits: Limits,
}

/// A stream of commits. Dropping it ends the watch.
#[async_trait]
pub trait Watch: Send {
    /// The next batch; waits for one. Cancel safe. After an error the watch has ended.
    async fn next(&mut self) -> Result<Batch>;
}

/// The store. See the module's text for what every method promises.
#[async_trait]
pub trait Kv: Send + Sync + 'static {
    /// What this engine can do.
    fn capability(&self) -> &Capability;

    /// The newest revision. Linearizable.
    async fn revision(&self) -> Result<Revision>;

    /// The entry of a key, if it exists. Linearizable.
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>>;

    /// A page of at most `limit` entries (capped by [`Limits::page_entries`], at least 1) of the span.
    /// It may hold fewer than `limit` although there is more: only [`Page::next`] tells.
    /// `at` names the snapshot to read; `None` means the newest. `kv.compacted` (OutOfRange) when that
    /// snapshot is gone, `kv.revision_unknown` (OutOfRange) when it does not exist yet.
    async fn range(&self, span: Span, limit: usize, at: Option<Revision>) -> Result<Page>;

    /// Writes all of `writes` if all of `conditions` hold, or nothing. See the module's text.
    /// Conditions are checked in order and the first that does not hold decides; leases are looked
    /// at after them.
    /// InvalidArgument `kv.transaction_invalid` when a limit is passed, a key is empty or written twice.
    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Outcome>;

    /// Every commit after `after` that touches `span`. `kv.compacted` (OutOfRange) when the history
    /// is gone, here or from [`Watch::next`]; `kv.revision_unknown` when `after` is in the future.
    async fn watch(&self, span: Span, after: Revision) -> Result<Box<dyn Watch>>;

    /// A new lease. `ttl` below [`Limits::lease_minimum`] is InvalidArgument `kv.lease_ttl`.
    /// The grant is durable before it answers.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId>;

    /// Gives the lease its full TTL again and answers that TTL; `kv.lease_unknown` (NotFound) when it
    /// has expired, was revoked or never was.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration>;

    /// Ends a lease and deletes its keys in one commit. `kv.lease_unknown` (NotFound) as above.
    async fn revoke(&self, lease: LeaseId) -> Result<()>;

    /// Forgets the history up to `revision`: what asks for a revision before it gets `kv.compacted`,
    /// while the snapshot at `revision` itself, and watches after it, remain. Current entries stay.
    /// What is forgotten already changes nothing; `kv.revision_unknown` when it does not exist yet.
    async fn compact(&self, revision: Revision) -> Result<()>;
}

/// The error for a revision whose history is gone.
pub fn compacted(asked: Revision, oldest: Revision) -> Error {
    Error::new(
        Kind::OutOfRange,
        "kv.compacted",
        format!("revision {asked} is no longer kept (the oldest is {oldest}); list again"),
    )
}

/// The error for a revision that does not exist yet.
pub fn revision_unknown(asked: Revision, newest: Revision) -> Error {
    Error::new(
        Kind::OutOfRange,
        "kv.revision_unknown",
        format!("revision {asked} does not exist yet (the newest is {newest})"),
    )
}

/// The error for a lease that is not there.
pub fn lease_unknown(lease: LeaseId) -> Error {
    Error::new(
        Kind::NotFound,
        "kv.lease_unknown",
        format!("lease {} has expired, was revoked or never was", lease.0),
    )
}
