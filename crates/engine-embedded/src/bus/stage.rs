//! What each command comes to: checked against the state with everything staged before it.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use sinew_core::{Name, Result, Timestamp};
use sinew_engine::bus::{
    GroupConfig, Position, Published, Receipt, Start, TopicConfig, Unsettled, dead_letter, full,
    group::{Effect, Input},
    group_invalid, position_unknown, receipt_stale, topic_exists, topic_invalid,
};

use super::{
    command::{Answer, Command, Reply, Seat, Target},
    face::{BusFace, Settlement},
    fault,
    message::{self, Draft},
    operation::{Due, Operation, To, put_published},
    state::{Now, State},
    topic::Topic,
};

/// Scheduled messages that enter in one turn.
const DUE_AT_ONCE: usize = 1024;
/// Redeliveries that wait to be written with something else; older ones are forgotten.
const RETRIES: usize = 4096;

/// A publish that fits.
pub(super) struct Checked {
    topic: u64,
    fresh: Vec<bool>,
    now: Now,
}

impl BusFace {
    /// Whether it changes topics or groups, so that it must be alone in its record.
    pub(super) fn is_control(&self, command: &Command) -> bool {
        match command {
            Command::MakeTopic { .. }
            | Command::ConfigureTopic { .. }
            | Command::DeleteTopic { .. }
            | Command::Seek { .. }
            | Command::DeleteGroup { .. } => true,
            Command::Join {
                topic,
                group,
                config,
                ..
            } => {
                let state = self.shared.state.lock();
                let has_dead = |config: &GroupConfig| {
                    config
                        .dead_letter
                        .as_ref()
                        .is_none_or(|dead| state.names.contains_key(&dead.topic))
                };
                let same = state.member(topic, group);
                !same.is_ok_and(|(.., member)| member.config == *config && has_dead(config))
            }
            _ => false,
        }
    }

    pub(super) fn stage_one(&mut self, command: Command, part: &mut Vec<u8>) {
        match command {
            Command::Publish {
                topic,
                drafts,
                answer,
                room,
            } => {
                let result = self.publish(&topic, drafts, part);
                drop(room);
                self.staged.replies.push(Reply::Published(answer, result));
            }
            Command::Ack {
                seat,
                receipts,
                answer,
            } => {
                let result = self.ack(&seat, &receipts, part);
                self.staged.acks.push(Reply::Done(answer, result));
            }
            Command::Nack {
                seat,
                receipt,
                redeliver,
                answer,
            } => {
                let Receipt { position, token } = receipt;
                let input = Input::Nack {
                    position,
                    token,
                    redeliver,
                };
                let result = self.pass(&seat, input, part).and_then(|is_stale| {
                    if is_stale {
                        return Err(receipt_stale(&receipt));
                    }
                    Ok(())
                });
                self.staged.replies.push(Reply::Done(answer, result));
            }
            Command::Effect {
                topic,
                group,
                effect,
            } => self.stage_effect(topic, group, effect, part),
            Command::MakeTopic {
                topic,
                config,
                answer,
            } => {
                let result = self.make_topic(topic, config, part);
                if let Some(answer) = answer {
                    self.staged.replies.push(Reply::Made(answer, result));
                }
            }
            Command::ConfigureTopic {
                topic,
                config,
                answer,
            } => {
                let result = self.configure_topic(&topic, config);
                self.control(result, answer, part);
            }
            Command::DeleteTopic { topic, answer } => {
                let id = self.shared.state.lock().names.get(&topic).copied();
                let operation = id.map(|topic| Operation::TopicDeleted { topic });
                self.control(Ok(operation), answer, part);
            }
            Command::Join {
                topic,
                group,
                config,
                starts,
                answer,
            } => match self.join(topic, group, config, starts, part) {
                Ok((topic, group)) => self.staged.replies.push(Reply::Joined {
                    topic,
                    group,
                    answer,
                }),
                Err(error) => self.staged.replies.push(Reply::NotJoined(answer, error)),
            },
            Command::Seek {
                topic,
                group,
                target,
                answer,
            } => {
                let result = self.seek(&topic, &group, target);
                self.control(result, answer, part);
            }
            Command::DeleteGroup {
                topic,
                group,
                answer,
            } => {
                let result = self.delete_group(&topic, &group);
                self.control(result, answer, part);
            }
            Command::Look { answer } => {
                self.shared
                    .is_nudged
                    .store(false, std::sync::atomic::Ordering::Relaxed);
                if let Some(answer) = answer {
                    self.staged.replies.push(Reply::Done(answer, Ok(())));
                }
            }
            Command::Checkpoint { answer } => self.wanted.push(answer),
        }
    }

