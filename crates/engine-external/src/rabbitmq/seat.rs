//! A partition of a group on this node.
//!
//! Each node with consumers of a group stands in line for the register of each partition's progress. The one that holds
//! it runs the group's machine over the partition's stream; the others wait, and one of them goes on where the holder's
//! last entry that counts left off. What a consumer does steps the machine at once, under a lock; what must be durable
//! goes into the *outbox*, which the seat's task writes, many settled messages an entry, several entries under way.
//!
//! When the connection breaks nothing is delivered, but what is with consumers stays with them: if the entries that are
//! found when the register is held again are our own, nobody else has held it meanwhile, and the machine goes on. If not,
//! it is built anew and all deliveries are over. So it is too when a node that waits in line learns that another holds.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sinew_core::{Clock, Name};
use sinew_engine::bus::{
    Delivery, GroupConfig, Position, Receipt, dead_letter,
    group::{ConsumerId, Effect, Group as Machine, Input, PartitionSnapshot},
};
use tokio::sync::{Notify, watch};

use super::{
    progress::{Answer, Progress},
    state::{DeadLetter, Outbox, State},
    streams::Read,
};

pub(super) struct Seat {
    pub(super) topic: Name,
    pub(super) group: Name,
    pub(super) partition: u32,
    pub(super) stream: String,
    pub(super) queue: String,
    pub(super) start: u64,
    pub(super) clock: Clock,
    /// Wakes the task.
    pub(super) wake: Notify,
    /// Wakes consumers. Shared by the group's seats.
    pub(super) changed: watch::Sender<()>,
    /// Wakes those who wait for something to be durable, when it may be, or may not be going to be any more: there may be
    /// many of them, and messages come all the time.
    pub(super) decided: watch::Sender<()>,
    state: Mutex<State>,
}

/// Our machine has one partition.
const ONLY: u32 = 0;

fn inside(offset: u64) -> Position {
    Position {
        partition: ONLY,
        offset,
    }
}

