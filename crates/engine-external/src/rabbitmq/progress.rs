//! How far a group is in a partition: how it lies in the register, and what nodes ask each other about it.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use sinew_engine::bus::group::{PartitionSnapshot, Retry};

use super::{catalogue::StoredGroupConfig, register::Entry};

/// How far a group is in a partition, or what has changed of that.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Everything: what the fields below say comes on top.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    whole: Option<Whole>,
    /// Ranges.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    settled: Vec<(u64, u64)>,
    /// Offset, deliveries so far, milliseconds to wait.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    retries: Vec<(u64, u32, u64)>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Whole {
    cursor: u64,
    settled: Vec<(u64, u64)>,
    retries: Vec<(u64, u32, u64)>,
    lost: u64,
}

fn stored(offset: u64, retry: Retry) -> (u64, u32, u64) {
    let wait = u64::try_from(retry.wait.as_millis()).unwrap_or(u64::MAX);
    (offset, retry.attempts, wait)
}

fn loaded((offset, attempts, wait): (u64, u32, u64)) -> (u64, Retry) {
    let wait = Duration::from_millis(wait);
    (offset, Retry { attempts, wait })
}

impl Progress {
    pub(super) fn whole(snapshot: &PartitionSnapshot) -> Self {
        let settled = snapshot.settled.iter();
        let retries = snapshot.retries.iter();
        Self {
            whole: Some(Whole {
                cursor: snapshot.cursor,
                settled: settled.map(|(start, end)| (*start, *end)).collect(),
                retries: retries
                    .map(|(offset, retry)| stored(*offset, *retry))
                    .collect(),
                lost: snapshot.lost,
            }),
            ..Self::default()
        }
    }

    /// A change: these, offset and token, are settled, and those wait.
    pub(super) fn changes(settled: &[(u64, u64)], retries: BTreeMap<u64, Retry>) -> Self {
        let mut offsets: Vec<u64> = settled.iter().map(|(offset, _)| *offset).collect();
        offsets.sort_unstable();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for offset in offsets {
            match ranges.last_mut() {
                Some((_, end)) if *end >= offset => *end = offset + 1,
                _ => ranges.push((offset, offset + 1)),
            }
        }
        let retries = retries.into_iter();
        Self {
            whole: None,
            settled: ranges,
            retries: retries
                .map(|(offset, retry)| stored(offset, retry))
                .collect(),
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole.is_some()
    }

    /// What entries come to, one upon the other.
    pub(super) fn fold(start: u64, entries: Vec<Entry<Self>>) -> PartitionSnapshot {
        let mut snapshot = PartitionSnapshot {
            cursor: start,
            ..PartitionSnapshot::default()
        };
        for entry in entries {
            entry.body.apply(&mut snapshot);
        }
        snapshot
    }

    /// What a whole value says.
    pub(super) fn snapshot(self, start: u64) -> PartitionSnapshot {
        let mut snapshot = PartitionSnapshot {
            cursor: start,
            ..PartitionSnapshot::default()
        };
        self.apply(&mut snapshot);
        snapshot
    }

    fn apply(self, snapshot: &mut PartitionSnapshot) {
        if let Some(whole) = self.whole {
            *snapshot = PartitionSnapshot {
                cursor: whole.cursor,
                settled: whole.settled.into_iter().collect(),
                retries: whole.retries.into_iter().map(loaded).collect(),
                lost: whole.lost,
            };
        }
        snapshot
            .retries
            .extend(self.retries.into_iter().map(loaded));
        for (start, end) in self.settled {
            snapshot.settle_range(start, end);
        }
    }
}

/// What nodes ask of the one that holds a partition.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    State,
    Progress,
    Seek(u64),
    Configure(u64, StoredGroupConfig),
}

/// What it answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) cursor: u64,
    pub(super) lag: u64,
    pub(super) in_flight: u64,
    pub(super) waiting: u64,
    pub(super) lost: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) progress: Option<Progress>,
}