    /// Stages an operation that is alone in its record.
    fn control(
        &mut self,
        result: Result<Option<Operation>>,
        answer: Answer<()>,
        part: &mut Vec<u8>,
    ) {
        let result = result.map(|operation| {
            if let Some(operation) = operation {
                operation.put(part);
                self.staged.control.push(operation);
            }
        });
        self.staged.replies.push(Reply::Done(answer, result));
    }

    fn make_topic(&mut self, name: Name, config: TopicConfig, part: &mut Vec<u8>) -> Result<bool> {
        let topic = {
            let mut state = self.shared.state.lock();
            match state.topic(&name) {
                Ok(topic) if topic.config == config => return Ok(false),
                Ok(_) => return Err(topic_exists(&name)),
                Err(_) => {}
            }
            state.last_id += 1;
            state.last_id
        };
        self.put_control(
            Operation::TopicMade {
                topic,
                name,
                config,
            },
            part,
        );
        Ok(true)
    }

    fn put_control(&mut self, operation: Operation, part: &mut Vec<u8>) {
        operation.put(part);
        self.staged.control.push(operation);
        self.staged.needs_room = true;
    }

    fn configure_topic(&self, name: &Name, config: TopicConfig) -> Result<Option<Operation>> {
        let state = self.shared.state.lock();
        let topic = state.topic(name)?;
        if topic.config.partitions != config.partitions {
            return Err(topic_invalid("the number of partitions cannot be changed"));
        }
        let changes = topic.config != config;
        Ok(changes.then_some(Operation::TopicConfigured {
            topic: topic.id,
            config,
        }))
    }

    /// Answers the ids of the topic and of the group.
    fn join(
        &mut self,
        topic_name: Name,
        name: Name,
        config: GroupConfig,
        starts: Option<Vec<u64>>,
        part: &mut Vec<u8>,
    ) -> Result<(u64, u64)> {
        let dead = config.dead_letter.as_ref().map(|dead| dead.topic.clone());
        if dead.as_ref() == Some(&topic_name) {
            return Err(group_invalid("a topic cannot take its own dead letters"));
        }
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        let topic = state.topic(&topic_name)?.id;
        if let Some(dead) = dead.filter(|dead| !state.names.contains_key(dead)) {
            state.last_id += 1;
            let operation = Operation::TopicMade {
                topic: state.last_id,
                name: dead,
                config: TopicConfig::default(),
            };
            self.put_control(operation, part);
        }
        if let Ok((_, group, member)) = state.member(&topic_name, &name) {
            if member.config != config {
                let operation = Operation::GroupConfigured {
                    topic,
                    group,
                    config,
                };
                self.put_control(operation, part);
            }
            return Ok((topic, group));
        }
        state.last_id += 1;
        let group = state.last_id;
        let topic_now = state.topic(&topic_name)?;
        let target = match (config.start, starts) {
            (Start::Latest, _) => Target::Latest,
            (Start::At(_), Some(starts)) => Target::Offsets(starts),
            _ => Target::Earliest,
        };
        let starts = targets(topic_now, target)?;
        let operation = Operation::GroupMade {
            topic,
            group,
            name,
            config,
            starts: starts.into_iter().map(|start| start.offset).collect(),
        };
        self.put_control(operation, part);
        Ok((topic, group))
    }

    fn seek(&self, topic: &Name, group: &Name, target: Target) -> Result<Option<Operation>> {
        let state = self.shared.state.lock();
        let (topic, group, _) = state.member(topic, group)?;
        Ok(Some(Operation::Sought {
            topic: topic.id,
            group,
            positions: targets(topic, target)?,
        }))
    }

    fn delete_group(&self, topic: &Name, group: &Name) -> Result<Option<Operation>> {
        let state = self.shared.state.lock();
        let topic = state.topic(topic)?;
        let group = topic.group_names.get(group);
        Ok(group.map(|group| Operation::GroupDeleted {
            topic: topic.id,
            group: *group,
        }))
    }

    /// Stages messages into a topic; answers what becomes of each.
    fn publish(
        &mut self,
        name: &Name,
        drafts: Vec<Draft>,
        part: &mut Vec<u8>,
    ) -> Result<Vec<Published>> {
        let checked = self.check_publish(name, &drafts, part)?;
        Ok(self.stage_publish(checked, drafts, part))
    }

