//! The bytes of entries and commits in the file. Little endian; lengths are `u32`; lease 0 is none.
//!
//! ```text
//! entry   revision u64 · lease u64 · value
//! commit  for each change, in key order:  key length · key · before · after
//! before, after   0u8, or 1u8 · revision u64 · lease u64 · value length · value
//! ```
//!
//! Format version 1. A change of this layout needs a new version and a reader of the old one.

use bytes::{Buf, BufMut, Bytes};
use sinew_engine::kv::{Batch, Entry, Event, Key, LeaseId, Revision, Span};

/// One commit as the history keeps it. Keys and values share one buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) revision: Revision,
    /// In key order; never empty.
    pub(super) changes: Vec<Change>,
    /// The size of the encoded commit.
    pub(super) bytes: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) key: Key,
    pub(super) before: Option<Entry>,
    pub(super) after: Option<Entry>,
}

/// The bytes are not what this module writes.
#[derive(Debug)]
pub(super) struct Malformed;

pub(super) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(16 + entry.value.len());
    buffer.put_u64_le(entry.revision);
    buffer.put_u64_le(entry.lease.map_or(0, |lease| lease.0));
    buffer.extend_from_slice(&entry.value);
    buffer
}

pub(super) fn decode_entry(key: Key, mut bytes: &[u8]) -> Result<Entry, Malformed> {
    let revision = bytes.try_get_u64_le()?;
    let lease = lease(bytes.try_get_u64_le()?);
    Ok(Entry {
        key,
        value: Bytes::copy_from_slice(bytes),
        revision,
        lease,
    })
}

pub(super) fn encode_changes(changes: &[Change]) -> Vec<u8> {
    let mut buffer = Vec::new();
    for change in changes {
        put_bytes(&mut buffer, &change.key);
        for side in [&change.before, &change.after] {
            match side {
                None => buffer.put_u8(0),
                Some(entry) => {
                    buffer.put_u8(1);
                    buffer.put_u64_le(entry.revision);
                    buffer.put_u64_le(entry.lease.map_or(0, |lease| lease.0));
                    put_bytes(&mut buffer, &entry.value);
                }
            }
        }
    }
    buffer
}

impl Commit {
    pub(super) fn decode(revision: Revision, mut buffer: Bytes) -> Result<Self, Malformed> {
        let bytes = buffer.len();
        let mut changes = Vec::new();
        while buffer.has_remaining() {
            let key = get_bytes(&mut buffer)?;
            let before = decode_side(&key, &mut buffer)?;
            let after = decode_side(&key, &mut buffer)?;
            changes.push(Change { key, before, after });
        }
        Ok(Self {
            revision,
            changes,
            bytes,
        })
    }

    /// What a watcher of `span` sees of the commit.
    pub(super) fn batch(&self, span: &Span) -> Option<Batch> {
        let events: Vec<Event> = self
            .changes
            .iter()
            .filter(|change| span.contains(&change.key))
            .map(|change| match &change.after {
                Some(entry) => Event::Put(entry.clone()),
                None => Event::Delete(change.key.clone()),
            })
            .collect();
        (!events.is_empty()).then_some(Batch {
            revision: self.revision,
            events,
        })
    }

    pub(super) fn touches(&self, span: &Span) -> bool {
        self.changes.iter().any(|change| span.contains(&change.key))
    }
}

fn decode_side(key: &Key, buffer: &mut Bytes) -> Result<Option<Entry>, Malformed> {
    match buffer.try_get_u8()? {
        0 => Ok(None),
        1 => {
            let revision = buffer.try_get_u64_le()?;
            let lease = lease(buffer.try_get_u64_le()?);
            Ok(Some(Entry {
                key: key.clone(),
                value: get_bytes(buffer)?,
                revision,
                lease,
            }))
        }
        _ => Err(Malformed),
    }
}

fn lease(id: u64) -> Option<LeaseId> {
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

    fn entry(value: &'static str, revision: Revision, lease: Option<u64>) -> Option<Entry> {
        let lease = lease.map(LeaseId);
        Some(Entry {
            key: "k".into(),
            value: value.into(),
            revision,
            lease,
        })
    }

    fn changes() -> Vec<Change> {
        vec![
            Change {
                key: "k".into(),
                before: None,
                after: entry("new", 7, Some(3)),
            },
            Change {
                key: "k".into(),
                before: entry("", 1, None),
                after: None,
            },
            Change {
                key: "k".into(),
                before: entry("old", 2, None),
                after: entry("", 7, None),
            },
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = Bytes::from(encode_changes(&changes()));
        let commit = Commit::decode(7, bytes.clone()).unwrap();
        assert_eq!(
            commit,
            Commit {
                revision: 7,
                changes: changes(),
                bytes: bytes.len()
            }
        );
        let entry = entry("value", u64::MAX, Some(u64::MAX)).unwrap();
        assert_eq!(
            decode_entry("k".into(), &encode_entry(&entry)).unwrap(),
            entry
        );
    }

    /// The layout of format version 1. When this fails, the format has changed.
    #[test]
    fn the_bytes_of_version_1() {
        let bytes = encode_changes(&changes()[..1]);
        let expected = b"\x01\0\0\0k\0\x01\x07\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x03\0\0\0new";
        assert_eq!(bytes, expected);
        let entry = entry("new", 7, Some(3)).unwrap();
        assert_eq!(
            encode_entry(&entry),
            b"\x07\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0new"
        );
    }

    #[test]
    fn torn_bytes_are_errors_not_panics() {
        let bytes = Bytes::from(encode_changes(&changes()));
        let whole = Commit::decode(7, bytes.clone()).unwrap().changes.len();
        for length in 0..bytes.len() {
            // A cut between two changes is a shorter commit; everything else is malformed.
            if let Ok(commit) = Commit::decode(7, bytes.slice(..length)) {
                assert!(commit.changes.len() < whole);
            }
        }
        assert!(decode_entry("k".into(), &[0; 15]).is_err());
    }
}
