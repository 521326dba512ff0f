//! Reading the streams that topics are made of.
//!
//! AMQP does not tell where a stream ends. But a broker that is granted credit on a stream's consumer sends all that is
//! committed, as far as the credit reaches, before it looks at the next method on that channel. So: attach, wait for the
//! first delivery (no stream is empty, its first record is ours), acknowledge, ask for something that is answered, and
//! what has not come by then was not there.
//!
//! Offsets: the message at `offset` is the stream's record `offset + 1`, behind the first record.

use std::{ops::Range, sync::Arc};

use futures_util::FutureExt;
use lapin::{
    BasicProperties, Channel, Confirmation,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use sinew_core::{Result, Timestamp};
use sinew_engine::bus::{Position, Record, TopicConfig, Unsettled};

use super::{ENGINE, envelope, fault as refusal, intake::Intake, link::Lines};
use crate::fault;

/// Records that the broker sends ahead, at least; it sends those that were written together together.
const AHEAD: u16 = 128;
/// Segments are removed whole: a topic has this many at least.
const SEGMENTS: u64 = 8;
/// The smallest and the largest segment, bytes.
const SEGMENT_BYTES: Range<u64> = (1 << 20)..(256 << 20);
/// How far the clock of a broker may be from ours.
const CLOCK_SKEW_SECONDS: u64 = 30;

/// Where to begin.
#[derive(Clone, Copy)]
pub(super) enum From {
    First,
    Last,
    /// The message before this one, or the first that there is.
    Before(u64),
    Time(Timestamp),
}

/// A consumer of a stream.
pub(super) struct Reader {
    intake: Intake,
    partition: u32,
    /// Read and not given back as credit.
    unacknowledged: usize,
}

/// What lies at an offset.
pub(super) enum Read {
    Message(Record),
    /// Something that is not ours.
    Nothing(u64),
    /// The stream's first record.
    Genesis,
}

impl Read {
    pub(super) fn offset(&self) -> Option<u64> {
        match self {
            Self::Message(record) => Some(record.position.offset),
            Self::Nothing(offset) => Some(*offset),
            Self::Genesis => None,
        }
    }
}

impl Reader {
    pub(super) async fn open(
        lines: &Lines,
        stream: &str,
        partition: u32,
        from: From,
    ) -> Result<Self> {
        let channel = lines.channel().await?;
        let qos = BasicQosOptions::default();
        channel.basic_qos(AHEAD, qos).await.map_err(refusal::of)?;
        let place = match from {
            From::First => AMQPValue::LongString("first".into()),
            From::Last => AMQPValue::LongString("last".into()),
            From::Before(offset) => AMQPValue::LongLongInt(i64::try_from(offset).unwrap_or(0)),
            From::Time(time) => {
                AMQPValue::Timestamp(time.as_secs().saturating_sub(CLOCK_SKEW_SECONDS))
            }
        };
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), place);
        let options = BasicConsumeOptions::default();
        let intake = Intake::open(channel, stream, options, arguments).await?;
        Ok(Self {
            intake,
            partition,
            unacknowledged: 0,
        })
    }

    /// Waits for the next record. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<(u64, Read)> {
        match self.intake.next().await? {
            Some(delivery) => self.read(delivery),
            None => Err(fault::unavailable(ENGINE, "the stream was taken away")),
        }
    }

    /// The next record, if it has come already.
    pub(super) fn next_now(&mut self) -> Result<Option<(u64, Read)>> {
        self.next().now_or_never().transpose()
    }

    fn read(&mut self, delivery: Delivery) -> Result<(u64, Read)> {
        let headers = delivery.properties.headers().as_ref();
        let raw = headers.and_then(|headers| headers.inner().get("x-stream-offset"));
        let Some(AMQPValue::LongLongInt(raw)) = raw else {
            return Err(fault::unsuitable(ENGINE, "a topic's queue is not a stream"));
        };
        let Some(offset) = u64::try_from(*raw).unwrap_or(0).checked_sub(1) else {
            return Ok((delivery.delivery_tag, Read::Genesis));
        };
        let position = Position {
            partition: self.partition,
            offset,
        };
        let read = match envelope::decode(delivery.data) {
            None => Read::Nothing(offset),
            Some((message, published)) => Read::Message(Record {
                position,
                published,
                message: Arc::new(message),
            }),
        };
        Ok((delivery.delivery_tag, read))
    }

    /// Gives credit back, now and then: so many more records, up to `tag`, were handled.
    pub(super) async fn handled(&mut self, tag: u64, count: usize) -> Result<()> {
        self.unacknowledged += count;
        if self.unacknowledged >= usize::from(AHEAD / 4) {
            self.acknowledge(tag).await?;
        }
        Ok(())
    }

    async fn acknowledge(&mut self, tag: u64) -> Result<()> {
        self.unacknowledged = 0;
        let all = BasicAckOptions { multiple: true };
        self.intake
            .channel
            .basic_ack(tag, all)
            .await
            .map_err(refusal::of)
    }

    /// All that is there, until `enough` says so of one.
    async fn rest(&mut self, mut enough: impl FnMut(&Read) -> bool) -> Result<()> {
        let mut next = Some(self.next().await?);
        loop {
            let Some((mut tag, read)) = next else {
                return Ok(());
            };
            let mut done = enough(&read);
            while !done && let Some((later, read)) = self.next_now()? {
                (tag, done) = (later, enough(&read));
            }
            if done {
                return Ok(());
            }
            self.acknowledge(tag).await?;
            // Answered after what the acknowledgement let come.
            let qos = BasicQosOptions::default();
            self.intake
                .channel
                .basic_qos(AHEAD, qos)
                .await
                .map_err(refusal::of)?;
            next = self.next_now()?;
        }
    }
}

