//! The whole bus in memory, under one lock that nobody holds while a disk works, but for the front
//! of a file that retention passes.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use bytes::Bytes;
use sinew_core::{Name, Result, Timestamp};
use sinew_engine::bus::{
    GroupState, Position, TopicConfig,
    group::{ConsumerId, Effect, Input, Rules, Snapshot},
    group_unknown, topic_unknown,
};

use super::{
    command::Seat,
    fault,
    files::{Files, Place},
    member::Member,
    message,
    operation::{Operation, To},
    tables::{Found, View},
    topic::Topic,
};
use crate::log::Sequence;

/// The time, by both clocks.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) wall: Timestamp,
    pub(super) monotonic: Duration,
}

pub(super) struct State {
    pub(super) topics: HashMap<u64, Topic>,
    pub(super) names: BTreeMap<Name, u64>,
    /// Of topics and groups.
    pub(super) last_id: u64,
    pub(super) last_consumer: ConsumerId,
    /// What groups count their tokens from: above all that an earlier opening gave.
    first_token: u64,
    /// The tables as the last checkpoint left them.
    pub(super) view: Arc<View>,
    /// The first record of the log that the tables do not have.
    pub(super) next: Sequence,
    /// What groups asked for outside the commit thread.
    pub(super) outbox: VecDeque<(u64, u64, Effect)>,
    /// When something is due by itself, at the earliest.
    pub(super) wake: Duration,
    /// Topics whose retention may remove something now.
    pub(super) to_trim: HashSet<u64>,
    pub(super) deleted_topics: Vec<u64>,
    pub(super) deleted_groups: Vec<(u64, u64)>,
    /// Files that no topic has any more, once the tables say so too.
    pub(super) doomed: Vec<(Place, u64)>,
    /// When the oldest change was made that the tables do not have.
    pub(super) dirty_since: Option<Duration>,
    /// Bytes that all topics have in memory and not in files.
    pub(super) memory: Arc<AtomicUsize>,
    is_begun: bool,
    pub(super) is_closed: bool,
}

impl State {
    pub(super) fn new(found: Found, view: View) -> Self {
        let memory = Arc::default();
        let first_token = found.epoch << 40;
        let mut state = Self {
            topics: HashMap::new(),
            names: BTreeMap::new(),
            last_id: found.last_id,
            last_consumer: 0,
            first_token,
            view: Arc::new(view),
            next: found.next,
            outbox: VecDeque::new(),
            wake: Duration::ZERO,
            to_trim: HashSet::new(),
            deleted_topics: Vec::new(),
            deleted_groups: Vec::new(),
            doomed: Vec::new(),
            dirty_since: None,
            memory,
            is_begun: false,
            is_closed: false,
        };
        for (id, row) in found.topics {
            let topic = Topic::new(id, row, &state.memory);
            state.names.insert(topic.name.clone(), id);
            state.topics.insert(id, topic);
        }
        for (topic, group, row) in found.groups {
            if let Some(topic) = state.topics.get_mut(&topic) {
                topic.group_names.insert(row.name.clone(), group);
                let mut member = Member::replayed(row, first_token);
                member.is_dirty = false;
                topic.groups.insert(group, member);
            }
        }
        for (place, segment) in found.segments {
            let topic = state.topics.get_mut(&place.topic);
            let log = topic.and_then(|topic| topic.partitions.get_mut(place.partition as usize));
            match log {
                Some(log) => log.segments.push_back(segment),
                None => state.doomed.push((place, segment.first)),
            }
        }
        state
    }

    pub(super) fn topic(&self, name: &Name) -> Result<&Topic> {
        let topic = self.names.get(name).and_then(|id| self.topics.get(id));
        topic.ok_or_else(|| topic_unknown(name))
    }

    pub(super) fn member(&self, topic: &Name, group: &Name) -> Result<(&Topic, u64, &Member)> {
        let topic = self.topic(topic)?;
        let member = topic
            .group_names
            .get(group)
            .and_then(|id| Some((topic, *id, topic.groups.get(id)?)));
        member.ok_or_else(|| group_unknown(group))
    }

    pub(super) fn member_mut(&mut self, topic: u64, group: u64) -> Option<&mut Member> {
        self.topics.get_mut(&topic)?.groups.get_mut(&group)
    }

