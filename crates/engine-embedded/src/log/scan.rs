//! Reading frames out of a file, one after the other or in search of one.

use std::{io, sync::Arc};

use bytes::Bytes;

use super::{
    Sequence,
    frame::{self, ALIGNMENT, HEADER, Head, Identity, Kind},
};
use crate::storage::{File, to_usize};

/// How much is read at once.
const CHUNK: usize = 256 << 10;

/// A frame that matches its checksum.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) offset: u64,
    pub(super) sequence: Sequence,
    pub(super) batch: Sequence,
    pub(super) kind: Kind,
    pub(super) payload: Bytes,
}

impl Frame {
    /// Where the next frame begins.
    pub(super) fn end(&self) -> u64 {
        self.offset + frame::size(self.payload.len()) as u64
    }

    /// The sequence number of the next record.
    pub(super) fn next(&self) -> Sequence {
        match self.kind {
            Kind::Record => self.sequence + 1,
            Kind::Gap => {
                let next = self
                    .payload
                    .first_chunk()
                    .map_or(0, |next| u64::from_le_bytes(*next));
                next.max(self.sequence + 1)
            }
        }
    }
}

/// A file's frames, read through a window.
#[derive(Debug)]
pub(super) struct Scanner {
    file: Arc<dyn File>,
    identity: Identity,
    /// Nothing is read at or beyond this.
    limit: u64,
    window: Bytes,
    window_start: u64,
    chunk: usize,
}

impl Scanner {
    pub(super) fn new(file: Arc<dyn File>, identity: Identity, limit: u64) -> Self {
        Self {
            file,
            identity,
            limit,
            window: Bytes::new(),
            window_start: 0,
            chunk: CHUNK,
        }
    }

    /// One that reads little, for a single frame.
    pub(super) fn for_one(file: Arc<dyn File>, identity: Identity, limit: u64) -> Self {
        Self {
            chunk: 4096,
            ..Self::new(file, identity, limit)
        }
    }

    /// Lets it see what was written meanwhile.
    pub(super) fn set_limit(&mut self, limit: u64) {
        // What was read never reaches beyond the limit of its time, so it stays good.
        self.limit = limit;
    }

    /// At least `length` bytes from `offset`, or all up to the limit if that is less.
    fn bytes(&mut self, offset: u64, length: usize) -> io::Result<Bytes> {
        let length = length.min(to_usize(self.limit.saturating_sub(offset)));
        let start = offset.checked_sub(self.window_start).map(to_usize);
        if let Some(start) = start.filter(|start| start + length <= self.window.len()) {
            return Ok(self.window.slice(start..));
        }
        let wanted = to_usize((self.limit - offset).min(length.max(self.chunk) as u64));
        let mut window = vec![0; wanted];
        let read = self.file.read_at(&mut window, offset)?;
        window.truncate(read);
        self.window = Bytes::from(window);
        self.window_start = offset;
        Ok(self.window.clone())
    }

    /// The frame at `offset`; nothing when there is no whole one.
    pub(super) fn frame(&mut self, offset: u64) -> io::Result<Option<Frame>> {
        let Some(head) = frame::head(&self.bytes(offset, HEADER)?) else {
            return Ok(None);
        };
        self.prove(&head, offset)
    }

    fn prove(&mut self, head: &Head, offset: u64) -> io::Result<Option<Frame>> {
        if offset + frame::size(head.length) as u64 > self.limit {
            return Ok(None);
        }
        let bytes = self.bytes(offset, HEADER + head.length)?;
        Ok(frame::is_whole(head, self.identity, &bytes).then(|| Frame {
            offset,
            sequence: head.sequence,
            batch: head.batch,
            kind: head.kind,
            payload: bytes.slice(HEADER..HEADER + head.length),
        }))
    }

    /// Whether nothing was ever written at `offset`.
    pub(super) fn is_blank(&mut self, offset: u64) -> io::Result<bool> {
        let bytes = self.bytes(offset, HEADER)?;
        Ok(bytes.iter().take(HEADER).all(|byte| *byte == 0))
    }

    /// The first whole frame at or after `offset` whose sequence number is at least `minimum`.
    pub(super) fn find(&mut self, mut offset: u64, minimum: Sequence) -> io::Result<Option<Frame>> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while offset + HEADER as u64 <= self.limit {
            let bytes = self.bytes(offset, HEADER)?;
            if bytes.len() < HEADER {
                break;
            }
            // Nearly all there is to search is zeros: pass over them in strides. The last bytes of
            // a stride may be the beginning of a header, hence the overlap.
            if bytes.starts_with(&ZEROS) {
                offset += (ZEROS.len() - HEADER) as u64;
                continue;
            }
            if let Some(head) = frame::head(&bytes).filter(|head| head.sequence >= minimum)
                && let Some(frame) = self.prove(&head, offset)?
            {
                return Ok(Some(frame));
            }
            offset += ALIGNMENT as u64;
        }
        Ok(None)
    }

    /// The first record at or after `offset` that was written after record `missing` was durable,
    /// because it belongs to a later batch.
    pub(super) fn find_later_batch(
        &mut self,
        mut offset: u64,
        missing: Sequence,
    ) -> io::Result<Option<Frame>> {
        while let Some(frame) = self.find(offset, missing)? {
            if frame.batch > missing {
                return Ok(Some(frame));
            }
            offset = frame.end();
        }
        Ok(None)
    }
}

/// Writes zeros over whatever else is in the file from `offset` on. Answers how many bytes lay in
/// the pieces that were written over; it does not sync.
pub(super) fn wipe(file: &dyn File, mut offset: u64, end: u64) -> io::Result<u64> {
    const PIECE: usize = 4096;
    let mut chunk = vec![0; CHUNK];
    let zeros = [0; PIECE];
    let mut wiped = 0;
    while offset < end {
        let wanted = to_usize((end - offset).min(CHUNK as u64));
        let read = file.read_at(&mut chunk[..wanted], offset)?;
        if read == 0 {
            break;
        }
        for (index, piece) in chunk[..read].chunks(PIECE).enumerate() {
            if *piece != zeros[..piece.len()] {
                file.write_at(&zeros[..piece.len()], offset + (index * PIECE) as u64)?;
                wiped += piece.len() as u64;
            }
        }
        offset += read as u64;
    }
    Ok(wiped)
}