    /// Makes room in a topic for messages, and checks that they fit.
    pub(super) fn check_publish(
        &mut self,
        name: &Name,
        drafts: &[Draft],
        part: &mut Vec<u8>,
    ) -> Result<Checked> {
        let shared = Arc::clone(&self.shared);
        let now = shared.now();
        if now.monotonic < self.full_until {
            return Err(fault::disk_full());
        }
        let mut state = shared.state.lock();
        let fresh = fresh(&state, name, drafts, now.wall)?;
        let each = drafts.iter().zip(&fresh).filter(|(_, fresh)| **fresh);
        let weight: u64 = each.map(|(draft, _)| draft.weight).sum();
        let topic = state.topic(name)?;
        let (id, keeps) = (topic.id, topic.config.retention);
        if weight > 0 && keeps.bytes.is_some() {
            self.trim(&mut state, id, weight, now.wall, part);
        }
        let topic = state.topic(name)?;
        let used = topic.staged.bytes + topic.staged.scheduled_bytes + weight;
        let is_full = keeps.bytes.is_some_and(|most| used > most);
        if weight > 0 && keeps.unsettled == Unsettled::Keep && is_full {
            return Err(full(name));
        }
        Ok(Checked {
            topic: id,
            fresh,
            now,
        })
    }

    /// Stages messages that were checked in this very moment.
    pub(super) fn stage_publish(
        &mut self,
        checked: Checked,
        drafts: Vec<Draft>,
        part: &mut Vec<u8>,
    ) -> Vec<Published> {
        let Checked {
            topic: id,
            fresh,
            now,
        } = checked;
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        let mut answers = Vec::with_capacity(drafts.len());
        let Some(topic) = state.topics.get_mut(&id) else {
            return answers;
        };
        let mut written: Vec<(To, Bytes)> = Vec::with_capacity(drafts.len());
        let mut soonest: Option<Timestamp> = None;
        for (draft, is_fresh) in drafts.into_iter().zip(fresh) {
            if !is_fresh {
                answers.push(Published::Duplicate);
                continue;
            }
            let to = accept(topic, &draft, now.wall);
            answers.push(match to {
                To::Log(position) => Published::At(position),
                To::Schedule(due) => {
                    soonest = Some(soonest.map_or(due.at, |soonest| soonest.min(due.at)));
                    Published::Scheduled
                }
            });
            written.push((to, draft.body));
        }
        let age = topic.config.retention.age.map(|age| now.wall.plus(age));
        if !written.is_empty() {
            self.put_retries(part);
            let each = written.iter().map(|(to, body)| (*to, &body[..]));
            put_published(part, id, now.wall, written.len(), each);
            self.staged.touched.insert(id);
            self.staged.needs_room = true;
        }
        for at in age.into_iter().chain(soonest) {
            let wake = now.monotonic + at.since(now.wall);
            state.wake = state.wake.min(wake);
        }
        answers
    }

