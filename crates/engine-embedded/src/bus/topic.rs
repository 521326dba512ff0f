//! One topic in memory: its ends, what is not in files yet, its schedule, its ids and its groups.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use sinew_core::{Name, Result, Timestamp};
use sinew_engine::bus::{Position, TopicConfig, TopicState, Unsettled};

use super::{
    fault,
    files::{Block, Files, Place, Segment},
    member::Member,
    message::Stored,
    operation::Due,
    tables::{Counts, Edges, Ids, Scheduled, TopicRow, View},
};
use crate::storage::to_usize;

/// What a message in memory takes beside its bytes.
const OVERHEAD: usize = 64;

pub(super) struct Topic {
    pub(super) id: u64,
    pub(super) name: Name,
    pub(super) config: TopicConfig,
    pub(super) counts: Counts,
    pub(super) staged: Counts,
    pub(super) partitions: Vec<Partition>,
    pub(super) ids: Layers<Ids>,
    /// Up to when ids were seen that are in the tables.
    pub(super) ids_filed: Timestamp,
    pub(super) schedule: Layers<Scheduled>,
    /// What the tables have scheduled before this has entered.
    pub(super) due_from: Due,
    undo_ids: Vec<(Box<str>, Option<Timestamp>)>,
    undo_schedule: Vec<(Due, Option<Option<Bytes>>)>,
    pub(super) groups: HashMap<u64, Member>,
    pub(super) group_names: BTreeMap<Name, u64>,
    /// Whether the tables do not know all of it.
    pub(super) is_dirty: bool,
    /// Shared by all topics.
    memory: Arc<AtomicUsize>,
}

/// Invariant: the message with the offset `head_start + n` is `head[n]`, up to `staged.end`; what is
/// older is in `segments`, up to `edges.first` at least.
#[derive(Default)]
pub(super) struct Partition {
    /// What everybody sees.
    pub(super) edges: Edges,
    /// With what is being written.
    pub(super) staged: Edges,
    pub(super) head: VecDeque<Stored>,
    pub(super) head_start: u64,
    pub(super) segments: VecDeque<Segment>,
}

/// What changed since the last checkpoint, and what the checkpoint that is being made takes. Both
/// lie over the tables.
#[derive(Debug, Default)]
pub(super) struct Layers<T> {
    pub(super) fresh: T,
    pub(super) frozen: Arc<T>,
}

/// Where a message is.
pub(super) enum Found {
    Here(Stored),
    /// In a file, not read yet.
    In(Segment),
    Nowhere,
}

/// What trimming came to.
#[derive(Default)]
pub(super) struct Trimmed {
    pub(super) weight: u64,
    pub(super) firsts: Vec<Position>,
}

impl Partition {
    pub(super) fn at(edges: Edges) -> Self {
        Self {
            edges,
            staged: edges,
            head_start: edges.end,
            ..Self::default()
        }
    }

    pub(super) fn in_head(&self, offset: u64) -> Option<&Stored> {
        self.head
            .get(usize::try_from(offset.checked_sub(self.head_start)?).ok()?)
    }

    pub(super) fn segment(&self, offset: u64) -> Option<&Segment> {
        let at = self
            .segments
            .partition_point(|segment| segment.end <= offset);
        self.segments
            .get(at)
            .filter(|segment| segment.first <= offset)
    }

    /// Lets go of messages in memory before an offset; answers how many bytes they took.
    pub(super) fn drop_head(&mut self, before: u64) -> usize {
        let mut freed = 0;
        while self.head_start < before
            && let Some(message) = self.head.pop_front()
        {
            self.head_start += 1;
            freed += cost(&message.body);
        }
        if self.head.is_empty() {
            // An idle topic keeps nothing.
            self.head = VecDeque::new();
        }
        freed
    }
}

impl Topic {
    pub(super) fn new(id: u64, row: TopicRow, memory: &Arc<AtomicUsize>) -> Self {
        Self {
            id,
            name: row.name,
            config: row.config,
            counts: row.counts,
            staged: row.counts,
            partitions: row.edges.into_iter().map(Partition::at).collect(),
            ids: Layers::default(),
            ids_filed: Timestamp(u64::MAX),
            schedule: Layers::default(),
            due_from: FIRST_DUE,
            undo_ids: Vec::new(),
            undo_schedule: Vec::new(),
            groups: HashMap::new(),
            group_names: BTreeMap::new(),
            is_dirty: false,
            memory: Arc::clone(memory),
        }
    }

    /// A topic that nothing was published into.
    pub(super) fn made(
        id: u64,
        name: Name,
        config: TopicConfig,
        memory: &Arc<AtomicUsize>,
    ) -> Self {
        let row = TopicRow {
            name,
            config,
            counts: Counts::default(),
            edges: vec![Edges::default(); to_usize(u64::from(config.partitions))],
        };
        Self {
            ids_filed: Timestamp(0),
            is_dirty: true,
            ..Self::new(id, row, memory)
        }
    }

