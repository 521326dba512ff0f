//! The bus on the commit thread: what is staged in a turn, and what becomes of it.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use sinew_core::{Error, Kind, Result};
use sinew_engine::bus::{Position, group::Input};

use super::{
    Shared,
    checkpoint::{Checkpoints, Request},
    command::{Command, Reply, Seat},
    fault,
    operation::{Operation, operations},
    state::State,
};
use crate::{
    journal::{Face, Hold},
    log::Sequence,
};

/// After a full disk, the time until the next publish is tried.
const FULL_RETRY: Duration = Duration::from_secs(1);

pub(crate) struct BusFace {
    pub(super) shared: Arc<Shared>,
    pub(super) staged: Staged,
    /// Commands that wait for their turn: what changes topics and groups is alone in its record.
    pub(super) waiting: VecDeque<Command>,
    /// Deliveries that will be repeated: written when something else is.
    pub(super) retries: Vec<Operation>,
    /// Settlements that met a full disk; they may use the log's reserve.
    again: Vec<Settlement>,
    again_replies: Vec<Reply>,
    /// Nothing is published before this moment.
    pub(super) full_until: Duration,
    checkpoints: Checkpoints,
    /// Whether a checkpoint is wanted whatever its size.
    pub(super) wanted: Vec<super::command::Answer<()>>,
}

/// A turn's changes that nobody sees before they are durable.
#[derive(Default)]
pub(super) struct Staged {
    pub(super) replies: Vec<Reply>,
    /// Acks are tried again from the log's reserve, so their answers are apart.
    pub(super) acks: Vec<Reply>,
    pub(super) settled: Vec<Settlement>,
    pub(super) touched: HashSet<u64>,
    pub(super) trims: Vec<(u64, Vec<Position>)>,
    /// What is alone in its record.
    pub(super) control: Vec<Operation>,
    /// Whether something takes more room than it makes.
    pub(super) needs_room: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Settlement {
    pub(super) topic: u64,
    pub(super) group: u64,
    pub(super) position: Position,
    pub(super) token: u64,
    /// Whether it is part of something larger that a full disk refuses.
    pub(super) is_bound: bool,
}

impl BusFace {
    pub(super) fn new(shared: Arc<Shared>, hold: Hold) -> Result<Self> {
        let checkpoints = Checkpoints::start(Arc::clone(&shared), hold)?;
        Ok(Self {
            shared,
            staged: Staged::default(),
            waiting: VecDeque::new(),
            retries: Vec::new(),
            again: Vec::new(),
            again_replies: Vec::new(),
            full_until: Duration::ZERO,
            checkpoints,
            wanted: Vec::new(),
        })
    }

    /// Stages what waits, as far as it may be in one record.
    pub(super) fn drain(&mut self, part: &mut Vec<u8>) {
        while self.staged.control.is_empty()
            && let Some(command) = self.waiting.pop_front()
        {
            if !part.is_empty() && self.is_control(&command) {
                self.waiting.push_front(command);
                return;
            }
            self.stage_one(command, part);
        }
    }

    /// Whether what changes topics or groups is staged: then nothing else can be in this turn.
    pub(crate) fn is_taken(&self) -> bool {
        !self.staged.control.is_empty()
    }

    /// Stages what groups asked for, and what a full disk has put off.
    fn settle_asked(&mut self, part: &mut Vec<u8>) {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        for settlement in std::mem::take(&mut self.again) {
            self.stage_settlement(&state, settlement, part);
        }
        self.staged.acks.append(&mut self.again_replies);
        let asked = std::mem::take(&mut state.outbox);
        drop(state);
        for (topic, group, effect) in asked {
            self.stage_effect(topic, group, effect, part);
        }
    }

    /// Ends what time ends: deliveries, waits, schedules, the age of messages.
    fn pass_time(&mut self, part: &mut Vec<u8>) {
        let shared = Arc::clone(&self.shared);
        let now = shared.now();
        let mut state = shared.state.lock();
        let late: Vec<(u64, u64)> = state
            .topics
            .values()
            .flat_map(|topic| {
                topic
                    .groups
                    .iter()
                    .map(|(id, member)| (topic.id, *id, member))
            })
            .filter(|(.., member)| {
                let timer = member.machine.next_timer();
                timer.is_some_and(|timer| timer <= now.monotonic)
            })
            .map(|(topic, group, _)| (topic, group))
            .collect();
        for (topic, group) in late {
            state.run_elsewhere(topic, group, Input::Tick, now.monotonic);
            if let Some(member) = state.member_mut(topic, group) {
                member.news.notify_waiters();
            }
        }
        let topics: Vec<u64> = state.topics.keys().copied().collect();
        for topic in topics {
            self.enter_due(&mut state, topic, now, part);
            self.trim(&mut state, topic, 0, now.wall, part);
        }
        state.to_trim.clear();
        state.plan(now);
    }

