//! The embedded [`Bus`]: topics over the store's commit log.
//!
//! ```text
//! publish, ack ─▶ bounded queue ─▶ commit thread: checked, staged, one record, one sync
//!                                     │ durable
//!                                     ▼
//! next_many, read ◀── newest messages in memory ──checkpoint──▶ files of topics, tables
//!          ▲                                                          │
//!          └──────────────── older messages, block by block ◀─────────┘
//! ```
//!
//! - What is published is a part of a record, and visible from memory once it is durable. Acks,
//!   dead letters, due times that came, trims and configurations are parts of records, too.
//! - The log is not the topic: a checkpoint, off the commit thread, copies messages into files of
//!   their topic (`bus/files.rs`) and all else into tables (`bus/tables.rs`), and the log is let
//!   go. So one slow topic never pins what others wrote, and retention unlinks files of one topic.
//! - Who lags reads files, block by block, on the runtime's blocking pool.
//! - Groups are the machine of [`sinew_engine::bus::group`]. What it asks for outside the commit
//!   thread waits in an outbox there.
//! - What changes topics or groups is alone in its record, so that nothing in the same record rests
//!   on a topic that may not be.
//! - After an opening tokens are counted from the number of the opening, so none comes twice.

mod bytes;
mod checkpoint;
mod command;
mod config;
mod consumer;
pub(crate) mod face;
mod fault;
mod files;
mod member;
mod message;
pub(crate) mod opening;
mod operation;
mod options;
pub(crate) mod salvage;
mod stage;
mod state;
mod tables;
mod topic;
pub(crate) mod unit;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use sinew_core::{Clock, Name, Result, Timestamp};
use sinew_engine::bus::{
    Bus, Capability, Consumer, GroupState, Limits, Message, Position, Published, Record, Seek,
    Start, Subscription, TopicConfig, TopicState, position_unknown,
};
use tokio::sync::{Semaphore, mpsc, oneshot};

use self::face::BusFace;
pub use self::options::BusOptions;
use self::{
    command::{Answer, Command, Target},
    consumer::EmbeddedConsumer,
    files::{Files, Place},
    state::{Now, State},
    tables::Tables,
    topic::{Found, Held},
};
use crate::journal::Journal;

const CAPABILITY: Capability = Capability {
    engine: "embedded",
    durable: true,
    delay: true,
    deduplication: true,
    replay: true,
    atomic_publish: true,
    keeps_unsettled: true,
    atomic_with_kv: true,
    exact_bytes: true,
    exact_retention: true,
    limits: Limits {
        message_bytes: 1 << 20,
        key_bytes: 1024,
        id_bytes: 256,
        headers: 64,
        publish_messages: 1024,
        publish_bytes: 8 << 20,
        partitions: 256,
        deduplication: Duration::from_secs(24 * 3600),
        in_flight: 10_000,
        window: 100_000,
        ack_timeout_minimum: Duration::from_millis(100),
        delay: Duration::from_secs(30 * 24 * 3600),
        read_messages: 1000,
    },
};

/// The embedded [`Bus`]. See the module's text. Clones are the same bus.
#[derive(Clone)]
pub struct EmbeddedBus {
    caller: Caller,
    /// When it has a log of its own.
    journal: Option<Journal>,
}

/// What the commit thread, the checkpoint thread and everybody who asks share.
struct Shared {
    clock: Clock,
    options: BusOptions,
    state: Mutex<State>,
    files: Files,
    tables: Tables,
    /// To wake the commit thread; it does not keep it alive.
    commands: mpsc::WeakSender<Command>,
    is_nudged: AtomicBool,
    is_ending: AtomicBool,
}

/// The way to ask the commit thread.
#[derive(Clone)]
struct Caller {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    /// Bytes that queued messages may still take.
    room: Arc<Semaphore>,
    memory: Arc<AtomicUsize>,
}

