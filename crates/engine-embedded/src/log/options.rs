use std::time::Duration;

use sinew_core::Result;

use super::{FailedSync, error, frame, header};

/// How a log behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of a segment's file, bytes. An existing log may be opened with another one; segments
    /// that exist keep theirs.
    pub segment_bytes: u64,
    /// The largest payload of a record, bytes.
    pub record_bytes: usize,
    /// Records are written together up to this many bytes, or a single larger one by itself. It
    /// bounds how long one sync takes.
    pub batch_bytes: usize,
    /// Records that wait to be written, bytes; beyond it appends wait.
    pub queue_bytes: usize,
    /// How long an append waits for room in the queue before `log.busy`.
    pub queue_timeout: Duration,
    /// How long an append may take then before `log.timeout`, and how long the writer waits for a
    /// new segment.
    pub timeout: Duration,
    /// Room at the end of the last segment that only appends which lead to room being made may use,
    /// when there is no next one, bytes.
    pub reserve_bytes: u64,
    /// How often it is tried to make a segment on a full disk.
    pub full_retry: Duration,
    /// What happens after a failed sync.
    pub failed_sync: FailedSync,
    /// What tells a log that is made from all others, when it shall not be random: for tests that
    /// need the same bytes twice.
    pub identity: Option<[u8; 16]>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            record_bytes: 16 << 20,
            batch_bytes: 1 << 20,
            queue_bytes: 16 << 20,
            queue_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            reserve_bytes: 1 << 20,
            full_retry: Duration::from_secs(1),
            failed_sync: FailedSync::default(),
            identity: None,
        }
    }
}

impl Options {
    pub(super) fn check(&self) -> Result<()> {
        let needed = (header::SIZE + frame::size(self.record_bytes)) as u64 + self.reserve_bytes;
        if self.segment_bytes < needed || !self.segment_bytes.is_multiple_of(4096) {
            return Err(error::options(
                "a segment holds at least one record of the largest size and the reserve, and is a \
                 multiple of 4096 bytes",
            ));
        }
        if self.batch_bytes == 0 || self.queue_bytes == 0 {
            return Err(error::options("batches and queues need room for something"));
        }
        Ok(())
    }
}
