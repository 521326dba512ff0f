use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use sinew_core::{Clock, Name, Result};
use tokio::sync::watch;

use super::{
    Bus, Capability, Consumer, Delivery, GroupState, Limits, Message, Position, Published, Receipt,
    Record, Redeliver, Seek, Subscription, TopicConfig, TopicState,
    group::{ConsumerId, Input},
    receipt_stale,
};
use state::{Now, State};

mod state;
mod topic;

/// The reference engine: everything in memory under one lock, written to be obviously right. For
/// tests, the simulator, and nodes that shall forget. Clones are the same bus.
///
/// It has no task of its own. What is due happens at the beginning of every operation, and a waiting consumer
/// wakes when the next thing is due, so nobody can see anything past its time.
#[derive(Clone)]
pub struct MemoryBus {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    state: Mutex<State>,
    /// Told of every change of the state, so that consumers look again.
    changed: watch::Sender<()>,
}

const CAPABILITY: Capability = Capability {
    engine: "memory",
    durable: false,
    delay: true,
    deduplication: true,
    replay: true,
    atomic_publish: true,
    keeps_unsettled: true,
    exact_bytes: true,
    exact_retention: true,
    atomic_with_kv: false,
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

/// A wall clock may jump to a due time: those who wait for one look at least this often.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

impl MemoryBus {
    /// An empty bus.
    pub fn new(clock: Clock) -> Self {
        let (changed, _) = watch::channel(());
        let state = Mutex::default();
        Self {
            shared: Arc::new(Shared {
                clock,
                state,
                changed,
            }),
        }
    }
}

impl Shared {
    fn now(&self) -> Now {
        Now {
            wall: self.clock.now(),
            monotonic: self.clock.monotonic(),
        }
    }

    /// The state, with everything done that is due.
    fn current(&self) -> (MutexGuard<'_, State>, Now) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        if state.settle_time(now) {
            self.changed.send_replace(());
        }
        (state, now)
    }

    /// Changes the state and tells those who wait.
    fn change<T>(&self, change: impl FnOnce(&mut State, Now) -> Result<T>) -> Result<T> {
        let (mut state, now) = self.current();
        let answer = change(&mut state, now)?;
        self.changed.send_replace(());
        Ok(answer)
    }
}

#[async_trait]
impl Bus for MemoryBus {
    fn capability(&self) -> &Capability {
        &CAPABILITY
    }

    async fn create_topic(&self, topic: &Name, config: TopicConfig) -> Result<bool> {
        CAPABILITY.limits.check_topic(&config)?;
        self.shared
            .change(|state, _| state.create_topic(topic, config))
    }

    async fn configure_topic(&self, topic: &Name, config: TopicConfig) -> Result<()> {
        CAPABILITY.limits.check_topic(&config)?;
        self.shared
            .change(|state, _| state.topic_mut(topic)?.configure(config))
    }

    async fn topic(&self, topic: &Name) -> Result<TopicState> {
        Ok(self.shared.current().0.topic_mut(topic)?.state())
    }

    async fn topics(&self) -> Result<Vec<Name>> {
        Ok(self.shared.current().0.topics())
    }

    async fn delete_topic(&self, topic: &Name) -> Result<()> {
        self.shared.change(|state, _| {
            state.delete_topic(topic);
            Ok(())
        })
    }

    async fn publish(&self, topic: &Name, messages: Vec<Message>) -> Result<Vec<Published>> {
        CAPABILITY.limits.check_messages(&messages)?;
        self.shared
            .change(|state, now| state.topic_mut(topic)?.publish(topic, messages, now.wall))
    }

    async fn subscribe(
        &self,
        topic: &Name,
        group: &Name,
        subscription: Subscription,
    ) -> Result<Arc<dyn Consumer>> {
        CAPABILITY.limits.check_subscription(&subscription)?;
        let in_flight = subscription.in_flight;
        let id = self
            .shared
            .change(|state, now| state.subscribe(topic, group, subscription.group, now))?;
        Ok(Arc::new(MemoryConsumer {
            shared: self.shared.clone(),
            topic: topic.clone(),
            group: group.clone(),
            id,
            in_flight,
        }))
    }