    pub(super) fn place(&self, partition: u32) -> Place {
        Place {
            topic: self.id,
            partition,
        }
    }

    pub(super) fn numbered(&self) -> impl Iterator<Item = (u32, &Partition)> {
        (0..).zip(&self.partitions)
    }

    pub(super) fn partition(&self, number: u32) -> Option<&Partition> {
        self.partitions.get(number as usize)
    }

    pub(super) fn state(&self) -> TopicState {
        TopicState {
            config: self.config,
            partitions: self
                .partitions
                .iter()
                .map(|partition| partition.edges.first..partition.edges.end)
                .collect(),
            bytes: self.counts.bytes,
            scheduled: self.counts.scheduled,
        }
    }

    /// Where a message that everybody may see is.
    pub(super) fn find(&self, position: Position, files: &Files, held: Option<&Held>) -> Found {
        let Position { partition, offset } = position;
        let Some(log) = self.partition(partition) else {
            return Found::Nowhere;
        };
        if !(log.edges.first..log.edges.end).contains(&offset) {
            return Found::Nowhere;
        }
        if let Some(message) = log.in_head(offset) {
            return Found::Here(message.clone());
        }
        let place = self.place(partition);
        let block = held
            .filter(|held| held.place == place && held.block.get(offset).is_some())
            .map(|held| Arc::clone(&held.block))
            .or_else(|| files.cached(place, offset));
        if let Some(message) = block.and_then(|block| block.get(offset).cloned()) {
            return Found::Here(message);
        }
        log.segment(offset)
            .map_or(Found::Nowhere, |segment| Found::In(*segment))
    }

    /// A message, read from its file if it has to be. Blocks on the disk then.
    pub(super) fn read(&self, position: Position, files: &Files) -> Result<Stored> {
        let missing = || {
            fault::malformed(&format!(
                "message {} of partition {} of a topic is missing",
                position.offset, position.partition
            ))
        };
        match self.find(position, files, None) {
            Found::Here(message) => Ok(message),
            Found::In(segment) => {
                let place = self.place(position.partition);
                let block = files.block(place, &segment, position.offset)?;
                block.get(position.offset).cloned().ok_or_else(missing)
            }
            Found::Nowhere => Err(missing()),
        }
    }

    /// The partition for a message.
    pub(super) fn choose(&mut self, key_hash: Option<u32>) -> u32 {
        let count = self.config.partitions;
        match key_hash {
            Some(hash) => hash % count,
            None => {
                self.staged.partition = (self.staged.partition + 1) % count;
                self.staged.partition
            }
        }
    }

    /// Stages a message at the end of a partition.
    pub(super) fn enter(
        &mut self,
        partition: u32,
        body: Bytes,
        weight: u64,
        now: Timestamp,
    ) -> Position {
        self.memory.fetch_add(cost(&body), Ordering::Relaxed);
        self.staged.bytes += weight;
        let log = &mut self.partitions[partition as usize];
        let offset = log.staged.end;
        log.staged.end += 1;
        log.staged.published = log.staged.published.max(now);
        log.head.push_back(Stored {
            body,
            published: log.staged.published,
        });
        Position { partition, offset }
    }

    /// Stages a message that enters later.
    pub(super) fn put_off(&mut self, due: Due, body: Bytes, weight: u64) {
        self.staged.last_due = due.number;
        self.staged.scheduled += 1;
        self.staged.scheduled_bytes += weight;
        self.change_schedule(due, Some(body));
    }

    /// Stages that a scheduled message leaves the schedule.
    pub(super) fn unschedule(&mut self, due: Due, weight: u64) {
        self.staged.scheduled = self.staged.scheduled.saturating_sub(1);
        self.staged.scheduled_bytes = self.staged.scheduled_bytes.saturating_sub(weight);
        self.change_schedule(due, None);
    }

    fn change_schedule(&mut self, due: Due, body: Option<Bytes>) {
        self.memory.fetch_add(cost_of_due(&body), Ordering::Relaxed);
        let before = self.schedule.fresh.insert(due, body);
        if let Some(before) = &before {
            self.memory
                .fetch_sub(cost_of_due(before), Ordering::Relaxed);
        }
        self.undo_schedule.push((due, before));
    }

    /// Stages that an id was seen.
    pub(super) fn see(&mut self, id: &str, now: Timestamp) {
        let before = self.ids.fresh.insert(id.into(), now);
        if before.is_none() {
            self.memory
                .fetch_add(id.len() + OVERHEAD, Ordering::Relaxed);
        }
        self.undo_ids.push((id.into(), before));
    }