    /// Whether a consumer still has its seat: a group that was deleted and made again is another.
    pub(super) fn check(&self, seat: &Seat) -> Result<&Member> {
        let topic = self.topics.get(&seat.topic);
        let member = topic.and_then(|topic| topic.groups.get(&seat.group));
        let (topic, group) = &*seat.names;
        match member.filter(|member| member.consumers.contains(&seat.consumer)) {
            Some(member) => Ok(member),
            None if self.is_closed => Err(fault::closed()),
            None if self.names.contains_key(topic) => Err(group_unknown(group)),
            None => Err(topic_unknown(topic)),
        }
    }

    pub(super) fn group_state(&self, topic: &Name, group: &Name) -> Result<GroupState> {
        let (topic, _, member) = self.member(topic, group)?;
        let machine = &member.machine;
        Ok(GroupState {
            config: member.config.clone(),
            cursors: topic
                .numbered()
                .map(|(partition, _)| machine.cursor(partition))
                .collect(),
            lag: topic
                .numbered()
                .map(|(partition, log)| machine.owed(partition, log.edges.end))
                .sum(),
            in_flight: machine.in_flight() as u64,
            waiting: machine.waiting() as u64,
            lost: machine.lost(),
            consumers: member.consumers.len() as u64,
        })
    }

    /// Passes an input to a group; answers what it asks for.
    pub(super) fn run(
        &mut self,
        topic: u64,
        group: u64,
        input: Input,
        now: Duration,
    ) -> Vec<Effect> {
        let Some(member) = self.member_mut(topic, group) else {
            return Vec::new();
        };
        let effects = member.machine.step(input, now);
        member.is_dirty = true;
        let timer = member.machine.next_timer().unwrap_or(Duration::MAX);
        self.wake = self.wake.min(timer);
        effects
    }

    /// The same; what it asks for is left to the commit thread. Answers whether a receipt was
    /// stale, and what is to be delivered.
    pub(super) fn run_elsewhere(
        &mut self,
        topic: u64,
        group: u64,
        input: Input,
        now: Duration,
    ) -> (bool, Vec<Effect>) {
        let effects = self.run(topic, group, input, now);
        let mut is_stale = false;
        let mut deliveries = Vec::new();
        for effect in effects {
            match effect {
                Effect::Stale { .. } => is_stale = true,
                Effect::Deliver { .. } => deliveries.push(effect),
                effect => self.outbox.push_back((topic, group, effect)),
            }
        }
        (is_stale, deliveries)
    }

    /// Whether something would have happened by now, had the commit thread looked.
    pub(super) fn is_due(&self, now: Now, files: &Files) -> bool {
        let is_past = |topic: &Topic| {
            // It may be on its way.
            if topic.staged.scheduled < topic.counts.scheduled {
                return true;
            }
            let due = topic.next_due(&self.view).ok().flatten();
            due.is_some_and(|due| due <= now.wall) || topic.has_removable(now.wall, files)
        };
        self.wake <= now.monotonic || !self.outbox.is_empty() || self.topics.values().any(is_past)
    }

    /// Looks for what is due next.
    pub(super) fn plan(&mut self, now: Now) {
        /// A wall clock may jump to a due time: it is looked at so often.
        const LOOK: Duration = Duration::from_secs(1);
        let mut wake = Duration::MAX;
        let at = |time: Timestamp| now.monotonic + time.since(now.wall).min(LOOK);
        for topic in self.topics.values() {
            let due = topic.next_due(&self.view);
            let due = due.unwrap_or_else(|error| {
                tracing::warn!(
                    error = error.detail(),
                    "the schedule of a topic is unreadable"
                );
                Some(now.wall.plus(LOOK))
            });
            let timers = topic
                .groups
                .values()
                .filter_map(|member| member.machine.next_timer());
            let next = timers.chain(due.map(at)).chain(topic.next_old().map(|old| {
                // What is too old and owed is looked at again when it is settled.
                at(old).max(now.monotonic + LOOK)
            }));
            wake = next.fold(wake, Duration::min);
        }
        self.wake = wake;
    }

