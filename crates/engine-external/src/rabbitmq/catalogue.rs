//! Which topics and groups there are. AMQP cannot list queues, so a register of their namespace does.
//!
//! Every call about topics and groups holds it for a moment, so that they come one after the other, whichever node they
//! come from. Queues bear the random id of their topic or group: one that is made again under the same name shares
//! nothing with the one before. Before queues are made, and before they are deleted, their names are noted as
//! *debris*, which the next holder removes when it is not called off: a crash leaves nothing behind.

use std::{collections::BTreeMap, time::Duration};

use lapin::options::QueueDeleteOptions;
use serde::{Deserialize, Serialize};
use sinew_core::{Name, Result, Timestamp};
use sinew_engine::bus::{
    DeadLetter, GroupConfig, Retention, Start, TopicConfig, Unsettled, group_unknown, topic_unknown,
};

use super::{
    ENGINE, fault as refusal,
    link::Lines,
    register::{self, Entry, Register},
};
use crate::fault;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Catalogue {
    pub(super) topics: BTreeMap<Name, Topic>,
    /// Queues that belong to nothing.
    debris: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Topic {
    pub(super) id: String,
    config: StoredTopicConfig,
    pub(super) groups: BTreeMap<Name, Group>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Group {
    pub(super) id: String,
    /// Grows with every change of the configuration.
    pub(super) version: u64,
    pub(super) config: StoredGroupConfig,
    /// Where it begins in each partition.
    pub(super) starts: Vec<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct StoredTopicConfig {
    partitions: u32,
    age_ms: Option<u64>,
    bytes: Option<u64>,
    keep: bool,
    deduplication_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredGroupConfig {
    start: StoredStart,
    ack_timeout_ms: u64,
    backoff_ms: u64,
    backoff_most_ms: u64,
    dead_letter: Option<(Name, u32)>,
    window: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredStart {
    Earliest,
    Latest,
    At(Timestamp),
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl From<&TopicConfig> for StoredTopicConfig {
    fn from(config: &TopicConfig) -> Self {
        Self {
            partitions: config.partitions,
            age_ms: config.retention.age.map(millis),
            bytes: config.retention.bytes,
            keep: config.retention.unsettled == Unsettled::Keep,
            deduplication_ms: millis(config.deduplication),
        }
    }
}

impl From<&GroupConfig> for StoredGroupConfig {
    fn from(config: &GroupConfig) -> Self {
        Self {
            start: match config.start {
                Start::Earliest => StoredStart::Earliest,
                Start::Latest => StoredStart::Latest,
                Start::At(time) => StoredStart::At(time),
            },
            ack_timeout_ms: millis(config.ack_timeout),
            backoff_ms: millis(config.backoff),
            backoff_most_ms: millis(config.backoff_most),
            dead_letter: config
                .dead_letter
                .as_ref()
                .map(|dead| (dead.topic.clone(), dead.after)),
            window: config.window,
        }
    }
}

impl StoredGroupConfig {
    pub(super) fn config(&self) -> GroupConfig {
        GroupConfig {
            start: match self.start {
                StoredStart::Earliest => Start::Earliest,
                StoredStart::Latest => Start::Latest,
                StoredStart::At(time) => Start::At(time),
            },
            ack_timeout: Duration::from_millis(self.ack_timeout_ms),
            backoff: Duration::from_millis(self.backoff_ms),
            backoff_most: Duration::from_millis(self.backoff_most_ms),
            dead_letter: self
                .dead_letter
                .clone()
                .map(|(topic, after)| DeadLetter { topic, after }),
            window: self.window,
        }
    }
}

impl Topic {
    pub(super) fn new(config: &TopicConfig) -> Self {
        Self {
            id: super::token(),
            config: config.into(),
            groups: BTreeMap::new(),
        }
    }

    pub(super) fn config(&self) -> TopicConfig {
        let StoredTopicConfig {
            partitions,
            age_ms,
            bytes,
            keep,
            deduplication_ms,
        } = self.config;
        TopicConfig {
            partitions,
            retention: Retention {
                age: age_ms.map(Duration::from_millis),
                bytes,
                unsettled: if keep {
                    Unsettled::Keep
                } else {
                    Unsettled::Drop
                },
            },
            deduplication: Duration::from_millis(deduplication_ms),
        }
    }

    pub(super) fn set_config(&mut self, config: &TopicConfig) {
        self.config = config.into();
    }

    /// Lets a group be so; tells whether it was otherwise. Where it began stays as it was told then.
    pub(super) fn change_group(&mut self, group: &Name, config: &GroupConfig) -> bool {
        let Some(member) = self.groups.get_mut(group) else {
            return false;
        };
        let config = StoredGroupConfig::from(config);
        let is_changed = member.config != config;
        if is_changed {
            member.config = config;
            member.version += 1;
        }
        is_changed
    }

    pub(super) fn partitions(&self) -> u32 {
        self.config.partitions
    }

    /// The streams, one a partition.
    pub(super) fn streams(&self, namespace: &Name, topic: &Name) -> Vec<String> {
        let id = &self.id;
        (0..self.config.partitions)
            .map(|partition| format!("sinew.{namespace}.topic.{topic}.{id}.{partition}"))
            .collect()
    }

    pub(super) fn group(&self, group: &Name) -> Result<&Group> {
        self.groups.get(group).ok_or_else(|| group_unknown(group))
    }
}

impl Group {
    pub(super) fn new(config: &GroupConfig, starts: Vec<u64>) -> Self {
        Self {
            id: super::token(),
            version: 1,
            config: config.into(),
            starts,
        }
    }

    /// The registers of its progress, one a partition. The topic's name is left out: AMQP's names have 255 bytes.
    pub(super) fn queues(&self, namespace: &Name, group: &Name) -> Vec<String> {
        let id = &self.id;
        (0..self.starts.len())
            .map(|partition| format!("sinew.{namespace}.group.{group}.{id}.{partition}"))
            .collect()
    }
}

impl Catalogue {
    pub(super) fn topic(&self, topic: &Name) -> Result<&Topic> {
        self.topics.get(topic).ok_or_else(|| topic_unknown(topic))
    }

    pub(super) fn topic_mut(&mut self, topic: &Name) -> Result<&mut Topic> {
        self.topics
            .get_mut(topic)
            .ok_or_else(|| topic_unknown(topic))
    }

    pub(super) fn note_debris(&mut self, queues: &[String]) {
        self.debris.extend_from_slice(queues);
    }

    pub(super) fn call_off(&mut self, queues: &[String]) {
        self.debris.retain(|queue| !queues.contains(queue));
    }
}

fn queue(namespace: &Name) -> String {
    format!("sinew.{namespace}.catalogue")
}

/// The catalogue, held.
pub(super) struct Held {
    register: Register<Catalogue, ()>,
    pub(super) catalogue: Catalogue,
    /// As it was found.
    base: Catalogue,
    epoch: u64,
    number: u64,
    writer: String,
    /// What a newer entry makes needless.
    old: Vec<u64>,
}

impl Held {
    /// Waits until nobody else holds it.
    pub(super) async fn take(lines: &Lines, namespace: &Name) -> Result<Self> {
        let queue = queue(namespace);
        let register = match Register::attach(lines, &queue).await? {
            Some(register) => register,
            None => {
                register::make(&lines.channel().await?, &queue).await?;
                let again = Register::attach(lines, &queue).await?;
                again.ok_or_else(|| fault::unavailable(ENGINE, "the catalogue is not there"))?
            }
        };
        let mut register = register;
        let found = register.hold().await?;
        let found = found.ok_or_else(|| fault::unavailable(ENGINE, "the connection broke"))?;
        let mut held = Self {
            epoch: found.next_epoch(),
            number: 0,
            writer: super::token(),
            catalogue: Catalogue::default(),
            base: Catalogue::default(),
            old: found.tags,
            register,
        };
        match found.entries.into_iter().next_back() {
            Some(last) => (held.catalogue, held.base) = (last.body.clone(), last.body),
            // Never left empty: those in line would not learn that they hold.
            None => held.begin().await?,
        }
        Ok(held)
    }

    /// Begins the epoch, with what was found: whoever was replaced has no say any more.
    async fn begin(&mut self) -> Result<()> {
        let base = std::mem::take(&mut self.base);
        self.write(base).await
    }

    /// Makes the catalogue durable as it is now.
    pub(super) async fn save(&mut self) -> Result<()> {
        if self.number == 0 {
            self.begin().await?;
        }
        self.write(self.catalogue.clone()).await
    }

    async fn write(&mut self, body: Catalogue) -> Result<()> {
        let number = self.number;
        self.number += 1;
        self.register
            .append(Entry {
                epoch: self.epoch,
                number,
                by: self.writer.clone(),
                body,
            })
            .await?;
        loop {
            match self.register.next().await? {
                register::Heard::Entry { tag, entry }
                    if entry.by == self.writer && entry.number == number =>
                {
                    let old = std::mem::replace(&mut self.old, vec![tag]);
                    return self.register.acknowledge(&old).await;
                }
                register::Heard::Entry { tag, .. } | register::Heard::Request { tag, .. } => {
                    self.register.acknowledge(&[tag]).await?;
                }
                register::Heard::Probe(_) => {}
                register::Heard::End => {
                    return Err(fault::unavailable(ENGINE, "the connection broke"));
                }
            }
        }
    }

    /// Removes the queues that belong to nothing.
    pub(super) async fn clear(&mut self, lines: &Lines) -> Result<()> {
        if self.catalogue.debris.is_empty() {
            return Ok(());
        }
        let channel = lines.channel().await?;
        for queue in &self.catalogue.debris {
            let deleted = channel
                .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
                .await;
            deleted.map_err(refusal::of)?;
        }
        self.catalogue.debris.clear();
        self.save().await
    }

    pub(super) async fn release(self) {
        self.register.release().await;
    }
}
