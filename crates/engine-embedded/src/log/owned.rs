use std::{path::Path, sync::Arc, thread};

use sinew_core::Result;

use super::{
    Options, Reader, Recovery, Sequence, error,
    pool::Pool,
    recovery::{self, Opened},
    segment::Segments,
    writer::{Staged, Writer},
};
use crate::storage::Storage;

/// A log that its owner writes on a thread of its own: for whoever has to order the records anyway,
/// without a second queue and a second thread in between. Otherwise as [`Log`](super::Log).
#[derive(Debug)]
pub struct OwnedLog {
    writer: Writer,
    releaser: Releaser,
    recovery: Recovery,
    preparing: Option<thread::JoinHandle<()>>,
}

/// What lets go of old records, from any thread.
#[derive(Clone, Debug)]
pub struct Releaser {
    segments: Arc<Segments>,
    pool: Arc<Pool>,
}

impl OwnedLog {
    /// Opens the log in `folder`, or makes one there, as [`Log::open`](super::Log::open) does.
    pub fn open(storage: Arc<dyn Storage>, folder: &Path, options: &Options) -> Result<Self> {
        let Opened {
            segments,
            pool,
            writer,
            recovery,
            ..
        } = recovery::open(&storage, folder, options)?;
        pool.hand_over_to_thread();
        let (prepare, retry) = (Arc::clone(&pool), options.full_retry);
        let preparing = thread::Builder::new()
            .name("log-prepare".into())
            .spawn(move || prepare.keep_ready(retry))
            .map_err(|cause| error::failed("its thread cannot be started").with_source(cause))?;
        let releaser = Releaser { segments, pool };
        Ok(Self {
            writer,
            releaser,
            recovery,
            preparing: Some(preparing),
        })
    }

    /// Writes a record; it is durable when this answers its number. After an error nothing was
    /// written, unless the error is `log.failed`. With `makes_room` it may use what is kept back
    /// for what leads to room being made.
    pub fn append(&mut self, payload: &[u8], makes_room: bool) -> Result<Sequence> {
        match self.writer.stage(payload, makes_room)? {
            Staged::Yes(appended) => {
                self.writer.commit()?;
                Ok(appended.sequence)
            }
            Staged::CommitFirst => Err(error::failed("a batch was left over")),
        }
    }

    /// What opening it found.
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// The sequence number that the next record will get.
    pub fn next(&self) -> Sequence {
        self.releaser.segments.end().next
    }

    /// Reads from record `from` on, as [`Log::reader`](super::Log::reader) does.
    pub fn reader(&self, from: Sequence) -> Result<Reader> {
        Reader::new(Arc::clone(&self.releaser.segments), from)
    }

    /// What lets go of its records.
    pub fn releaser(&self) -> Releaser {
        self.releaser.clone()
    }
}

impl Releaser {
    /// As [`Log::release`](super::Log::release).
    pub fn release(&self, before: Sequence) -> Result<usize> {
        let removed = self.segments.release(before)?;
        if removed > 0 {
            self.pool.room_was_made();
        }
        Ok(removed)
    }
}

impl Drop for OwnedLog {
    fn drop(&mut self) {
        self.releaser.pool.close();
        if let Some(thread) = self.preparing.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}
