//! What runs for each partition that a node holds: a reader that feeds the machine, and a writer that makes durable
//! what is settled. And what moves dead letters.

use std::{sync::Arc, time::Duration};

use sinew_core::{Backoff, Kind, Result};
use sinew_engine::bus::{
    Position, Record,
    group::{Input, PartitionSnapshot},
};
use tokio::sync::mpsc;

use super::{
    Shared,
    backend::{Appended, Kept, Put},
    local::{Dying, Ended, Fate, Held, Local, Now, State},
    records::{ProgressRecord, decode, encode, progress_key},
};

/// Messages that are loaded at once.
const LOAD_AT_ONCE: usize = 512;
/// How long counts of deliveries may wait for a write.
const LAZY: Duration = Duration::from_secs(1);

pub(super) fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_secs(2))
}

/// Whether the same may succeed later.
pub(super) fn may_pass(error: &sinew_core::Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded)
}

/// Feeds the machine with what is in a partition.
pub(super) async fn read(shared: Arc<Shared>, local: Arc<Local>, partition: u32, claim: u64) {
    let mut backoff = backoff();
    loop {
        match follow(&shared, &local, partition, claim, &mut backoff).await {
            Ok(()) => return,
            Err(error) if may_pass(&error) => {
                tracing::debug!(topic = %local.log.topic, partition, error = %error.detail(), "reading goes on soon");
                shared.clock.sleep(backoff.next_delay()).await;
            }
            Err(error) => {
                if error.code() == "bus.topic_unknown" {
                    local.end(Ended::TopicGone);
                    return;
                }
                tracing::warn!(topic = %local.log.topic, partition, error = %error.detail(), "a partition cannot be read");
                shared.clock.sleep(backoff.next_delay()).await;
            }
        }
    }
}

/// Reads until something breaks; `Ok` when the partition is not ours any more.
async fn follow(
    shared: &Shared,
    local: &Local,
    partition: u32,
    claim: u64,
    backoff: &mut Backoff,
) -> Result<()> {
    let mut changed = local.changed.subscribe();
    // What was removed from under the group is lost, not absent.
    let extent = shared.backend.extent(&local.log).await?;
    let firsts: Vec<u64> = extent.ranges.iter().map(|range| range.start).collect();
    let offset = {
        let mut state = local.state();
        if !is_ours(&state, partition, claim) {
            return Ok(());
        }
        local.trim(&mut state, &firsts, Now::of(&shared.clock));
        state.machine.wanted(partition)
    };
    let from = Position { partition, offset };
    let mut reader = shared.backend.follow(&local.log, from).await?;
    let mut ahead: Vec<Record> = Vec::new();
    loop {
        let room = {
            changed.mark_unchanged();
            let mut state = local.state();
            if !is_ours(&state, partition, claim) {
                return Ok(());
            }
            if !ahead.is_empty() {
                load(shared, local, &mut state, partition, &mut ahead);
            }
            if ahead.is_empty() { state.room() } else { 0 }
        };
        if room == 0 {
            // The sender lives in `local`.
            let _ = changed.changed().await;
            continue;
        }
        ahead = reader.next(room.min(LOAD_AT_ONCE)).await?;
        if !ahead.is_empty() {
            backoff.reset();
        }
    }
}

pub(super) fn is_ours(state: &State, partition: u32, claim: u64) -> bool {
    let held = state.held.get(&partition);
    state.ended.is_none() && held.is_some_and(|held| held.claim == claim)
}

/// Loads as much as there is room for.
fn load(
    shared: &Shared,
    local: &Local,
    state: &mut State,
    partition: u32,
    ahead: &mut Vec<Record>,
) {
    let count = state.room().min(ahead.len());
    if count == 0 {
        return;
    }
    let wanted = state.machine.wanted(partition);
    let fresh = |record: &Record| record.position.offset >= wanted;
    let records: Vec<Record> = ahead.drain(..count).filter(fresh).collect();
    let Some(last) = records.last() else {
        return;
    };
    let until = last.position.offset + 1;
    let messages = records
        .iter()
        .map(|record| (record.position.offset, record.message.key.clone()))
        .collect();
    if let Some(held) = state.held.get_mut(&partition) {
        let mut next = wanted;
        for record in &records {
            held.progress.settle_range(next, record.position.offset);
            next = record.position.offset + 1;
        }
    }
    // What is settled already is not tracked, so it is not kept either.
    let owed = |record: &Record| !state.machine.is_settled(record.position);
    let records = records.into_iter().filter(owed).collect();
    state.keep(records);
    let input = Input::Load {
        partition,
        messages,
        until,
    };
    local.step(state, input, Now::of(&shared.clock));
    local.changed.send_replace(());
}

