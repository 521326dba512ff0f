//! What a consumer group does, as a state machine without I/O, clock or randomness.
//!
//! The shell around it (the in-memory reference, the embedded log) feeds it the messages of the topic in
//! the order of their offsets, passes on what consumers ask, and carries out the [`Effect`]s that
//! [`Group::step`] answers. Time is a monotonic reading that the shell takes.
//!
//! # Durability
//! A message counts as settled only when the shell says so: an ack answers [`Effect::Settle`], a last
//! failure [`Effect::DeadLetter`], the shell makes that durable (a dead letter together with its append)
//! and then passes [`Input::Settled`]. Only then does the next message of the key become free: were it
//! delivered earlier, a crash could bring the first one back after it. If it cannot be made durable the
//! shell passes [`Input::Refused`]. [`Effect::Retry`] asks for a record that may be written lazily.
//!
//! After a restart the shell restores the group from a [`Snapshot`] that it kept up to date with what it
//! made durable.
//!
//! # Invariants
//! - Of each key of a partition at most the oldest unsettled message is ready, with a consumer, waiting or
//!   settling; all others of the key are blocked.
//! - `loaded` is the next offset to feed; everything in `cursor..loaded` is tracked, settled, or was never
//!   there.
//! - No more than `window` messages are tracked.

mod books;
mod progress;
mod signals;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;

use super::{Position, Redeliver};
use progress::Progress;
pub use progress::{PartitionSnapshot, Retry, Snapshot};
pub use signals::{ConsumerId, Effect, Input, Rules};

/// A group of consumers. See the module's text.
#[derive(Clone, Debug)]
pub struct Group {
    rules: Rules,
    partitions: Vec<Progress>,
    /// What is loaded and not settled.
    messages: BTreeMap<Position, Tracked>,
    /// The unsettled messages of each key, oldest first.
    keys: HashMap<(u32, Bytes), VecDeque<u64>>,
    /// What may be delivered, in the order in which it became so.
    ready: BTreeSet<(u64, Position)>,
    /// When deliveries and waits end.
    timers: BTreeSet<(Duration, Position)>,
    in_flight: HashMap<ConsumerId, BTreeSet<Position>>,
    /// Partitions of which nothing is delivered.
    paused: BTreeSet<u32>,
    next_turn: u64,
    next_token: u64,
}

#[derive(Clone, Debug)]
struct Tracked {
    key: Option<Bytes>,
    attempts: u32,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// An older message of the key is not settled.
    Blocked {
        wait: Duration,
    },
    Ready {
        turn: u64,
    },
    InFlight {
        consumer: ConsumerId,
        token: u64,
        deadline: Duration,
    },
    /// Comes again at this time; as a dead letter, if one could not be written.
    Waiting {
        until: Duration,
        dead: Option<&'static str>,
    },
    /// The shell makes the end durable.
    Settling {
        token: u64,
        dead: Option<&'static str>,
    },
}

impl Group {
    /// A group as a snapshot describes it. Tokens are counted from `first_token`, which must lie
    /// above every token that the group has ever given.
    pub fn new(rules: Rules, snapshot: Snapshot, first_token: u64) -> Self {
        Self {
            rules,
            partitions: snapshot.partitions.into_iter().map(Progress::new).collect(),
            messages: BTreeMap::new(),
            keys: HashMap::new(),
            ready: BTreeSet::new(),
            timers: BTreeSet::new(),
            in_flight: HashMap::new(),
            paused: BTreeSet::new(),
            next_turn: 0,
            next_token: first_token,
        }
    }

    /// What must be known to restore the group: everything that is settled, and how often and until when
    /// messages were put off.
    pub fn snapshot(&self, now: Duration) -> Snapshot {
        let mut partitions: Vec<PartitionSnapshot> =
            self.partitions.iter().map(Progress::snapshot).collect();
        for (position, tracked) in &self.messages {
            let wait = match tracked.state {
                State::Waiting { until, .. } => until.saturating_sub(now),
                State::Blocked { wait } => wait,
                _ => Duration::ZERO,
            };
            if tracked.attempts > 0 || !wait.is_zero() {
                let retry = Retry {
                    attempts: tracked.attempts,
                    wait,
                };
                partitions[index(position.partition)]
                    .retries
                    .insert(position.offset, retry);
            }
        }
        Snapshot { partitions }
    }

