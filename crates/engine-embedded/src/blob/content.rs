//! A content on disk: blocks of up to 65,532 bytes, each followed by a CRC-32C (little-endian), so that a
//! block takes 64 KiB and a ranged read checks what it touches and nothing else. The checksum covers the
//! file's id and the block's number too: a block in the wrong place is as damaged as a changed one.

use std::{ops, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use sinew_core::Result;
use sinew_engine::blob::{Body, Check, Expect, Key, damaged};

use super::{
    blocking, fault,
    files::{FileId, Files, Pins, Staged},
    record::Segment,
};
use crate::storage::{File, to_usize};

/// Bytes of content in a block.
const PAYLOAD: usize = (64 << 10) - CHECKSUM;
const CHECKSUM: usize = 4;
const BLOCK: usize = PAYLOAD + CHECKSUM;
/// Blocks that are written or read at once.
const BLOCKS_AT_ONCE: usize = 8;

/// A content that was received and is on stable storage; its file goes with it unless an entry
/// names it.
pub(super) struct Content {
    pub(super) size: u64,
    pub(super) checksum: u32,
    /// None for an empty content.
    staged: Option<Staged>,
}

impl Content {
    pub(super) fn segment(&self) -> Option<Segment> {
        let file = self.staged.as_ref()?.id();
        Some(Segment {
            file,
            size: self.size,
        })
    }

    /// An entry names the file now.
    pub(super) fn keep(&mut self) {
        if let Some(staged) = &mut self.staged {
            staged.keep();
        }
    }
}

/// Takes in a body and makes it durable.
pub(super) async fn receive(
    files: &Arc<Files>,
    mut body: Body,
    expect: Expect,
    most: u64,
) -> Result<Content> {
    let mut check = Check::new(expect, most)?;
    let mut writing = Writing::default();
    while let Some(piece) = body.try_next().await? {
        check.add(&piece)?;
        writing.pending.extend_from_slice(&piece);
        if writing.pending.len() >= PAYLOAD * BLOCKS_AT_ONCE {
            let files = files.clone();
            writing = blocking(move || writing.write(&files, false)).await?;
        }
    }
    let (size, checksum) = check.finish()?;
    if size == 0 {
        return Ok(Content {
            size,
            checksum,
            staged: None,
        });
    }
    let files = files.clone();
    let staged = blocking(move || {
        let mut staged = writing.write(&files, true)?.staged;
        if let Some(staged) = &mut staged {
            staged.publish()?;
        }
        Ok(staged)
    })
    .await?;
    Ok(Content {
        size,
        checksum,
        staged,
    })
}

/// A content on its way to the disk.
#[derive(Default)]
struct Writing {
    staged: Option<Staged>,
    pending: BytesMut,
    blocks: u64,
}

impl Writing {
    /// Writes the whole blocks that are pending, and the last one too at the end.
    fn write(mut self, files: &Arc<Files>, is_end: bool) -> Result<Self> {
        let staged = match self.staged.take() {
            Some(staged) => staged,
            None => files.stage()?,
        };
        let mut framed = Vec::with_capacity(self.pending.len() + BLOCKS_AT_ONCE * 2 * CHECKSUM);
        let first = self.blocks;
        while self.pending.len() >= PAYLOAD || (is_end && !self.pending.is_empty()) {
            let payload = self.pending.split_to(self.pending.len().min(PAYLOAD));
            framed.extend_from_slice(&payload);
            framed.extend_from_slice(&seal(staged.id(), self.blocks, &payload).to_le_bytes());
            self.blocks += 1;
        }
        staged
            .file
            .write_at(&framed, first * BLOCK as u64)
            .map_err(fault::disk)?;
        self.staged = Some(staged);
        Ok(self)
    }
}

/// The checksum of a block.
fn seal(file: FileId, block: u64, payload: &[u8]) -> u32 {
    let place = crc32c::crc32c_append(crc32c::crc32c(&file.to_bytes()), &block.to_le_bytes());
    crc32c::crc32c_append(place, payload)
}

/// Where stored bytes are not what was written.
#[derive(Debug)]
pub(super) enum Broken {
    /// The machine failed; nothing is known of the bytes.
    Disk(std::io::Error),
    /// The file is gone, too short, or its block at this offset has other bytes.
    Damage { offset: u64, fault: &'static str },
}

/// Reads whole blocks of a segment, checked: those from `from` on that hold bytes before `end`, up
/// to [`BLOCKS_AT_ONCE`].
fn read_blocks(file: &dyn File, segment: Segment, from: u64, end: u64) -> Result<Vec<u8>, Broken> {
    let blocks = segment.size.div_ceil(PAYLOAD as u64);
    let wanted = end.min(segment.size).div_ceil(PAYLOAD as u64);
    let until = wanted.min(from + BLOCKS_AT_ONCE as u64);
    let start = from * BLOCK as u64;
    let end = (until * BLOCK as u64).min(segment.size + blocks * CHECKSUM as u64);
    let mut bytes = vec![0; to_usize(end - start)];
    let read = file.read_at(&mut bytes, start).map_err(Broken::Disk)?;
    if read < bytes.len() {
        let offset = start + read as u64;
        return Err(Broken::Damage {
            offset,
            fault: "the file ends too early",
        });
    }
    let mut content = Vec::with_capacity(bytes.len());
    for (number, block) in (from..).zip(bytes.chunks(BLOCK)) {
        let (payload, stored) = block.split_at(block.len() - CHECKSUM);
        if seal(segment.file, number, payload).to_le_bytes() != stored {
            let offset = number * BLOCK as u64;
            return Err(Broken::Damage {
                offset,
                fault: "the block has the wrong checksum",
            });
        }
        content.extend_from_slice(payload);
    }
    Ok(content)
}

pub(super) fn open(files: &Files, segment: Segment) -> Result<Arc<dyn File>, Broken> {
    files
        .open(segment.file)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Broken::Damage {
                offset: 0,
                fault: "the file is gone",
            },
            _ => Broken::Disk(error),
        })
}

