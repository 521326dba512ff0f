use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use sinew_core::{Name, Result, Timestamp};

use super::state::Now;
use crate::bus::{
    GroupConfig, GroupState, Message, Position, Published, Record, Seek, Start, TopicConfig,
    TopicState, Unsettled, full,
    group::{ConsumerId, Group, Input, Rules, Snapshot},
    group_unknown, position_unknown, topic_invalid,
};

/// Messages of one partition that a group loads before it looks at the next.
const LOAD_AT_ONCE: u64 = 64;

pub(super) struct Topic {
    config: TopicConfig,
    partitions: Vec<Log>,
    /// By due time, then in the order of their publication.
    scheduled: BTreeMap<(Timestamp, u64), Message>,
    scheduled_bytes: u64,
    last_scheduled: u64,
    /// When each id was seen.
    ids: HashMap<String, Timestamp>,
    ids_by_age: VecDeque<(Timestamp, String)>,
    groups: BTreeMap<Name, Member>,
    /// What all records weigh.
    bytes: u64,
    next_partition: u32,
}

/// Invariant: the record with the offset `first + n` is `records[n]`.
#[derive(Default)]
struct Log {
    first: u64,
    records: VecDeque<Record>,
}

impl Log {
    fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    fn get(&self, offset: u64) -> Option<&Record> {
        self.records
            .get(usize::try_from(offset.checked_sub(self.first)?).ok()?)
    }

    /// The first offset whose message entered at `time` or later.
    fn since(&self, time: Timestamp) -> u64 {
        self.first
            + self
                .records
                .partition_point(|record| record.published < time) as u64
    }
}

pub(super) struct Member {
    pub(super) config: GroupConfig,
    pub(super) machine: Group,
    consumers: BTreeSet<ConsumerId>,
}

impl Topic {
    pub(super) fn new(config: TopicConfig) -> Self {
        Self {
            partitions: (0..config.partitions).map(|_| Log::default()).collect(),
            config,
            scheduled: BTreeMap::new(),
            scheduled_bytes: 0,
            last_scheduled: 0,
            ids: HashMap::new(),
            ids_by_age: VecDeque::new(),
            groups: BTreeMap::new(),
            bytes: 0,
            next_partition: 0,
        }
    }

    pub(super) fn has(&self, config: &TopicConfig) -> bool {
        self.config == *config
    }

    pub(super) fn configure(&mut self, config: TopicConfig) -> Result<()> {
        if config.partitions != self.config.partitions {
            return Err(topic_invalid("the number of partitions cannot be changed"));
        }
        self.config = config;
        Ok(())
    }

    pub(super) fn state(&self) -> TopicState {
        TopicState {
            config: self.config,
            partitions: self
                .partitions
                .iter()
                .map(|log| log.first..log.end())
                .collect(),
            bytes: self.bytes,
            scheduled: self.scheduled.len() as u64,
        }
    }

    pub(super) fn publish(
        &mut self,
        name: &Name,
        messages: Vec<Message>,
        now: Timestamp,
    ) -> Result<Vec<Published>> {
        let mut fresh = Vec::new();
        let mut batch_ids = BTreeSet::new();
        for message in &messages {
            let known = message.id.as_ref().is_some_and(|id| {
                !self.config.deduplication.is_zero()
                    && (self.ids.contains_key(id) || !batch_ids.insert(id.clone()))
            });
            fresh.push(!known);
        }
        let weights = messages.iter().zip(&fresh).filter(|(_, fresh)| **fresh);
        let weight = weights.map(|(message, _)| message.weight()).sum();
        if weight > 0 {
            let now = Now {
                wall: now,
                monotonic: Duration::ZERO,
            };
            self.trim(weight, now);
        }
        let used = self.bytes + self.scheduled_bytes + weight;
        let keeps = self.config.retention.unsettled == Unsettled::Keep;
        if weight > 0 && keeps && self.config.retention.bytes.is_some_and(|most| used > most) {
            return Err(full(name));
        }
        let each = messages.into_iter().zip(fresh);
        Ok(each
            .map(|(message, fresh)| self.accept(message, fresh, now))
            .collect())
    }

