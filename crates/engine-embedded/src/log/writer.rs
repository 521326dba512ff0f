//! The one that writes: records into a batch, a batch into the segment, one sync, then everyone may
//! read it.

use std::{sync::Arc, time::Duration};

use sinew_core::{Error, Result};

use super::{
    Appended, Options, Position, Sequence, error,
    frame::{self, Kind},
    header::FIRST_FRAME,
    pool::{Pool, Prepared},
    scan,
    segment::{End, Segments},
};

/// Writes records; there is one a log. Blocks on the disk.
#[derive(Debug)]
pub(super) struct Writer {
    segments: Arc<Segments>,
    pool: Arc<Pool>,
    current: Prepared,
    /// Where the batch will be written.
    offset: u64,
    /// The sequence number of the batch's first record.
    next: Sequence,
    batch: Vec<u8>,
    /// Where the records of the batch begin in it.
    starts: Vec<usize>,
    /// Where the sequence goes on after a gap that ends the batch.
    jump: Option<Sequence>,
    batch_bytes: usize,
    record_bytes: usize,
    reserve: u64,
    patience: Duration,
}

/// What became of a record that was to join the batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Staged {
    /// It is in the batch, and will have this place once the batch is committed.
    Yes(Appended),
    /// The batch has to be committed first.
    CommitFirst,
}

impl Writer {
    pub(super) fn new(
        segments: Arc<Segments>,
        pool: Arc<Pool>,
        current: Prepared,
        options: &Options,
    ) -> Self {
        let end = segments.end();
        Self {
            segments,
            pool,
            current,
            offset: end.offset,
            next: end.next,
            batch: Vec::new(),
            starts: Vec::new(),
            jump: None,
            batch_bytes: options.batch_bytes,
            record_bytes: options.record_bytes,
            reserve: options.reserve_bytes,
            patience: options.timeout,
        }
    }

    /// Adds a record to the batch. `log.full` when there is no room for it and none to be had; with
    /// `from_reserve` it may use what is kept back for records that make room.
    pub(super) fn stage(&mut self, payload: &[u8], from_reserve: bool) -> Result<Staged> {
        self.stage_kind(Kind::Record, payload, from_reserve)
    }

    /// Adds a note to the batch that the records from here up to, but without, `until` are lost, and
    /// ends the batch with it.
    pub(super) fn stage_gap(&mut self, until: Sequence) -> Result<Staged> {
        let staged = self.stage_kind(Kind::Gap, &until.to_le_bytes(), true)?;
        if staged != Staged::CommitFirst {
            self.jump = Some(until);
        }
        Ok(staged)
    }

    fn stage_kind(&mut self, kind: Kind, payload: &[u8], from_reserve: bool) -> Result<Staged> {
        self.segments.fatal.check()?;
        if payload.len() > self.record_bytes {
            return Err(error::too_large(payload.len(), self.record_bytes));
        }
        let size = frame::size(payload.len());
        let is_long = !self.batch.is_empty() && self.batch.len() + size > self.batch_bytes;
        if is_long || self.jump.is_some() {
            return Ok(Staged::CommitFirst);
        }
        if !self.fits(size, from_reserve) {
            if !self.batch.is_empty() {
                return Ok(Staged::CommitFirst);
            }
            self.go_on(size, from_reserve)?;
        }
        let sequence = self.next + self.starts.len() as u64;
        let ahead = u32::try_from(self.starts.len())
            .map_err(|_| error::failed("a batch has more records than can be counted"))?;
        let start = self.batch.len();
        frame::encode(
            &mut self.batch,
            self.current.segment.identity,
            sequence,
            ahead,
            kind,
            payload,
        )?;
        self.starts.push(start);
        let offset = self.offset + start as u64;
        let position = Position {
            segment: self.current.segment.number,
            offset,
        };
        Ok(Staged::Yes(Appended { sequence, position }))
    }

    fn fits(&self, size: usize, from_reserve: bool) -> bool {
        let capacity = self.current.segment.capacity;
        let kept_back = if from_reserve || self.pool.is_ready() {
            0
        } else {
            self.reserve
        };
        self.offset + (self.batch.len() + size) as u64 + kept_back <= capacity
    }

    /// Goes on in the next segment, or finds that the current one will do after all.
    fn go_on(&mut self, size: usize, from_reserve: bool) -> Result<()> {
        let has_room = self.offset + size as u64 <= self.current.segment.capacity;
        if has_room && !from_reserve {
            // Only the reserve was in the way. Nothing of it is given away unless the next segment
            // is there.
            self.pool.wait_ready(self.patience)?;
            return Ok(());
        }
        self.current = self.pool.take(self.patience)?;
        self.offset = FIRST_FRAME;
        let fits = self.fits(size, true);
        fits.then_some(())
            .ok_or_else(|| error::too_large(size, self.record_bytes))
    }

    /// Writes the batch and makes it durable. After an error nothing of it is in the log, unless
    /// the error is `log.failed`: then it may be, and nothing more can be written.
    pub(super) fn commit(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let result = self.write();
        self.batch.clear();
        self.starts.clear();
        self.jump = None;
        // One large record must not keep its memory forever.
        self.batch.shrink_to(2 * self.batch_bytes);
        result
    }

    fn write(&mut self) -> Result<()> {
        self.segments.fatal.check()?;
        let Prepared { segment, file } = &self.current;
        if let Err(cause) = file.write_at(&self.batch, self.offset) {
            self.undo()?;
            return Err(error::io("writing", &segment.path, cause));
        }
        if let Err(cause) = file.sync_data() {
            return Err(self.segments.fatal.failed_sync(&segment.path, &cause));
        }
        let _ = segment.first.set(self.next);
        if let Some(start) = self.starts.first() {
            segment.mark(self.next, self.offset + *start as u64);
        }
        self.offset += self.batch.len() as u64;
        self.next = self.next_after_batch();
        let end = End {
            segment: segment.number,
            offset: self.offset,
            next: self.next,
        };
        self.segments.advance(segment, end);
        Ok(())
    }

    /// Takes back what a failed write may have written, so that none of it comes back behind a later
    /// record. If that is not to be had the log stops.
    fn undo(&self) -> Result<(), Error> {
        let Prepared { segment, file } = &self.current;
        let end = self.offset + self.batch.len() as u64;
        scan::wipe(&**file, self.offset, end.min(segment.capacity)).map_err(|cause| {
            self.segments
                .fatal
                .stop(format!("a failed write stays ({cause})"))
        })?;
        file.sync_data()
            .map_err(|cause| self.segments.fatal.failed_sync(&segment.path, &cause))
    }

    fn next_after_batch(&self) -> Sequence {
        self.jump.unwrap_or(self.next + self.starts.len() as u64)
    }
}