    /// The rest of a turn whose changes are durable.
    fn make_visible(&mut self, staged: &mut Staged, state: &mut State) {
        let now = self.shared.now();
        for topic in &staged.touched {
            if let Some(topic) = state.topics.get_mut(topic) {
                topic.commit();
                let members = topic.groups.values();
                for member in members.filter(|member| !member.consumers.is_empty()) {
                    member.news.notify_waiters();
                }
            }
        }
        for (topic, firsts) in staged.trims.drain(..) {
            tell_trimmed(state, topic, &firsts, now.monotonic);
        }
        let mut told = None;
        for settlement in staged.settled.drain(..) {
            let Settlement {
                topic,
                group,
                position,
                token,
                ..
            } = settlement;
            let input = Input::Settled { position, token };
            state.run_elsewhere(topic, group, input, now.monotonic);
            if told.replace((topic, group)) != Some((topic, group)) {
                told_of_settled(state, topic, group);
            }
        }
        for operation in staged.control.drain(..) {
            if let Err(error) = state.apply(operation, now.monotonic) {
                tracing::error!(error = error.detail(), "the bus contradicts itself");
            }
        }
    }
}

/// Whoever waits for room or for the next of a key looks again, and so does retention.
fn told_of_settled(state: &mut State, id: u64, group: u64) {
    let Some(topic) = state.topics.get_mut(&id) else {
        return;
    };
    topic.is_dirty = true;
    if let Some(member) = topic.groups.get(&group) {
        member.news.notify_waiters();
    }
    if topic.config.retention.age.is_some() {
        state.to_trim.insert(id);
    }
}

/// Groups hear of what the topic no longer holds.
fn tell_trimmed(state: &mut State, id: u64, firsts: &[Position], now: Duration) {
    let Some(topic) = state.topics.get(&id) else {
        return;
    };
    let mut behind = Vec::new();
    for (group, member) in &topic.groups {
        for first in firsts {
            if member.machine.cursor(first.partition) < first.offset {
                behind.push((*group, *first));
            }
        }
    }
    for (group, first) in behind {
        state.run_elsewhere(id, group, Input::Trim { first }, now);
        if let Some(member) = state.member_mut(id, group) {
            member.news.notify_waiters();
        }
    }
}

impl Face for BusFace {
    type Command = Command;

    const TAG: u8 = 2;

    fn stage(&mut self, command: Command, part: &mut Vec<u8>) {
        self.waiting.push_back(command);
        self.drain(part);
    }

    fn deadline(&self) -> Option<Duration> {
        let mut state = self.shared.state.lock();
        state.begin();
        let is_now = !self.waiting.is_empty()
            || !self.again.is_empty()
            || !state.outbox.is_empty()
            || !state.to_trim.is_empty()
            || self.checkpoints.is_wanted(&state, &self.wanted);
        if is_now {
            return Some(Duration::ZERO);
        }
        let checkpoint = self.checkpoints.deadline(&state).unwrap_or(Duration::MAX);
        let next = state.wake.min(checkpoint);
        (next < Duration::MAX).then_some(next)
    }

    fn due(&mut self, now: Duration, part: &mut Vec<u8>) {
        self.settle_asked(part);
        let (is_time, to_trim) = {
            let mut state = self.shared.state.lock();
            (state.wake <= now, std::mem::take(&mut state.to_trim))
        };
        if is_time {
            self.pass_time(part);
            self.settle_asked(part);
        } else if !to_trim.is_empty() {
            let shared = Arc::clone(&self.shared);
            let now = shared.now();
            let mut state = shared.state.lock();
            for topic in to_trim {
                self.trim(&mut state, topic, 0, now.wall, part);
            }
        }
        self.drain(part);
    }