/// Reads a whole segment and hands its pieces to `each`.
pub(super) fn check(
    files: &Files,
    segment: Segment,
    mut each: impl FnMut(&[u8]),
) -> Result<(), Broken> {
    let file = open(files, segment)?;
    let mut block = 0;
    while block * (PAYLOAD as u64) < segment.size {
        each(&read_blocks(&*file, segment, block, segment.size)?);
        block += BLOCKS_AT_ONCE as u64;
    }
    Ok(())
}

/// Reads a range of an object, piece by piece.
pub(super) struct Reader {
    files: Arc<Files>,
    _pins: Pins,
    key: Key,
    segments: std::vec::IntoIter<Segment>,
    /// The segment that is being read.
    current: Option<(Segment, Arc<dyn File>)>,
    /// The rest of the range, counted from the current segment's start, or the next one's.
    rest: ops::Range<u64>,
}

impl Reader {
    pub(super) fn new(
        files: Arc<Files>,
        pins: Pins,
        key: Key,
        segments: Vec<Segment>,
        range: ops::Range<u64>,
    ) -> Self {
        let segments = segments.into_iter();
        Self {
            files,
            _pins: pins,
            key,
            segments,
            current: None,
            rest: range,
        }
    }

    /// The next piece. Blocks.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        match self.read() {
            Ok(piece) => Ok(Some(piece)),
            Err(Broken::Disk(error)) => Err(fault::disk(error)),
            Err(Broken::Damage { offset, fault }) => {
                let file = self
                    .current
                    .as_ref()
                    .map(|(segment, _)| segment.file.to_string());
                let file = file.unwrap_or_default();
                Err(damaged(&self.key).with_context(format!("{fault}: {file} at {offset}")))
            }
        }
    }

    fn read(&mut self) -> Result<Bytes, Broken> {
        let (segment, file) = loop {
            match self.current.take() {
                Some((segment, file)) if self.rest.start < segment.size => break (segment, file),
                Some((segment, _)) => self.skip(segment),
                None => {
                    let Some(segment) = self.segments.next() else {
                        return Err(Broken::Damage {
                            offset: 0,
                            fault: "a file is not named",
                        });
                    };
                    if self.rest.start >= segment.size {
                        self.skip(segment);
                    } else {
                        self.current = Some((segment, open(&self.files, segment)?));
                    }
                }
            }
        };
        let block = self.rest.start / PAYLOAD as u64;
        let read = read_blocks(&*file, segment, block, self.rest.end);
        self.current = Some((segment, file));
        let mut content = Bytes::from(read?);
        let offset = block * PAYLOAD as u64;
        let end = self.rest.end.min(offset + content.len() as u64);
        content = content.slice(to_usize(self.rest.start - offset)..to_usize(end - offset));
        self.rest.start = end;
        Ok(content)
    }

    fn skip(&mut self, segment: Segment) {
        self.rest = self.rest.start - segment.size..self.rest.end - segment.size;
    }
}