    /// Settles what is current; an error when something is stale.
    fn ack(&mut self, seat: &Seat, receipts: &[Receipt], part: &mut Vec<u8>) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let now = shared.clock.monotonic();
        let mut state = shared.state.lock();
        let Seat { topic, group, .. } = *seat;
        state.check(seat)?;
        let (mut stale, mut positions) = (None, Vec::with_capacity(receipts.len()));
        for receipt in receipts {
            let Receipt { position, token } = *receipt;
            let input = Input::Ack { position, token };
            for effect in state.run(topic, group, input, now) {
                match effect {
                    Effect::Stale { .. } => stale = Some(*receipt),
                    Effect::Settle { position, token } => {
                        positions.push(position);
                        self.staged.settled.push(Settlement {
                            topic,
                            group,
                            position,
                            token,
                            is_bound: false,
                        });
                    }
                    effect => state.outbox.push_back((topic, group, effect)),
                }
            }
        }
        if !positions.is_empty() {
            self.put_retries(part);
            let operation = Operation::Settled {
                topic,
                group,
                positions,
            };
            operation.put(part);
        }
        stale.map_or(Ok(()), |receipt| Err(receipt_stale(&receipt)))
    }

    /// Passes an input to a consumer's group; answers whether the receipt was stale.
    fn pass(&mut self, seat: &Seat, input: Input, part: &mut Vec<u8>) -> Result<bool> {
        let Seat { topic, group, .. } = *seat;
        let effects = {
            let mut state = self.shared.state.lock();
            state.check(seat)?;
            let effects = state.run(topic, group, input, self.shared.clock.monotonic());
            if let Some(member) = state.member_mut(topic, group) {
                member.news.notify_waiters();
            }
            effects
        };
        let mut is_stale = false;
        for effect in effects {
            match effect {
                Effect::Stale { .. } => is_stale = true,
                effect => self.stage_effect(topic, group, effect, part),
            }
        }
        Ok(is_stale)
    }

    pub(super) fn stage_effect(
        &mut self,
        topic: u64,
        group: u64,
        effect: Effect,
        part: &mut Vec<u8>,
    ) {
        match effect {
            Effect::Settle { position, token } => {
                let settlement = Settlement {
                    topic,
                    group,
                    position,
                    token,
                    is_bound: false,
                };
                let shared = Arc::clone(&self.shared);
                self.stage_settlement(&shared.state.lock(), settlement, part);
            }
            Effect::DeadLetter {
                position,
                token,
                attempts,
                reason,
            } => {
                let settlement = Settlement {
                    topic,
                    group,
                    position,
                    token,
                    is_bound: true,
                };
                self.dead_letter(settlement, attempts, reason, part);
            }
            Effect::Retry(position, retry) => {
                let operation = Operation::Retried {
                    topic,
                    group,
                    position,
                    retry,
                };
                self.retries.push(operation);
                if self.retries.len() > RETRIES {
                    self.retries.drain(..RETRIES / 2);
                }
            }
            Effect::Deliver { .. } | Effect::Stale { .. } => {}
        }
    }

    /// Stages that a message is settled, unless its group has gone elsewhere meanwhile.
    pub(super) fn stage_settlement(
        &mut self,
        state: &State,
        settlement: Settlement,
        part: &mut Vec<u8>,
    ) -> bool {
        let Settlement {
            topic,
            group,
            position,
            token,
            ..
        } = settlement;
        let member = state
            .topics
            .get(&topic)
            .and_then(|topic| topic.groups.get(&group));
        if !member.is_some_and(|member| member.machine.is_settling(position, token)) {
            return false;
        }
        self.put_retries(part);
        let operation = Operation::Settled {
            topic,
            group,
            positions: vec![position],
        };
        operation.put(part);
        self.staged.settled.push(settlement);
        true
    }

    /// Stages a dead letter: its append and its settlement.
    fn dead_letter(
        &mut self,
        settlement: Settlement,
        attempts: u32,
        reason: &'static str,
        part: &mut Vec<u8>,
    ) {
        let Settlement {
            topic,
            group,
            position,
            token,
            ..
        } = settlement;
        let shared = Arc::clone(&self.shared);
        let now = shared.now();
        let mut state = shared.state.lock();
        let Some(from) = state.topics.get(&topic) else {
            return;
        };
        let Some(member) = from.groups.get(&group) else {
            return;
        };
        let dead = member
            .config
            .dead_letter
            .as_ref()
            .map(|dead| dead.topic.clone());
        let Some(dead) = dead else {
            self.stage_settlement(&state, settlement, part);
            return;
        };
        let Some(to) = state.names.get(&dead).copied() else {
            // It was deleted: it is made again, in a record of its own, and this comes after.
            drop(state);
            let effect = Effect::DeadLetter {
                position,
                token,
                attempts,
                reason,
            };
            self.waiting.push_back(Command::MakeTopic {
                topic: dead,
                config: TopicConfig::default(),
                answer: None,
            });
            self.waiting.push_back(Command::Effect {
                topic,
                group,
                effect,
            });
            return;
        };
        let record = from.read(position, &shared.files).and_then(|stored| {
            let record = stored.record(position);
            record.map_err(|_| fault::malformed("a message of a topic"))
        });
        let letter = match record {
            Ok(record) => dead_letter(&from.name, &member.name, &record, attempts, reason),
            Err(error) => {
                tracing::warn!(error = error.detail(), "a dead letter has to wait");
                let input = Input::Refused { position, token };
                state.run_elsewhere(topic, group, input, now.monotonic);
                return;
            }
        };
        if !self.stage_settlement(&state, settlement, part) {
            return;
        }
        let Some(topic) = state.topics.get_mut(&to) else {
            return;
        };
        for draft in message::drafts(&[letter]) {
            let partition = topic.choose(draft.key_hash);
            let position = topic.enter(partition, draft.body.clone(), draft.weight, now.wall);
            let each = std::iter::once((To::Log(position), &draft.body[..]));
            put_published(part, to, now.wall, 1, each);
        }
        self.staged.touched.insert(to);
        self.staged.needs_room = true;
    }

    /// Stages that messages enter whose time has come.
    pub(super) fn enter_due(&mut self, state: &mut State, id: u64, now: Now, part: &mut Vec<u8>) {
        let view = Arc::clone(&state.view);
        let Some(topic) = state.topics.get_mut(&id) else {
            return;
        };
        if topic.staged.scheduled == 0 || now.monotonic < self.full_until {
            return;
        }
        let due = match topic.due(now.wall, DUE_AT_ONCE, &view) {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(error = error.detail(), "a schedule has to wait");
                return;
            }
        };
        let mut messages: Vec<(Due, Position)> = Vec::with_capacity(due.len());
        for (place, body) in due {
            let (weight, hash) = match message::parts(&body) {
                Ok(parts) => (parts.weight(), parts.key.map(crc32c::crc32c)),
                Err(_) => {
                    tracing::error!(topic = %topic.name, "a scheduled message is damaged");
                    continue;
                }
            };
            topic.unschedule(place, weight);
            let partition = topic.choose(hash);
            messages.push((place, topic.enter(partition, body, weight, now.wall)));
        }
        if !messages.is_empty() {
            let operation = Operation::Entered {
                topic: id,
                now: now.wall,
                messages,
            };
            operation.put(part);
            self.staged.touched.insert(id);
            self.staged.needs_room = true;
        }
    }

    /// Stages that messages go which the topic need not keep.
    pub(super) fn trim(
        &mut self,
        state: &mut State,
        id: u64,
        more: u64,
        now: Timestamp,
        part: &mut Vec<u8>,
    ) {
        let Some(topic) = state.topics.get_mut(&id) else {
            return;
        };
        match topic.trim(more, now, &self.shared.files) {
            Ok(trimmed) if trimmed.firsts.is_empty() => {}
            Ok(trimmed) => {
                let operation = Operation::Trimmed {
                    topic: id,
                    weight: trimmed.weight,
                    firsts: trimmed.firsts.clone(),
                };
                operation.put(part);
                self.staged.touched.insert(id);
                self.staged.trims.push((id, trimmed.firsts));
            }
            Err(error) => {
                tracing::warn!(error = error.detail(), "retention has to wait");
            }
        }
    }

    /// Redeliveries go with what is written anyway.
    fn put_retries(&mut self, part: &mut Vec<u8>) {
        for operation in self.retries.drain(..) {
            operation.put(part);
        }
    }
}