    /// Makes an operation that is durable visible. Those of consumers and producers pass here only
    /// while records are replayed; otherwise they were staged.
    pub(super) fn apply(&mut self, operation: Operation, now: Duration) -> Result<()> {
        match operation {
            Operation::TopicMade {
                topic,
                name,
                config,
            } => self.make_topic(topic, name, config),
            Operation::TopicConfigured { topic, config } => {
                let topic = self.known(topic)?;
                topic.config = config;
                topic.is_dirty = true;
            }
            Operation::TopicDeleted { topic } => self.remove_topic(topic),
            Operation::GroupMade {
                topic,
                group,
                name,
                config,
                starts,
            } => {
                self.last_id = self.last_id.max(group);
                let token = self.first_token;
                let topic = self.known(topic)?;
                topic.group_names.insert(name.clone(), group);
                let snapshot = Snapshot::starting(starts);
                let member = Member::new(name, config, snapshot, token);
                topic.groups.insert(group, member);
                topic.is_dirty = true;
            }
            Operation::GroupConfigured {
                topic,
                group,
                config,
            } => {
                let rules = Rules::from(&config);
                self.known(topic)?.is_dirty = true;
                if let Some(member) = self.member_mut(topic, group) {
                    member.config = config;
                }
                self.run_elsewhere(topic, group, Input::Configure { rules }, now);
            }
            Operation::GroupDeleted { topic, group } => {
                self.deleted_groups.push((topic, group));
                let topic = self.known(topic)?;
                topic.is_dirty = true;
                if let Some(member) = topic.groups.remove(&group) {
                    topic.group_names.remove(&member.name);
                    member.news.notify_waiters();
                }
            }
            Operation::Sought {
                topic,
                group,
                positions,
            } => {
                self.known(topic)?.is_dirty = true;
                for position in positions {
                    match self.book(topic, group, position) {
                        Some(book) => book.seek(position.offset),
                        None => {
                            drop(self.run_elsewhere(topic, group, Input::Seek { position }, now))
                        }
                    }
                }
            }
            operation => self.replay(operation)?,
        }
        Ok(())
    }

    fn make_topic(&mut self, id: u64, name: Name, config: TopicConfig) {
        self.last_id = self.last_id.max(id);
        self.names.insert(name.clone(), id);
        self.topics
            .insert(id, Topic::made(id, name, config, &self.memory));
    }

    fn remove_topic(&mut self, id: u64) {
        let Some(mut topic) = self.topics.remove(&id) else {
            return;
        };
        topic.forget();
        self.names.remove(&topic.name);
        self.deleted_topics.push(id);
        for (partition, log) in topic.numbered() {
            let place = topic.place(partition);
            let segments = log.segments.iter().map(|segment| (place, segment.first));
            self.doomed.extend(segments);
        }
        for member in topic.groups.values() {
            member.news.notify_waiters();
        }
    }

    fn known(&mut self, topic: u64) -> Result<&mut Topic> {
        let topic = self.topics.get_mut(&topic);
        topic.ok_or_else(|| fault::malformed("its log speaks of a topic that is not there"))
    }

    fn book(
        &mut self,
        topic: u64,
        group: u64,
        position: Position,
    ) -> Option<&mut sinew_engine::bus::group::PartitionSnapshot> {
        let book = self.member_mut(topic, group)?.book.as_mut()?;
        book.partitions.get_mut(position.partition as usize)
    }