impl Shared {
    fn now(&self) -> Now {
        Now {
            wall: self.clock.now(),
            monotonic: self.clock.monotonic(),
        }
    }

    /// Lets the commit thread look for what is to be done.
    fn nudge(&self) {
        if self.is_nudged.swap(true, Ordering::Relaxed) {
            return;
        }
        let sent = self
            .commands
            .upgrade()
            .is_some_and(|commands| commands.try_send(Command::Look { answer: None }).is_ok());
        if !sent {
            // It has more than enough to do, and looks after that; or it has ended.
            self.is_nudged.store(false, Ordering::Relaxed);
        }
    }
}

impl Caller {
    /// Passes a command to the commit thread and waits for its answer.
    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let options = &self.shared.options;
        let slot = match self.commands.try_reserve() {
            Ok(slot) => slot,
            Err(mpsc::error::TrySendError::Closed(())) => return Err(fault::closed()),
            Err(mpsc::error::TrySendError::Full(())) => {
                let slot = tokio::time::timeout(options.queue_timeout, self.commands.reserve());
                slot.await
                    .map_err(|_| fault::overloaded())?
                    .map_err(|_| fault::closed())?
            }
        };
        slot.send(command(answer));
        let answered = tokio::time::timeout(options.answer_timeout, answered).await;
        answered
            .map_err(|_| fault::deadline())?
            .map_err(|_| fault::closed())?
    }

    /// Room in the queue for messages of this weight.
    async fn room(&self, bytes: usize) -> Result<tokio::sync::OwnedSemaphorePermit> {
        let options = &self.shared.options;
        let bytes = u32::try_from(bytes.min(options.queue_bytes)).unwrap_or(u32::MAX);
        self.wait_for_memory().await?;
        match Arc::clone(&self.room).try_acquire_many_owned(bytes) {
            Ok(room) => Ok(room),
            Err(_) => {
                let room = Arc::clone(&self.room).acquire_many_owned(bytes);
                let room = tokio::time::timeout(options.queue_timeout, room).await;
                room.map_err(|_| fault::overloaded())?
                    .map_err(|_| fault::closed())
            }
        }
    }

    /// Waits while memory holds more than checkpoints have taken to files.
    async fn wait_for_memory(&self) -> Result<()> {
        const STEP: Duration = Duration::from_millis(2);
        let options = &self.shared.options;
        let mut waited = Duration::ZERO;
        while self.memory.load(Ordering::Relaxed) >= options.messages_bytes() {
            if waited >= options.queue_timeout {
                return Err(fault::overloaded());
            }
            tokio::time::sleep(STEP).await;
            waited += STEP;
        }
        Ok(())
    }

    /// Lets happen first what should have by now.
    async fn settle_time(&self) -> Result<()> {
        let is_due = {
            let mut state = self.shared.state.lock();
            if state.is_closed {
                return Err(fault::closed());
            }
            let is_due = state.is_due(self.shared.now(), &self.shared.files);
            if is_due {
                state.wake = Duration::ZERO;
            }
            is_due
        };
        if is_due {
            self.ask(|answer| Command::Look {
                answer: Some(answer),
            })
            .await?;
        }
        Ok(())
    }
}

impl EmbeddedBus {
    /// Takes what is in memory to files now. It happens by itself, too.
    pub async fn checkpoint(&self) -> Result<()> {
        self.caller
            .ask(|answer| Command::Checkpoint { answer })
            .await
    }

    /// Writes what is queued, takes all to files, and lets go of them. Everything later answers
    /// `bus.closed`. Dropping every clone and consumer does the same but for the checkpoint; a
    /// process that just ends loses nothing that was answered.
    ///
    /// A bus of a store is closed with the store; this is only its checkpoint.
    pub async fn close(&self) -> Result<()> {
        let checkpoint = self.checkpoint().await;
        if let Some(journal) = &self.journal {
            journal.close().await;
        }
        checkpoint
    }