    /// Takes a partition over as a snapshot describes it, and forgets what was known of it. For shells whose
    /// partitions move between nodes.
    pub fn adopt(&mut self, partition: u32, snapshot: PartitionSnapshot) {
        self.clear(partition);
        self.paused.remove(&partition);
        self.partitions[index(partition)] = Progress::new(snapshot);
    }

    /// Delivers nothing more of a partition; what is with consumers stays there.
    pub fn pause(&mut self, partition: u32) {
        self.paused.insert(partition);
    }

    /// Delivers of it again.
    pub fn resume(&mut self, partition: u32) {
        self.paused.remove(&partition);
    }

    /// Whether no message of a partition is with a consumer or on its way to be settled.
    pub fn is_idle(&self, partition: u32) -> bool {
        let busy = |position: &Position| {
            let state = &self.messages[position].state;
            matches!(state, State::InFlight { .. } | State::Settling { .. })
        };
        !self.tracked_in(partition, u64::MAX).iter().any(busy)
    }

    /// The next offset of a partition to load.
    pub fn wanted(&self, partition: u32) -> u64 {
        self.partitions[index(partition)].loaded
    }

    /// How many messages more may be loaded.
    pub fn room(&self) -> usize {
        self.rules.window.saturating_sub(self.messages.len())
    }

    /// When the next delivery or wait ends; a tick is due then.
    pub fn next_timer(&self) -> Option<Duration> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The offset of a partition below which all is settled.
    pub fn cursor(&self, partition: u32) -> u64 {
        self.partitions[index(partition)].cursor
    }

    /// Whether a message is settled.
    pub fn is_settled(&self, position: Position) -> bool {
        self.partitions[index(position.partition)].is_settled(position.offset)
    }

    /// What would be delivered next, in this order.
    pub fn ready(&self) -> impl Iterator<Item = Position> {
        self.ready.iter().map(|(_, position)| *position)
    }

    /// Whether a delivery is under way: with its consumer, and not given back, late or settled.
    pub fn is_current(&self, position: Position, token: u64) -> bool {
        let state = self.messages.get(&position).map(|tracked| &tracked.state);
        matches!(state, Some(State::InFlight { token: current, .. }) if *current == token)
    }

    /// Offsets of a partition from the cursor up to its `end` that are not settled.
    pub fn owed(&self, partition: u32, end: u64) -> u64 {
        let progress = &self.partitions[index(partition)];
        end.saturating_sub(progress.cursor)
            .saturating_sub(progress.settled_above(end))
    }

    /// Messages that the topic dropped although they were not settled.
    pub fn lost(&self) -> u64 {
        self.partitions.iter().map(|progress| progress.lost).sum()
    }

    /// Messages that are with consumers.
    pub fn in_flight(&self) -> usize {
        self.in_flight.values().map(BTreeSet::len).sum()
    }

    /// Messages that are with one consumer.
    pub fn in_flight_with(&self, consumer: ConsumerId) -> usize {
        self.in_flight.get(&consumer).map_or(0, BTreeSet::len)
    }

    /// Messages that wait for their redelivery.
    pub fn waiting(&self) -> usize {
        let waits = |tracked: &&Tracked| matches!(tracked.state, State::Waiting { .. });
        self.messages.values().filter(waits).count()
    }

    /// The one way in which a group changes.
    pub fn step(&mut self, input: Input, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.tick(now, &mut effects);
        match input {
            Input::Tick => {}
            Input::Load {
                partition,
                messages,
                until,
            } => {
                self.load(partition, messages, until, now);
            }
            Input::Take { consumer, most } => self.take(consumer, most, now, &mut effects),
            Input::Ack { position, token } => self.ack(position, token, &mut effects),
            Input::Nack {
                position,
                token,
                redeliver,
            } => {
                if self.end_delivery(position, token, &mut effects) {
                    self.put_off(position, redeliver, "given back", now, &mut effects);
                }
            }
            Input::Extend {
                position,
                token,
                time,
            } => {
                self.extend(position, token, now.saturating_add(time), &mut effects);
            }
            Input::Leave { consumer } => {
                for position in self.in_flight.remove(&consumer).unwrap_or_default() {
                    self.clear_timer(position);
                    let at_once = Redeliver::After(Duration::ZERO);
                    self.put_off(
                        position,
                        at_once,
                        "its consumer went away",
                        now,
                        &mut effects,
                    );
                }
            }
            Input::Settled { position, token } => {
                if self.is_settling(position, token) {
                    self.settle(position, now);
                }
            }
            Input::Refused { position, token } => self.refuse(position, token, now),
            Input::Seek { position } => self.seek(position),
            Input::Trim { first } => self.trim(first, now),
            Input::Configure { rules } => self.rules = rules,
        }
        // What became free may be a dead letter already.
        self.tick(now, &mut effects);
        effects
    }