/// What one write makes durable.
struct Batch {
    version: u64,
    record: ProgressRecord,
    settled: Vec<(u64, u64)>,
    waiters: Vec<tokio::sync::oneshot::Sender<Fate>>,
    seek: Option<(u64, tokio::sync::oneshot::Sender<Fate>)>,
}

/// Makes durable what is settled, many at once.
pub(super) async fn write(shared: Arc<Shared>, local: Arc<Local>, partition: u32, claim: u64) {
    let Some(work) = local
        .state()
        .held
        .get(&partition)
        .map(|held| held.work.clone())
    else {
        return;
    };
    loop {
        let is_lazy = tokio::time::timeout(LAZY, work.notified()).await.is_err();
        let batch = {
            let mut state = local.state();
            if !is_ours(&state, partition, claim) {
                return;
            }
            stage(&shared, &local, &mut state, partition, is_lazy)
        };
        let Some(batch) = batch else {
            continue;
        };
        let key = progress_key(&local.group, partition);
        match put(&shared, &local, &key, &batch.record, batch.version).await {
            Ok(Some(version)) => {
                let mut state = local.state();
                if !is_ours(&state, partition, claim) {
                    answer(batch, Fate::Stale);
                    return;
                }
                done(&shared, &local, &mut state, partition, batch, version);
            }
            Ok(None) => {
                // Another node holds it now, or has moved the group; the keeper finds out which.
                answer(batch, Fate::Stale);
                let mut state = local.state();
                if is_ours(&state, partition, claim) {
                    local.release(&mut state, partition);
                }
                local.wake.notify_one();
                return;
            }
            Err(why) => {
                answer(batch, Fate::Ended);
                local.end(why);
                return;
            }
        }
    }
}

fn answer(batch: Batch, fate: Fate) {
    let seek = batch.seek.map(|(_, waiter)| waiter);
    for waiter in batch.waiters.into_iter().chain(seek) {
        let _ = waiter.send(fate);
    }
}

/// Takes what waits for a write, and puts it into the record as it will be.
fn stage(
    shared: &Shared,
    local: &Local,
    state: &mut State,
    partition: u32,
    is_lazy: bool,
) -> Option<Batch> {
    let held = state.held.get_mut(&partition)?;
    let nothing = held.staged.is_empty() && held.seek.is_none() && held.waiters.is_empty();
    if nothing && !(held.is_dirty && is_lazy) {
        return None;
    }
    let settled = std::mem::take(&mut held.staged);
    let waiters = std::mem::take(&mut held.waiters);
    let seek = held.seek.take();
    for (offset, _) in &settled {
        held.progress.settle(*offset);
        held.retries.remove(offset);
    }
    if let Some((offset, _)) = &seek {
        held.progress.seek(*offset);
        held.round += 1;
        held.retries.clear();
    }
    held.is_dirty = false;
    held.is_writing = true;
    held.stamp = shared.stamp();
    let holder = Some(shared.node.id.clone());
    let record = ProgressRecord::new(
        local.incarnation,
        holder,
        (held.stamp, held.round),
        &held.progress,
        &held.retries,
    );
    Some(Batch {
        version: held.version,
        record,
        settled,
        waiters,
        seek,
    })
}

/// The write is durable.
fn done(
    shared: &Arc<Shared>,
    local: &Arc<Local>,
    state: &mut State,
    partition: u32,
    mut batch: Batch,
    version: u64,
) {
    let now = Now::of(&shared.clock);
    if let Some(held) = state.held.get_mut(&partition) {
        held.version = version;
        held.is_writing = false;
    }
    for (offset, token) in std::mem::take(&mut batch.settled) {
        let position = Position { partition, offset };
        local.step(state, Input::Settled { position, token }, now);
        state.answer_death((position, token), Fate::Durable);
    }
    if let Some((offset, waiter)) = batch.seek.take() {
        let position = Position { partition, offset };
        state.drop_loaded(partition, u64::MAX);
        local.step(state, Input::Seek { position }, now);
        let mut tasks = None;
        if let Some(held) = state.held.get_mut(&partition) {
            // What was settled after the place was asked for was of the time before.
            held.staged.clear();
            for waiter in held.waiters.drain(..) {
                let _ = waiter.send(Fate::Stale);
            }
            held.claim = shared.stamp();
            tasks = Some(held.claim);
        }
        if let Some(claim) = tasks {
            spawn(shared, local, state, partition, claim);
        }
        let _ = waiter.send(Fate::Durable);
    }
    let idle = state
        .held
        .get(&partition)
        .is_some_and(|held| held.is_draining)
        && state.machine.is_idle(partition);
    if idle {
        local.wake.notify_one();
    }
    answer(batch, Fate::Durable);
    local.changed.send_replace(());
}

