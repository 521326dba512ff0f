//! The commit log: the one thing of the embedded engines that makes data durable.
//!
//! A record is an opaque payload and one atomic unit: whatever it says (a commit of keys, a
//! publish, an acknowledgement, or several together) is durable as a whole or not at all. Records
//! have sequence numbers, from 1, without holes.
//!
//! ```text
//! append ─▶ bounded queue ─▶ writer thread: all that waits = one batch, one write, one fdatasync ─▶ answers
//!                                │            ▲ next segment, zero-filled and durable
//!                                ▼            │
//!                            segments ◀── preparing thread
//!                                │
//!                                ▼ only what is durable
//!                             readers, each with a window of its own
//! ```
//!
//! A folder holds `0000000001.log`, `0000000002.log`, … (see `log/header.rs`, `log/frame.rs` for the
//! bytes) and `checkpoint`. Nothing else opens it: who owns the data folder holds its lock.
//!
//! # What it promises
//! - A record whose append was answered survives a loss of power; readers see no record that would
//!   not.
//! - After a crash the log ends with the last whole record: a prefix of what was appended that holds
//!   all that was answered. Torn records are cut off and never come back (`log/recovery.rs`).
//! - Damage to what was durable is never skipped. It is `log.corrupt` (DataLoss), when the log is
//!   opened or when the place is read, with file and offset; [`repair`] copies what is provably
//!   whole.
//! - Segments are written within room that they have. A full disk therefore shows only when the next
//!   one cannot be made: appends get `log.full` (ResourceExhausted), reads go on, and appends work
//!   again once there is room. [`Log::append_from_reserve`] has some room left for what leads to
//!   [`Log::release`].
//! - A failed sync ends the process ([`FailedSync`]).
//!
//! Rejected: recycling old segments instead of zero-filling new ones saves half of the writes, but
//! readers may still be in them; a sync for each caller (a twentieth of the throughput); `O_DIRECT`
//! (needs `unsafe` for aligned memory, and on ext4 the gain is within the noise).

mod checkpoint;
mod error;
mod fatal;
mod frame;
mod header;
mod options;
mod owned;
mod pool;
mod queue;
mod reader;
mod recovery;
mod repair;
mod scan;
mod segment;
mod walk;
mod writer;

use std::{fmt, path::Path, sync::Arc, thread};

use bytes::Bytes;
use parking_lot::Mutex;
use sinew_core::Result;
use tokio::sync::watch;

pub use checkpoint::Checkpoint;
pub use fatal::FailedSync;
pub use options::Options;
pub use owned::{OwnedLog, Releaser};
pub use reader::Reader;
pub use recovery::Recovery;
pub(crate) use repair::write as write_log;
pub use repair::{Dropped, Repaired, repair};
pub use walk::SegmentState;
pub(crate) use walk::{Walked, Whole, walk};

use self::{checkpoint::Slots, pool::Pool, queue::Queue, recovery::Opened, segment::Segments};
use crate::storage::Storage;

/// The number of a record. 0 is before the first.
pub type Sequence = u64;

/// Where a record lies, for reading it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The number of the segment.
    pub segment: u64,
    /// The byte in its file.
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} byte {}",
            segment::file_name(self.segment),
            self.offset
        )
    }
}

/// The answer to an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The number that the record got.
    pub sequence: Sequence,
    /// Where it lies.
    pub position: Position,
}

/// A record as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub sequence: Sequence,
    /// Where it lies.
    pub position: Position,
    /// What was appended. From a [`Reader`] it shares memory with its neighbours: copy what is kept
    /// for long.
    pub payload: Bytes,
}

/// What a reader meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A record.
    Record(Record),
    /// Records that a repair could not save.
    Gap {
        /// The first that is lost.
        from: Sequence,
        /// The first that is not.
        until: Sequence,
    },
}

