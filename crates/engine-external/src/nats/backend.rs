//! What the shell asks for, in terms of JetStream.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, HeaderMap, Subscriber};
use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::{StreamExt, future::join_all};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use sinew_core::{Error, Kind, Name, Result, Timestamp};
use sinew_engine::bus::{Capability, Position, Record, TopicConfig, full, topic_unknown};

use super::{
    api::{
        self, Description, Done, From, Got, NAME_IN_USE, NO_MESSAGE, NO_STREAM, PublishAck,
        STORE_FAILED, StreamInfo, StreamNames, WRONG_SEQUENCE,
    },
    envelope::seal,
    link::{ENGINE, Link, Refusal, read},
    log::{Following, sequence},
    names::Names,
};
use crate::{
    bus_shell::{Appended, Backend, Entry, Extent, Hints, Kept, Log, Put, Reader},
    fault,
};

const MESSAGE_ID: &str = "Nats-Msg-Id";
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// Beats that are so many leases old say nothing.
const BEATS_KEPT: u32 = 20;

pub(super) struct Jetstream {
    pub(super) link: Arc<Link>,
    pub(super) names: Names,
    pub(super) replicas: usize,
    pub(super) lease: Duration,
    pub(super) capability: Capability,
}

impl Jetstream {
    async fn info(&self, topic: &Name) -> Result<Option<(StreamInfo, Description)>> {
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
    async fn check(&self, log: &Log) -> Result<()> {
        let found = self.info(&log.topic).await?;
        match found {
            Some((_, description)) if description.incarnation == log.incarnation => Ok(()),
            _ => Err(topic_unknown(&log.topic)),
        }
    }

    async fn follow_from(
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

    async fn publish_one(
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
        let ack: PublishAck = read(&answer.payload)?;
        Ok(if ack.duplicate {
            Appended::Duplicate
        } else {
            Appended::At(ack.seq - 1)
        })
    }

    async fn explain(&self, log: &Log, entry: &Entry, refusal: Refusal) -> Result<Appended> {
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
    async fn records(&self, stream: &str, base: &str, prefix: &str) -> Result<Vec<Kept>, Refusal> {
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

    async fn put_record(
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
        match read::<PublishAck>(&answer.payload) {
            Ok(ack) => Ok(Put::Done(ack.seq)),
            Err(refusal) if refusal.is(WRONG_SEQUENCE) => Ok(Put::Conflict),
            Err(refusal) => Err(refusal),
        }
    }

    /// Makes a stream of records, if it is not there.
    async fn make_records(&self, name: &str, subject: &str, age: Duration) -> Result<()> {
        let config = api::record_stream(name, subject, age, self.replicas);
        let what = format!("STREAM.CREATE.{name}");
        match self.link.api::<Done>(&what, &config).await {
            Err(refusal) if !refusal.is(NAME_IN_USE) => Err(refusal.into()),
            _ => Ok(()),
        }
    }

    async fn delete_stream(&self, name: &str) -> Result<()> {
        match self
            .link
            .api::<Done>(&format!("STREAM.DELETE.{name}"), &json!({}))
            .await
        {
            Err(refusal) if !refusal.is(NO_STREAM) => Err(refusal.into()),
            _ => Ok(()),
        }
    }

    async fn purge(&self, stream: &str, body: serde_json::Value) -> Result<(), Refusal> {
        self.link
            .api::<Done>(&format!("STREAM.PURGE.{stream}"), &body)
            .await
            .map(drop)
    }
}

#[async_trait]
impl Backend for Jetstream {
    fn capability(&self) -> &Capability {
        &self.capability
    }

    async fn create(&self, topic: &Name, config: &TopicConfig) -> Result<Option<Log>> {
        let incarnation = format!("{:012x}", rand::random::<u64>() >> 16);
        let stream = self.names.stream(topic);
        let subjects = format!("{}.>", self.names.messages(topic, &incarnation));
        let body = api::topic_stream(&stream, &subjects, &incarnation, config, self.replicas);
        match self
            .link
            .api::<Done>(&format!("STREAM.CREATE.{stream}"), &body)
            .await
        {
            Ok(Done {}) => Ok(Some(Log {
                topic: topic.clone(),
                incarnation,
                config: *config,
            })),
            Err(refusal) if refusal.is(NAME_IN_USE) => Ok(None),
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn configure(&self, log: &Log, config: &TopicConfig) -> Result<()> {
        let stream = self.names.stream(&log.topic);
        let subjects = format!("{}.>", self.names.messages(&log.topic, &log.incarnation));
        let body = api::topic_stream(&stream, &subjects, &log.incarnation, config, self.replicas);
        match self
            .link
            .api::<Done>(&format!("STREAM.UPDATE.{stream}"), &body)
            .await
        {
            Ok(Done {}) => Ok(()),
            Err(refusal) if refusal.is(NO_STREAM) => Err(topic_unknown(&log.topic)),
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn find(&self, topic: &Name) -> Result<Option<Log>> {
        Ok(self.info(topic).await?.map(|(_, description)| Log {
            topic: topic.clone(),
            config: description.config(),
            incarnation: description.incarnation,
        }))
    }

    async fn topics(&self) -> Result<Vec<Name>> {
        let mut topics = Vec::new();
        let mut offset = 0;
        loop {
            let body = json!({ "offset": offset, "subject": self.names.topics() });
            let page: StreamNames = self.link.api("STREAM.NAMES", &body).await?;
            let names = page.streams.unwrap_or_default();
            offset += names.len();
            let of = |name: &String| api::topic_of(name, &self.names.namespace);
            topics.extend(names.iter().filter_map(of));
            if names.is_empty() || offset >= page.total {
                return Ok(topics);
            }
        }
    }

    async fn delete(&self, topic: &Name) -> Result<()> {
        let Some(log) = self.find(topic).await? else {
            return Ok(());
        };
        self.delete_stream(&self.names.stream(topic)).await?;
        self.delete_stream(&self.names.groups_stream(&log)).await
    }

    async fn extent(&self, log: &Log) -> Result<Extent> {
        let found = self.info(&log.topic).await?;
        let found = found.filter(|(_, description)| description.incarnation == log.incarnation);
        let Some((StreamInfo { state, .. }, _)) = found else {
            return Err(topic_unknown(&log.topic));
        };
        let end = state.last_seq;
        let first = if state.messages == 0 {
            end
        } else {
            state.first_seq.saturating_sub(1)
        };
        let oldest = api::read_rfc3339(&state.first_ts).filter(|_| state.messages > 0);
        Ok(Extent {
            ranges: (0..log.config.partitions).map(|_| first..end).collect(),
            bytes: state.bytes,
            oldest,
        })
    }

    async fn append(&self, log: &Log, entries: Vec<Entry>) -> Vec<Result<Appended>> {
        let client = match self.link.client().await {
            Ok(client) => client,
            Err(error) => {
                let (kind, context) = (error.kind(), error.detail());
                let again = move || match kind {
                    Kind::PermissionDenied => fault::denied(ENGINE, context.clone()),
                    _ => fault::unavailable(ENGINE, context.clone()),
                };
                return entries.iter().map(|_| Err(again())).collect();
            }
        };
        // They are sent in order, one behind the other, and answered together.
        let sent = join_all(
            entries
                .iter()
                .map(|entry| self.publish_one(&client, log, entry)),
        )
        .await;
        let mut answers = Vec::with_capacity(entries.len());
        for (entry, answer) in entries.iter().zip(sent) {
            answers.push(match answer {
                Ok(appended) => Ok(appended),
                Err(refusal) => self.explain(log, entry, refusal).await,
            });
        }
        answers
    }

    async fn since(&self, log: &Log, time: Timestamp) -> Result<Vec<u64>> {
        let stream = self.names.stream(&log.topic);
        let body = api::consumer(&stream, None, &From::Time(time));
        let what = format!("CONSUMER.CREATE.{stream}");
        let made: api::ConsumerInfo = match self.link.api(&what, &body).await {
            Ok(made) => made,
            Err(refusal) => {
                self.check(log).await?;
                return Err(refusal.into());
            }
        };
        let first = made.delivered.stream_seq;
        let delete = format!("CONSUMER.DELETE.{stream}.{}", made.name);
        let _ = self.link.api::<Done>(&delete, &json!({})).await;
        Ok(vec![first; log.config.partitions as usize])
    }

    async fn count(&self, log: &Log, from: Position) -> Result<u64> {
        let start = From::Sequence(from.offset + 1);
        let following = self.follow_from(log, Some(from.partition), start).await?;
        Ok(following.pending)
    }

    async fn read(&self, log: &Log, from: Position, most: usize) -> Result<Vec<Record>> {
        let start = From::Sequence(from.offset + 1);
        let mut following = self.follow_from(log, Some(from.partition), start).await?;
        let messages = following.all(most as u64).await?;
        messages
            .into_iter()
            .map(|message| following.record(message))
            .collect()
    }

    async fn follow(&self, log: &Log, from: Position) -> Result<Box<dyn Reader>> {
        let start = From::Sequence(from.offset + 1);
        Ok(Box::new(
            self.follow_from(log, Some(from.partition), start).await?,
        ))
    }

    async fn trim(&self, log: &Log, first: Position) -> Result<()> {
        let mut body = json!({ "seq": first.offset + 1 });
        if log.config.partitions > 1 {
            let filter = format!("{}.>", self.names.partition(log, first.partition));
            body["filter"] = filter.into();
        }
        let purged = self.purge(&self.names.stream(&log.topic), body).await;
        purged.map_err(Error::from)
    }

    fn removes_old(&self, config: &TopicConfig) -> bool {
        api::removes_old(config)
    }

    async fn list(&self, log: &Log, prefix: &str) -> Result<Vec<Kept>> {
        let (stream, base) = (self.names.groups_stream(log), self.names.groups(log));
        match self.records(&stream, &base, prefix).await {
            Ok(kept) => Ok(kept),
            // It is made with the first record.
            Err(refusal) if refusal.is(NO_STREAM) => self.check(log).await.map(|()| Vec::new()),
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn get(&self, log: &Log, key: &str) -> Result<Option<Kept>> {
        let subject = format!("{}.{key}", self.names.groups(log));
        let what = format!("STREAM.MSG.GET.{}", self.names.groups_stream(log));
        match self
            .link
            .api::<Got>(&what, &json!({ "last_by_subj": subject }))
            .await
        {
            Ok(Got { message }) => {
                let value = BASE64_STANDARD.decode(message.data).map_err(|why| {
                    fault::unexpected(ENGINE, "a message of JetStream").with_source(why)
                })?;
                Ok(Some(Kept {
                    key: key.to_owned(),
                    value: value.into(),
                    version: message.seq,
                }))
            }
            Err(refusal) if refusal.is(NO_MESSAGE) => Ok(None),
            Err(refusal) if refusal.is(NO_STREAM) => self.check(log).await.map(|()| None),
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn put(&self, log: &Log, key: &str, value: Bytes, expected: u64) -> Result<Put> {
        let base = self.names.groups(log);
        let subject = format!("{base}.{key}");
        match self
            .put_record(subject.clone(), value.clone(), Some(expected))
            .await
        {
            Err(Refusal::Nobody) => {
                self.check(log).await?;
                let (stream, subjects) = (self.names.groups_stream(log), format!("{base}.>"));
                self.make_records(&stream, &subjects, Duration::ZERO)
                    .await?;
                let put = self.put_record(subject, value, Some(expected)).await;
                put.map_err(Error::from)
            }
            put => put.map_err(Error::from),
        }
    }

    async fn remove(&self, log: &Log, key: &str) -> Result<()> {
        let rest = if key.ends_with('.') { ">" } else { "" };
        let filter = format!("{}.{key}{rest}", self.names.groups(log));
        let stream = self.names.groups_stream(log);
        match self.purge(&stream, json!({ "filter": filter })).await {
            Err(refusal) if refusal.is(NO_STREAM) => self.check(log).await,
            purged => purged.map_err(Error::from),
        }
    }

    async fn hint(&self, log: &Log, group: &Name) {
        if let Ok(client) = self.link.client().await {
            let _ = client
                .publish(self.names.hint(log, group), Bytes::new())
                .await;
        }
    }

    async fn hints(&self, log: &Log, group: &Name) -> Result<Box<dyn Hints>> {
        let client = self.link.client().await?;
        let subscribed = client.subscribe(self.names.hint(log, group)).await;
        let subscriber = subscribed.map_err(|why| fault::unavailable(ENGINE, why.to_string()))?;
        Ok(Box::new(Subscribed(subscriber)))
    }

    async fn beat(&self, node: &str) -> Result<()> {
        let base = self.names.nodes();
        let subject = format!("{base}.{node}");
        match self.put_record(subject.clone(), Bytes::new(), None).await {
            Err(Refusal::Nobody) => {
                let subjects = format!("{base}.>");
                let age = (self.lease * BEATS_KEPT).max(Duration::from_secs(60));
                self.make_records(&self.names.nodes_stream(), &subjects, age)
                    .await?;
                self.put_record(subject, Bytes::new(), None).await?;
                Ok(())
            }
            put => put.map(drop).map_err(Error::from),
        }
    }

    async fn beats(&self) -> Result<Vec<(String, u64)>> {
        let kept = self
            .records(&self.names.nodes_stream(), &self.names.nodes(), "")
            .await?;
        Ok(kept
            .into_iter()
            .map(|kept| (kept.key, kept.version))
            .collect())
    }

    async fn leave(&self, node: &str) -> Result<()> {
        let filter = format!("{}.{node}", self.names.nodes());
        let purged = self
            .purge(&self.names.nodes_stream(), json!({ "filter": filter }))
            .await;
        purged.map_err(Error::from)
    }
}

struct Subscribed(Subscriber);

#[async_trait]
impl Hints for Subscribed {
    async fn next(&mut self) {
        if self.0.next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// What the engine can do.
pub(super) fn capability() -> Capability {
    use sinew_engine::bus::Limits;

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
