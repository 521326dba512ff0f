//! Groups: made, changed, looked at, moved.

use std::sync::Arc;

use sinew_core::{Name, Result};
use sinew_engine::bus::{
    GroupConfig, GroupState, Position, Seek, Start, group::Input, group_unknown, position_unknown,
};
use tokio::sync::oneshot;

use super::{
    Shared,
    backend::{Extent, Log, Put},
    keeper::{Books, keep},
    local::{Ended, Fate, Local, Now},
    lock,
    partition::bury,
    records::{GroupRecord, ProgressRecord, config_key, decode, encode, progress_key},
};
use crate::fault;

/// How often a conditional write is tried again when somebody else was faster.
const TRIES: usize = 20;

impl Shared {
    async fn books(&self, log: &Log, group: &Name) -> Result<Books> {
        let kept = self.backend.list(log, &format!("{group}.")).await?;
        Books::read(self.engine(), group.as_str(), &kept)
    }

    /// Makes a group or changes it, durably.
    pub(super) async fn make_group(
        &self,
        log: &Log,
        group: &Name,
        config: &GroupConfig,
    ) -> Result<GroupRecord> {
        let key = config_key(group);
        for _ in 0..TRIES {
            let kept = self.backend.get(log, &key).await?;
            let (record, expected) = match kept {
                Some(kept) => {
                    let before: GroupRecord = decode(self.engine(), &key, &kept.value)?;
                    if before.config() == GroupRecord::new(0, Vec::new(), config).config() {
                        return Ok(before);
                    }
                    let record = GroupRecord::new(before.incarnation, before.starts, config);
                    (record, kept.version)
                }
                None => {
                    let starts = self.starts(log, config.start).await?;
                    (GroupRecord::new(self.stamp(), starts, config), 0)
                }
            };
            match self
                .backend
                .put(log, &key, encode(&record), expected)
                .await?
            {
                Put::Done(_) => {
                    self.backend.hint(log, group).await;
                    return Ok(record);
                }
                Put::Conflict => {}
            }
        }
        Err(fault::unavailable(
            self.engine(),
            "others change the group all the time",
        ))
    }

    async fn starts(&self, log: &Log, start: Start) -> Result<Vec<u64>> {
        if let Start::At(time) = start {
            return self.backend.since(log, time).await;
        }
        let ranges = self.backend.extent(log).await?.ranges;
        let place = |range: std::ops::Range<u64>| match start {
            Start::Latest => range.end,
            _ => range.start,
        };
        Ok(ranges.into_iter().map(place).collect())
    }

    /// The group on this node, with one consumer more.
    pub(super) fn attach(
        self: &Arc<Self>,
        log: &Arc<Log>,
        group: &Name,
        record: &GroupRecord,
        in_flight: usize,
    ) -> (Arc<Local>, u64) {
        let key = (log.topic.clone(), group.clone());
        let mut locals = lock(&self.locals);
        if let Some(local) = locals.get(&key) {
            let mut state = local.state();
            let is_same =
                local.incarnation == record.incarnation && local.log.incarnation == log.incarnation;
            if is_same && state.ended.is_none() {
                let id = state.join(in_flight);
                let config = record.config();
                if state.config != config {
                    let rules = (&config).into();
                    state.config = config;
                    let configure = Input::Configure { rules };
                    local.step(&mut state, configure, Now::of(&self.clock));
                }
                drop(state);
                local.wake.notify_one();
                return (local.clone(), id);
            }
            drop(state);
            local.end(Ended::GroupGone);
        }
        // Tokens of two holders never meet: each counts from its own place in a very long row.
        let first_token = rand::random::<u64>() >> 2;
        let (local, deaths) = Local::new(log.clone(), group.clone(), record, first_token);
        let id = local.state().join(in_flight);
        let local = Arc::new(local);
        let keeper = tokio::spawn(keep(self.clone(), local.clone()));
        let burier = tokio::spawn(bury(self.clone(), local.clone(), deaths));
        let timer = tokio::spawn(tick(self.clone(), local.clone()));
        for task in [keeper, burier, timer] {
            local.own(task.abort_handle());
        }
        locals.insert(key, local.clone());
        (local, id)
    }