/// Which messages have ids that were not seen.
fn fresh(state: &State, name: &Name, drafts: &[Draft], now: Timestamp) -> Result<Vec<bool>> {
    let topic = state.topic(name)?;
    if topic.config.deduplication.is_zero() {
        return Ok(vec![true; drafts.len()]);
    }
    let mut here = HashSet::new();
    drafts
        .iter()
        .map(|draft| match draft.id() {
            None => Ok(true),
            Some(id) => {
                let is_new = here.insert(id) && !topic.knows(id, now, &state.view)?;
                Ok(is_new)
            }
        })
        .collect()
}

/// Stages one message.
fn accept(topic: &mut Topic, draft: &Draft, now: Timestamp) -> To {
    if !topic.config.deduplication.is_zero()
        && let Some(id) = draft.id()
    {
        topic.see(id, now);
    }
    match draft.due.filter(|due| *due > now) {
        None => {
            let partition = topic.choose(draft.key_hash);
            To::Log(topic.enter(partition, draft.body.clone(), draft.weight, now))
        }
        Some(at) => {
            let number = topic.staged.last_due + 1;
            let due = Due { at, number };
            topic.put_off(due, draft.body.clone(), draft.weight);
            To::Schedule(due)
        }
    }
}

/// Where each partition that is meant goes on.
fn targets(topic: &Topic, target: Target) -> Result<Vec<Position>> {
    let all = |offset: &dyn Fn(u32, std::ops::Range<u64>) -> u64| {
        topic
            .numbered()
            .map(|(partition, log)| Position {
                partition,
                offset: offset(partition, log.edges.first..log.edges.end),
            })
            .collect()
    };
    Ok(match target {
        Target::Earliest => all(&|_, range| range.start),
        Target::Latest => all(&|_, range| range.end),
        Target::Offsets(offsets) => all(&|partition, range| {
            let offset = offsets.get(partition as usize).copied();
            offset.map_or(range.start, |offset| offset.clamp(range.start, range.end))
        }),
        Target::To(position) => {
            let log = topic.partition(position.partition);
            let holds =
                log.is_some_and(|log| (log.edges.first..=log.edges.end).contains(&position.offset));
            if !holds {
                return Err(position_unknown(position));
            }
            vec![position]
        }
    })
}
