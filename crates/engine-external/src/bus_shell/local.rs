//! A group on this node: the machine, the partitions that this node holds, and its consumers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sinew_core::{Clock, Error, Name, Timestamp};
use sinew_engine::bus::{
    Delivery, GroupConfig, Position, Receipt, Record, dead_letter,
    group::{ConsumerId, Effect, Group, Input, PartitionSnapshot, Rules, Snapshot},
    group_unknown, topic_unknown,
};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::AbortHandle,
};

use super::{
    backend::{Entry, Log},
    records::{GroupRecord, MemberRecord, ProgressRecord, Retries},
};

/// What messages that are loaded may weigh. A group that holds so much loads no more until it has settled some,
/// though its window may not be full.
const LOADED_BYTES: u64 = 64 << 20;

/// The time, by both clocks.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) wall: Timestamp,
    pub(super) monotonic: Duration,
}

impl Now {
    pub(super) fn of(clock: &Clock) -> Self {
        Self {
            wall: clock.now(),
            monotonic: clock.monotonic(),
        }
    }
}

/// Why a group is no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    TopicGone,
    GroupGone,
    /// The bus was closed, or nobody consumes here any more.
    Closed,
}

/// What a waiter hears of what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Durable,
    /// It did not happen; the message comes again.
    Stale,
    Ended,
}

/// A task that ends with its owner.
pub(super) struct Task(pub(super) AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A message on its way to the dead-letter topic.
pub(super) struct Dying {
    pub(super) position: Position,
    pub(super) token: u64,
    /// The claim under which it was delivered.
    pub(super) claim: u64,
    pub(super) topic: Name,
    pub(super) entry: Entry,
}

pub(super) struct Local {
    pub(super) log: Arc<Log>,
    pub(super) group: Name,
    pub(super) incarnation: u64,
    state: Mutex<State>,
    /// Told when there may be something to deliver or room to load.
    pub(super) changed: watch::Sender<()>,
    /// Wakes the keeper.
    pub(super) wake: Notify,
    /// Held while partitions are claimed, and while those that are not held are moved elsewhere.
    pub(super) order: tokio::sync::Mutex<()>,
    tasks: Mutex<Vec<Task>>,
}

pub(super) struct State {
    pub(super) config: GroupConfig,
    pub(super) machine: Group,
    /// What is loaded and not settled.
    pub(super) records: BTreeMap<Position, Record>,
    bytes: u64,
    /// How many messages each consumer takes at once.
    pub(super) consumers: HashMap<ConsumerId, usize>,
    last_consumer: ConsumerId,
    pub(super) held: BTreeMap<u32, Held>,
    dying: mpsc::Sender<Dying>,
    deaths: HashMap<(Position, u64), oneshot::Sender<Fate>>,
    /// The lease under which it was last seen that what is held is ours.
    pub(super) verified: Option<u64>,
    pub(super) ended: Option<Ended>,
}

/// A partition that this node holds.
pub(super) struct Held {
    /// Told apart from what was held before.
    pub(super) claim: u64,
    pub(super) version: u64,
    /// What is durable, and what is on its way.
    pub(super) progress: PartitionSnapshot,
    pub(super) retries: Retries,
    /// Whether retries have changed since the last write.
    pub(super) is_dirty: bool,
    pub(super) staged: Vec<(u64, u64)>,
    pub(super) waiters: Vec<oneshot::Sender<Fate>>,
    pub(super) seek: Option<(u64, oneshot::Sender<Fate>)>,
    /// The stamp of the write that is under way, or of the last.
    pub(super) stamp: u64,
    /// How often the group was moved.
    pub(super) round: u64,
    pub(super) is_draining: bool,
    pub(super) is_writing: bool,
    /// Wakes the writer.
    pub(super) work: Arc<Notify>,
    pub(super) tasks: Vec<Task>,
}

/// What a step came to.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) is_stale: bool,
    /// Partitions in which something is to be settled.
    pub(super) staged: BTreeSet<u32>,
    /// Messages that became dead letters.
    pub(super) dead: Vec<(Position, u64)>,
}

impl Local {
    pub(super) fn new(
        log: Arc<Log>,
        group: Name,
        record: &GroupRecord,
        first_token: u64,
    ) -> (Self, mpsc::Receiver<Dying>) {
        let (dying, deaths) = mpsc::channel(1024);
        let config = record.config();
        let starts = Snapshot::starting(record.starts.iter().copied());
        let state = State {
            machine: Group::new(Rules::from(&config), starts, first_token),
            config,
            records: BTreeMap::new(),
            bytes: 0,
            consumers: HashMap::new(),
            last_consumer: 0,
            held: BTreeMap::new(),
            dying,
            deaths: HashMap::new(),
            verified: None,
            ended: None,
        };
        let local = Self {
            log,
            group,
            incarnation: record.incarnation,
            state: Mutex::new(state),
            changed: watch::channel(()).0,
            wake: Notify::new(),
            order: tokio::sync::Mutex::default(),
            tasks: Mutex::default(),
        };
        (local, deaths)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn own(&self, task: AbortHandle) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.push(Task(task));
    }

