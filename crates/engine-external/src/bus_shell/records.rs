//! What the shell keeps beside a topic, as JSON that an operator can read:
//! - `<group>.config`: how the group is, and where it began;
//! - `<group>.progress.<partition>`: how far it is, and which node holds the partition;
//! - `<group>.member.<node>`: that a node has consumers, and how they are doing.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sinew_core::{Error, Name, Result, Timestamp};
use sinew_engine::bus::{
    DeadLetter, GroupConfig, Start,
    group::{PartitionSnapshot, Retry},
};

use crate::fault;

pub(super) fn config_key(group: &Name) -> String {
    format!("{group}.config")
}

pub(super) fn progress_key(group: &Name, partition: u32) -> String {
    format!("{group}.progress.{partition}")
}

pub(super) fn member_key(group: &Name, node: &str) -> String {
    format!("{group}.member.{node}")
}

/// A group as it was made, and as it was changed last.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct GroupRecord {
    /// A group that is deleted and made again has another.
    pub(super) incarnation: u64,
    /// Where each partition began.
    pub(super) starts: Vec<u64>,
    start: StartRecord,
    ack_timeout_ms: u64,
    backoff_ms: u64,
    backoff_most_ms: u64,
    dead_letter: Option<(Name, u32)>,
    window: usize,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StartRecord {
    Earliest,
    Latest,
    At(Timestamp),
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl GroupRecord {
    pub(super) fn new(incarnation: u64, starts: Vec<u64>, config: &GroupConfig) -> Self {
        let start = match config.start {
            Start::Earliest => StartRecord::Earliest,
            Start::Latest => StartRecord::Latest,
            Start::At(time) => StartRecord::At(time),
        };
        let dead_letter = config.dead_letter.as_ref();
        Self {
            incarnation,
            starts,
            start,
            ack_timeout_ms: millis(config.ack_timeout),
            backoff_ms: millis(config.backoff),
            backoff_most_ms: millis(config.backoff_most),
            dead_letter: dead_letter.map(|dead| (dead.topic.clone(), dead.after)),
            window: config.window,
        }
    }

    pub(super) fn config(&self) -> GroupConfig {
        GroupConfig {
            start: match self.start {
                StartRecord::Earliest => Start::Earliest,
                StartRecord::Latest => Start::Latest,
                StartRecord::At(time) => Start::At(time),
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

/// How far a group is in a partition. Writing it with the version that was read is what makes an ack durable, and what
/// stops a node that was replaced.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ProgressRecord {
    /// The group's incarnation.
    pub(super) group: u64,
    /// The node that may deliver.
    pub(super) holder: Option<String>,
    /// Names this write, so that one whose answer was lost is known again.
    pub(super) stamp: u64,
    /// Grows whenever the group is moved: its dead letters from then on are others.
    pub(super) round: u64,
    cursor: u64,
    settled: Vec<(u64, u64)>,
    /// Offset, deliveries so far, and when it is due again.
    retries: Vec<(u64, u32, Timestamp)>,
    lost: u64,
}

/// When messages that were delivered come again, and how often they were.
pub(super) type Retries = BTreeMap<u64, (u32, Timestamp)>;

impl ProgressRecord {
    pub(super) fn new(
        group: u64,
        holder: Option<String>,
        (stamp, round): (u64, u64),
        progress: &PartitionSnapshot,
        retries: &Retries,
    ) -> Self {
        Self {
            group,
            holder,
            stamp,
            round,
            cursor: progress.cursor,
            settled: progress
                .settled
                .iter()
                .map(|(start, end)| (*start, *end))
                .collect(),
            retries: retries
                .iter()
                .map(|(offset, (attempts, due))| (*offset, *attempts, *due))
                .collect(),
            lost: progress.lost,
        }
    }

    pub(super) fn starting(group: u64, cursor: u64) -> Self {
        Self {
            group,
            cursor,
            ..Self::default()
        }
    }

    pub(super) fn retries(&self) -> Retries {
        let of = |(offset, attempts, due): &(u64, u32, Timestamp)| (*offset, (*attempts, *due));
        self.retries.iter().map(of).collect()
    }

    pub(super) fn snapshot(&self, now: Timestamp) -> PartitionSnapshot {
        let retry = |(offset, attempts, due): &(u64, u32, Timestamp)| {
            let wait = due.since(now);
            (
                *offset,
                Retry {
                    attempts: *attempts,
                    wait,
                },
            )
        };
        PartitionSnapshot {
            cursor: self.cursor,
            settled: self.settled.iter().copied().collect(),
            retries: self.retries.iter().map(retry).collect(),
            lost: self.lost,
        }
    }

    /// The same, gone on elsewhere.
    pub(super) fn moved(self, cursor: u64) -> Self {
        Self {
            round: self.round + 1,
            cursor,
            settled: Vec::new(),
            retries: Vec::new(),
            ..self
        }
    }

    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }
}

/// What a node says of its consumers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MemberRecord {
    pub(super) consumers: u64,
    pub(super) in_flight: u64,
    pub(super) waiting: u64,
}

pub(super) fn encode<T: Serialize>(record: &T) -> Bytes {
    serde_json::to_vec(record)
        .expect("a record has text keys and no value that JSON lacks")
        .into()
}

pub(super) fn decode<T: DeserializeOwned>(
    engine: &'static str,
    key: &str,
    value: &[u8],
) -> Result<T> {
    serde_json::from_slice(value).map_err(|why| unreadable(engine, key).with_source(why))
}

fn unreadable(engine: &'static str, key: &str) -> Error {
    fault::unsuitable(engine, format!("its record {key} was not written by Sinew"))
}