    fn accept(&mut self, message: Message, is_fresh: bool, now: Timestamp) -> Published {
        if !is_fresh {
            return Published::Duplicate;
        }
        if let Some(id) = message
            .id
            .clone()
            .filter(|_| !self.config.deduplication.is_zero())
        {
            self.ids.insert(id.clone(), now);
            self.ids_by_age.push_back((now, id));
        }
        match message.due.filter(|due| *due > now) {
            None => Published::At(self.enter(message, now)),
            Some(due) => {
                self.last_scheduled += 1;
                self.scheduled_bytes += message.weight();
                self.scheduled.insert((due, self.last_scheduled), message);
                Published::Scheduled
            }
        }
    }

    /// Appends a message.
    pub(super) fn enter(&mut self, message: Message, now: Timestamp) -> Position {
        let count = self.config.partitions;
        let partition = match &message.key {
            Some(key) => crc32c::crc32c(key) % count,
            None => {
                self.next_partition = (self.next_partition + 1) % count;
                self.next_partition
            }
        };
        let log = &mut self.partitions[partition as usize];
        let position = Position {
            partition,
            offset: log.end(),
        };
        let published = log
            .records
            .back()
            .map_or(now, |last| last.published.max(now));
        self.bytes += message.weight();
        let message = Arc::new(Message {
            due: None,
            ..message
        });
        log.records.push_back(Record {
            position,
            published,
            message,
        });
        position
    }

    /// Lets those enter whose time has come; tells whether there were any.
    pub(super) fn enter_due(&mut self, now: Timestamp) -> bool {
        let before = self.scheduled.len();
        while let Some(first) = self.scheduled.first_entry()
            && first.key().0 <= now
        {
            let message = first.remove();
            self.scheduled_bytes -= message.weight();
            self.enter(message, now);
        }
        self.scheduled.len() < before
    }

    pub(super) fn forget_ids(&mut self, now: Timestamp) {
        while let Some((seen, id)) = self.ids_by_age.front()
            && seen.plus(self.config.deduplication) <= now
        {
            self.ids.remove(id);
            self.ids_by_age.pop_front();
        }
    }

    /// Removes what the topic need not keep, when `more` bytes shall find room.
    pub(super) fn trim(&mut self, more: u64, now: Now) {
        let retention = self.config.retention;
        loop {
            let used = self.bytes + self.scheduled_bytes + more;
            let is_over = retention.bytes.is_some_and(|most| used > most);
            let is_old = |record: &Record| {
                retention
                    .age
                    .is_some_and(|age| now.wall.since(record.published) > age)
            };
            let oldest = self
                .partitions
                .iter()
                .filter_map(|log| log.records.front())
                .filter(|record| is_over || is_old(record))
                .filter(|record| retention.unsettled == Unsettled::Drop || !self.is_owed(record))
                .min_by_key(|record| (record.published, record.position));
            let Some(Position { partition, .. }) = oldest.map(|record| record.position) else {
                return;
            };
            let log = &mut self.partitions[partition as usize];
            if let Some(record) = log.records.pop_front() {
                log.first += 1;
                self.bytes -= record.message.weight();
            }
        }
    }

    fn is_owed(&self, record: &Record) -> bool {
        let Position { partition, offset } = record.position;
        self.groups
            .values()
            .any(|member| member.machine.cursor(partition) <= offset)
    }

    pub(super) fn record(&self, position: Position) -> Option<Record> {
        self.partitions[position.partition as usize]
            .get(position.offset)
            .cloned()
    }

    pub(super) fn read(&self, from: Position, most: usize) -> Result<Vec<Record>> {
        self.check_position(from)?;
        let log = &self.partitions[from.partition as usize];
        Ok((from.offset..log.end())
            .take(most)
            .filter_map(|offset| log.get(offset).cloned())
            .collect())
    }

    fn check_position(&self, position: Position) -> Result<()> {
        match self.partitions.get(position.partition as usize) {
            Some(log) if (log.first..=log.end()).contains(&position.offset) => Ok(()),
            _ => Err(position_unknown(position)),
        }
    }

    /// Adds a consumer to a group, which is made when it does not exist. The machine must hear of the rules.
    pub(super) fn join(
        &mut self,
        group: &Name,
        config: GroupConfig,
        rules: Rules,
        consumer: ConsumerId,
    ) {
        let starts = self.partitions.iter().map(|log| match config.start {
            Start::Earliest => log.first,
            Start::Latest => log.end(),
            Start::At(time) => log.since(time),
        });
        let snapshot = Snapshot::starting(starts);
        let member = self.groups.entry(group.clone()).or_insert_with(|| Member {
            config: config.clone(),
            machine: Group::new(rules, snapshot, 0),
            consumers: BTreeSet::new(),
        });
        member.config = config;
        member.consumers.insert(consumer);
    }

