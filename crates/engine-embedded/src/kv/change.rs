//! What a part of the log's records says: the operations of the store, in order.
//!
//! ```text
//! commit   1u8 · revision u64 · length u32 · changes, in key order
//! granted  2u8 · lease u64 · TTL in nanoseconds u64
//! ended    3u8 · lease u64
//! floor    4u8 · revision u64, up to which the history is forgotten
//!
//! change   key length u32 · key · 0u8                                   the key was deleted
//!          key length u32 · key · 1u8 · lease u64 · value length u32 · value
//! ```
//!
//! Little endian; lease 0 is none. Version 2 of the store's format: a change of it needs a new tag in
//! the record, and a reader of the old one.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes};
use sinew_engine::kv::{Batch, Entry, Event, Key, LeaseId, Revision, Span};

/// One operation, as it is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Commit(Commit),
    Granted { lease: u64, ttl: u64 },
    Ended { lease: u64 },
    Floor(Revision),
}

/// One commit. Its bytes are shared with the record that made it durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) revision: Revision,
    /// Its changes, as above.
    pub(super) changes: Bytes,
}

/// The change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) key: Key,
    /// Its value and its lease; nothing when it was deleted.
    pub(super) value: Option<(Bytes, Option<LeaseId>)>,
}

/// Where the change of one key lies among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    start: usize,
    pub(super) key_length: u32,
    /// Of the value; nothing when the key is deleted.
    pub(super) lease: Option<Option<LeaseId>>,
    pub(super) end: usize,
}

impl Place {
    /// Where the key lies.
    pub(super) fn key(&self) -> Range<usize> {
        self.start + 4..self.start + 4 + self.key_length as usize
    }

    pub(super) fn all(&self) -> Range<usize> {
        self.start..self.end
    }

    /// Of the change that begins at `start`.
    fn read(changes: &[u8], start: usize) -> Result<Self, Malformed> {
        let mut rest = changes.get(start..).ok_or(Malformed)?;
        let key_length = rest.try_get_u32_le()?;
        rest = rest.get(key_length as usize..).ok_or(Malformed)?;
        let lease = match rest.try_get_u8()? {
            0 => None,
            1 => {
                let lease = lease(rest.try_get_u64_le()?);
                let length = rest.try_get_u32_le()? as usize;
                rest = rest.get(length..).ok_or(Malformed)?;
                Some(lease)
            }
            _ => return Err(Malformed),
        };
        Ok(Self {
            start,
            key_length,
            lease,
            end: changes.len() - rest.len(),
        })
    }
}

/// The bytes are not what this module writes.
#[derive(Debug)]
pub(super) struct Malformed;

/// Begins a commit; answers where, for [`end_commit`].
pub(super) fn begin_commit(part: &mut Vec<u8>, revision: Revision) -> usize {
    part.put_u8(1);
    part.put_u64_le(revision);
    part.put_u32_le(0);
    part.len()
}

/// Ends a commit that began at `start`; answers the size of its changes.
pub(super) fn end_commit(part: &mut [u8], start: usize) -> u32 {
    let length = u32::try_from(part.len() - start).expect("limits keep commits far below 4 GB");
    part[start - 4..start].copy_from_slice(&length.to_le_bytes());
    length
}

pub(super) fn put_change(
    part: &mut Vec<u8>,
    key: &[u8],
    value: Option<(&[u8], Option<LeaseId>)>,
) -> Place {
    let start = part.len();
    put_bytes(part, key);
    match value {
        None => part.put_u8(0),
        Some((value, lease)) => {
            part.put_u8(1);
            part.put_u64_le(lease.map_or(0, |lease| lease.0));
            put_bytes(part, value);
        }
    }
    Place {
        start,
        key_length: u32::try_from(key.len()).expect("the engine's limits are far below 4 GiB"),
        lease: value.map(|(_, lease)| lease),
        end: part.len(),
    }
}

pub(super) fn put_granted(part: &mut Vec<u8>, lease: u64, ttl: u64) {
    part.put_u8(2);
    part.put_u64_le(lease);
    part.put_u64_le(ttl);
}

pub(super) fn put_ended(part: &mut Vec<u8>, lease: u64) {
    part.put_u8(3);
    part.put_u64_le(lease);
}

pub(super) fn put_floor(part: &mut Vec<u8>, floor: Revision) {
    part.put_u8(4);
    part.put_u64_le(floor);
}

/// The operations of a part.
pub(super) fn operations(part: &Bytes) -> impl Iterator<Item = Result<Operation, Malformed>> {
    let mut rest = part.clone();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let operation = operation(&mut rest);
        if operation.is_err() {
            rest.clear();
        }
        Some(operation)
    })
}

fn operation(rest: &mut Bytes) -> Result<Operation, Malformed> {
    Ok(match rest.try_get_u8()? {
        1 => Operation::Commit(Commit {
            revision: rest.try_get_u64_le()?,
            changes: get_bytes(rest)?,
        }),
        2 => Operation::Granted {
            lease: rest.try_get_u64_le()?,
            ttl: rest.try_get_u64_le()?,
        },
        3 => Operation::Ended {
            lease: rest.try_get_u64_le()?,
        },
        4 => Operation::Floor(rest.try_get_u64_le()?),
        _ => return Err(Malformed),
    })
}