    /// Whether an id was seen within the window.
    pub(super) fn knows(&self, id: &str, now: Timestamp, view: &View) -> Result<bool> {
        let window = self.config.deduplication;
        let is_recent = |seen: Timestamp| seen.plus(window) > now;
        let in_memory = self.ids.fresh.get(id).or_else(|| self.ids.frozen.get(id));
        if let Some(seen) = in_memory {
            return Ok(is_recent(*seen));
        }
        if !is_recent(self.ids_filed) {
            return Ok(false);
        }
        Ok(view.seen(self.id, id)?.is_some_and(is_recent))
    }

    /// What is staged is durable.
    pub(super) fn commit(&mut self) {
        self.counts = self.staged;
        self.undo_ids.clear();
        self.undo_schedule.clear();
        self.is_dirty = true;
        let mut freed = 0;
        for log in &mut self.partitions {
            log.edges = log.staged;
            freed += log.drop_head(log.edges.first);
        }
        self.memory.fetch_sub(freed, Ordering::Relaxed);
    }

    /// Nothing of what is staged was written.
    pub(super) fn revert(&mut self) {
        self.staged = self.counts;
        let mut freed = 0;
        for (id, before) in self.undo_ids.drain(..).rev() {
            match before {
                Some(before) => drop(self.ids.fresh.insert(id, before)),
                None => {
                    freed += id.len() + OVERHEAD;
                    self.ids.fresh.remove(&id);
                }
            }
        }
        for (due, before) in self.undo_schedule.drain(..).rev() {
            let restored = before.as_ref().map_or(0, cost_of_due);
            self.memory.fetch_add(restored, Ordering::Relaxed);
            let staged = match before {
                Some(before) => self.schedule.fresh.insert(due, before),
                None => self.schedule.fresh.remove(&due),
            };
            freed += staged.as_ref().map_or(0, cost_of_due);
        }
        self.due_from = FIRST_DUE;
        for log in &mut self.partitions {
            log.staged = log.edges;
            while log.head_start + log.head.len() as u64 > log.edges.end
                && let Some(message) = log.head.pop_back()
            {
                freed += cost(&message.body);
            }
        }
        self.memory.fetch_sub(freed, Ordering::Relaxed);
    }

    /// Gives back what the topic's memory counts; it is deleted.
    pub(super) fn forget(&mut self) {
        let mut freed = 0;
        for log in &mut self.partitions {
            freed += log.drop_head(u64::MAX);
        }
        freed += cost_of_ids(&self.ids.fresh) + cost_of_ids(&self.ids.frozen);
        freed += cost_of_schedule(&self.schedule.fresh) + cost_of_schedule(&self.schedule.frozen);
        self.memory.fetch_sub(freed, Ordering::Relaxed);
    }

    /// What is scheduled up to a time, the first `most`, in order.
    pub(super) fn due(
        &mut self,
        now: Timestamp,
        most: usize,
        view: &View,
    ) -> Result<Vec<(Due, Bytes)>> {
        let until = Due {
            at: now,
            number: u64::MAX,
        };
        let mut due: BTreeMap<Due, Bytes> = BTreeMap::new();
        let (fresh, frozen) = (&self.schedule.fresh, &self.schedule.frozen);
        let mut from = self.due_from;
        view.scheduled(self.id, self.due_from, |place, body| {
            if place > until {
                return false;
            }
            match fresh.get(&place).or_else(|| frozen.get(&place)) {
                // All before it have left the schedule, and so has it.
                Some(None) if due.is_empty() => from = place,
                Some(_) => {}
                None => drop(due.insert(place, Bytes::copy_from_slice(body))),
            }
            due.len() < most
        })?;
        self.due_from = from;
        for (place, body) in frozen.range(..=until) {
            if let (Some(body), None) = (body, fresh.get(place)) {
                due.insert(*place, body.clone());
            }
        }
        for (place, body) in fresh.range(..=until) {
            if let Some(body) = body {
                due.insert(*place, body.clone());
            }
        }
        Ok(due.into_iter().take(most).collect())
    }

    /// When the next scheduled message is due.
    pub(super) fn next_due(&self, view: &View) -> Result<Option<Timestamp>> {
        if self.counts.scheduled == 0 {
            return Ok(None);
        }
        let (fresh, frozen) = (&self.schedule.fresh, &self.schedule.frozen);
        let mut next: Option<Due> = None;
        view.scheduled(self.id, self.due_from, |place, _| {
            let left = fresh.get(&place).or_else(|| frozen.get(&place));
            if !matches!(left, Some(None)) {
                next = Some(place);
            }
            next.is_none()
        })?;
        let first = |layer: &Scheduled, over: Option<&Scheduled>| {
            let stays = |(place, body): &(&Due, &Option<Bytes>)| {
                body.is_some() && over.is_none_or(|over| !over.contains_key(place))
            };
            layer.iter().find(stays).map(|(place, _)| *place)
        };
        let places = [next, first(frozen, Some(fresh)), first(fresh, None)];
        Ok(places.into_iter().flatten().min().map(|due| due.at))
    }