    async fn group(&self, topic: &Name, group: &Name) -> Result<GroupState> {
        self.shared.current().0.topic_mut(topic)?.group_state(group)
    }

    async fn groups(&self, topic: &Name) -> Result<Vec<Name>> {
        Ok(self.shared.current().0.topic_mut(topic)?.groups())
    }

    async fn seek(&self, topic: &Name, group: &Name, seek: Seek) -> Result<()> {
        self.shared
            .change(|state, now| state.seek(topic, group, seek, now))
    }

    async fn delete_group(&self, topic: &Name, group: &Name) -> Result<()> {
        self.shared.change(|state, _| {
            state.topic_mut(topic)?.delete_group(group);
            Ok(())
        })
    }

    async fn read(&self, topic: &Name, from: Position, most: usize) -> Result<Vec<Record>> {
        let most = most.clamp(1, CAPABILITY.limits.read_messages);
        self.shared.current().0.topic_mut(topic)?.read(from, most)
    }
}

struct MemoryConsumer {
    shared: Arc<Shared>,
    topic: Name,
    group: Name,
    id: ConsumerId,
    in_flight: usize,
}

impl MemoryConsumer {
    /// Passes an input to the group; tells whether the receipt was current.
    fn input(&self, input: Input) -> Result<bool> {
        self.shared.change(|state, now| {
            state.check_consumer(&self.topic, &self.group, self.id)?;
            Ok(!state.step(&self.topic, &self.group, input, now)?.is_stale)
        })
    }

    fn settle(&self, receipt: &Receipt, input: Input) -> Result<()> {
        if self.input(input)? {
            Ok(())
        } else {
            Err(receipt_stale(receipt))
        }
    }
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn next_many(&self, most: usize) -> Result<Vec<Delivery>> {
        let mut changed = self.shared.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let until = {
                let (mut state, now) = self.shared.current();
                state.check_consumer(&self.topic, &self.group, self.id)?;
                let room = state.room(&self.topic, &self.group, self.id, self.in_flight)?;
                let take = Input::Take {
                    consumer: self.id,
                    most: most.max(1).min(room),
                };
                let deliveries = state.step(&self.topic, &self.group, take, now)?.deliveries;
                if !deliveries.is_empty() {
                    return Ok(deliveries);
                }
                let wait = state.next_wait(now);
                wait.map(|wait| now.monotonic + wait.min(LONGEST_WAIT))
            };
            tokio::select! {
                // The sender lives in `shared`, so this cannot fail.
                _ = changed.changed() => {}
                () = self.shared.clock.sleep_until(until.unwrap_or_default()), if until.is_some() => {}
            }
        }
    }

    async fn ack(&self, receipts: &[Receipt]) -> Result<()> {
        let mut stale = None;
        for receipt in receipts {
            let Receipt { position, token } = *receipt;
            if !self.input(Input::Ack { position, token })? {
                stale = Some(receipt);
            }
        }
        stale.map_or(Ok(()), |receipt| Err(receipt_stale(receipt)))
    }

    async fn nack(&self, receipt: &Receipt, redeliver: Redeliver) -> Result<()> {
        if let Redeliver::After(delay) = redeliver {
            CAPABILITY.limits.check_delay(delay)?;
        }
        let Receipt { position, token } = *receipt;
        self.settle(
            receipt,
            Input::Nack {
                position,
                token,
                redeliver,
            },
        )
    }

    async fn extend(&self, receipt: &Receipt, time: Duration) -> Result<()> {
        CAPABILITY.limits.check_delay(time)?;
        let Receipt { position, token } = *receipt;
        self.settle(
            receipt,
            Input::Extend {
                position,
                token,
                time,
            },
        )
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        let _ = self
            .shared
            .change(|state, now| state.leave(&self.topic, &self.group, self.id, now));
    }
}