    fn replay(&mut self, operation: Operation) -> Result<()> {
        match operation {
            Operation::Published {
                topic,
                now,
                messages,
            } => {
                let topic = self.known(topic)?;
                for (to, body) in messages {
                    replay_message(topic, to, body, now)?;
                }
                topic.commit();
            }
            Operation::Entered {
                topic,
                now,
                messages,
            } => {
                let view = Arc::clone(&self.view);
                let topic = self.known(topic)?;
                for (due, position) in messages {
                    let body = scheduled_body(topic, due, &view)?;
                    let weight = weight(&body)?;
                    topic.unschedule(due, weight);
                    replay_entry(topic, position, body, weight, now)?;
                }
                topic.commit();
            }
            Operation::Settled {
                topic,
                group,
                positions,
            } => {
                self.known(topic)?.is_dirty = true;
                for position in positions {
                    if let Some(book) = self.book(topic, group, position) {
                        book.settle(position.offset);
                    }
                }
            }
            Operation::Trimmed {
                topic: id,
                weight,
                firsts,
            } => {
                let topic = self.known(id)?;
                topic.staged.bytes = topic.staged.bytes.saturating_sub(weight);
                for first in &firsts {
                    let log = topic.partitions.get_mut(first.partition as usize);
                    let log = log.ok_or_else(|| fault::malformed("a partition is not there"))?;
                    log.staged.first = first.offset;
                }
                topic.commit();
                for member in topic.groups.values_mut() {
                    for first in &firsts {
                        let book = member.book.as_mut();
                        let book =
                            book.and_then(|book| book.partitions.get_mut(first.partition as usize));
                        if let Some(book) = book.filter(|book| book.cursor < first.offset) {
                            book.trim(first.offset);
                            member.is_dirty = true;
                        }
                    }
                }
            }
            Operation::Retried {
                topic,
                group,
                position,
                retry,
            } => {
                if let Some(book) = self.book(topic, group, position)
                    && position.offset >= book.cursor
                {
                    book.retries.insert(position.offset, retry);
                }
            }
            // The others were applied.
            _ => {}
        }
        Ok(())
    }

    /// A record's operations, at opening.
    pub(super) fn replay_all(&mut self, operation: Operation) -> Result<()> {
        let group = match &operation {
            Operation::GroupMade { topic, group, .. } | Operation::Settled { topic, group, .. } => {
                Some((*topic, *group))
            }
            _ => None,
        };
        let is_made = matches!(operation, Operation::GroupMade { .. });
        self.apply(operation, Duration::ZERO)?;
        if let Some((topic, group)) = group
            && let Some(member) = self.member_mut(topic, group)
        {
            member.is_dirty = true;
            if is_made {
                member.book = Some(member.machine.snapshot(Duration::ZERO));
            }
        }
        Ok(())
    }

    /// The replay is over. May be told more than once.
    pub(super) fn begin(&mut self) {
        if std::mem::replace(&mut self.is_begun, true) {
            return;
        }
        let token = self.first_token;
        for topic in self.topics.values_mut() {
            for member in topic.groups.values_mut() {
                member.begin(token);
            }
        }
    }
}

fn weight(body: &Bytes) -> Result<u64> {
    let parts = message::parts(body);
    let parts = parts.map_err(|_| fault::malformed("a message of its log"))?;
    Ok(parts.weight())
}

fn replay_message(topic: &mut Topic, to: To, body: Bytes, now: Timestamp) -> Result<()> {
    let (weight, id, has_key) = {
        let parts = message::parts(&body);
        let parts = parts.map_err(|_| fault::malformed("a message of its log"))?;
        (
            parts.weight(),
            parts.id.map(str::to_owned),
            parts.key.is_some(),
        )
    };
    if let Some(id) = id.filter(|_| !topic.config.deduplication.is_zero()) {
        topic.see(&id, now);
    }
    match to {
        To::Log(position) => {
            if !has_key {
                topic.staged.partition = position.partition;
            }
            replay_entry(topic, position, body, weight, now)
        }
        To::Schedule(due) => {
            topic.put_off(due, body, weight);
            Ok(())
        }
    }
}

fn replay_entry(
    topic: &mut Topic,
    position: Position,
    body: Bytes,
    weight: u64,
    now: Timestamp,
) -> Result<()> {
    let end = topic
        .partition(position.partition)
        .map(|log| log.staged.end);
    if end != Some(position.offset) {
        return Err(fault::malformed("a message of its log is out of place"));
    }
    topic.enter(position.partition, body, weight, now);
    Ok(())
}

fn scheduled_body(topic: &Topic, due: super::operation::Due, view: &View) -> Result<Bytes> {
    if let Some(body) = topic.schedule.fresh.get(&due) {
        return body
            .clone()
            .ok_or_else(|| fault::malformed("a scheduled message entered twice"));
    }
    let mut body = None;
    view.scheduled(topic.id, due, |place, found| {
        if place == due {
            body = Some(Bytes::copy_from_slice(found));
        }
        false
    })?;
    body.ok_or_else(|| fault::malformed("a scheduled message is not there"))
}
