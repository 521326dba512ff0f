//! Dead letters that are there once. Kafka appends unconditionally, so of the same dead letter there may be copies: a node
//! appends one and is gone before it has said so, and the next one appends another.
//!
//! Which copy counts stands in the topic's register under the letter's mark, and is decided once: by who appended
//! it, or by the first who reads a copy of which nothing is said. The others are read over.

use std::sync::Arc;

use bytes::Bytes;
use sinew_core::{Result, Timestamp};
use sinew_engine::bus::Position;

use super::{ENGINE, catalogue::mark_key, register::Register};
use crate::{
    bus_shell::{Log, Put},
    fault,
};

/// Marks of a topic that are kept, about.
const KEPT: usize = 10_000;
/// Milliseconds after which a copy of which nothing is said is taken for the one: marks that are not kept any more are
/// older, and who was about to say something has given up.
const OLD: u64 = 3_600_000;

fn write(place: Position) -> Bytes {
    format!("{}:{}", place.partition, place.offset).into()
}

fn read(value: &[u8]) -> Result<Position> {
    let text = std::str::from_utf8(value).ok();
    let parts = text.and_then(|text| text.split_once(':'));
    let place = parts.and_then(|(partition, offset)| {
        Some(Position {
            partition: partition.parse().ok()?,
            offset: offset.parse().ok()?,
        })
    });
    place.ok_or_else(|| fault::unsuitable(ENGINE, "a mark was not written by Sinew"))
}

/// Which copy counts, when that is decided.
pub(super) async fn decided(
    register: &Register,
    log: &Log,
    mark: &str,
) -> Result<Option<Position>> {
    match register.get(&mark_key(log, mark)).await? {
        Some((value, _)) => read(&value).map(Some),
        None => Ok(None),
    }
}

/// Which copy counts: this one, if nothing is decided yet.
pub(super) async fn decide(
    register: &Arc<Register>,
    log: &Log,
    mark: &str,
    copy: Position,
) -> Result<Position> {
    let key = mark_key(log, mark);
    loop {
        if let Some((value, _)) = register.known(&key) {
            return read(&value);
        }
        if let Put::Done(_) = register.put(&key, Some(write(copy)), 0).await? {
            return Ok(copy);
        }
    }
}

/// Whether a copy that was read is the one that counts.
pub(super) async fn counts(
    register: &Arc<Register>,
    log: &Log,
    mark: &str,
    copy: Position,
    (entered, now): (Timestamp, Timestamp),
) -> Result<bool> {
    if let Some((value, _)) = register.known(&mark_key(log, mark)) {
        return Ok(read(&value)? == copy);
    }
    if now.as_millis().saturating_sub(entered.as_millis()) > OLD {
        return Ok(decided(register, log, mark)
            .await?
            .is_none_or(|place| place == copy));
    }
    Ok(decide(register, log, mark, copy).await? == copy)
}

/// Removes the oldest when there are many.
pub(super) async fn prune(register: &Arc<Register>, log: &Log) -> Result<()> {
    let prefix = mark_key(log, "");
    let mut marks = register.list(&prefix).await?;
    if marks.len() <= KEPT {
        return Ok(());
    }
    marks.sort_by_key(|(_, _, version)| *version);
    for (mark, _, version) in marks.into_iter().take(KEPT / 10) {
        register
            .put(&format!("{prefix}{mark}"), None, version)
            .await?;
    }
    Ok(())
}