    /// Ends all that runs for it.
    pub(super) fn retire(&self) {
        self.tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    pub(super) fn stop(&self) {
        self.retire();
        self.end(Ended::Closed);
    }

    /// Lets all who use it know that it is over.
    pub(super) fn end(&self, why: Ended) {
        let mut state = self.state();
        state.ended.get_or_insert(why);
        for mut held in std::mem::take(&mut state.held).into_values() {
            held.answer(Fate::Ended);
        }
        for (_, waiter) in state.deaths.drain() {
            let _ = waiter.send(Fate::Ended);
        }
        drop(state);
        self.changed.send_replace(());
        self.wake.notify_one();
    }

    /// The error for those who use it after its end.
    pub(super) fn ended(&self, why: Ended) -> Error {
        match why {
            Ended::TopicGone => topic_unknown(&self.log.topic),
            Ended::GroupGone | Ended::Closed => group_unknown(&self.group),
        }
    }

    pub(super) fn check(&self, state: &State) -> Result<(), Error> {
        state.ended.map_or(Ok(()), |why| Err(self.ended(why)))
    }

    /// Passes an input to the machine and does what it asks for.
    pub(super) fn step(&self, state: &mut State, input: Input, now: Now) -> Outcome {
        let mut outcome = Outcome::default();
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            if let Input::Settled { position, .. } = input {
                state.forget(position);
            }
            for effect in state.machine.step(input, now.monotonic) {
                self.carry_out(state, effect, now, &mut outcome, &mut inputs);
            }
        }
        outcome
    }

    fn carry_out(
        &self,
        state: &mut State,
        effect: Effect,
        now: Now,
        outcome: &mut Outcome,
        inputs: &mut Vec<Input>,
    ) {
        match effect {
            Effect::Deliver {
                position,
                attempt,
                token,
            } => {
                let record = state.records.get(&position).cloned();
                outcome.deliveries.push(Delivery {
                    record: record.expect("what the machine tracks was loaded with its record"),
                    attempt,
                    receipt: Receipt { position, token },
                });
            }
            Effect::Settle { position, token } => {
                state.stage(position, token);
                outcome.staged.insert(position.partition);
            }
            Effect::DeadLetter {
                position,
                token,
                attempts,
                reason,
            } => {
                let dying = self.dying(state, position, token, attempts, reason);
                match dying.map(|dying| state.dying.try_send(dying)) {
                    // Without a topic it is dropped.
                    None => {
                        state.stage(position, token);
                        outcome.staged.insert(position.partition);
                    }
                    Some(Ok(())) => outcome.dead.push((position, token)),
                    Some(Err(_)) => inputs.push(Input::Refused { position, token }),
                }
            }
            Effect::Retry(Position { partition, offset }, retry) => {
                if let Some(held) = state.held.get_mut(&partition) {
                    let due = now.wall.plus(retry.wait);
                    held.retries.insert(offset, (retry.attempts, due));
                    held.is_dirty = true;
                }
            }
            Effect::Stale { .. } => outcome.is_stale = true,
        }
    }

    fn dying(
        &self,
        state: &State,
        position: Position,
        token: u64,
        attempts: u32,
        reason: &str,
    ) -> Option<Dying> {
        let topic = state.config.dead_letter.as_ref()?.topic.clone();
        let record = state.records.get(&position)?;
        let held = state.held.get(&position.partition)?;
        let (claim, round) = (held.claim, held.round);
        let message = dead_letter(&self.log.topic, &self.group, record, attempts, reason);
        // The same message never becomes two dead letters of one group, unless the group was moved back in between.
        let Position { partition, offset } = position;
        let Log {
            topic: from,
            incarnation,
            ..
        } = &*self.log;
        let group = &self.group;
        let of = self.incarnation;
        let once = format!("{from}_{incarnation}_{group}_{of:x}_{round}_{partition}_{offset}");
        let entry = Entry {
            partition: 0,
            message: Arc::new(message),
            once: Some(once),
        };
        Some(Dying {
            position,
            token,
            claim,
            topic,
            entry,
        })
    }

    /// Takes a partition over.
    pub(super) fn hold(&self, held: Held, partition: u32, record: &ProgressRecord, now: Now) {
        let mut state = self.state();
        if state.ended.is_some() {
            return;
        }
        let snapshot = record.snapshot(now.wall);
        state.drop_loaded(partition, u64::MAX);
        state.machine.adopt(partition, snapshot);
        state.held.insert(partition, held);
        drop(state);
        self.changed.send_replace(());
    }