/// What a partition holds.
pub(super) struct Extent {
    pub(super) range: Range<u64>,
    /// What its first message takes, bytes; a measure for the others.
    pub(super) first_bytes: u64,
}

pub(super) async fn extent(lines: &Lines, stream: &str) -> Result<Extent> {
    let mut first = Reader::open(lines, stream, 0, From::First).await?;
    let (mut start, mut first_bytes) = (0, 0);
    first
        .rest(|read| match read {
            Read::Message(record) => {
                start = record.position.offset;
                first_bytes = record.message.weight() + 16;
                true
            }
            Read::Nothing(_) | Read::Genesis => false,
        })
        .await?;
    let end = end(lines, stream).await?;
    Ok(Extent {
        range: start.min(end)..end,
        first_bytes,
    })
}

/// The offset at which the next message enters.
pub(super) async fn end(lines: &Lines, stream: &str) -> Result<u64> {
    let mut last = Reader::open(lines, stream, 0, From::Last).await?;
    let mut end = 0;
    last.rest(|read| {
        end = read.offset().map_or(end, |offset| offset + 1);
        false
    })
    .await?;
    Ok(end)
}

/// At most `most` messages from this place on, which lies between the ends of the partition.
pub(super) async fn read(
    lines: &Lines,
    stream: &str,
    from: Position,
    most: usize,
) -> Result<Vec<Record>> {
    let before = From::Before(from.offset);
    let mut reader = Reader::open(lines, stream, from.partition, before).await?;
    let mut found = Vec::new();
    reader
        .rest(|read| {
            if let Read::Message(record) = read
                && record.position.offset >= from.offset
            {
                found.push(record.clone());
            }
            found.len() >= most
        })
        .await?;
    Ok(found)
}

