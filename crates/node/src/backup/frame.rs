//! What a backup is made of: frames, each with its length, a CRC-32C and a tag.
//!
//! ```text
//! length (u32) · crc32c of the rest (u32) · tag (u8) · fields
//! ```
//! Numbers are little endian; bytes have their length (u32) before them.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sinew_core::{Error, Kind, Result};
use sinew_engine::kv::{Key, Revision};

/// The version of the format, in every first frame.
const FORMAT: u16 = 1;
/// Longer frames are damage: no commit of any engine is that large.
const LONGEST: usize = 64 << 20;
const HEADER: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// The first. `since`: 0 for a full backup.
    Begin { since: Revision, engine: String },
    /// A key as a page showed it.
    Entry { key: Key, value: Bytes },
    /// A commit.
    Commit {
        revision: Revision,
        changes: Vec<Change>,
    },
    /// The last; without it the backup is not whole.
    End {
        revision: Revision,
        entries: u64,
        commits: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Put(Key, Bytes),
    Delete(Key),
}

impl Frame {
    pub(super) fn encode(&self) -> Bytes {
        let mut body = BytesMut::with_capacity(64);
        match self {
            Self::Begin { since, engine } => {
                body.put_u8(1);
                body.put_u16_le(FORMAT);
                body.put_u64_le(*since);
                put_bytes(&mut body, engine.as_bytes());
            }
            Self::Entry { key, value } => {
                body.put_u8(2);
                put_bytes(&mut body, key);
                put_bytes(&mut body, value);
            }
            Self::Commit { revision, changes } => {
                body.put_u8(3);
                body.put_u64_le(*revision);
                for change in changes {
                    match change {
                        Change::Put(key, value) => {
                            body.put_u8(1);
                            put_bytes(&mut body, key);
                            put_bytes(&mut body, value);
                        }
                        Change::Delete(key) => {
                            body.put_u8(0);
                            put_bytes(&mut body, key);
                        }
                    }
                }
            }
            Self::End {
                revision,
                entries,
                commits,
            } => {
                body.put_u8(4);
                for number in [revision, entries, commits] {
                    body.put_u64_le(*number);
                }
            }
        }
        let mut frame = BytesMut::with_capacity(HEADER + body.len());
        frame.put_u32_le(length(&body));
        frame.put_u32_le(crc32c::crc32c(&body));
        frame.extend_from_slice(&body);
        frame.freeze()
    }

    /// Takes the next frame off what was read; `None` when more must be read first.
    pub(super) fn take(read: &mut BytesMut) -> Result<Option<Self>> {
        let Some(mut header) = read.get(..HEADER) else {
            return Ok(None);
        };
        let (length, crc) = (header.get_u32_le() as usize, header.get_u32_le());
        if length > LONGEST {
            return Err(damaged("a length that cannot be"));
        }
        if read.len() < HEADER + length {
            return Ok(None);
        }
        let body = read.split_to(HEADER + length).freeze().slice(HEADER..);
        if crc32c::crc32c(&body) != crc {
            return Err(damaged("a wrong checksum"));
        }
        Self::decode(body)
            .ok_or_else(|| damaged("a frame that cannot be read"))?
            .map(Some)
    }

    fn decode(mut body: Bytes) -> Option<Result<Self>> {
        let frame = match body.try_get_u8().ok()? {
            1 => {
                let format = body.try_get_u16_le().ok()?;
                if format != FORMAT {
                    return Some(Err(newer(format)));
                }
                let since = body.try_get_u64_le().ok()?;
                let engine = String::from_utf8(take_bytes(&mut body)?.to_vec()).ok()?;
                Self::Begin { since, engine }
            }
            2 => Self::Entry {
                key: take_bytes(&mut body)?,
                value: take_bytes(&mut body)?,
            },
            3 => {
                let revision = body.try_get_u64_le().ok()?;
                let mut changes = Vec::new();
                while body.has_remaining() {
                    let is_put = body.try_get_u8().ok()? == 1;
                    let key = take_bytes(&mut body)?;
                    changes.push(match is_put {
                        true => Change::Put(key, take_bytes(&mut body)?),
                        false => Change::Delete(key),
                    });
                }
                Self::Commit { revision, changes }
            }
            4 => Self::End {
                revision: body.try_get_u64_le().ok()?,
                entries: body.try_get_u64_le().ok()?,
                commits: body.try_get_u64_le().ok()?,
            },
            _ => return None,
        };
        (!body.has_remaining()).then_some(Ok(frame))
    }
}

fn put_bytes(body: &mut BytesMut, bytes: &[u8]) {
    body.put_u32_le(length(bytes));
    body.extend_from_slice(bytes);
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("engines bound what a commit holds far below 4 GiB")
}

fn take_bytes(body: &mut Bytes) -> Option<Bytes> {
    let length = body.try_get_u32_le().ok()? as usize;
    (body.len() >= length).then(|| body.split_to(length))
}

pub(super) fn damaged(what: &str) -> Error {
    Error::new(
        Kind::DataLoss,
        "backup.damaged",
        format!("the backup is damaged: {what}"),
    )
}

fn newer(format: u16) -> Error {
    Error::new(
        Kind::FailedPrecondition,
        "backup.version",
        format!("the backup has format {format}, this version reads {FORMAT}; use a newer Sinew"),
    )
}
