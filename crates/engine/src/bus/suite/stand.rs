//! What every case works with: a bus, and short ways to use it.

use std::{
    collections::{HashMap, hash_map::Entry},
    future::Future,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use sinew_core::{Kind, Name, Result, Timestamp};

use super::{End, Harness, Subject};
use crate::bus::{
    Bus, Consumer, Delivery, GroupConfig, GroupState, Limits, Message, Position, Published, Record,
    Retention, Subscription, TopicConfig, Unsettled,
};

/// How long a case waits for something that must happen soon.
const SOON: Duration = Duration::from_secs(20);
/// How long a case waits to see that something does not happen.
const QUIET: Duration = Duration::from_millis(60);

pub(super) struct Stand {
    harness: Arc<dyn Harness>,
    subject: Box<dyn Subject>,
}

impl Stand {
    pub(super) async fn new(harness: Arc<dyn Harness>) -> Self {
        let subject = harness.create().await;
        Self { harness, subject }
    }

    pub(super) fn bus(&self) -> Arc<dyn Bus> {
        self.subject.bus()
    }

    pub(super) fn limits(&self) -> Limits {
        self.bus().capability().limits
    }

    pub(super) async fn reopen(&mut self, end: End) {
        self.subject.reopen(end).await;
    }

    pub(super) async fn pass(&self, time: Duration) {
        self.subject.pass(time).await;
    }

    pub(super) fn now(&self) -> Timestamp {
        self.subject.now()
    }

    /// A time that the engine can tell from nothing, and that a test can wait for.
    pub(super) fn unit(&self) -> Duration {
        if self.harness.time_is_manual() {
            Duration::from_secs(10)
        } else {
            self.limits()
                .ack_timeout_minimum
                .max(Duration::from_millis(400))
        }
    }

    /// A topic with one partition that keeps everything.
    pub(super) async fn topic(&self, topic: &str) {
        self.topic_of(topic, keeping()).await;
    }

    pub(super) async fn topic_of(&self, topic: &str, config: TopicConfig) {
        assert!(self.bus().create_topic(&name(topic), config).await.unwrap());
    }

    pub(super) async fn publish(&self, topic: &str, messages: Vec<Message>) -> Vec<Published> {
        self.bus().publish(&name(topic), messages).await.unwrap()
    }

    /// Publishes texts like `key:payload`, or `payload` without a key.
    pub(super) async fn say(&self, topic: &str, texts: &[&str]) {
        let messages = texts.iter().map(|text| message(text)).collect();
        let published = self.publish(topic, messages).await;
        let is_in =
            |published: &Published| matches!(published, Published::At(_) | Published::In(_));
        assert!(published.iter().all(is_in), "{published:?}");
    }

    /// Publishes texts, and answers where they are. Nobody else may publish meanwhile.
    pub(super) async fn say_at(&self, topic: &str, texts: &[&str]) -> Vec<Position> {
        let messages = texts.iter().map(|text| message(text)).collect();
        let published = self.publish(topic, messages).await;
        let mut places = Vec::new();
        // From the last, so that the last of each partition is looked for first.
        let mut ends: HashMap<u32, Vec<Position>> = HashMap::new();
        for published in published.into_iter().rev() {
            places.push(match published {
                Published::In(partition) => {
                    let held = match ends.entry(partition) {
                        Entry::Occupied(held) => held.into_mut(),
                        Entry::Vacant(free) => {
                            let records = self.records(topic, partition).await;
                            free.insert(records.iter().map(|record| record.position).collect())
                        }
                    };
                    held.pop().expect("what was published is in the log")
                }
                published => position(published),
            });
        }
        places.reverse();
        places
    }

    pub(super) async fn join(&self, topic: &str, group: &str) -> Arc<dyn Consumer> {
        self.join_as(topic, group, self.subscription()).await
    }

    pub(super) async fn join_as(
        &self,
        topic: &str,
        group: &str,
        subscription: Subscription,
    ) -> Arc<dyn Consumer> {
        self.bus()
            .subscribe(&name(topic), &name(group), subscription)
            .await
            .unwrap()
    }

    /// Times in units: four to acknowledge, a backoff of one to three.
    pub(super) fn subscription(&self) -> Subscription {
        Subscription {
            group: GroupConfig {
                ack_timeout: self.unit() * 4,
                backoff: self.unit(),
                backoff_most: self.unit() * 3,
                ..GroupConfig::default()
            },
            ..Subscription::default()
        }
    }

    pub(super) async fn group(&self, topic: &str, group: &str) -> GroupState {
        self.bus().group(&name(topic), &name(group)).await.unwrap()
    }

    pub(super) async fn lag(&self, topic: &str, group: &str) -> u64 {
        self.group(topic, group).await.lag
    }

    /// Everything in a partition, as texts.
    pub(super) async fn read(&self, topic: &str, partition: u32) -> Vec<String> {
        let records = self.records(topic, partition).await;
        records.iter().map(|record| text(&record.message)).collect()
    }

    async fn records(&self, topic: &str, partition: u32) -> Vec<Record> {
        loop {
            match self.try_records(topic, partition).await {
                // Retention took the first ones between two calls.
                Err(error) if error.kind() == Kind::OutOfRange => {}
                found => return found.unwrap(),
            }
        }
    }

    async fn try_records(&self, topic: &str, partition: u32) -> Result<Vec<Record>> {
        let state = self.bus().topic(&name(topic)).await.unwrap();
        let range = state.partitions[partition as usize].clone();
        let (mut found, mut offset) = (Vec::new(), range.start);
        loop {
            let from = Position { partition, offset };
            let records = self.bus().read(&name(topic), from, 7).await?;
            let Some(last) = records.last() else {
                return Ok(found);
            };
            offset = last.position.offset + 1;
            found.extend(records);
        }
    }
}

pub(super) fn keeping() -> TopicConfig {
    TopicConfig {
        partitions: 1,
        retention: Retention {
            age: None,
            bytes: None,
            unsettled: Unsettled::Keep,
        },
        deduplication: Duration::ZERO,
    }
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A message from `key:payload`, or `payload` without a key.
pub(super) fn message(text: &str) -> Message {
    match text.split_once(':') {
        Some((key, payload)) => Message::new(payload.to_owned()).key(key.to_owned()),
        None => Message::new(text.to_owned()),
    }
}

/// The same back.
pub(super) fn text(message: &Message) -> String {
    let payload = String::from_utf8_lossy(&message.payload);
    match &message.key {
        Some(key) => format!("{}:{payload}", String::from_utf8_lossy(key)),
        None => payload.into_owned(),
    }
}

pub(super) fn texts(deliveries: &[Delivery]) -> Vec<String> {
    deliveries
        .iter()
        .map(|delivery| text(&delivery.record.message))
        .collect()
}

#[track_caller]
pub(super) fn position(published: Published) -> Position {
    match published {
        Published::At(position) => position,
        other => panic!("it should be in the log: {other:?}"),
    }
}

/// The value of a header.
pub(super) fn header<'m>(message: &'m Message, name: &str) -> Option<&'m Bytes> {
    message
        .headers
        .iter()
        .find(|(header, _)| header == name)
        .map(|(_, value)| value)
}

