//! How a record lies in a segment.
//!
//! ```text
//! 0   u32  CRC-32C of bytes 4.. of the header and of the payload, begun with the segment's identity
//! 4   u32  length of the payload
//! 8   u64  sequence number; the first record of a log is 1
//! 16  u32  how many records of the same batch lie ahead of it
//! 20  u8   kind: 1 a record, 2 a gap (made by repair; the payload is the next sequence number, u64)
//! 21  3    zero
//! 24       payload, then zeros up to a multiple of 8
//! ```
//!
//! All numbers are little-endian. A batch is what was written by one call and synced once; it lies
//! in one segment. The next batch is written only when the one before is durable: a record of a
//! later batch therefore proves that everything before it was durable once.

use sinew_core::Error;

use super::{Sequence, error};

pub(super) const HEADER: usize = 24;
/// Frames start at multiples of this, so that a search after damage has few places to look at.
pub(super) const ALIGNMENT: usize = 8;

/// What tells a log from all others; random.
pub(super) type LogId = [u8; 16];

/// What the checksums of a segment begin with, so that bytes left over from another segment or
/// another log are never taken for records of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(u32);

impl Identity {
    pub(super) fn new(log: LogId, segment: u64) -> Self {
        Self(crc32c::crc32c_append(
            crc32c::crc32c(&log),
            &segment.to_le_bytes(),
        ))
    }

    pub(super) fn checksum(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Record,
    Gap,
}

/// The header of a frame, plausible but not yet proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    checksum: u32,
    pub(super) length: usize,
    pub(super) sequence: Sequence,
    /// The sequence number of the first record of its batch.
    pub(super) batch: Sequence,
    pub(super) kind: Kind,
}

/// The bytes that a frame takes with its padding.
pub(super) const fn size(payload: usize) -> usize {
    (HEADER + payload).next_multiple_of(ALIGNMENT)
}

/// Appends a frame to `buffer`.
pub(super) fn encode(
    buffer: &mut Vec<u8>,
    identity: Identity,
    sequence: Sequence,
    ahead: u32,
    kind: Kind,
    payload: &[u8],
) -> Result<(), Error> {
    let length = u32::try_from(payload.len())
        .map_err(|_| error::too_large(payload.len(), u32::MAX as usize))?;
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(&sequence.to_le_bytes());
    buffer.extend_from_slice(&ahead.to_le_bytes());
    buffer.extend_from_slice(&[if kind == Kind::Record { 1 } else { 2 }, 0, 0, 0]);
    buffer.extend_from_slice(payload);
    let checksum = identity.checksum(&buffer[start + 4..]);
    buffer[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
    buffer.resize(start + size(payload.len()), 0);
    Ok(())
}

/// Reads a header; nothing when it cannot be one.
pub(super) fn head(bytes: &[u8]) -> Option<Head> {
    let bytes: &[u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
    let u32_at =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let sequence = u64::from_le_bytes(bytes[8..16].try_into().ok()?);
    let kind = match &bytes[20..] {
        [1, 0, 0, 0] => Kind::Record,
        [2, 0, 0, 0] if u32_at(4) == 8 => Kind::Gap,
        _ => return None,
    };
    // The first record of a log is 1, and a batch is not longer than the log.
    let batch = sequence
        .checked_sub(u64::from(u32_at(16)))
        .filter(|batch| *batch > 0)?;
    Some(Head {
        checksum: u32_at(0),
        length: u32_at(4) as usize,
        sequence,
        batch,
        kind,
    })
}

/// Whether `bytes`, which begin with the header and hold at least the payload, are the frame that
/// was written.
pub(super) fn is_whole(head: &Head, identity: Identity, bytes: &[u8]) -> bool {
    bytes
        .get(4..HEADER + head.length)
        .is_some_and(|covered| identity.checksum(covered) == head.checksum)
}

#[cfg(test)]
mod tests;