/// An open log. Dropping it writes what is queued and ends its threads.
pub struct Log {
    segments: Arc<Segments>,
    slots: Slots,
    pool: Arc<Pool>,
    queue: Arc<Queue>,
    durable: watch::Receiver<Sequence>,
    recovery: Recovery,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Log {
    /// Opens the log in `folder`, or makes one there. Blocks while the last segment is read. The
    /// folder above it is the caller's, also to make durable.
    ///
    /// `log.corrupt` (DataLoss) when it is damaged, `log.version` (FailedPrecondition) when a newer
    /// Sinew wrote it.
    pub fn open(storage: Arc<dyn Storage>, folder: &Path, options: &Options) -> Result<Self> {
        let Opened {
            segments,
            pool,
            mut writer,
            slots,
            recovery,
        } = recovery::open(&storage, folder, options)?;
        let queue = Arc::new(Queue::new(options));
        let (told, durable) = watch::channel(recovery.next);
        pool.hand_over_to_thread();
        let log = Self {
            segments,
            slots,
            pool: Arc::clone(&pool),
            queue: Arc::clone(&queue),
            durable,
            recovery,
            threads: Mutex::default(),
        };
        let retry = options.full_retry;
        log.spawn("log-prepare", move || pool.keep_ready(retry))?;
        log.spawn("log-write", move || {
            queue.drain(&mut writer, |next| {
                told.send_replace(next);
            });
        })?;
        Ok(log)
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::Builder::new().name(name.into()).spawn(work);
        let thread = thread
            .map_err(|cause| error::failed("its threads cannot be started").with_source(cause))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// What opening it found.
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// Appends a record; it is durable, and readers see it, when this answers. Records appended one
    /// after the other by one caller lie in that order.
    ///
    /// Nothing was written after `log.full`, `log.busy` (ResourceExhausted), `log.io` (Unavailable)
    /// and `log.record_too_large` (InvalidArgument). After `log.timeout` (DeadlineExceeded) and
    /// `log.failed` (Unavailable), or when the future is dropped, it may become durable or not.
    pub async fn append(&self, payload: impl Into<Bytes>) -> Result<Appended> {
        self.queue.append(payload.into(), false).await
    }

    /// As [`Log::append`], but on a full disk it may use the room that is kept back for what leads
    /// to room being made.
    pub async fn append_from_reserve(&self, payload: impl Into<Bytes>) -> Result<Appended> {
        self.queue.append(payload.into(), true).await
    }

    /// Follows the sequence number that the next record will get: all before it are durable.
    pub fn durable(&self) -> watch::Receiver<Sequence> {
        self.durable.clone()
    }

    /// The sequence number that the next record will get.
    pub fn next(&self) -> Sequence {
        self.segments.end().next
    }

    /// The oldest record that is kept; equal to [`Log::next`] when there is none.
    pub fn oldest(&self) -> Sequence {
        self.segments.oldest()
    }

    /// Reads from record `from` on. `log.released` (OutOfRange) when it is no longer kept.
    pub fn reader(&self, from: Sequence) -> Result<Reader> {
        Reader::new(Arc::clone(&self.segments), from)
    }

    /// Reads the record at a position that an append answered. Blocks on the disk.
    /// `log.released` (OutOfRange) when it is no longer kept, `log.unknown` (OutOfRange) beyond the
    /// end, `log.corrupt` (DataLoss) when there is no whole record.
    pub fn read(&self, position: Position) -> Result<Record> {
        reader::read(&self.segments, position)
    }

    /// Lets go of the records before `before`: whole segments of them are removed; answers how many.
    /// The newest record stays in any case. Blocks on the disk.
    pub fn release(&self, before: Sequence) -> Result<usize> {
        let removed = self.segments.release(before)?;
        if removed > 0 {
            self.pool.room_was_made();
        }
        Ok(removed)
    }

    /// The newest checkpoint.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.slots.newest()
    }

    /// Replaces the checkpoint; durable when it answers. It takes no room, so it works on a full
    /// disk. It releases nothing. Blocks on the disk.
    pub fn set_checkpoint(&self, checkpoint: Checkpoint) -> Result<()> {
        self.slots.set(checkpoint, &self.segments.fatal)
    }

    /// Reads everything and checks it: `log.corrupt` names the first damage.
    /// Answers the number of records.
    pub fn verify(&self) -> Result<u64> {
        let mut reader = self.reader(self.oldest())?;
        let mut records = 0;
        while let Some(entry) = reader.next()? {
            records += u64::from(matches!(entry, Entry::Record(_)));
        }
        Ok(records)
    }

    /// The bytes of the segments with records.
    pub fn bytes(&self) -> u64 {
        self.segments
            .all()
            .iter()
            .map(|segment| segment.capacity)
            .sum()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.close();
        self.pool.close();
        for thread in self.threads.lock().drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("segments", &self.segments)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
