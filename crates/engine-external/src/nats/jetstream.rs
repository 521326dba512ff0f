//! Streams and what is published into them, in terms of requests.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use sinew_core::{Name, Result};
use sinew_engine::bus::{Capability, Limits, full, topic_unknown};

use super::{
    api::{
        self, Description, Done, From, NAME_IN_USE, NO_STREAM, STORE_FAILED, StreamInfo,
        WRONG_SEQUENCE,
    },
    envelope::seal,
    link::{ENGINE, Link, Refusal, read_ack},
    log::{Following, sequence},
    names::Names,
};
use crate::{
    bus_shell::{Appended, Entry, Kept, Log, Put},
    fault,
};

const MESSAGE_ID: &str = "Nats-Msg-Id";
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// Beats that are so many leases old say nothing.
pub(super) const BEATS_KEPT: u32 = 20;

pub(super) struct Jetstream {
    pub(super) link: Arc<Link>,
    pub(super) names: Names,
    pub(super) replicas: usize,
    pub(super) lease: Duration,
    pub(super) capability: Capability,
}

impl Jetstream {
    pub(super) async fn info(&self, topic: &Name) -> Result<Option<(StreamInfo, Description)>> {
        let stream = self.names.stream(topic);
        let info = self
            .link
            .api::<StreamInfo>(&format!("STREAM.INFO.{stream}"), &json!({}))
            .await;
        match info {
            Ok(info) => {
                let description = serde_json::from_str(&info.config.description).map_err(|_| {
                    let why = format!("the stream {stream} was not made by Sinew");
                    fault::unsuitable(ENGINE, why)
                })?;
                Ok(Some((info, description)))
            }
            Err(refusal) if refusal.is(NO_STREAM) => Ok(None),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// For when a stream is not there: whether the topic is, which it belongs to.
    pub(super) async fn check(&self, log: &Log) -> Result<()> {
        let found = self.info(&log.topic).await?;
        match found {
            Some((_, description)) if description.incarnation == log.incarnation => Ok(()),
            _ => Err(topic_unknown(&log.topic)),
        }
    }

    pub(super) async fn follow_from(
        &self,
        log: &Log,
        partition: Option<u32>,
        from: From,
    ) -> Result<Following> {
        let stream = self.names.stream(&log.topic);
        let filter = match partition {
            Some(partition) if log.config.partitions > 1 => {
                format!("{}.>", self.names.partition(log, partition))
            }
            // A stream that was made again has other subjects, so that nothing of it is read.
            _ => format!("{}.>", self.names.messages(&log.topic, &log.incarnation)),
        };
        let partition = partition.unwrap_or_default();
        let made = Following::new(&self.link, &stream, Some(&filter), &from, partition).await;
        match made {
            Ok(following) => Ok(following),
            Err(refusal) if matches!(refusal, Refusal::Code(_, 404 | 400, _)) => {
                self.check(log).await?;
                Err(refusal.into())
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    pub(super) async fn publish_one(
        &self,
        client: &Client,
        log: &Log,
        entry: &Entry,
    ) -> Result<Appended, Refusal> {
        let base = self.names.partition(log, entry.partition);
        let id = entry
            .message
            .id
            .as_ref()
            .filter(|_| !log.config.deduplication.is_zero());
        let mut headers = None;
        let subject = match (&entry.once, id) {
            (Some(mark), _) => {
                let headers = headers.get_or_insert_with(HeaderMap::new);
                headers.insert(EXPECTED, "0");
                format!("{base}.o.{mark}")
            }
            (None, Some(id)) => {
                let headers = headers.get_or_insert_with(HeaderMap::new);
                let id = utf8_percent_encode(id, NON_ALPHANUMERIC).to_string();
                headers.insert(MESSAGE_ID, id);
                format!("{base}.m")
            }
            (None, None) => format!("{base}.m"),
        };
        let sealed = seal(&entry.message);
        let answer = self.link.ask(client, subject, headers, sealed).await?;
        let ack = read_ack(&answer.payload)?;
        Ok(if ack.duplicate {
            Appended::Duplicate
        } else {
            Appended::At(ack.seq - 1)
        })
    }

    pub(super) async fn explain(
        &self,
        log: &Log,
        entry: &Entry,
        refusal: Refusal,
    ) -> Result<Appended> {
        match refusal {
            Refusal::Code(WRONG_SEQUENCE, ..) if entry.once.is_some() => Ok(Appended::Duplicate),
            Refusal::Code(STORE_FAILED, _, why) if why.contains("maximum bytes") => {
                Err(full(&log.topic))
            }
            // Nobody listens on the subject: the topic is gone, or JetStream.
            Refusal::Nobody => {
                self.check(log).await?;
                Err(Refusal::Nobody.into())
            }
            refusal => Err(refusal.into()),
        }
    }

    /// The records of a stream below a subject.
    pub(super) async fn records(
        &self,
        stream: &str,
        base: &str,
        prefix: &str,
    ) -> Result<Vec<Kept>, Refusal> {
        let filter = format!("{base}.{prefix}>");
        let from = From::LastOfEach;
        let mut following = Following::new(&self.link, stream, Some(&filter), &from, 0).await?;
        let messages = following.all(u64::MAX).await.map_err(Refusal::Failed)?;
        let kept = messages.into_iter().map(|message| {
            let key = message.subject.get(base.len() + 1..).unwrap_or_default();
            Ok(Kept {
                key: key.to_owned(),
                version: sequence(&message)?,
                value: message.payload,
            })
        });
        kept.collect::<Result<_>>().map_err(Refusal::Failed)
    }

    pub(super) async fn put_record(
        &self,
        subject: String,
        value: Bytes,
        expected: Option<u64>,
    ) -> Result<Put, Refusal> {
        let client = self.link.client().await.map_err(Refusal::Failed)?;
        let headers = expected.map(|expected| {
            let mut headers = HeaderMap::new();
            headers.insert(EXPECTED, expected.to_string());
            headers
        });
        let answer = self.link.ask(&client, subject, headers, value).await?;
        match read_ack(&answer.payload) {
            Ok(ack) => Ok(Put::Done(ack.seq)),
            Err(refusal) if refusal.is(WRONG_SEQUENCE) => Ok(Put::Conflict),
            Err(refusal) => Err(refusal),
        }
    }

    /// Makes a stream of records, if it is not there.
    pub(super) async fn make_records(
        &self,
        name: &str,
        subject: &str,
        age: Duration,
    ) -> Result<()> {
        let config = api::record_stream(name, subject, age, self.replicas);
        let what = format!("STREAM.CREATE.{name}");
        match self.link.api::<Done>(&what, &config).await {
            Err(refusal) if !refusal.is(NAME_IN_USE) => Err(refusal.into()),
            _ => Ok(()),
        }
    }

    pub(super) async fn delete_stream(&self, name: &str) -> Result<()> {
        match self
            .link
            .api::<Done>(&format!("STREAM.DELETE.{name}"), &json!({}))
            .await
        {
            Err(refusal) if !refusal.is(NO_STREAM) => Err(refusal.into()),
            _ => Ok(()),
        }
    }

    pub(super) async fn purge(&self, stream: &str, body: serde_json::Value) -> Result<(), Refusal> {
        self.link
            .api::<Done>(&format!("STREAM.PURGE.{stream}"), &body)
            .await
            .map(drop)
    }
}

/// What the engine can do.
pub(super) fn capability() -> Capability {
    let day = Duration::from_secs(24 * 3600);
    Capability {
        engine: ENGINE,
        durable: true,
        delay: false,
        deduplication: true,
        replay: true,
        atomic_publish: false,
        keeps_unsettled: true,
        exact_bytes: false,
        exact_retention: true,
        atomic_with_kv: false,
        limits: Limits {
            // The server's usual limit is 1 MiB with everything.
            message_bytes: 1_000_000,
            key_bytes: 1024,
            id_bytes: 256,
            headers: 64,
            publish_messages: 1024,
            publish_bytes: 8 << 20,
            partitions: 256,
            deduplication: day,
            in_flight: 10_000,
            window: 20_000,
            ack_timeout_minimum: Duration::from_millis(100),
            delay: day * 30,
            read_messages: 1000,
        },
    }
}