    fn durable(&mut self, sequence: Sequence, part: Bytes) {
        let mut staged = std::mem::take(&mut self.staged);
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        if !part.is_empty() {
            self.make_visible(&mut staged, &mut state);
            let now = shared.clock.monotonic();
            state.dirty_since.get_or_insert(now);
        }
        let joined = |reply: &Reply| match reply {
            Reply::Joined { topic, group, .. } => Some((*topic, *group)),
            _ => None,
        };
        let joined: Vec<_> = staged.replies.iter().filter_map(joined).collect();
        let mut seats = joined
            .into_iter()
            .map(|(topic, group)| take_seat(&mut state, topic, group))
            .collect::<Vec<_>>()
            .into_iter();
        if self.checkpoints.is_wanted(&state, &self.wanted) {
            let answers = std::mem::take(&mut self.wanted);
            let job = state.capture(sequence + 1, &shared);
            self.checkpoints.ask(Request { job, answers });
        }
        drop(state);
        for reply in staged.replies.drain(..).chain(staged.acks.drain(..)) {
            match reply {
                Reply::Joined { answer, .. } => {
                    let seat = seats.next().unwrap_or_else(|| Err(fault::closed()));
                    let _ = answer.send(seat);
                }
                Reply::NotJoined(answer, error) => drop(answer.send(Err(error))),
                Reply::Published(answer, result) => drop(answer.send(result)),
                Reply::Made(answer, result) => drop(answer.send(result)),
                Reply::Done(answer, result) => drop(answer.send(result)),
            }
        }
    }

    fn refused(&mut self, error: &Error) {
        let staged = std::mem::take(&mut self.staged);
        let shared = Arc::clone(&self.shared);
        let now = shared.clock.monotonic();
        let mut state = shared.state.lock();
        for topic in &staged.touched {
            if let Some(topic) = state.topics.get_mut(topic) {
                topic.revert();
            }
        }
        let is_full = error.kind() == Kind::ResourceExhausted;
        // Alone, settlements may use the reserve.
        let may_again = is_full && staged.needs_room;
        if is_full {
            self.full_until = now + FULL_RETRY;
        }
        for settlement in staged.settled {
            if may_again && !settlement.is_bound {
                self.again.push(settlement);
                continue;
            }
            let Settlement {
                topic,
                group,
                position,
                token,
                ..
            } = settlement;
            let input = Input::Refused { position, token };
            state.run_elsewhere(topic, group, input, now);
        }
        drop(state);
        if may_again {
            self.again_replies.extend(staged.acks);
        } else {
            for reply in staged.acks {
                reply.refuse(error);
            }
        }
        for reply in staged.replies {
            reply.refuse(error);
        }
    }

    fn next(&self) -> Sequence {
        self.shared.state.lock().next
    }

    fn replay(&mut self, sequence: Sequence, part: Bytes) -> Result<()> {
        let mut state = self.shared.state.lock();
        state
            .dirty_since
            .get_or_insert(self.shared.clock.monotonic());
        for operation in operations(&part) {
            let operation = operation.map_err(|_| {
                fault::malformed(&format!("record {sequence} of its log is malformed"))
            })?;
            state.replay_all(operation)?;
        }
        Ok(())
    }

    fn makes_room(&self) -> bool {
        !self.staged.needs_room
    }
}

fn take_seat(state: &mut State, topic: u64, group: u64) -> Result<Seat> {
    state.last_consumer += 1;
    let consumer = state.last_consumer;
    let member = state.member_mut(topic, group);
    // It was there, or made, in this very turn.
    let member = member.ok_or_else(|| fault::unavailable("the group was deleted meanwhile"))?;
    member.consumers.insert(consumer);
    let (name, news) = (member.name.clone(), Arc::clone(&member.news));
    let topic_name = state.topics.get(&topic).map(|topic| topic.name.clone());
    Ok(Seat {
        topic,
        group,
        consumer,
        names: Arc::new((topic_name.unwrap_or_else(|| name.clone()), name)),
        news,
    })
}

impl Drop for BusFace {
    fn drop(&mut self) {
        self.checkpoints.end();
        let mut state = self.shared.state.lock();
        state.is_closed = true;
        for topic in state.topics.values() {
            for member in topic.groups.values() {
                member.news.notify_waiters();
            }
        }
        drop(state);
        self.shared.tables.close();
    }
}