/// The offset of the first message that was published at this time or later, or the end.
pub(super) async fn since(lines: &Lines, stream: &str, time: Timestamp) -> Result<u64> {
    let end = end(lines, stream).await?;
    let mut reader = Reader::open(lines, stream, 0, From::Time(time)).await?;
    let mut found = None;
    if end == 0 {
        return Ok(end);
    }
    reader
        .rest(|read| {
            if let Read::Message(record) = read
                && record.published >= time
            {
                found = Some(record.position.offset);
            }
            found.is_some() || read.offset().is_some_and(|offset| offset + 1 >= end)
        })
        .await?;
    Ok(found.unwrap_or(end))
}

/// Makes a partition's stream, with its first record.
pub(super) async fn make(lines: &Lines, stream: &str, config: &TopicConfig) -> Result<()> {
    let mut arguments = FieldTable::default();
    let mut set = |name: &str, value| {
        arguments.insert(name.into(), value);
    };
    set("x-queue-type", AMQPValue::LongString("stream".into()));
    let retention = config.retention;
    let bounds = match retention.unsettled {
        Unsettled::Drop => (retention.bytes, retention.age),
        // The broker knows nothing of groups, so it must not remove anything.
        Unsettled::Keep => (None, None),
    };
    if let Some(bytes) = bounds.0 {
        let bytes = bytes / u64::from(config.partitions);
        let segment = (bytes / SEGMENTS).clamp(SEGMENT_BYTES.start, SEGMENT_BYTES.end);
        let number = |bytes| AMQPValue::LongLongInt(i64::try_from(bytes).unwrap_or(i64::MAX));
        set("x-max-length-bytes", number(bytes.max(segment)));
        set("x-stream-max-segment-size-bytes", number(segment));
    }
    if let Some(age) = bounds.1 {
        let seconds = format!("{}s", age.as_secs().max(1));
        set("x-max-age", AMQPValue::LongString(seconds.into()));
    }
    let channel = lines.channel().await?;
    channel
        .queue_declare(stream.into(), QueueDeclareOptions::durable(), arguments)
        .await
        .map_err(refusal::of)?;
    match append(lines, stream, &envelope::genesis()).await? {
        Sent::Written => Ok(()),
        Sent::Nowhere | Sent::Refused => Err(fault::unavailable(
            ENGINE,
            "a stream that was just made takes nothing",
        )),
    }
}

/// What became of a message.
pub(super) enum Sent {
    Written,
    /// There is no such queue.
    Nowhere,
    /// The broker could not take it now; it may have it all the same.
    Refused,
}

/// Appends a record; it is with a quorum of the stream's replicas when this answers.
pub(super) async fn append(lines: &Lines, stream: &str, body: &[u8]) -> Result<Sent> {
    send(&lines.publisher, stream, body).await
}

/// Puts a message into a queue to learn whether the queue is there.
pub(super) async fn knock(lines: &Lines, queue: &str, body: &[u8]) -> Result<Sent> {
    // The library gives what comes back to any of a channel's messages that are confirmed together, so this one has a
    // channel of its own.
    let channel = lines.channel().await?;
    let options = ConfirmSelectOptions::default();
    channel.confirm_select(options).await.map_err(refusal::of)?;
    let sent = send(&channel, queue, body).await?;
    // One that is broken is closed already.
    let _ = channel.close(200, "done".into()).await;
    Ok(sent)
}

async fn send(channel: &Channel, queue: &str, body: &[u8]) -> Result<Sent> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let properties = BasicProperties::default().with_delivery_mode(2);
    let sent = channel
        .basic_publish("".into(), queue.into(), options, body, properties)
        .await
        .map_err(refusal::of)?;
    match sent.await.map_err(refusal::of)? {
        Confirmation::Ack(None) => Ok(Sent::Written),
        Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned))
            if returned.delivery.routing_key.as_str() == queue =>
        {
            Ok(Sent::Nowhere)
        }
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => Err(fault::unavailable(
            ENGINE,
            "another message came back, and it is not known whether this one did",
        )),
        Confirmation::Nack(None) | Confirmation::NotRequested => Ok(Sent::Refused),
    }
}