    pub(super) fn leave(&mut self, group: &Name, consumer: ConsumerId) {
        if let Some(member) = self.groups.get_mut(group) {
            member.consumers.remove(&consumer);
        }
    }

    pub(super) fn member(&mut self, group: &Name) -> Result<&mut Member> {
        self.groups
            .get_mut(group)
            .ok_or_else(|| group_unknown(group))
    }

    pub(super) fn check_consumer(&self, group: &Name, consumer: ConsumerId) -> Result<()> {
        // A group that was deleted and made again is another one.
        match self.groups.get(group) {
            Some(member) if member.consumers.contains(&consumer) => Ok(()),
            _ => Err(group_unknown(group)),
        }
    }

    pub(super) fn groups(&self) -> Vec<Name> {
        self.groups.keys().cloned().collect()
    }

    pub(super) fn delete_group(&mut self, group: &Name) {
        self.groups.remove(group);
    }

    pub(super) fn group_state(&mut self, group: &Name) -> Result<GroupState> {
        let ends: Vec<u64> = self.partitions.iter().map(Log::end).collect();
        let member = self.member(group)?;
        let machine = &member.machine;
        let numbers = || (0..).zip(&ends);
        Ok(GroupState {
            config: member.config.clone(),
            cursors: numbers()
                .map(|(partition, _)| machine.cursor(partition))
                .collect(),
            lag: numbers()
                .map(|(partition, end)| machine.owed(partition, *end))
                .sum(),
            in_flight: machine.in_flight() as u64,
            waiting: machine.waiting() as u64,
            lost: machine.lost(),
            consumers: member.consumers.len() as u64,
        })
    }

    /// Where each partition that is meant shall go on.
    pub(super) fn targets(&self, seek: Seek) -> Result<Vec<Position>> {
        let everywhere = |offset: fn(&Log, Timestamp) -> u64, time| {
            let logs = (0..).zip(&self.partitions);
            logs.map(|(partition, log)| Position {
                partition,
                offset: offset(log, time),
            })
            .collect()
        };
        let any = Timestamp::default();
        Ok(match seek {
            Seek::To(position) => {
                self.check_position(position)?;
                vec![position]
            }
            Seek::Earliest => everywhere(|log, _| log.first, any),
            Seek::Latest => everywhere(|log, _| log.end(), any),
            Seek::Time(time) => everywhere(Log::since, time),
        })
    }

    /// What a group must hear before anything else: what was trimmed, and what has entered, as far as it
    /// takes more.
    pub(super) fn feed(&mut self, group: &Name) -> Result<Option<Input>> {
        let machine = &self
            .groups
            .get(group)
            .ok_or_else(|| group_unknown(group))?
            .machine;
        let logs = || (0..).zip(&self.partitions);
        let trimmed = logs().find(|(partition, log)| machine.cursor(*partition) < log.first);
        if let Some((partition, log)) = trimmed {
            let first = Position {
                partition,
                offset: log.first,
            };
            return Ok(Some(Input::Trim { first }));
        }
        let room = machine.room() as u64;
        let behind = |(partition, log): &(u32, &Log)| machine.wanted(*partition) < log.end();
        // The partition that it holds least of, so that none takes the whole window.
        let held =
            |(partition, _): &(u32, &Log)| machine.wanted(*partition) - machine.cursor(*partition);
        let Some((partition, log)) = logs().filter(behind).min_by_key(held).filter(|_| room > 0)
        else {
            return Ok(None);
        };
        let from = machine.wanted(partition);
        let until = log.end().min(from + LOAD_AT_ONCE.min(room));
        let key = |offset| {
            log.get(offset)
                .and_then(|record| record.message.key.clone())
        };
        let messages = (from..until).map(|offset| (offset, key(offset))).collect();
        Ok(Some(Input::Load {
            partition,
            messages,
            until,
        }))
    }

    /// When the next delivery or wait of a group ends.
    pub(super) fn timer(&self, group: &Name) -> Option<Duration> {
        self.groups.get(group)?.machine.next_timer()
    }

    pub(super) fn next_wait(&self, now: Now) -> Option<Duration> {
        let timers = self
            .groups
            .values()
            .filter_map(|member| member.machine.next_timer());
        let due = self
            .scheduled
            .first_key_value()
            .map(|((due, _), _)| due.since(now.wall));
        timers
            .map(|at| at.saturating_sub(now.monotonic))
            .chain(due)
            .min()
    }
}
