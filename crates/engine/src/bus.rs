//! `Bus`: durable topics, read by groups of consumers that settle each message.
//!
//! The text of this module is the contract; the conformance suite (module `suite`, behind the cargo
//! feature of that name) quotes it and runs against every engine.
//!
//! # Topics
//! A topic is a number of *partitions*, each a log of messages with growing *offsets*. Messages with the
//! same key go to the same partition. When [`Bus::publish`] answers, the messages are on stable
//! storage, all of them (see [`Capability::atomic_publish`] for what an error leaves), and in the log in
//! the order of the call. Messages that one caller publishes one call after the other have that order
//! within their partition.
//!
//! # Due times
//! A message with a due time in the future *enters* the topic when its time has come by the
//! engine's wall clock, never before, and has its place in the log from then on. Until then no group and
//! no reader sees it; it survives restarts like any other.
//!
//! # Groups
//! A group sees every message of its topic from where it starts. A message is *settled* for a group
//! when it was acknowledged or moved to the dead-letter topic; until then the group owes it. So every
//! published message is delivered to each group, at least once, or moved, unless retention says otherwise.
//! What is settled is never delivered to the group again, unless it seeks back.
//!
//! - At most [`Subscription::in_flight`] messages are with a consumer at once, and each message with
//!   one consumer of the group at most.
//! - **Order per key**: a message is delivered only when every earlier one of its key and partition is
//!   settled, through redelivery, restarts and changes of consumers. Messages without a key have no order.
//! - A delivery ends with an ack, a nack, the end of its consumer, or after the group's ack timeout,
//!   which [`Consumer::extend`] prolongs. The ack is durable before it answers. After all but the ack
//!   the message is delivered again: at once after a timeout or the end of its consumer, after the
//!   delay that a nack asks for, or after the group's backoff.
//! - [`Delivery::attempt`] counts deliveries. A crash of the engine may forget the newest of them.
//! - **Dead letters**: when the last of [`DeadLetter::after`] deliveries has failed, the message is
//!   appended to the dead-letter topic and settled, in one atomic step.
//! - A group delivers past messages that wait or are late, but holds at most [`GroupConfig::window`]
//!   messages that it owes; when so many wait, it stalls until one of them is settled.
//!
//! # Retention
//! Messages that are past the topic's age or bytes are removed, oldest first. With [`Unsettled::Keep`] a
//! message stays while a group owes it, and publishing into a topic whose bytes are used up answers
//! `bus.full` (ResourceExhausted): that is the backpressure. With [`Unsettled::Drop`] it goes all the same,
//! and [`GroupState::lost`] counts it.
//!
//! # De-duplication
//! A message whose id was published to the topic within the topic's window is not written again; the
//! answer is [`Published::Duplicate`]. So a publish whose fate is unknown may be repeated with the same ids.
//!
//! # Errors
//! After Unavailable or DeadlineExceeded a change may have happened; every other error means that it did
//! not. `ack` may be repeated: acknowledging what is settled is well.

mod fault;
mod forward;
pub mod group;
mod limits;
mod memory;
#[cfg(feature = "suite")]
pub mod suite;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use sinew_core::{Name, Result, Timestamp};

pub use fault::{
    full, group_invalid, group_unknown, message_invalid, position_unknown, receipt_stale,
    topic_exists, topic_invalid, topic_unknown, unsupported,
};
pub use limits::Limits;
pub use memory::MemoryBus;

/// A message that is to be published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What it is ordered with.
    pub key: Option<Bytes>,
    /// Names (printable ASCII without spaces, 1 to 128 bytes) and values, in this order.
    pub headers: Vec<(String, Bytes)>,
    /// What it is de-duplicated by: 1 to [`Limits::id_bytes`] bytes.
    pub id: Option<String>,
    /// What it says.
    pub payload: Bytes,
    /// When it enters the topic; at once when absent or past.
    pub due: Option<Timestamp>,
}

impl Message {
    /// A message with nothing but a payload.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self {
            payload: payload.into(),
            ..Self::default()
        }
    }

    /// Orders it with the others of this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// De-duplicates it by this id.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Lets it enter the topic at this time.
    #[must_use]
    pub fn due(mut self, due: Timestamp) -> Self {
        self.due = Some(due);
        self
    }

    /// What it counts against limits and retention, bytes.
    pub fn weight(&self) -> u64 {
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len());
        let key = self.key.as_ref().map_or(0, Bytes::len);
        let id = self.id.as_ref().map_or(0, String::len);
        (self.payload.len() + key + id + headers.sum::<usize>()) as u64
    }
}

/// A place in a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// From 0.
    pub partition: u32,
    /// Grows within the partition, not always by one.
    pub offset: u64,
}

/// A message in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it is.
    pub position: Position,
    /// When it entered, by the engine's wall clock; never goes back within a partition.
    pub published: Timestamp,
    /// The message; its due time is taken off.
    pub message: Arc<Message>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is in the log.
    At(Position),
    /// It is in the log of this partition; the engine does not tell where.
    In(u32),
    /// It will enter at its due time.
    Scheduled,
    /// Its id was published before; nothing was written.
    Duplicate,
}