impl Commit {
    /// The changes, in key order.
    pub(super) fn changes(&self) -> impl Iterator<Item = Result<Change, Malformed>> {
        let mut rest = self.changes.clone();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let change = change(&mut rest);
            if change.is_err() {
                rest.clear();
            }
            Some(change)
        })
    }

    /// Where its changes lie, without taking part in their memory.
    pub(super) fn places(&self) -> impl Iterator<Item = Result<Place, Malformed>> + use<'_> {
        let mut at = 0;
        std::iter::from_fn(move || {
            if at >= self.changes.len() {
                return None;
            }
            let place = Place::read(&self.changes, at);
            at = place.as_ref().map_or(self.changes.len(), |place| place.end);
            Some(place)
        })
    }

    /// The changes of a commit that was checked when it was read.
    fn checked(&self) -> impl Iterator<Item = Change> {
        self.changes().map_while(Result::ok)
    }

    /// What a watcher of `span` sees of it.
    pub(super) fn batch(&self, span: &Span) -> Option<Batch> {
        let events: Vec<Event> = self
            .checked()
            .filter(|change| span.contains(&change.key))
            .map(|Change { key, value }| match value {
                Some((value, lease)) => Event::Put(Entry {
                    key,
                    value,
                    revision: self.revision,
                    lease,
                }),
                None => Event::Delete(key),
            })
            .collect();
        (!events.is_empty()).then_some(Batch {
            revision: self.revision,
            events,
        })
    }

    pub(super) fn touches(&self, span: &Span) -> bool {
        self.checked().any(|change| span.contains(&change.key))
    }
}

fn change(rest: &mut Bytes) -> Result<Change, Malformed> {
    let key = get_bytes(rest)?;
    let value = match rest.try_get_u8()? {
        0 => None,
        1 => {
            let lease = lease(rest.try_get_u64_le()?);
            Some((get_bytes(rest)?, lease))
        }
        _ => return Err(Malformed),
    };
    Ok(Change { key, value })
}

pub(super) fn lease(id: u64) -> Option<LeaseId> {
    (id != 0).then_some(LeaseId(id))
}

fn put_bytes(buffer: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("the engine's limits are far below 4 GiB");
    buffer.put_u32_le(length);
    buffer.extend_from_slice(bytes);
}

fn get_bytes(buffer: &mut Bytes) -> Result<Bytes, Malformed> {
    let length = buffer.try_get_u32_le()? as usize;
    if buffer.remaining() < length {
        return Err(Malformed);
    }
    Ok(buffer.split_to(length))
}

impl From<bytes::TryGetError> for Malformed {
    fn from(_: bytes::TryGetError) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part() -> Vec<u8> {
        let mut part = Vec::new();
        let start = begin_commit(&mut part, 7);
        put_change(&mut part, b"a", Some((b"new", Some(LeaseId(3)))));
        put_change(&mut part, b"b", None);
        assert_eq!(end_commit(&mut part, start), 27);
        put_granted(&mut part, 3, 5);
        put_ended(&mut part, 2);
        put_floor(&mut part, 6);
        part
    }

    #[test]
    fn what_is_written_is_read() {
        let found: Vec<_> = operations(&part().into()).map(Result::unwrap).collect();
        let [Operation::Commit(commit), rest @ ..] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(
            rest,
            [
                Operation::Granted { lease: 3, ttl: 5 },
                Operation::Ended { lease: 2 },
                Operation::Floor(6)
            ]
        );
        let changes: Vec<_> = commit.changes().map(Result::unwrap).collect();
        assert_eq!(
            changes,
            [
                Change {
                    key: "a".into(),
                    value: Some(("new".into(), Some(LeaseId(3))))
                },
                Change {
                    key: "b".into(),
                    value: None
                },
            ]
        );
        assert!(commit.touches(&Span::key("b")) && !commit.touches(&Span::key("c")));
        let batch = commit.batch(&Span::key("b")).unwrap();
        assert_eq!((batch.revision, batch.events.len()), (7, 1));
    }

    /// The layout of format version 2. When this fails, the format has changed.
    #[test]
    fn the_bytes_of_version_2() {
        let expected = b"\x01\x07\0\0\0\0\0\0\0\x1b\0\0\0\
            \x01\0\0\0a\x01\x03\0\0\0\0\0\0\0\x03\0\0\0new\x01\0\0\0b\0\
            \x02\x03\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x03\x02\0\0\0\0\0\0\0\x04\x06\0\0\0\0\0\0\0";
        assert_eq!(part(), expected);
    }

    #[test]
    fn torn_bytes_are_errors_not_panics() {
        let part = Bytes::from(part());
        for length in 1..part.len() {
            let whole = operations(&part.slice(..length)).all(|operation| operation.is_ok());
            assert!(!whole || [40, 57, 66].contains(&length), "{length}");
        }
    }
}
