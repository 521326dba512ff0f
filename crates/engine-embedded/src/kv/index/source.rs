//! Versions of keys in order: by key, and of a key the newest first.

use sinew_engine::kv::{Entry, Key, LeaseId, Revision};

use super::Stored;

/// A value with its lease; nothing when the key was deleted.
pub(super) type Value<'v> = Option<(&'v [u8], Option<LeaseId>)>;

/// Something to walk through: it stands on a version, or at the end.
pub(super) trait Source {
    /// The key that it stands on; nothing at the end.
    fn key(&self) -> Option<&[u8]>;
    fn revision(&self) -> Revision;
    /// Nothing when the key was deleted with this revision.
    fn value(&self) -> Value<'_>;
    /// As an entry, if the key was not deleted.
    fn entry(&self) -> Option<Entry> {
        let (value, lease) = self.value()?;
        Some(Entry {
            key: Key::copy_from_slice(self.key()?),
            value: bytes::Bytes::copy_from_slice(value),
            revision: self.revision(),
            lease,
        })
    }
    fn advance(&mut self) -> Stored<()>;
}

/// Several sources as one. They are few, so the first is found by looking at all.
pub(super) struct Merged<'s> {
    sources: Vec<Box<dyn Source + 's>>,
    /// The one that stands on the first version; any at the end.
    first: usize,
}

impl<'s> Merged<'s> {
    pub(super) fn new(sources: Vec<Box<dyn Source + 's>>) -> Self {
        let mut merged = Self { sources, first: 0 };
        merged.find_first();
        merged
    }

    fn find_first(&mut self) {
        let mut best: Option<(usize, &[u8], Revision)> = None;
        for (index, source) in self.sources.iter().enumerate() {
            let Some(key) = source.key() else { continue };
            let revision = source.revision();
            let is_before = best.is_none_or(|(_, other, newest)| {
                key.cmp(other).then(newest.cmp(&revision)).is_lt()
            });
            if is_before {
                best = Some((index, key, revision));
            }
        }
        self.first = best.map_or(0, |(index, ..)| index);
    }
}

impl Source for Merged<'_> {
    fn key(&self) -> Option<&[u8]> {
        self.sources.get(self.first)?.key()
    }

    fn revision(&self) -> Revision {
        let first = self.sources.get(self.first);
        first.map_or(0, |source| source.revision())
    }

    fn value(&self) -> Value<'_> {
        self.sources.get(self.first)?.value()
    }

    fn entry(&self) -> Option<Entry> {
        self.sources.get(self.first)?.entry()
    }

    fn advance(&mut self) -> Stored<()> {
        if let Some(source) = self.sources.get_mut(self.first) {
            source.advance()?;
        }
        self.find_first();
        Ok(())
    }
}