    pub(super) fn local(&self, topic: &Name, group: &Name) -> Option<Arc<Local>> {
        lock(&self.locals)
            .get(&(topic.clone(), group.clone()))
            .cloned()
    }

    pub(super) async fn group(&self, topic: &Name, group: &Name) -> Result<GroupState> {
        let log = self.look(topic).await?;
        let books = self.books(&log, group).await?;
        let Some((config, _)) = &books.config else {
            return Err(group_unknown(group));
        };
        let extent = self.backend.extent(&log).await?;
        let firsts: Vec<u64> = extent.ranges.iter().map(|range| range.start).collect();
        let local = self.local(topic, group);
        let local = local.filter(|local| local.incarnation == config.incarnation);
        let mut answer = GroupState {
            config: config.config(),
            cursors: Vec::new(),
            lag: 0,
            in_flight: 0,
            waiting: 0,
            lost: 0,
            consumers: 0,
        };
        for (node, (member, _)) in &books.members {
            if *node != self.node.id && self.node.lives(node) {
                answer.consumers += member.consumers;
                answer.in_flight += member.in_flight;
                answer.waiting += member.waiting;
            }
        }
        if let Some(local) = &local {
            let mut state = local.state();
            local.trim(&mut state, &firsts, Now::of(&self.clock));
            let member = state.member();
            answer.consumers += member.consumers;
            answer.in_flight += member.in_flight;
            answer.waiting += member.waiting;
        }
        for partition in 0..log.config.partitions {
            let known = books.progress.get(&partition);
            let known = known.filter(|(record, _)| record.group == config.incarnation);
            let start = config
                .starts
                .get(partition as usize)
                .copied()
                .unwrap_or_default();
            let starting = ProgressRecord::starting(config.incarnation, start);
            let record = known.map_or(&starting, |(record, _)| record);
            let mut progress = record.snapshot(self.clock.now());
            // What nobody has told yet.
            progress.trim(firsts[partition as usize]);
            let top = progress.settled.last_key_value().map(|(_, end)| *end);
            let mut top = top.unwrap_or(progress.cursor);
            let settled: u64 = progress
                .settled
                .iter()
                .map(|(start, end)| end - start)
                .sum();
            let mut owed = top - progress.cursor - settled;
            if let Some(local) = &local {
                let state = local.state();
                if state.held.contains_key(&partition) {
                    top = state.machine.wanted(partition);
                    owed = state.machine.owed(partition, top);
                    progress.cursor = state.machine.cursor(partition);
                    let snapshot = state.machine.snapshot(self.clock.monotonic());
                    progress.lost = snapshot.partitions[partition as usize].lost;
                }
            }
            let offset = top;
            let rest = if offset >= extent.ranges[partition as usize].end {
                0
            } else {
                self.backend
                    .count(&log, Position { partition, offset })
                    .await?
            };
            answer.cursors.push(progress.cursor);
            answer.lag += owed + rest;
            answer.lost += progress.lost;
        }
        Ok(answer)
    }

    pub(super) async fn seek(&self, topic: &Name, group: &Name, seek: Seek) -> Result<()> {
        let log = self.look(topic).await?;
        let key = config_key(group);
        let Some(kept) = self.backend.get(&log, &key).await? else {
            return Err(group_unknown(group));
        };
        let config: GroupRecord = decode(self.engine(), &key, &kept.value)?;
        let targets: Vec<Position> = match seek {
            Seek::To(position) => {
                check(&self.backend.extent(&log).await?, position)?;
                vec![position]
            }
            Seek::Earliest => positions(self.starts(&log, Start::Earliest).await?),
            Seek::Latest => positions(self.starts(&log, Start::Latest).await?),
            Seek::Time(time) => positions(self.backend.since(&log, time).await?),
        };
        for target in targets {
            self.seek_to(&log, group, &config, target).await?;
        }
        self.backend.hint(&log, group).await;
        Ok(())
    }

