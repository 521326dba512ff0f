//! What the shell asks for, in terms of JetStream.

use std::time::Duration;

use async_nats::Subscriber;
use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::{StreamExt, future::join_all};
use serde_json::json;
use sinew_core::{Error, Kind, Name, Result, Timestamp};
use sinew_engine::bus::{Capability, Position, Record, TopicConfig, topic_unknown};

use super::{
    api::{self, Done, From, Got, NAME_IN_USE, NO_MESSAGE, NO_STREAM, StreamInfo, StreamNames},
    jetstream::{BEATS_KEPT, Jetstream},
    link::{ENGINE, Refusal},
};
use crate::{
    bus_shell::{Appended, Backend, Entry, Extent, Hints, Kept, Log, Put, Reader},
    fault,
};

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