/// What a topic keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Messages older than this go.
    pub age: Option<Duration>,
    /// The oldest messages go when all weigh more than this, bytes.
    pub bytes: Option<u64>,
    /// What that means for messages that a group owes.
    pub unsettled: Unsettled,
}

/// What retention does to messages that a group has not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsettled {
    /// They stay.
    Keep,
    /// They go.
    Drop,
}

/// How a topic is. The default: one partition, a week, at most 1 GiB, nothing owed goes, ids are remembered
/// for two minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// How many logs it has; fixed when it is made.
    pub partitions: u32,
    /// What it keeps.
    pub retention: Retention,
    /// How long ids are remembered; zero: not at all.
    pub deduplication: Duration,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            partitions: 1,
            retention: Retention {
                age: Some(Duration::from_secs(7 * 24 * 3600)),
                bytes: Some(1 << 30),
                unsettled: Unsettled::Keep,
            },
            deduplication: Duration::from_secs(120),
        }
    }
}

/// Where a new group begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the oldest message that there is.
    Earliest,
    /// With the next one that enters.
    Latest,
    /// With the first that entered at this time or later.
    At(Timestamp),
}

/// Where messages go that could not be handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The topic; made with the default configuration when it does not exist.
    pub topic: Name,
    /// After how many failed deliveries.
    pub after: u32,
}

/// How a group behaves. The default: from the earliest message, 30 s to acknowledge, backoff from 1 s to
/// 1 min, for ever, a window of 10,000.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// Where it begins when it is made; means nothing later.
    pub start: Start,
    /// How long a delivery may take.
    pub ack_timeout: Duration,
    /// The delay after the first nack; doubles with each.
    pub backoff: Duration,
    /// The longest such delay.
    pub backoff_most: Duration,
    /// What happens in the end; without, messages are delivered until they are acknowledged.
    pub dead_letter: Option<DeadLetter>,
    /// Messages that it may owe and hold, at most.
    pub window: usize,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            start: Start::Earliest,
            ack_timeout: Duration::from_secs(30),
            backoff: Duration::from_secs(1),
            backoff_most: Duration::from_secs(60),
            dead_letter: None,
            window: 10_000,
        }
    }
}

/// How a consumer joins a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// How the group behaves: it is made so, or changed to this.
    pub group: GroupConfig,
    /// Messages that may be with the consumer at once.
    pub in_flight: usize,
}

impl Default for Subscription {
    fn default() -> Self {
        Self {
            group: GroupConfig::default(),
            in_flight: 64,
        }
    }
}

/// Names one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The message.
    pub position: Position,
    /// The delivery. Opaque; never used twice by a group.
    pub token: u64,
}

/// A message that is with a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The message.
    pub record: Record,
    /// Which delivery of it this is, from 1.
    pub attempt: u32,
    /// To acknowledge it with.
    pub receipt: Receipt,
}

/// When a message that was not handled shall be delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redeliver {
    /// After the group's backoff.
    Backoff,
    /// After this time, not before.
    After(Duration),
    /// Not at all: it goes to the dead-letter topic now, or is dropped when the group has none.
    Never,
}

/// Where a group shall go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// All partitions from their oldest messages.
    Earliest,
    /// All partitions from the next message that enters.
    Latest,
    /// All partitions from the first message that entered at this time or later.
    Time(Timestamp),
    /// One partition from this offset.
    To(Position),
}

/// A topic as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicState {
    /// How it is configured.
    pub config: TopicConfig,
    /// For each partition, the offsets from which it holds messages and at which the next one enters.
    pub partitions: Vec<std::ops::Range<u64>>,
    /// What its messages weigh, bytes.
    pub bytes: u64,
    /// Messages that are not due yet.
    pub scheduled: u64,
}

/// A group as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// How it is configured.
    pub config: GroupConfig,
    /// For each partition, the offset below which everything is settled.
    pub cursors: Vec<u64>,
    /// Messages in the topic that it owes.
    pub lag: u64,
    /// Messages that are with consumers.
    pub in_flight: u64,
    /// Messages that wait for their redelivery.
    pub waiting: u64,
    /// Messages that retention removed although it owed them.
    pub lost: u64,
    /// Its consumers.
    pub consumers: u64,
}

/// What an engine can do; it selects the cases of the conformance suite and is shown in the
/// documentation. What it cannot do is answered with `bus.unsupported` (FailedPrecondition).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// The engine's name.
    pub engine: &'static str,
    /// Whether data outlives the process.
    pub durable: bool,
    /// Whether messages can have due times.
    pub delay: bool,
    /// Whether ids are remembered.
    pub deduplication: bool,
    /// Whether groups can seek, and settled messages be read.
    pub replay: bool,
    /// Whether a publish of many writes all or nothing; otherwise an error may leave some.
    pub atomic_publish: bool,
    /// Whether [`Unsettled::Keep`] is possible.
    pub keeps_unsettled: bool,
    /// Whether topics are measured by [`Message::weight`]; otherwise by what the engine stores for their
    /// messages, which is more.
    pub exact_bytes: bool,
    /// Whether retention removes messages one by one, and can be changed; otherwise they go many at a time, later
    /// than they could, and what a topic keeps is fixed when it is made.
    pub exact_retention: bool,
    /// Whether publishing and acknowledging can be part of a commit of the engine's `Kv`.
    pub atomic_with_kv: bool,
    /// Its limits.
    pub limits: Limits,
}

