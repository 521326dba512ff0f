//! What the shell asks of a broker.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use sinew_core::{Name, Result, Timestamp};
use sinew_engine::bus::{Capability, Message, Position, Record, TopicConfig};

/// A topic that was found. A topic that is deleted and made again has another incarnation, and nothing that
/// is asked of the old one touches the new one: it answers `bus.topic_unknown`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) topic: Name,
    pub(crate) incarnation: String,
    pub(crate) config: TopicConfig,
}

/// What a topic holds.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    /// For each partition, from which offset on, and the offset that comes next.
    pub(crate) ranges: Vec<Range<u64>>,
    pub(crate) bytes: u64,
    /// When the oldest message entered.
    pub(crate) oldest: Option<Timestamp>,
}

/// A message that is to be appended.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) partition: u32,
    pub(crate) message: Arc<Message>,
    /// Written only if no message with this mark is in the topic. Made of letters, digits, `-` and `_`.
    pub(crate) once: Option<String>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    At(u64),
    /// The id or the mark is known; nothing was written.
    Duplicate,
}

/// A small value that is kept beside a topic.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) key: String,
    pub(crate) value: Bytes,
    /// Grows with every change of it. Never 0.
    pub(crate) version: u64,
}

/// What became of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It is durable, as this version.
    Done(u64),
    /// It is not at the expected version; nothing was written.
    Conflict,
}

/// A broker, as the shell sees it. All calls take no longer than the engine's timeout. `engine.unavailable` and
/// `engine.timeout` say that a change may have happened; every other error that it did not.
///
/// Records and beats are read as they are now, except by [`Backend::list`] and [`Backend::beats`],
/// which may be late.
#[async_trait]
pub(crate) trait Backend: Send + Sync + 'static {
    fn capability(&self) -> &Capability;

    /// Makes a topic; none when there is one.
    async fn create(&self, topic: &Name, config: &TopicConfig) -> Result<Option<Log>>;
    async fn configure(&self, log: &Log, config: &TopicConfig) -> Result<()>;
    async fn find(&self, topic: &Name) -> Result<Option<Log>>;
    async fn topics(&self) -> Result<Vec<Name>>;
    /// Deletes a topic with all that is kept beside it.
    async fn delete(&self, topic: &Name) -> Result<()>;

    async fn extent(&self, log: &Log) -> Result<Extent>;
    /// Appends in this order, at the same time: when one fails, later ones may be there. `bus.full` when the topic's
    /// bytes are used up and it keeps what is owed.
    async fn append(&self, log: &Log, entries: Vec<Entry>) -> Vec<Result<Appended>>;
    /// Of each partition the offset from which on messages entered at this time or later.
    async fn since(&self, log: &Log, time: Timestamp) -> Result<Vec<u64>>;
    /// Messages of a partition from this place on.
    async fn count(&self, log: &Log, from: Position) -> Result<u64>;
    /// At most `most` messages from this place on, without waiting.
    async fn read(&self, log: &Log, from: Position, most: usize) -> Result<Vec<Record>>;
    /// Reads from this place on, and then what enters.
    async fn follow(&self, log: &Log, from: Position) -> Result<Box<dyn Reader>>;
    /// Removes what lies below.
    async fn trim(&self, log: &Log, first: Position) -> Result<()>;
    /// Whether the broker itself removes what is too old. What is over the bytes of a topic that keeps
    /// nothing owed it removes itself in any case.
    fn removes_old(&self, config: &TopicConfig) -> bool;

    /// The records whose keys begin with this, which ends with a dot or is empty.
    async fn list(&self, log: &Log, prefix: &str) -> Result<Vec<Kept>>;
    async fn get(&self, log: &Log, key: &str) -> Result<Option<Kept>>;
    /// Writes a record that is at version `expected`; 0: that is not there.
    async fn put(&self, log: &Log, key: &str, value: Bytes, expected: u64) -> Result<Put>;
    /// Removes a record, or all whose keys begin with this when it ends with a dot.
    async fn remove(&self, log: &Log, key: &str) -> Result<()>;

    /// Tells those who wait for hints about a group. Nothing depends on its arrival but speed.
    async fn hint(&self, log: &Log, group: &Name);
    async fn hints(&self, log: &Log, group: &Name) -> Result<Box<dyn Hints>>;

    /// Says that this node lives.
    async fn beat(&self, node: &str) -> Result<()>;
    /// The nodes that have beaten, and a number that changes with each beat.
    async fn beats(&self) -> Result<Vec<(String, u64)>>;
    /// Says that this node is gone.
    async fn leave(&self, node: &str) -> Result<()>;
}

/// Reads a partition.
#[async_trait]
pub(crate) trait Reader: Send {
    /// Waits for messages, up to `most`, in order; may come back with none. After an error it is of no use any more.
    async fn next(&mut self, most: usize) -> Result<Vec<Record>>;
}

/// Waits for hints.
#[async_trait]
pub(crate) trait Hints: Send {
    async fn next(&mut self);
}