/// What comes soon and without a pause, at most `most`; nothing when nothing does.
pub(super) async fn next(consumer: &Arc<dyn Consumer>, most: usize) -> Vec<Delivery> {
    let mut found = Vec::new();
    while found.len() < most {
        let wait = if found.is_empty() { SOON } else { QUIET };
        match tokio::time::timeout(wait, consumer.next_many(most - found.len())).await {
            Ok(more) => found.extend(more.unwrap()),
            Err(_) => break,
        }
    }
    assert!(!found.is_empty(), "something should have come");
    found
}

/// The next message, which must come soon.
pub(super) async fn one(consumer: &Arc<dyn Consumer>) -> Delivery {
    soon(consumer.next()).await.unwrap()
}

/// Checks that nothing comes.
pub(super) async fn nothing(consumer: &Arc<dyn Consumer>) {
    if let Ok(found) = tokio::time::timeout(QUIET, consumer.next_many(10)).await {
        panic!(
            "nothing should have come: {:?}",
            found.map(|found| texts(&found))
        );
    }
}

pub(super) async fn ack(consumer: &Arc<dyn Consumer>, deliveries: &[Delivery]) {
    let receipts: Vec<_> = deliveries.iter().map(|delivery| delivery.receipt).collect();
    consumer.ack(&receipts).await.unwrap();
}

/// The next message, acknowledged, as text.
pub(super) async fn done(consumer: &Arc<dyn Consumer>) -> String {
    let delivery = one(consumer).await;
    consumer.ack(&[delivery.receipt]).await.unwrap();
    text(&delivery.record.message)
}

pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future)
        .await
        .expect("this should have happened soon")
}

/// Checks an error's kind and code.
#[track_caller]
pub(super) fn fails<T>(result: Result<T>, kind: Kind, code: &str) {
    match result {
        Ok(_) => panic!("should have failed with {code}"),
        Err(error) => assert_eq!((error.kind(), error.code()), (kind, code), "{error:?}"),
    }
}

#[track_caller]
pub(super) fn is_stale<T>(result: Result<T>) {
    fails(result, Kind::FailedPrecondition, "bus.receipt_stale");
}