/// A consumer of a group. Dropping it ends it: what is with it is delivered to others.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// Waits until there is something to deliver, and answers up to `most` of it (at least 1). Cancel safe:
    /// what was not answered is not with the consumer. `bus.topic_unknown` or `bus.group_unknown` (NotFound)
    /// when that was deleted.
    async fn next_many(&self, most: usize) -> Result<Vec<Delivery>>;

    /// Settles these messages; durable when it answers. When some receipts are not of current deliveries
    /// and their messages not settled, the others are settled and the answer is `bus.receipt_stale`
    /// (FailedPrecondition): those messages were or will be delivered again.
    async fn ack(&self, receipts: &[Receipt]) -> Result<()>;

    /// Gives a message back. `bus.receipt_stale` (FailedPrecondition) as above.
    async fn nack(&self, receipt: &Receipt, redeliver: Redeliver) -> Result<()>;

    /// Lets the delivery end not before this time from now. `bus.receipt_stale` (FailedPrecondition) as
    /// above.
    async fn extend(&self, receipt: &Receipt, time: Duration) -> Result<()>;

    /// Waits for one message. As [`Consumer::next_many`].
    async fn next(&self) -> Result<Delivery> {
        loop {
            if let Some(delivery) = self.next_many(1).await?.pop() {
                return Ok(delivery);
            }
        }
    }
}

/// The bus. See the module's text for what every method promises.
///
/// `bus.topic_unknown` and `bus.group_unknown` (NotFound) for what does not exist; InvalidArgument
/// `bus.topic_invalid`, `bus.group_invalid` and `bus.message_invalid` for what no state of the bus allows.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// What this engine can do.
    fn capability(&self) -> &Capability;

    /// Makes a topic; tells whether it did. A topic with the same configuration is left alone,
    /// another answers `bus.topic_exists` (AlreadyExists).
    async fn create_topic(&self, topic: &Name, config: TopicConfig) -> Result<bool>;

    /// Changes a topic. The number of partitions cannot be changed.
    async fn configure_topic(&self, topic: &Name, config: TopicConfig) -> Result<()>;

    /// A topic as it is.
    async fn topic(&self, topic: &Name) -> Result<TopicState>;

    /// The names of the topics, in order.
    async fn topics(&self) -> Result<Vec<Name>>;

    /// Deletes a topic, its messages and its groups. It is well if there is none.
    async fn delete_topic(&self, topic: &Name) -> Result<()>;

    /// Publishes messages and answers what became of each, in order.
    async fn publish(&self, topic: &Name, messages: Vec<Message>) -> Result<Vec<Published>>;

    /// Joins a group, which is made when it does not exist.
    async fn subscribe(
        &self,
        topic: &Name,
        group: &Name,
        subscription: Subscription,
    ) -> Result<Arc<dyn Consumer>>;

    /// A group as it is.
    async fn group(&self, topic: &Name, group: &Name) -> Result<GroupState>;

    /// The names of a topic's groups, in order.
    async fn groups(&self, topic: &Name) -> Result<Vec<Name>>;

    /// Lets a group go on elsewhere, back or forward. What is with consumers is no longer theirs, and all
    /// counts of deliveries begin anew. `bus.position_unknown` (OutOfRange) for a place that the topic
    /// does not hold and that is not its end.
    async fn seek(&self, topic: &Name, group: &Name, seek: Seek) -> Result<()>;

    /// Deletes a group. It is well if there is none.
    async fn delete_group(&self, topic: &Name, group: &Name) -> Result<()>;

    /// At most `most` messages of a partition (at least 1), from this place on, without a group; none at the
    /// end. `bus.position_unknown` (OutOfRange) as above.
    async fn read(&self, topic: &Name, from: Position, most: usize) -> Result<Vec<Record>>;
}

/// The message that a dead letter becomes: the same key, payload and headers, and where it comes from in
/// headers that begin with `sinew-dead-letter-`. It has no id: dead letters are not de-duplicated.
pub fn dead_letter(
    topic: &Name,
    group: &Name,
    record: &Record,
    attempts: u32,
    reason: &str,
) -> Message {
    let message = Message {
        id: None,
        due: None,
        ..(*record.message).clone()
    };
    let Position { partition, offset } = record.position;
    let original_id = record.message.id.clone();
    let facts = [
        ("topic", Some(topic.to_string())),
        ("group", Some(group.to_string())),
        ("partition", Some(partition.to_string())),
        ("offset", Some(offset.to_string())),
        ("attempts", Some(attempts.to_string())),
        ("reason", Some(reason.to_owned())),
        ("id", original_id),
    ];
    facts
        .into_iter()
        .fold(message, |message, (name, fact)| match fact {
            Some(fact) => message.header(format!("sinew-dead-letter-{name}"), fact),
            None => message,
        })
}
