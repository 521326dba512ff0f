//! A durable value that one node at a time may change: a quorum queue with a single active consumer.
//!
//! AMQP has no compare-and-set. But a quorum queue is a replicated log, and the broker hands its messages to one
//! consumer at a time, the *holder*. So:
//! - The value is what its entries say, in the order of their *epoch* and number. Each holder begins with
//!   an epoch above all it has found, and writes the whole value as its first entry.
//! - An entry counts when it has come back to the node that wrote it: it was the holder when the queue took
//!   the entry, and whoever holds next finds it, because only entries that a newer one makes needless are
//!   acknowledged. What a replaced holder still writes comes with too low an epoch, and does not come back to it.
//! - A holder knows that it has read everything when a *probe* that it wrote comes back.
//! - When a holder's connection ends, the broker gives what it had not acknowledged to the next in line.
//!
//! Everybody may write *requests* for the holder into the same queue.

use lapin::{
    BasicProperties, Channel,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sinew_core::{Error, Result};
use tokio::time::Instant;

use super::{
    ENGINE, fault as refusal,
    intake::Intake,
    link::Lines,
    streams::{self, Sent},
};
use crate::fault;

/// More than a holder ever leaves unacknowledged.
const AHEAD: u16 = 2000;
/// How long a holder waits for its probe before it writes another.
const PROBE_AGAIN: std::time::Duration = std::time::Duration::from_secs(2);
/// How long getting in line may take, and how long a holder's probes may take to come back.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(10);
/// The pause before a queue that takes nothing is asked again.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(50);

/// What lies in the queue.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line<T, R> {
    Probe(String),
    Entry(Entry<T>),
    Request(R),
}

/// A change of the value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry<T> {
    pub(super) epoch: u64,
    /// Within the epoch; the first holds the whole value.
    pub(super) number: u64,
    /// Who wrote it.
    pub(super) by: String,
    pub(super) body: T,
}

/// Where a request is to be answered.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    reply_to: Option<String>,
    correlation: Option<String>,
}

/// What has come.
pub(super) enum Heard<T, R> {
    Entry {
        tag: u64,
        entry: Entry<T>,
    },
    Request {
        tag: u64,
        request: R,
        asker: Asker,
    },
    /// The probe of this name.
    Probe(String),
    /// The queue was deleted, or the connection is gone.
    End,
}

pub(super) struct Register<T, R> {
    intake: Intake,
    queue: String,
    kinds: std::marker::PhantomData<fn() -> (T, R)>,
}

/// What was found by a node that has become the holder.
pub(super) struct Found<T, R> {
    /// In order. Those that do not count have been left out.
    pub(super) entries: Vec<Entry<T>>,
    /// To acknowledge when the first entry of the new epoch counts.
    pub(super) tags: Vec<u64>,
    pub(super) requests: Vec<(u64, R, Asker)>,
}

impl<T, R> Found<T, R> {
    /// The epoch for the node that found this.
    pub(super) fn next_epoch(&self) -> u64 {
        self.entries.last().map_or(1, |entry| entry.epoch + 1)
    }
}

/// Makes a register's queue.
pub(super) async fn make(channel: &Channel, queue: &str) -> Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    channel
        .queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments)
        .await
        .map_err(refusal::of)?;
    Ok(())
}