    /// The first offset of each partition whose message entered at a time or later.
    async fn since(&self, topic: &Name, time: Timestamp) -> Result<Vec<u64>> {
        let shared = Arc::clone(&self.caller.shared);
        let topic = topic.clone();
        let look = move || since(&shared, &topic, time);
        let looked = tokio::task::spawn_blocking(look).await;
        looked.map_err(|cause| fault::unavailable("a read broke off").with_source(cause))?
    }
}

/// Looks in memory first, then in the one segment that may have it.
fn since(shared: &Shared, topic: &Name, time: Timestamp) -> Result<Vec<u64>> {
    let candidates: Vec<_> = {
        let state = shared.state.lock();
        let topic = state.topic(topic)?;
        let each = topic.numbered().map(|(partition, log)| {
            let visible = usize::try_from(log.edges.end - log.head_start).unwrap_or(usize::MAX);
            let head = log
                .head
                .iter()
                .take(visible)
                .position(|message| message.published >= time);
            let in_head = head.map_or(log.edges.end, |at| log.head_start + at as u64);
            let segment = log.segments.iter().find(|segment| segment.until >= time);
            (topic.place(partition), segment.copied(), in_head, log.edges)
        });
        each.collect()
    };
    let each = candidates
        .into_iter()
        .map(|(place, segment, in_head, edges)| {
            let in_file = match segment {
                Some(segment) => shared.files.since(place, &segment, time)?,
                None => None,
            };
            Ok(in_file.unwrap_or(in_head).clamp(edges.first, edges.end))
        });
    each.collect()
}

#[async_trait]
impl Bus for EmbeddedBus {
    fn capability(&self) -> &Capability {
        &CAPABILITY
    }

    async fn create_topic(&self, topic: &Name, config: TopicConfig) -> Result<bool> {
        CAPABILITY.limits.check_topic(&config)?;
        let topic = topic.clone();
        self.caller
            .ask(|answer| Command::MakeTopic {
                topic,
                config,
                answer: Some(answer),
            })
            .await
    }

    async fn configure_topic(&self, topic: &Name, config: TopicConfig) -> Result<()> {
        CAPABILITY.limits.check_topic(&config)?;
        let topic = topic.clone();
        self.caller
            .ask(|answer| Command::ConfigureTopic {
                topic,
                config,
                answer,
            })
            .await
    }

    async fn topic(&self, topic: &Name) -> Result<TopicState> {
        self.caller.settle_time().await?;
        Ok(self.caller.shared.state.lock().topic(topic)?.state())
    }

    async fn topics(&self) -> Result<Vec<Name>> {
        self.caller.settle_time().await?;
        Ok(self
            .caller
            .shared
            .state
            .lock()
            .names
            .keys()
            .cloned()
            .collect())
    }

    async fn delete_topic(&self, topic: &Name) -> Result<()> {
        let topic = topic.clone();
        self.caller
            .ask(|answer| Command::DeleteTopic { topic, answer })
            .await
    }

    async fn publish(&self, topic: &Name, messages: Vec<Message>) -> Result<Vec<Published>> {
        CAPABILITY.limits.check_messages(&messages)?;
        let drafts = message::drafts(&messages);
        let bytes = drafts.iter().map(|draft| topic::cost(&draft.body)).sum();
        let room = self.caller.room(bytes).await?;
        let topic = topic.clone();
        self.caller
            .ask(|answer| Command::Publish {
                topic,
                drafts,
                answer,
                room,
            })
            .await
    }

    async fn subscribe(
        &self,
        topic: &Name,
        group: &Name,
        subscription: Subscription,
    ) -> Result<Arc<dyn Consumer>> {
        CAPABILITY.limits.check_subscription(&subscription)?;
        let starts = match subscription.group.start {
            Start::At(time) => Some(self.since(topic, time).await?),
            _ => None,
        };
        let (topic, group) = (topic.clone(), group.clone());
        let seat = self
            .caller
            .ask(|answer| Command::Join {
                topic,
                group,
                config: subscription.group,
                starts,
                answer,
            })
            .await?;
        let consumer = EmbeddedConsumer {
            caller: self.caller.clone(),
            seat,
            in_flight: subscription.in_flight,
        };
        consumer.prepare().await?;
        Ok(Arc::new(consumer))
    }

