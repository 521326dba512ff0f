//! What Sinew's topics are called in Kafka, how they are set up there, and what is kept of them. With the namespace `shop` and
//! the topic `orders`:
//! - `shop.orders.<incarnation>`: its messages;
//! - `shop.sinew`: the registers. The first partition says which topics there are and which nodes live, the others what the
//!   groups of a topic have settled.
//!
//! Names have no dots, so none of these can be taken for another.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sinew_core::{Name, Result};
use sinew_engine::bus::{Retention, TopicConfig, Unsettled};

use super::{ENGINE, Options, requests::Making};
use crate::{bus_shell::Log, fault};

/// Partitions of the registers, for ever: what is kept is found by their number.
pub(super) const REGISTERS: u32 = 9;
/// The longest batch that a broker takes, bytes.
const LONGEST: usize = 4 << 20;

pub(super) fn registers(namespace: &Name) -> String {
    format!("{namespace}.sinew")
}

pub(super) fn messages(namespace: &Name, topic: &Name, incarnation: &str) -> String {
    format!("{namespace}.{topic}.{incarnation}")
}

/// The register of a topic's groups.
pub(super) fn register(log: &Log) -> u32 {
    1 + crc32c::crc32c(log.incarnation.as_bytes()) % (REGISTERS - 1)
}

pub(super) fn topic_key(topic: &Name) -> String {
    format!("t/{topic}")
}

pub(super) fn node_key(node: &str) -> String {
    format!("n/{node}")
}

pub(super) fn record_key(log: &Log, key: &str) -> String {
    format!("r/{}/{}/{key}", log.topic, log.incarnation)
}

pub(super) fn mark_key(log: &Log, mark: &str) -> String {
    format!("m/{}/{}/{mark}", log.topic, log.incarnation)
}

pub(super) fn hint_key(log: &Log, group: &Name) -> String {
    format!("h/{}/{}/{group}", log.topic, log.incarnation)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A topic, as it stands in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) incarnation: String,
    partitions: u32,
    age_ms: Option<u64>,
    bytes: Option<u64>,
    keep: bool,
    deduplication_ms: u64,
    /// It is being deleted: for everybody else it is gone.
    pub(super) is_going: bool,
}

impl Kept {
    pub(super) fn new(incarnation: String, config: &TopicConfig) -> Self {
        Self {
            incarnation,
            partitions: config.partitions,
            age_ms: config.retention.age.map(millis),
            bytes: config.retention.bytes,
            keep: config.retention.unsettled == Unsettled::Keep,
            deduplication_ms: millis(config.deduplication),
            is_going: false,
        }
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|why| {
            fault::unsuitable(ENGINE, "its catalogue of topics was not written by Sinew")
                .with_source(why)
        })
    }

    pub(super) fn write(&self) -> Bytes {
        serde_json::to_vec(self)
            .expect("it has text keys and no value that JSON lacks")
            .into()
    }

    pub(super) fn log(&self, topic: &Name) -> Log {
        let unsettled = if self.keep {
            Unsettled::Keep
        } else {
            Unsettled::Drop
        };
        Log {
            topic: topic.clone(),
            incarnation: self.incarnation.clone(),
            config: TopicConfig {
                partitions: self.partitions,
                retention: Retention {
                    age: self.age_ms.map(Duration::from_millis),
                    bytes: self.bytes,
                    unsettled,
                },
                deduplication: Duration::from_millis(self.deduplication_ms),
            },
        }
    }
}

/// What all our topics have in common.
fn settings(options: &Options) -> Vec<(&'static str, String)> {
    let quorum = options.replicas / 2 + 1;
    let mut settings = vec![
        ("cleanup.policy", "delete".to_owned()),
        ("message.timestamp.type", "LogAppendTime".to_owned()),
        ("max.message.bytes", LONGEST.to_string()),
        ("min.insync.replicas", quorum.to_string()),
        ("unclean.leader.election.enable", "false".to_owned()),
        ("compression.type", "producer".to_owned()),
    ];
    if options.flush {
        settings.push(("flush.messages", "1".to_owned()));
    }
    settings
}

/// How the registers are made: we ourselves remove what is old.
pub(super) fn registers_made(options: &Options) -> Making {
    let mut settings = settings(options);
    settings.push(("retention.ms", "-1".to_owned()));
    settings.push(("retention.bytes", "-1".to_owned()));
    settings.push(("segment.bytes", (64 << 20).to_string()));
    Making {
        partitions: REGISTERS,
        replicas: options.replicas,
        settings,
    }
}

/// How a topic is made.
pub(super) fn made(options: &Options, config: &TopicConfig) -> Making {
    let mut settings = settings(options);
    let Retention {
        age,
        bytes,
        unsettled,
    } = config.retention;
    let drops = unsettled == Unsettled::Drop;
    let age = age.filter(|_| drops);
    let bytes = bytes.filter(|_| drops);
    let number = |value: Option<u64>| value.map_or(-1, |value| i64::try_from(value).unwrap_or(-1));
    let each = bytes.map(|bytes| bytes / u64::from(config.partitions));
    settings.push(("retention.ms", number(age.map(millis)).to_string()));
    settings.push(("retention.bytes", number(each).to_string()));
    // It goes a segment at a time.
    if let Some(each) = each {
        let segment = (each / 4).clamp(1 << 20, 1 << 30);
        settings.push(("segment.bytes", segment.to_string()));
    }
    if let Some(age) = age {
        let segment = (millis(age) / 4).max(1000);
        settings.push(("segment.ms", segment.to_string()));
    }
    Making {
        partitions: config.partitions,
        replicas: options.replicas,
        settings,
    }
}