    async fn seek_to(
        &self,
        log: &Log,
        group: &Name,
        config: &GroupRecord,
        target: Position,
    ) -> Result<()> {
        let Position { partition, offset } = target;
        let key = progress_key(group, partition);
        let local = self.local(&log.topic, group);
        let local = local.filter(|local| local.incarnation == config.incarnation);
        // A claim that is under way would go on from where it found the group.
        let _order = match &local {
            Some(local) => {
                let order = tokio::time::timeout(self.timeout, local.order.lock()).await;
                Some(order.map_err(|_| fault::unavailable(self.engine(), "a claim is under way"))?)
            }
            None => None,
        };
        for _ in 0..TRIES {
            if let Some(waiter) = local.as_ref().and_then(|local| seek_here(local, target)) {
                match tokio::time::timeout(self.timeout, waiter).await {
                    Ok(Ok(Fate::Durable)) => return Ok(()),
                    // It is not ours any more.
                    Ok(_) => continue,
                    Err(_) => return Err(fault::timeout(self.engine(), self.timeout)),
                }
            }
            let kept = self.backend.get(log, &key).await?;
            let mut record = ProgressRecord::starting(config.incarnation, offset);
            let expected = kept.as_ref().map_or(0, |kept| kept.version);
            if let Some(kept) = &kept {
                let before: ProgressRecord = decode(self.engine(), &key, &kept.value)?;
                if before.group == config.incarnation {
                    record = before.moved(offset);
                }
            }
            record.stamp = self.stamp();
            let put = self
                .backend
                .put(log, &key, encode(&record), expected)
                .await?;
            if put != Put::Conflict {
                return Ok(());
            }
        }
        Err(fault::unavailable(
            self.engine(),
            "others change the group all the time",
        ))
    }
}

/// Lets the writer of a partition that this node holds move it.
fn seek_here(local: &Local, target: Position) -> Option<oneshot::Receiver<Fate>> {
    let mut state = local.state();
    let held = state.held.get_mut(&target.partition)?;
    let (sender, receiver) = oneshot::channel();
    // Of two at the same time the later one counts.
    if let Some((_, earlier)) = held.seek.replace((target.offset, sender)) {
        let _ = earlier.send(Fate::Durable);
    }
    held.work.notify_one();
    Some(receiver)
}

fn positions(offsets: Vec<u64>) -> Vec<Position> {
    let place = |(partition, offset)| Position { partition, offset };
    (0..).zip(offsets).map(place).collect()
}

pub(super) fn check(extent: &Extent, position: Position) -> Result<()> {
    match extent.ranges.get(position.partition as usize) {
        Some(range) if (range.start..=range.end).contains(&position.offset) => Ok(()),
        _ => Err(position_unknown(position)),
    }
}

/// Ends deliveries and waits in time, also when nobody asks for messages.
async fn tick(shared: Arc<Shared>, local: Arc<Local>) {
    let mut changed = local.changed.subscribe();
    loop {
        changed.mark_unchanged();
        let until = {
            let mut state = local.state();
            if state.ended.is_some() {
                return;
            }
            let now = Now::of(&shared.clock);
            let at = state.machine.next_timer();
            if at.is_some_and(|at| at <= now.monotonic) {
                local.step(&mut state, Input::Tick, now);
                drop(state);
                local.changed.send_replace(());
                continue;
            }
            at
        };
        tokio::select! {
            _ = changed.changed() => {}
            () = shared.clock.sleep_until(until.unwrap_or_default()), if until.is_some() => {}
        }
    }
}