    async fn group(&self, topic: &Name, group: &Name) -> Result<GroupState> {
        self.caller.settle_time().await?;
        self.caller.shared.state.lock().group_state(topic, group)
    }

    async fn groups(&self, topic: &Name) -> Result<Vec<Name>> {
        let state = self.caller.shared.state.lock();
        Ok(state.topic(topic)?.group_names.keys().cloned().collect())
    }

    async fn seek(&self, topic: &Name, group: &Name, seek: Seek) -> Result<()> {
        let target = match seek {
            Seek::Earliest => Target::Earliest,
            Seek::Latest => Target::Latest,
            Seek::To(position) => Target::To(position),
            Seek::Time(time) => Target::Offsets(self.since(topic, time).await?),
        };
        let (topic, group) = (topic.clone(), group.clone());
        self.caller
            .ask(|answer| Command::Seek {
                topic,
                group,
                target,
                answer,
            })
            .await
    }

    async fn delete_group(&self, topic: &Name, group: &Name) -> Result<()> {
        let (topic, group) = (topic.clone(), group.clone());
        self.caller
            .ask(|answer| Command::DeleteGroup {
                topic,
                group,
                answer,
            })
            .await
    }

    async fn read(&self, topic: &Name, from: Position, most: usize) -> Result<Vec<Record>> {
        self.caller.settle_time().await?;
        let most = most.clamp(1, CAPABILITY.limits.read_messages);
        let (place, segment) = match self.read_memory(topic, from, most, None)? {
            Ok(records) => return Ok(records),
            Err(unread) => unread,
        };
        let shared = Arc::clone(&self.caller.shared);
        let block = move || shared.files.block(place, &segment, from.offset);
        let block = tokio::task::spawn_blocking(block).await;
        let block =
            block.map_err(|cause| fault::unavailable("a read broke off").with_source(cause))?;
        let held = match block {
            Ok(block) => Some(Held { place, block }),
            // If it was trimmed meanwhile the second look says so.
            Err(error) => {
                self.read_memory(topic, from, most, None)?
                    .map_err(|_| error)
                    .map(drop)?;
                None
            }
        };
        let records = self.read_memory(topic, from, most, held.as_ref())?;
        records.map_err(|_| position_unknown(from))
    }
}

impl EmbeddedBus {
    /// Reads from what is in memory, or says which file must be read first.
    fn read_memory(
        &self,
        topic: &Name,
        from: Position,
        most: usize,
        held: Option<&Held>,
    ) -> Result<std::result::Result<Vec<Record>, (Place, files::Segment)>> {
        let files = &self.caller.shared.files;
        let mut found = Vec::new();
        {
            let state = self.caller.shared.state.lock();
            let topic = state.topic(topic)?;
            let log = topic
                .partition(from.partition)
                .filter(|log| (log.edges.first..=log.edges.end).contains(&from.offset))
                .ok_or_else(|| position_unknown(from))?;
            for offset in (from.offset..log.edges.end).take(most) {
                let position = Position { offset, ..from };
                match topic.find(position, files, held) {
                    Found::Here(message) => found.push((position, message)),
                    Found::In(segment) if found.is_empty() => {
                        return Ok(Err((topic.place(from.partition), segment)));
                    }
                    _ => break,
                }
            }
        }
        let records = found.into_iter().map(|(position, message)| {
            let record = message.record(position);
            record.map_err(|_| fault::malformed("a message of a topic"))
        });
        records.collect::<Result<_>>().map(Ok)
    }
}
