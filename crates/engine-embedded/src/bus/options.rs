use std::time::Duration;

use crate::log::FailedSync;

/// How an [`EmbeddedBus`](super::EmbeddedBus) behaves.
#[derive(Clone, Debug)]
pub struct BusOptions {
    /// What it may take in memory, bytes, beside what consumers hold and groups track: messages
    /// that are not in files yet, blocks that were read from files, pages of the tables.
    pub memory: usize,
    /// Size of a file of a topic, bytes. A topic that keeps little has smaller ones.
    pub segment_bytes: u64,
    /// A checkpoint is made when the oldest change is so old, or when half of the memory for
    /// messages is used.
    pub checkpoint_after: Duration,
    /// Commands that may wait for the commit thread.
    pub queue_commands: usize,
    /// Messages that may wait for it, bytes.
    pub queue_bytes: usize,
    /// How long a command waits for room in the queue, or for the disk to take what is in memory,
    /// before `bus.overloaded`.
    pub queue_timeout: Duration,
    /// How long the commit may take then, before `bus.deadline`.
    pub answer_timeout: Duration,
    /// What happens after a failed sync.
    pub failed_sync: FailedSync,
}

impl Default for BusOptions {
    fn default() -> Self {
        Self {
            memory: 96 << 20,
            segment_bytes: 16 << 20,
            checkpoint_after: Duration::from_secs(30),
            queue_commands: 8192,
            queue_bytes: 16 << 20,
            queue_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(30),
            failed_sync: FailedSync::default(),
        }
    }
}

impl BusOptions {
    /// What may be held in memory in proportion to a budget, bytes; what waits to be written takes a
    /// sixth of it.
    #[must_use]
    pub fn with_memory(self, bytes: usize) -> Self {
        let bytes = bytes.max(12 << 20);
        Self {
            memory: bytes,
            queue_bytes: bytes / 6,
            ..self
        }
    }

    /// Messages in memory beyond which nothing is published until a checkpoint is made.
    pub(super) fn messages_bytes(&self) -> usize {
        self.memory / 2
    }

    pub(super) fn checkpoint_bytes(&self) -> usize {
        self.memory / 4
    }

    /// Blocks of topic files that are kept in memory.
    pub(super) fn blocks_bytes(&self) -> usize {
        self.memory / 8
    }

    pub(super) fn tables_bytes(&self) -> usize {
        self.memory / 12
    }
}