    /// Ends the deliveries and waits whose time has come.
    fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        while let Some((at, position)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            let Some(tracked) = self.messages.get_mut(&position) else {
                continue;
            };
            match tracked.state {
                State::InFlight { consumer, .. } => {
                    self.forget_delivery(consumer, position);
                    let at_once = Redeliver::After(Duration::ZERO);
                    self.put_off(position, at_once, "not acknowledged in time", now, effects);
                }
                State::Waiting {
                    dead: Some(reason), ..
                } => {
                    self.dead_letter(position, reason, effects);
                }
                State::Waiting { dead: None, .. } => self.make_ready(position),
                _ => {}
            }
        }
    }

    fn load(
        &mut self,
        partition: u32,
        messages: Vec<(u64, Option<Bytes>)>,
        until: u64,
        now: Duration,
    ) {
        for (offset, key) in messages {
            let position = Position { partition, offset };
            let progress = &mut self.partitions[index(partition)];
            progress.skip_to(offset);
            // What was fed before, or settled before a restart.
            if offset < progress.loaded {
                continue;
            }
            progress.loaded = offset + 1;
            if progress.is_settled(offset) {
                continue;
            }
            let retry = progress.retries.remove(&offset).unwrap_or_default();
            let is_first = match &key {
                None => true,
                Some(key) => {
                    let queue = self.keys.entry((partition, key.clone())).or_default();
                    queue.push_back(offset);
                    queue.len() == 1
                }
            };
            let state = State::Blocked { wait: retry.wait };
            let attempts = retry.attempts;
            self.messages.insert(
                position,
                Tracked {
                    key,
                    attempts,
                    state,
                },
            );
            if is_first {
                self.unblock(position, now);
            }
        }
        self.partitions[index(partition)].skip_to(until);
        self.advance(partition);
    }

    fn take(
        &mut self,
        consumer: ConsumerId,
        most: usize,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        for _ in 0..most {
            let mut ready = self.ready.iter();
            let free = ready.find(|(_, position)| !self.paused.contains(&position.partition));
            let Some((turn, position)) = free.copied() else {
                return;
            };
            self.ready.remove(&(turn, position));
            let token = self.token();
            let deadline = now.saturating_add(self.rules.ack_timeout);
            let tracked = self.tracked(position);
            tracked.attempts = tracked.attempts.saturating_add(1);
            tracked.state = State::InFlight {
                consumer,
                token,
                deadline,
            };
            let attempt = tracked.attempts;
            self.timers.insert((deadline, position));
            self.in_flight.entry(consumer).or_default().insert(position);
            effects.push(Effect::Deliver {
                position,
                attempt,
                token,
            });
        }
    }

    fn ack(&mut self, position: Position, token: u64, effects: &mut Vec<Effect>) {
        // Asked again while the first ack is on its way: both answer when it is durable.
        if self.is_settling(position, token) {
            effects.push(Effect::Settle { position, token });
        } else if !self.is_known_settled(position) && self.end_delivery(position, token, effects) {
            self.tracked(position).state = State::Settling { token, dead: None };
            effects.push(Effect::Settle { position, token });
        }
    }

    fn extend(
        &mut self,
        position: Position,
        token: u64,
        until: Duration,
        effects: &mut Vec<Effect>,
    ) {
        match self
            .messages
            .get_mut(&position)
            .map(|tracked| &mut tracked.state)
        {
            Some(State::InFlight {
                token: current,
                deadline,
                ..
            }) if *current == token => {
                self.timers.remove(&(*deadline, position));
                *deadline = until;
                self.timers.insert((until, position));
            }
            _ => effects.push(Effect::Stale { position }),
        }
    }

    /// Takes a message from its consumer, if the delivery is the current one.
    fn end_delivery(&mut self, position: Position, token: u64, effects: &mut Vec<Effect>) -> bool {
        let state = self.messages.get(&position).map(|tracked| &tracked.state);
        match state {
            Some(State::InFlight {
                consumer,
                token: current,
                ..
            }) if *current == token => {
                let consumer = *consumer;
                self.clear_timer(position);
                self.forget_delivery(consumer, position);
                true
            }
            _ => {
                effects.push(Effect::Stale { position });
                false
            }
        }
    }

    /// A delivery has failed: again later, or never.
    fn put_off(
        &mut self,
        position: Position,
        redeliver: Redeliver,
        reason: &'static str,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let attempts = self.tracked(position).attempts;
        let spent = self.rules.dead_after.is_some_and(|most| attempts >= most);
        let wait = match redeliver {
            Redeliver::Never if self.rules.dead_after.is_none() => {
                let token = self.token();
                self.tracked(position).state = State::Settling { token, dead: None };
                effects.push(Effect::Settle { position, token });
                return;
            }
            _ if spent => return self.dead_letter(position, reason, effects),
            Redeliver::Never => return self.dead_letter(position, "refused", effects),
            Redeliver::Backoff => self.rules.delay(attempts),
            Redeliver::After(wait) => wait,
        };
        effects.push(Effect::Retry(position, Retry { attempts, wait }));
        self.wait(position, now.saturating_add(wait), None, now);
    }

    fn dead_letter(&mut self, position: Position, reason: &'static str, effects: &mut Vec<Effect>) {
        let token = self.token();
        let tracked = self.tracked(position);
        tracked.state = State::Settling {
            token,
            dead: Some(reason),
        };
        let attempts = tracked.attempts;
        effects.push(Effect::DeadLetter {
            position,
            token,
            attempts,
            reason,
        });
    }

    fn refuse(&mut self, position: Position, token: u64, now: Duration) {
        if !self.is_settling(position, token) {
            return;
        }
        let tracked = self.tracked(position);
        let dead = match tracked.state {
            State::Settling { dead, .. } => dead,
            _ => None,
        };
        let attempts = tracked.attempts;
        if dead.is_none() {
            // It was handled: that delivery shall not make it a dead letter.
            tracked.attempts = attempts.saturating_sub(1);
        }
        self.wait(
            position,
            now.saturating_add(self.rules.delay(attempts)),
            dead,
            now,
        );
    }

    fn wait(
        &mut self,
        position: Position,
        until: Duration,
        dead: Option<&'static str>,
        now: Duration,
    ) {
        if until <= now && dead.is_none() {
            return self.make_ready(position);
        }
        self.tracked(position).state = State::Waiting { until, dead };
        self.timers.insert((until, position));
    }

    fn make_ready(&mut self, position: Position) {
        let turn = self.next_turn;
        self.next_turn += 1;
        self.tracked(position).state = State::Ready { turn };
        self.ready.insert((turn, position));
    }

    /// The message is the oldest of its key now.
    fn unblock(&mut self, position: Position, now: Duration) {
        let tracked = self.tracked(position);
        let State::Blocked { wait } = tracked.state else {
            return;
        };
        // Its last delivery was under way when the engine stopped.
        let attempts = tracked.attempts;
        if self.rules.dead_after.is_some_and(|most| attempts >= most) {
            self.wait(position, now, Some("its consumer went away"), now);
        } else {
            self.wait(position, now.saturating_add(wait), None, now);
        }
    }

    fn settle(&mut self, position: Position, now: Duration) {
        self.partitions[index(position.partition)].settle(position.offset);
        self.forget(position, now);
        self.advance(position.partition);
    }

    fn clear(&mut self, partition: u32) {
        for tracked in self.tracked_in(partition, u64::MAX) {
            self.drop_silently(tracked);
        }
        self.keys.retain(|(of, _), _| *of != partition);
    }

    fn seek(&mut self, position: Position) {
        self.clear(position.partition);
        self.partitions[index(position.partition)].restart(position.offset);
    }

    fn trim(&mut self, first: Position, now: Duration) {
        for position in self.tracked_in(first.partition, first.offset) {
            self.forget(position, now);
        }
        self.partitions[index(first.partition)].trim(first.offset);
        self.advance(first.partition);
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }
}

fn index(partition: u32) -> usize {
    partition as usize
}

#[cfg(test)]
mod tests;