impl Seat {
    #[expect(
        clippy::too_many_arguments,
        reason = "a seat is where all of this comes together"
    )]
    pub(super) fn new(
        topic: Name,
        group: Name,
        partition: u32,
        partitions: usize,
        stream: String,
        queue: String,
        start: u64,
        version: u64,
        config: GroupConfig,
        clock: Clock,
        changed: watch::Sender<()>,
    ) -> Self {
        Self {
            topic,
            group,
            partition,
            stream,
            queue,
            start,
            clock,
            wake: Notify::new(),
            changed,
            decided: watch::Sender::new(()),
            state: Mutex::new(State::new(config, version, partitions)),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes an input to the machine, if there is one, and notes what it asks for.
    pub(super) fn step(&self, state: &mut State, input: Input) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(machine) = &mut state.machine else {
            outcome.is_stale = true;
            return outcome;
        };
        let mut has_work = false;
        for effect in machine.step(input, self.clock.monotonic()) {
            match effect {
                Effect::Deliver {
                    position,
                    attempt,
                    token,
                } => {
                    let record = state.records.get(&position.offset).cloned();
                    let record = record.expect("what is loaded and not settled is kept");
                    let receipt = Receipt {
                        position: record.position,
                        token,
                    };
                    outcome.deliveries.push(Delivery {
                        record,
                        attempt,
                        receipt,
                    });
                }
                Effect::Settle { position, token } => {
                    if state.settling.insert(token) {
                        state.outbox.settled.push((position.offset, token));
                    }
                    (has_work, outcome.settles) = (true, true);
                }
                Effect::DeadLetter {
                    position,
                    token,
                    attempts,
                    reason,
                } => {
                    let topic = state.config.dead_letter.as_ref();
                    let record = state.records.get(&position.offset);
                    match topic.zip(record) {
                        Some((dead, record)) => state.outbox.dead.push(DeadLetter {
                            topic: dead.topic.clone(),
                            message: dead_letter(
                                &self.topic,
                                &self.group,
                                record,
                                attempts,
                                reason,
                            ),
                            offset: position.offset,
                            token,
                        }),
                        // The group has no topic for it any more.
                        None => state.outbox.settled.push((position.offset, token)),
                    }
                    (has_work, outcome.settles) = (true, true);
                }
                Effect::Retry(position, retry) => {
                    state.outbox.retries.insert(position.offset, retry);
                    has_work = true;
                }
                Effect::Stale { .. } => outcome.is_stale = true,
            }
        }
        if has_work {
            self.wake.notify_one();
        }
        outcome
    }

    /// Takes up to `most` messages for a consumer.
    pub(super) fn take(&self, consumer: ConsumerId, most: usize) -> Vec<Delivery> {
        let mut state = self.lock();
        if !state.is_held {
            return Vec::new();
        }
        let deliveries = self
            .step(&mut state, Input::Take { consumer, most })
            .deliveries;
        if !deliveries.is_empty() {
            // The task sleeps until the next delivery ends.
            self.wake.notify_one();
        }
        deliveries
    }

    pub(super) fn with(&self, consumer: ConsumerId) -> usize {
        let state = self.lock();
        let machine = state.machine.as_ref();
        machine.map_or(0, |machine| machine.in_flight_with(consumer))
    }

    /// Passes what a consumer says of a delivery.
    pub(super) fn say(&self, receipt: &Receipt, input: impl Fn(Position, u64) -> Input) -> Outcome {
        let mut state = self.lock();
        let input = input(inside(receipt.position.offset), receipt.token);
        let outcome = self.step(&mut state, input);
        let machine = state.machine.as_ref();
        let is_ready = machine.is_some_and(|machine| machine.ready().next().is_some());
        drop(state);
        // It may have another deadline now.
        self.wake.notify_one();
        if is_ready {
            self.changed.send_replace(());
        }
        outcome
    }

    /// Whether a message is settled, durably; none while it is on its way.
    pub(super) fn outcome(&self, receipt: &Receipt) -> Option<bool> {
        let state = self.lock();
        let machine = state.machine.as_ref()?;
        let position = inside(receipt.position.offset);
        if machine.is_settled(position) {
            Some(true)
        } else if machine.is_settling(position, receipt.token) {
            None
        } else {
            Some(false)
        }
    }

    /// Something may have been decided of what is on its way to be durable.
    pub(super) fn tell(&self) {
        self.changed.send_replace(());
        self.decided.send_replace(());
    }

    pub(super) fn leave(&self, consumer: ConsumerId) {
        self.step(&mut self.lock(), Input::Leave { consumer });
        self.wake.notify_one();
        self.tell();
    }

    pub(super) fn configure(&self, version: u64, config: GroupConfig) {
        let mut state = self.lock();
        if version > state.version {
            (state.version, state.config) = (version, config);
            let rules = state.rules();
            self.step(&mut state, Input::Configure { rules });
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Goes on with the machine, or builds one from what was found.
    pub(super) fn resume(&self, is_ours: bool, found: PartitionSnapshot, epoch: u64) {
        let mut state = self.lock();
        if is_ours && !state.is_standing_by && state.machine.is_some() {
            // What was under way is written again.
            let under_way = std::mem::take(&mut state.under_way);
            for (_, settled) in under_way.into_iter().rev() {
                state.outbox.settled.splice(0..0, settled);
            }
        } else {
            state.rebuild(found, epoch << 32);
        }
        drop(state);
        self.tell();
    }

    /// Another node holds the register, and is so far: what is with consumers here is over.
    pub(super) fn stand_by(&self, found: PartitionSnapshot) {
        let mut state = self.lock();
        if state.is_held || state.machine.is_none() {
            return;
        }
        // It delivers nothing, so its tokens do not matter.
        state.rebuild(found, 0);
        state.is_standing_by = true;
        drop(state);
        self.tell();
    }

    /// What is settled durably, and what waits.
    pub(super) fn progress(&self) -> Progress {
        let state = self.lock();
        Progress::whole(&state.snapshot(self.clock.monotonic()))
    }

    /// The register is ours, or not any more.
    pub(super) fn set_held(&self, is_held: bool) {
        self.lock().is_held = is_held;
        self.tell();
        self.wake.notify_one();
    }

    /// The group, or its topic, was deleted.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        (state.is_ended, state.is_held) = (true, false);
        drop(state);
        self.tell();
    }

    /// An entry has come back: it counts, and so does what was written before it.
    pub(super) fn counts(&self, number: u64) {
        let mut state = self.lock();
        while let Some((first, _)) = state.under_way.front()
            && *first <= number
        {
            let (_, settled) = state.under_way.pop_front().unwrap_or_default();
            for (offset, token) in settled {
                state.settling.remove(&token);
                let position = inside(offset);
                let is_current = state
                    .machine
                    .as_ref()
                    .is_some_and(|machine| machine.is_settling(position, token));
                if is_current {
                    self.step(&mut state, Input::Settled { position, token });
                    self.forget(&mut state, offset);
                }
            }
        }
        drop(state);
        self.tell();
    }

    fn forget(&self, state: &mut State, offset: u64) {
        if let Some(record) = state.records.remove(&offset) {
            state.record_bytes -= record.message.weight();
        }
    }

    /// A dead letter was published, or could not be.
    pub(super) fn buried(&self, offset: u64, token: u64, is_durable: bool) {
        let mut state = self.lock();
        let position = inside(offset);
        let is_current = state
            .machine
            .as_ref()
            .is_some_and(|machine| machine.is_settling(position, token));
        if is_current && is_durable {
            state.outbox.settled.push((offset, token));
        } else if is_current {
            self.step(&mut state, Input::Refused { position, token });
        }
        drop(state);
        self.wake.notify_one();
        self.tell();
    }

    /// Feeds the machine with what was read, while it has room; the rest stays. Answers the tag of the last record that
    /// was taken, and the offset of one before which some are missing, unless that is `known`: the caller
    /// finds out whether retention took them. Streams have gaps of their own, where the broker keeps its books.
    pub(super) fn load(
        &self,
        stash: &mut VecDeque<(u64, Read)>,
        known: Option<u64>,
    ) -> (Option<u64>, Option<u64>) {
        let mut state = self.lock();
        let (mut last, mut gap, mut is_changed) = (None, None, false);
        while state.has_room()
            && let Some((tag, read)) = stash.pop_front()
        {
            let offset = read.offset();
            let wanted = state
                .machine
                .as_ref()
                .map_or(0, |machine| machine.wanted(ONLY));
            if offset > Some(wanted) && offset != known {
                gap = offset;
                stash.push_front((tag, read));
                break;
            }
            last = Some(tag);
            let Some(offset) = offset.filter(|offset| *offset >= wanted) else {
                continue;
            };
            let mut messages = Vec::new();
            if let Read::Message(record) = read {
                let is_settled = |machine: &Machine| machine.is_settled(inside(offset));
                if !state.machine.as_ref().is_some_and(is_settled) {
                    messages.push((offset, record.message.key.clone()));
                    state.record_bytes += record.message.weight();
                    state.records.insert(offset, record);
                }
            }
            let until = offset + 1;
            self.step(
                &mut state,
                Input::Load {
                    partition: ONLY,
                    messages,
                    until,
                },
            );
            is_changed = true;
        }
        drop(state);
        if is_changed {
            self.changed.send_replace(());
        }
        (last, gap)
    }

    /// Retention has taken what lies below.
    pub(super) fn trim(&self, first: u64) {
        let mut state = self.lock();
        let position = inside(first);
        self.step(&mut state, Input::Trim { first: position });
        let kept = state.records.split_off(&first);
        state.records = kept;
        let weights = state.records.values().map(|record| record.message.weight());
        state.record_bytes = weights.sum();
        drop(state);
        self.tell();
    }

    /// Goes on elsewhere; the caller makes it durable.
    pub(super) fn seek(&self, offset: u64) {
        let mut state = self.lock();
        let position = inside(offset);
        self.step(&mut state, Input::Seek { position });
        state.records.clear();
        state.record_bytes = 0;
        state.outbox = Outbox::default();
        state.settling.clear();
        // Those entries lie before the one that is written now.
        state.under_way.clear();
    }

    /// Where reading has to begin.
    pub(super) fn wanted(&self) -> u64 {
        let state = self.lock();
        state
            .machine
            .as_ref()
            .map_or(self.start, |machine| machine.wanted(ONLY))
    }

    pub(super) fn answer(&self, end: u64) -> Answer {
        let state = self.lock();
        let Some(machine) = &state.machine else {
            return Answer::default();
        };
        Answer {
            cursor: machine.cursor(ONLY),
            lag: machine.owed(ONLY, end),
            in_flight: machine.in_flight() as u64,
            waiting: machine.waiting() as u64,
            lost: machine.lost(),
            progress: None,
        }
    }
}

/// What a step came to.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) is_stale: bool,
    /// Whether it will settle the message, when that is durable.
    pub(super) settles: bool,
}

/// The group's seats are shared by its consumers and their tasks.
pub(super) type Seats = Vec<Arc<Seat>>;
