//! The bytes of names, times and configurations, in the log and in the tables.

use std::time::Duration;

use bytes::BufMut as _;
use sinew_core::{Name, Timestamp};
use sinew_engine::bus::{
    DeadLetter, GroupConfig, Retention, Start, TopicConfig, Unsettled,
    group::{PartitionSnapshot, Retry, Snapshot},
};

use super::bytes::{Malformed, Put as _, Take};

pub(super) fn take_name(take: &mut Take<'_>) -> Result<Name, Malformed> {
    Name::new(take.text()?).map_err(|_| Malformed)
}

/// In nanoseconds; some 584 years at most.
pub(super) fn put_time(to: &mut Vec<u8>, time: Duration) {
    to.number(nanoseconds(time));
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn take_time(take: &mut Take<'_>) -> Result<Duration, Malformed> {
    take.number().map(Duration::from_nanos)
}

pub(super) fn put_topic(to: &mut Vec<u8>, config: &TopicConfig) {
    let Retention {
        age,
        bytes,
        unsettled,
    } = config.retention;
    to.number(u64::from(config.partitions));
    to.maybe(age.map(nanoseconds));
    to.maybe(bytes);
    to.put_u8(u8::from(unsettled == Unsettled::Drop));
    put_time(to, config.deduplication);
}

pub(super) fn take_topic(take: &mut Take<'_>) -> Result<TopicConfig, Malformed> {
    Ok(TopicConfig {
        partitions: take.small()?,
        retention: Retention {
            age: take.maybe()?.map(Duration::from_nanos),
            bytes: take.maybe()?,
            unsettled: match take.byte()? {
                0 => Unsettled::Keep,
                1 => Unsettled::Drop,
                _ => return Err(Malformed),
            },
        },
        deduplication: take_time(take)?,
    })
}

pub(super) fn put_group(to: &mut Vec<u8>, config: &GroupConfig) {
    match config.start {
        Start::Earliest => to.put_u8(0),
        Start::Latest => to.put_u8(1),
        Start::At(time) => {
            to.put_u8(2);
            to.number(time.0);
        }
    }
    put_time(to, config.ack_timeout);
    put_time(to, config.backoff);
    put_time(to, config.backoff_most);
    match &config.dead_letter {
        None => to.put_u8(0),
        Some(dead) => {
            to.put_u8(1);
            to.string(dead.topic.as_str().as_bytes());
            to.number(u64::from(dead.after));
        }
    }
    to.number(config.window as u64);
}

pub(super) fn take_group(take: &mut Take<'_>) -> Result<GroupConfig, Malformed> {
    Ok(GroupConfig {
        start: match take.byte()? {
            0 => Start::Earliest,
            1 => Start::Latest,
            2 => Start::At(Timestamp(take.number()?)),
            _ => return Err(Malformed),
        },
        ack_timeout: take_time(take)?,
        backoff: take_time(take)?,
        backoff_most: take_time(take)?,
        dead_letter: match take.byte()? {
            0 => None,
            1 => Some(DeadLetter {
                topic: take_name(take)?,
                after: take.small()?,
            }),
            _ => return Err(Malformed),
        },
        window: take.size()?,
    })
}

pub(super) fn put_snapshot(to: &mut Vec<u8>, snapshot: &Snapshot) {
    to.number(snapshot.partitions.len() as u64);
    for partition in &snapshot.partitions {
        to.number(partition.cursor);
        to.number(partition.lost);
        to.number(partition.settled.len() as u64);
        // Distances are short numbers.
        let mut at = partition.cursor;
        for (start, end) in &partition.settled {
            to.number(start - at);
            to.number(end - start);
            at = *end;
        }
        to.number(partition.retries.len() as u64);
        for (offset, retry) in &partition.retries {
            to.number(*offset);
            to.number(u64::from(retry.attempts));
            put_time(to, retry.wait);
        }
    }
}

pub(super) fn take_snapshot(take: &mut Take<'_>) -> Result<Snapshot, Malformed> {
    let partitions = (0..take.size()?).map(|_| take_partition(take));
    Ok(Snapshot {
        partitions: partitions.collect::<Result<_, _>>()?,
    })
}

fn take_partition(take: &mut Take<'_>) -> Result<PartitionSnapshot, Malformed> {
    let mut partition = PartitionSnapshot {
        cursor: take.number()?,
        lost: take.number()?,
        ..PartitionSnapshot::default()
    };
    let mut at = partition.cursor;
    for _ in 0..take.size()? {
        let start = at.checked_add(take.number()?).ok_or(Malformed)?;
        at = start.checked_add(take.number()?).ok_or(Malformed)?;
        partition.settled.insert(start, at);
    }
    for _ in 0..take.size()? {
        let offset = take.number()?;
        let attempts = take.small()?;
        let wait = take_time(take)?;
        partition.retries.insert(offset, Retry { attempts, wait });
    }
    Ok(partition)
}