    /// Lets a partition go. What is with consumers is no longer theirs.
    pub(super) fn release(&self, state: &mut State, partition: u32) {
        if let Some(mut held) = state.held.remove(&partition) {
            held.answer(Fate::Stale);
        }
        state.machine.adopt(partition, PartitionSnapshot::default());
        state.drop_loaded(partition, u64::MAX);
        let gone: Vec<_> = state.deaths.keys().copied().collect();
        for death in gone {
            if death.0.partition == partition {
                state.answer_death(death, Fate::Stale);
            }
        }
        self.changed.send_replace(());
    }

    /// What the topic no longer holds is not waited for.
    pub(super) fn trim(&self, state: &mut State, firsts: &[u64], now: Now) {
        let held: Vec<u32> = state.held.keys().copied().collect();
        let mut is_changed = false;
        for partition in held {
            let offset = firsts.get(partition as usize).copied().unwrap_or_default();
            if state.machine.cursor(partition) >= offset {
                continue;
            }
            let first = Position { partition, offset };
            self.step(state, Input::Trim { first }, now);
            state.drop_loaded(partition, offset);
            let snapshot = state.machine.snapshot(now.monotonic);
            if let Some(held) = state.held.get_mut(&partition) {
                held.progress.trim(offset);
                held.progress.lost = snapshot.partitions[partition as usize].lost;
                held.retries = held.retries.split_off(&offset);
                held.is_dirty = true;
            }
            is_changed = true;
        }
        if is_changed {
            self.changed.send_replace(());
        }
    }
}

impl State {
    pub(super) fn join(&mut self, in_flight: usize) -> ConsumerId {
        self.last_consumer += 1;
        self.consumers.insert(self.last_consumer, in_flight);
        self.last_consumer
    }

    /// How many messages more may be loaded; none when they weigh too much already.
    pub(super) fn room(&self) -> usize {
        if self.bytes >= LOADED_BYTES {
            0
        } else {
            self.machine.room()
        }
    }

    /// Keeps messages that are going to be loaded.
    pub(super) fn keep(&mut self, records: Vec<Record>) {
        for record in records {
            self.bytes += record.message.weight();
            self.records.insert(record.position, record);
        }
    }

    pub(super) fn forget(&mut self, position: Position) {
        if let Some(record) = self.records.remove(&position) {
            self.bytes -= record.message.weight();
        }
        if let Some(held) = self.held.get_mut(&position.partition) {
            held.retries.remove(&position.offset);
        }
    }

    /// Forgets what is loaded of a partition below an offset.
    pub(super) fn drop_loaded(&mut self, partition: u32, below: u64) {
        let start = Position {
            partition,
            offset: 0,
        };
        let end = Position {
            partition,
            offset: below,
        };
        let gone: Vec<Position> = self.records.range(start..end).map(|(at, _)| *at).collect();
        for position in gone {
            if let Some(record) = self.records.remove(&position) {
                self.bytes -= record.message.weight();
            }
        }
    }

    pub(super) fn stage(&mut self, position: Position, token: u64) {
        if let Some(held) = self.held.get_mut(&position.partition) {
            held.staged.push((position.offset, token));
            held.work.notify_one();
        }
    }

    /// Whom to tell when a dead letter is settled.
    pub(super) fn await_death(&mut self, death: (Position, u64)) -> oneshot::Receiver<Fate> {
        let (sender, receiver) = oneshot::channel();
        self.deaths.insert(death, sender);
        receiver
    }

    pub(super) fn answer_death(&mut self, death: (Position, u64), fate: Fate) {
        if let Some(waiter) = self.deaths.remove(&death) {
            let _ = waiter.send(fate);
        }
    }

    pub(super) fn member(&self) -> MemberRecord {
        MemberRecord {
            consumers: self.consumers.len() as u64,
            in_flight: self.machine.in_flight() as u64,
            waiting: self.machine.waiting() as u64,
        }
    }
}

impl Held {
    /// To hear of the end of the next write.
    pub(super) fn wait(&mut self) -> oneshot::Receiver<Fate> {
        let (sender, receiver) = oneshot::channel();
        self.waiters.push(sender);
        self.work.notify_one();
        receiver
    }

    /// Whether something waits for a write, or for the end of one.
    pub(super) fn is_busy(&self) -> bool {
        let waits = !self.staged.is_empty() || !self.waiters.is_empty() || self.seek.is_some();
        waits || self.is_writing
    }

    pub(super) fn answer(&mut self, fate: Fate) {
        let seek = self.seek.take().map(|(_, waiter)| waiter);
        for waiter in self.waiters.drain(..).chain(seek) {
            let _ = waiter.send(fate);
        }
    }
}
