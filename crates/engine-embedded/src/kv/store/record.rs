//! A group as a record of the log.
//!
//! ```text
//! version u8 (1) · head: revision, floor, history bytes, last lease, group: u64 each · parts
//! part   1u8 · length u32 · commit with what was there before, as the history has it
//!        2u8 · length u32 · the same without what was there before
//!        3u8 · lease u64 · TTL u64, a lease that was granted
//!        4u8 · lease u64, one that ended
//! ```
//!
//! Little endian. What was there before spares the replay a look at the index for each key; it is
//! left out where it is large.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};
use sinew_engine::kv::{Entry, Key, Revision};

use super::{Head, Stored};
use crate::kv::change::{self, Change, Commit, Malformed};

/// The largest record: a group of 4 MB and a transaction of 8 MB that exceeds it, once more as much
/// for what was there before, and the room that lengths take.
pub(in crate::kv) const MOST_BYTES: usize = 32 << 20;

/// Of what was there before, a group carries no more than this.
const MOST_BEFORE: usize = 4 << 20;

const VERSION: u8 = 1;

/// What a group of transactions came to.
pub(super) struct Group {
    pub(super) head: Head,
    pub(super) commits: Vec<GroupCommit>,
    /// Granted with a TTL, or ended.
    pub(super) leases: BTreeMap<u64, Option<u64>>,
    pub(super) attached: BTreeMap<(u64, Key), bool>,
}

pub(super) struct GroupCommit {
    pub(super) revision: Revision,
    pub(super) changes: Vec<Change>,
    pub(super) encoded: Bytes,
}

pub(super) fn encode(group: &Group) -> Vec<u8> {
    let bytes: usize = group
        .commits
        .iter()
        .map(|commit| commit.encoded.len() + 5)
        .sum();
    let mut record = Vec::with_capacity(64 + bytes + 17 * group.leases.len());
    record.put_u8(VERSION);
    let Head {
        revision,
        floor,
        history_bytes,
        last_lease,
        group: number,
    } = group.head;
    for number in [revision, floor, history_bytes, last_lease, number] {
        record.put_u64_le(number);
    }
    let mut before = 0;
    for commit in &group.commits {
        let old = commit
            .changes
            .iter()
            .filter_map(|change| change.before.as_ref());
        before += old.map(|entry| entry.value.len()).sum::<usize>();
        let slim;
        let (tag, encoded): (u8, &[u8]) = if before <= MOST_BEFORE {
            (1, &commit.encoded)
        } else {
            slim = change::encode_changes(&without_before(&commit.changes));
            (2, &slim)
        };
        record.put_u8(tag);
        record
            .put_u32_le(u32::try_from(encoded.len()).expect("limits keep commits far below 4 GB"));
        record.extend_from_slice(encoded);
    }
    for (lease, ttl) in &group.leases {
        match ttl {
            Some(ttl) => {
                record.put_u8(3);
                record.put_u64_le(*lease);
                record.put_u64_le(*ttl);
            }
            None => {
                record.put_u8(4);
                record.put_u64_le(*lease);
            }
        }
    }
    record
}

fn without_before(changes: &[Change]) -> Vec<Change> {
    let slim = |change: &Change| Change {
        key: change.key.clone(),
        before: None,
        after: change.after.clone(),
    };
    changes.iter().map(slim).collect()
}

/// Reads a record. `before` tells what a key held before the group.
pub(super) fn decode(
    mut record: Bytes,
    before: impl Fn(&[u8]) -> Stored<Option<Entry>>,
) -> Stored<Group> {
    if record.try_get_u8().map_err(Malformed::from)? != VERSION {
        return Err(Malformed.into());
    }
    let mut number = || record.try_get_u64_le().map_err(Malformed::from);
    let head = Head {
        revision: number()?,
        floor: number()?,
        history_bytes: number()?,
        last_lease: number()?,
        group: number()?,
    };
    let mut parts = Parts {
        leases: BTreeMap::new(),
        commits: Vec::new(),
    };
    parts.read(record)?;

    let mut group = Group {
        head,
        commits: Vec::new(),
        leases: parts.leases,
        attached: BTreeMap::new(),
    };
    let count = parts.commits.len() as u64;
    let first = head.revision.checked_sub(count).ok_or(Malformed)? + 1;
    let mut seen: BTreeMap<Key, Option<Entry>> = BTreeMap::new();
    for (revision, (is_whole, bytes)) in (first..).zip(parts.commits) {
        let mut commit = Commit::decode(revision, bytes.clone())?;
        let mut encoded = bytes;
        if !is_whole {
            for change in &mut commit.changes {
                change.before = match seen.get(&change.key) {
                    Some(known) => known.clone(),
                    None => before(&change.key)?,
                };
            }
            encoded = change::encode_changes(&commit.changes).into();
        }
        for change in &commit.changes {
            seen.insert(change.key.clone(), change.after.clone());
            attach(&mut group.attached, change);
        }
        group.commits.push(GroupCommit {
            revision,
            changes: commit.changes,
            encoded,
        });
    }
    Ok(group)
}

struct Parts {
    leases: BTreeMap<u64, Option<u64>>,
    /// Whether what was there before is in it.
    commits: Vec<(bool, Bytes)>,
}

impl Parts {
    fn read(&mut self, mut bytes: Bytes) -> Result<(), Malformed> {
        while bytes.has_remaining() {
            match bytes.try_get_u8()? {
                tag @ (1 | 2) => {
                    let length = bytes.try_get_u32_le()? as usize;
                    if length > bytes.len() {
                        return Err(Malformed);
                    }
                    // Not a slice of the reader's window, which it would keep in memory.
                    let commit = Bytes::copy_from_slice(&bytes.split_to(length));
                    self.commits.push((tag == 1, commit));
                }
                3 => {
                    let lease = bytes.try_get_u64_le()?;
                    self.leases.insert(lease, Some(bytes.try_get_u64_le()?));
                }
                4 => {
                    self.leases.insert(bytes.try_get_u64_le()?, None);
                }
                _ => return Err(Malformed),
            }
        }
        Ok(())
    }
}

/// Notes what a change means for the leases that the key goes with.
pub(super) fn attach(attached: &mut BTreeMap<(u64, Key), bool>, change: &Change) {
    let lease = |entry: &Option<Entry>| entry.as_ref().and_then(|entry| entry.lease);
    let (before, after) = (lease(&change.before), lease(&change.after));
    if before != after {
        if let Some(lease) = before {
            attached.insert((lease.0, change.key.clone()), false);
        }
        if let Some(lease) = after {
            attached.insert((lease.0, change.key.clone()), true);
        }
    }
}