impl<T, R> Register<T, R>
where
    T: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    /// Gets in line. None when there is no such queue.
    pub(super) async fn attach(lines: &Lines, queue: &str) -> Result<Option<Self>> {
        let attached = tokio::time::timeout(SILENCE, Self::line_up(lines, queue)).await;
        attached.unwrap_or_else(|_| Err(silent()))
    }

    async fn line_up(lines: &Lines, queue: &str) -> Result<Option<Self>> {
        // Consuming what is not there ends the channel, and with it the connection (see `link`); a message that goes
        // nowhere comes back.
        let knock = encode(&Line::<T, R>::Probe(super::token()));
        loop {
            match streams::knock(lines, queue, &knock).await? {
                Sent::Written => break,
                Sent::Nowhere => return Ok(None),
                // It has no leader yet.
                Sent::Refused => tokio::time::sleep(AGAIN).await,
            }
        }
        let channel = lines.channel().await?;
        let qos = BasicQosOptions::default();
        channel.basic_qos(AHEAD, qos).await.map_err(refusal::of)?;
        let options = BasicConsumeOptions::default();
        let intake = Intake::open(channel, queue, options, FieldTable::default()).await?;
        Ok(Some(Self {
            intake,
            queue: queue.to_owned(),
            kinds: std::marker::PhantomData,
        }))
    }

    /// Waits for what comes next. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Heard<T, R>> {
        let Some(delivery) = self.intake.next().await? else {
            return Ok(Heard::End);
        };
        let tag = delivery.delivery_tag;
        let line = serde_json::from_slice(&delivery.data).map_err(|why| {
            let queue = &self.queue;
            fault::unsuitable(ENGINE, format!("a message in {queue} is not ours: {why}"))
        })?;
        Ok(match line {
            Line::Probe(name) => {
                self.acknowledge(&[tag]).await?;
                Heard::Probe(name)
            }
            Line::Entry(entry) => Heard::Entry { tag, entry },
            Line::Request(request) => {
                let text = |text: &Option<lapin::types::ShortString>| {
                    text.as_ref().map(|text| text.as_str().to_owned())
                };
                let asker = Asker {
                    reply_to: text(delivery.properties.reply_to()),
                    correlation: text(delivery.properties.correlation_id()),
                };
                Heard::Request {
                    tag,
                    request,
                    asker,
                }
            }
        })
    }

    /// Waits to become the holder and reads everything. None when the queue was deleted or the connection ended.
    pub(super) async fn hold(&mut self) -> Result<Option<Found<T, R>>> {
        let mut probe = self.probe().await?;
        let mut again_at = Instant::now() + PROBE_AGAIN;
        let mut silent_at = None;
        let mut found = Found {
            entries: Vec::new(),
            tags: Vec::new(),
            requests: Vec::new(),
        };
        loop {
            if silent_at.is_some_and(|at| Instant::now() > at) {
                return Err(silent());
            }
            // A queue that has no leader yet may lose a probe. What others write does not put this off.
            let Ok(heard) = tokio::time::timeout_at(again_at, self.next()).await else {
                probe = self.probe().await?;
                again_at = Instant::now() + PROBE_AGAIN;
                continue;
            };
            match heard? {
                Heard::Probe(name) if name == probe => break,
                // Another's, or ours that another holder has let lie.
                Heard::Probe(_) => {}
                Heard::Entry { tag, entry } => {
                    found.tags.push(tag);
                    found.entries.push(entry);
                }
                Heard::Request {
                    tag,
                    request,
                    asker,
                } => found.requests.push((tag, request, asker)),
                Heard::End => return Ok(None),
            }
            if silent_at.is_none() {
                // We hold only now, and the last holder may have taken our first probe.
                probe = self.probe().await?;
                let now = Instant::now();
                (again_at, silent_at) = (now + PROBE_AGAIN, Some(now + SILENCE));
            }
        }
        found.entries = counting(found.entries);
        Ok(Some(found))
    }

    async fn probe(&self) -> Result<String> {
        let name = super::token();
        self.write(&Line::Probe(name.clone()), BasicProperties::default())
            .await?;
        Ok(name)
    }

    /// Writes an entry. It counts when it comes back.
    pub(super) async fn append(&self, entry: Entry<T>) -> Result<()> {
        self.write(&Line::Entry(entry), BasicProperties::default())
            .await
    }

    async fn write(&self, line: &Line<T, R>, properties: BasicProperties) -> Result<()> {
        write(&self.intake.channel, &self.queue, line, properties).await
    }

    pub(super) async fn acknowledge(&self, tags: &[u64]) -> Result<()> {
        for tag in tags {
            let one = BasicAckOptions::default();
            let acknowledged = self.intake.channel.basic_ack(*tag, one).await;
            acknowledged.map_err(refusal::of)?;
        }
        Ok(())
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.intake.channel
    }

    /// Lets the next in line hold.
    pub(super) async fn release(self) {
        self.intake.close().await;
    }
}

/// The broker keeps the connection and does not answer. Getting in line anew is all that helps.
fn silent() -> Error {
    fault::unavailable(ENGINE, "a queue does not answer")
}

/// Writes a request for whoever holds, who answers if it bears a correlation; it is forgotten after this time.
pub(super) async fn ask<R: Serialize>(
    channel: &Channel,
    queue: &str,
    request: &R,
    correlation: Option<&str>,
    lives: std::time::Duration,
) -> Result<()> {
    let mut properties =
        BasicProperties::default().with_expiration(lives.as_millis().to_string().into());
    if let Some(correlation) = correlation {
        properties = properties
            .with_reply_to("amq.rabbitmq.reply-to".into())
            .with_correlation_id(correlation.into());
    }
    write(channel, queue, &Line::<(), _>::Request(request), properties).await
}

/// Answers a request.
pub(super) async fn answer<A: Serialize>(
    channel: &Channel,
    asker: &Asker,
    answer: &A,
) -> Result<()> {
    let (Some(to), Some(correlation)) = (&asker.reply_to, &asker.correlation) else {
        return Ok(());
    };
    let properties = BasicProperties::default().with_correlation_id(correlation.as_str().into());
    send(channel, to, &encode(answer), properties).await
}

async fn write<T: Serialize, R: Serialize>(
    channel: &Channel,
    queue: &str,
    line: &Line<T, R>,
    properties: BasicProperties,
) -> Result<()> {
    let properties = properties.with_delivery_mode(2);
    send(channel, queue, &encode(line), properties).await
}

async fn send(channel: &Channel, to: &str, body: &[u8], with: BasicProperties) -> Result<()> {
    let options = BasicPublishOptions::default();
    let sent = channel
        .basic_publish("".into(), to.into(), options, body, with)
        .await;
    sent.map(drop).map_err(refusal::of)
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("our records have text keys and no value that JSON lacks")
}

/// The entries that count, in order: those of the newest epoch, from its last whole value on. Two nodes may have
/// begun the same epoch, from the same value; then one of them was replaced before it could go on.
fn counting<T>(mut entries: Vec<Entry<T>>) -> Vec<Entry<T>> {
    entries.sort_by_key(|entry| (entry.epoch, entry.number));
    let Some((epoch, by)) = entries.last().map(|last| (last.epoch, last.by.clone())) else {
        return entries;
    };
    entries.retain(|entry| entry.epoch == epoch && entry.by == by);
    entries
}