    /// Stages that the oldest messages go which the topic need not keep, when `more` bytes shall
    /// find room. May read the front of a file.
    pub(super) fn trim(&mut self, more: u64, now: Timestamp, files: &Files) -> Result<Trimmed> {
        let mut trimmed = Trimmed::default();
        while let Some((partition, weight)) = self.removable(more, now, files)? {
            let log = &mut self.partitions[partition as usize];
            log.staged.first += 1;
            self.staged.bytes = self.staged.bytes.saturating_sub(weight);
            trimmed.weight += weight;
            let offset = log.staged.first;
            match trimmed
                .firsts
                .iter_mut()
                .find(|first| first.partition == partition)
            {
                Some(first) => first.offset = offset,
                None => trimmed.firsts.push(Position { partition, offset }),
            }
        }
        Ok(trimmed)
    }

    /// The partition whose oldest message goes next, and what it weighs.
    fn removable(&self, more: u64, now: Timestamp, files: &Files) -> Result<Option<(u32, u64)>> {
        let retention = self.config.retention;
        let used = self.staged.bytes + self.staged.scheduled_bytes + more;
        let is_over = retention.bytes.is_some_and(|most| used > most);
        let is_old =
            |published: Timestamp| retention.age.is_some_and(|age| now.since(published) > age);
        let mut oldest: Option<(Timestamp, u32, u64)> = None;
        for (partition, log) in self.numbered() {
            let offset = log.staged.first;
            // Only what is durable can go.
            if offset >= log.edges.end {
                continue;
            }
            let in_head = log.in_head(offset);
            let earliest = match (in_head, log.segment(offset)) {
                (Some(message), _) => message.published,
                (None, Some(segment)) => segment.since,
                (None, None) => continue,
            };
            if !is_over && !is_old(earliest) {
                continue;
            }
            let position = Position { partition, offset };
            if retention.unsettled == Unsettled::Keep && self.is_owed(position) {
                continue;
            }
            let message = match in_head {
                Some(message) => message.clone(),
                None => self.read(position, files)?,
            };
            if (is_over || is_old(message.published))
                && oldest.is_none_or(|(published, ..)| message.published < published)
            {
                oldest = Some((message.published, partition, message.weight()));
            }
        }
        Ok(oldest.map(|(_, partition, weight)| (partition, weight)))
    }

    /// Whether retention would remove something now.
    pub(super) fn has_removable(&self, now: Timestamp, files: &Files) -> bool {
        self.removable(0, now, files)
            .is_ok_and(|found| found.is_some())
    }

    /// When the oldest message may become too old.
    pub(super) fn next_old(&self) -> Option<Timestamp> {
        let age = self.config.retention.age?;
        let earliest = self.partitions.iter().filter_map(|log| {
            let offset = log.edges.first;
            let message = log.in_head(offset).map(|message| message.published);
            message.or_else(|| log.segment(offset).map(|segment| segment.since))
        });
        // It may be as old as the age, and goes when it is older.
        let beyond = age.saturating_add(Duration::from_millis(1));
        earliest.min().map(|earliest| earliest.plus(beyond))
    }

    fn is_owed(&self, position: Position) -> bool {
        let Position { partition, offset } = position;
        self.groups
            .values()
            .any(|member| member.machine.cursor(partition) <= offset)
    }

    pub(super) fn row(&self) -> TopicRow {
        TopicRow {
            name: self.name.clone(),
            config: self.config,
            counts: self.counts,
            edges: self.partitions.iter().map(|log| log.edges).collect(),
        }
    }
}

/// A block that someone has just read.
pub(super) struct Held {
    pub(super) place: Place,
    pub(super) block: Arc<Block>,
}

pub(super) const FIRST_DUE: Due = Due {
    at: Timestamp(0),
    number: 0,
};

/// What a message in memory takes.
pub(super) fn cost(body: &Bytes) -> usize {
    body.len() + OVERHEAD
}

pub(super) fn cost_of_ids(ids: &Ids) -> usize {
    ids.keys().map(|id| id.len() + OVERHEAD).sum()
}

pub(super) fn cost_of_schedule(schedule: &Scheduled) -> usize {
    schedule.values().map(cost_of_due).sum()
}

#[expect(clippy::ref_option, reason = "it is asked of what lies in a map")]
fn cost_of_due(body: &Option<Bytes>) -> usize {
    body.as_ref().map_or(OVERHEAD, cost)
}
