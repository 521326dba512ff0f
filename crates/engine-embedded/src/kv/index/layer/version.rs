use std::{borrow::Borrow, cmp::Reverse};

use bytes::{Buf, Bytes};
use sinew_engine::kv::{Entry, Revision};

use crate::kv::{
    change::{self, Commit, Place as Change},
    index::source::Value,
};

/// A key as a commit left it. It shares memory with the record, and says in few bytes where.
#[derive(Clone)]
pub(super) struct Version {
    /// The key, and what the change says of its value.
    bytes: Bytes,
    key_length: u32,
    pub(super) revision: Revision,
}

impl Version {
    pub(super) fn new(commit: &Commit, change: &Change) -> Self {
        Self {
            bytes: commit.changes.slice(change.key().start..change.end),
            key_length: change.key_length,
            revision: commit.revision,
        }
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.bytes[..self.key_length as usize]
    }

    /// Nothing when it was deleted.
    pub(super) fn value(&self) -> Value<'_> {
        let mut rest = &self.bytes[self.key_length as usize..];
        if rest.try_get_u8().ok()? == 0 {
            return None;
        }
        let lease = change::lease(rest.try_get_u64_le().ok()?);
        let _length = rest.try_get_u32_le().ok()?;
        Some((rest, lease))
    }

    pub(super) fn entry(&self) -> Option<Entry> {
        let (value, lease) = self.value()?;
        Some(Entry {
            key: self.bytes.slice(..self.key_length as usize),
            value: self.bytes.slice_ref(value),
            revision: self.revision,
            lease,
        })
    }
}

/// Where a version lies in order: by key, and of a key the newest first.
pub(super) trait Place {
    fn place(&self) -> (&[u8], Reverse<Revision>);
}

impl Place for Version {
    fn place(&self) -> (&[u8], Reverse<Revision>) {
        (self.key(), Reverse(self.revision))
    }
}

impl Place for (&[u8], Revision) {
    fn place(&self) -> (&[u8], Reverse<Revision>) {
        (self.0, Reverse(self.1))
    }
}

impl<'p> Borrow<dyn Place + 'p> for Version {
    fn borrow(&self) -> &(dyn Place + 'p) {
        self
    }
}

impl PartialEq for dyn Place + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for dyn Place + '_ {}

impl PartialOrd for dyn Place + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Place + '_ {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place().cmp(&other.place())
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place().cmp(&other.place())
    }
}