/// Lets a reader and a writer run for a partition that is held.
pub(super) fn spawn(
    shared: &Arc<Shared>,
    local: &Arc<Local>,
    state: &mut State,
    partition: u32,
    claim: u64,
) {
    let (shared, local) = (shared.clone(), local.clone());
    if let Some(held) = state.held.get_mut(&partition) {
        let reader = tokio::spawn(read(shared.clone(), local.clone(), partition, claim));
        let writer = tokio::spawn(write(shared, local, partition, claim));
        let tasks = [reader, writer].map(|task| super::local::Task(task.abort_handle()));
        // Dropping the old ones ends them, at their next wait; until then they see that the claim is not theirs.
        held.tasks = tasks.into();
    }
}

/// A partition that was claimed, before anything runs for it.
pub(super) fn held(claim: u64, version: u64, record: &ProgressRecord, now: Now) -> Held {
    Held {
        claim,
        version,
        progress: PartitionSnapshot {
            retries: Default::default(),
            ..record.snapshot(now.wall)
        },
        retries: record.retries(),
        is_dirty: false,
        staged: Vec::new(),
        waiters: Vec::new(),
        seek: None,
        stamp: record.stamp,
        round: record.round,
        is_draining: false,
        is_writing: false,
        work: Arc::default(),
        tasks: Vec::new(),
    }
}

/// Writes a record until it is known whether it is there: its new version, or none when it was at another than the
/// one expected. Repeating is harmless: only one of the writes can find the expected version.
pub(super) async fn put(
    shared: &Shared,
    local: &Local,
    key: &str,
    record: &ProgressRecord,
    expected: u64,
) -> Result<Option<u64>, Ended> {
    let value = encode(record);
    let mut backoff = backoff();
    let mut is_unknown = false;
    loop {
        let put = shared
            .backend
            .put(&local.log, key, value.clone(), expected)
            .await;
        let error = match put {
            Ok(Put::Done(version)) => return Ok(Some(version)),
            Ok(Put::Conflict) if !is_unknown => return Ok(None),
            // It may be the one before that was written.
            Ok(Put::Conflict) => match shared.backend.get(&local.log, key).await {
                Ok(kept) => {
                    let ours = kept.filter(|kept| stamp(shared, kept) == Some(record.stamp));
                    return Ok(ours.map(|kept| kept.version));
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        if error.code() == "bus.topic_unknown" {
            return Err(Ended::TopicGone);
        }
        is_unknown = true;
        tracing::debug!(topic = %local.log.topic, key, error = %error.detail(), "a record is written again");
        shared.clock.sleep(backoff.next_delay()).await;
    }
}

fn stamp(shared: &Shared, kept: &Kept) -> Option<u64> {
    let record = decode::<ProgressRecord>(shared.engine(), &kept.key, &kept.value);
    record.ok().map(|record| record.stamp)
}

/// Moves dead letters, one after the other: appends each, which is harmless to repeat, and then lets it be settled.
pub(super) async fn bury(shared: Arc<Shared>, local: Arc<Local>, mut dying: mpsc::Receiver<Dying>) {
    while let Some(dying) = dying.recv().await {
        let Dying {
            position,
            token,
            claim,
            topic,
            entry,
        } = dying;
        let result = shared.append_dead(&topic, entry).await;
        let mut state = local.state();
        if !is_ours(&state, position.partition, claim) {
            continue;
        }
        match result {
            Ok(Appended::At(_) | Appended::Duplicate) => state.stage(position, token),
            Err(error) => {
                tracing::warn!(topic = %local.log.topic, group = %local.group, error = %error.detail(), "a dead letter cannot be moved now");
                local.step(
                    &mut state,
                    Input::Refused { position, token },
                    Now::of(&shared.clock),
                );
                state.answer_death((position, token), Fate::Stale);
                drop(state);
                local.changed.send_replace(());
            }
        }
    }
}
