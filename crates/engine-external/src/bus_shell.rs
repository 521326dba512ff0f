//! `Bus` over a broker that keeps logs: what all such engines have in common.
//!
//! The contract of [`sinew_engine::bus`] is stricter than what brokers offer their consumers: order per key through
//! redelivery, dead letters and settling as one step, a window, seeking that ends deliveries. So the broker is
//! asked for little (module `backend`): logs that are appended to and read from any place, and small
//! records with conditional writes. The group is Sinew's own pure machine
//! ([`sinew_engine::bus::group`]), and runs on the nodes that consume.
//!
//! # One holder for each partition
//! Each partition of a group is held by one node (module `keeper`). What is settled stands in one record for each group
//! and partition, which also names the holder. Its holder writes it with the version that it wrote
//! last, so that a node that was replaced cannot settle anything any more; and many acks go into one write.
//! A delivery is acknowledged when the write is durable. Nodes say that they live by beats (module `node`); a node whose
//! beats are not answered stops delivering before others may take over.
//!
//! # Dead letters
//! A dead letter is appended with a mark that is made of its origin, and settled after that. A crash between the two
//! leads to the same append again, which the mark turns into nothing. So it is there once, and never lost.
//!
//! # Retention
//! The broker removes what is too old or too much when the topic says that owed messages go too. When
//! they must stay, the nodes that use the topic remove what no group owes (module `retention`), and the broker
//! refuses what has no room.
//!
//! # What a group does not get over several nodes
//! - Partitions are spread over the nodes that have consumers: a node beyond the number of partitions gets nothing.
//! - Receipts are good on the node that got the delivery.
//! - `window` counts for each node; the numbers of other nodes in `GroupState` are as old as their last report.
//!
//! Rejected: the brokers' own consumers (no order through redelivery); forwarding messages between nodes (a
//! protocol of our own, and one more way to lose what is under way); leases for each partition (a
//! write for each of them, again and again, where one beat for the node does).

mod backend;
mod bus;
mod consumer;
mod groups;
mod keeper;
mod local;
mod node;
mod partition;
mod records;
mod retention;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU32},
    time::Duration,
};

use sinew_core::{Clock, Name, Result};
use sinew_engine::bus::{TopicConfig, topic_unknown};

pub(crate) use backend::{Appended, Backend, Entry, Extent, Hints, Kept, Log, Put, Reader};
use local::{Local, Task};
use node::Node;

/// How long what is known of a topic is believed. Another node may have changed it.
const BELIEVED: Duration = Duration::from_secs(5);

/// `Bus` over a [`Backend`]. Clones are the same bus.
#[derive(Clone)]
pub(crate) struct Shell {
    guard: Arc<Guard>,
}

/// Ends everything when the bus and all its consumers are dropped.
struct Guard(Arc<Shared>);

struct Shared {
    backend: Arc<dyn Backend>,
    clock: Clock,
    timeout: Duration,
    node: Node,
    topics: Mutex<HashMap<Name, (Arc<Log>, Duration)>>,
    locals: Mutex<HashMap<(Name, Name), Arc<Local>>>,
    next_partition: AtomicU32,
    tasks: Mutex<Vec<Task>>,
}

impl Shell {
    /// Wants a tokio runtime. `lease`: how long a node that is gone keeps others from its partitions.
    pub(crate) fn new(backend: Arc<dyn Backend>, lease: Duration, timeout: Duration) -> Self {
        let clock = Clock::system();
        let id = format!("{:016x}", rand::random::<u64>());
        let shared = Arc::new(Shared {
            node: Node::new(id, lease, clock.clone()),
            backend,
            clock,
            timeout,
            topics: Mutex::default(),
            locals: Mutex::default(),
            next_partition: AtomicU32::new(rand::random()),
            tasks: Mutex::default(),
        });
        let beating = shared.clone();
        let beating = tokio::spawn(async move { beating.node.run(&*beating.backend).await });
        let sweeping = tokio::spawn(shared.clone().sweep());
        let tasks = [beating, sweeping].map(|task| Task(task.abort_handle()));
        lock(&shared.tasks).extend(tasks);
        Self {
            guard: Arc::new(Guard(shared)),
        }
    }

    /// Gives up what this node holds, so that others need not wait for the lease. Its consumers are at their end.
    pub(crate) async fn close(&self) {
        let shared = &self.guard.0;
        let locals: Vec<_> = lock(&shared.locals).values().cloned().collect();
        for local in locals {
            let now = local::Now::of(&shared.clock);
            {
                let mut state = local.state();
                let consumers: Vec<_> = state.consumers.drain().map(|(id, _)| id).collect();
                for consumer in consumers {
                    let leave = sinew_engine::bus::group::Input::Leave { consumer };
                    local.step(&mut state, leave, now);
                }
            }
            local.wake.notify_one();
        }
        let gone = async {
            while !lock(&shared.locals).is_empty() {
                shared.clock.sleep(Duration::from_millis(5)).await;
            }
            // No beats after the last word.
            lock(&shared.tasks).clear();
            shared.backend.leave(&shared.node.id).await
        };
        if !matches!(tokio::time::timeout(shared.timeout, gone).await, Ok(Ok(()))) {
            tracing::debug!("what this node held is free when its lease has passed");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        lock(&self.0.tasks).clear();
        let locals: Vec<_> = lock(&self.0.locals)
            .drain()
            .map(|(_, local)| local)
            .collect();
        for local in locals {
            local.stop();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn engine(&self) -> &'static str {
        self.backend.capability().engine
    }

    /// Names something that has no other name.
    #[expect(clippy::unused_self, reason = "it belongs to what it is asked of")]
    fn stamp(&self) -> u64 {
        // JSON readers that are not ours round larger numbers.
        rand::random::<u64>() >> 11
    }

    /// The topic, as it was not long ago.
    async fn log(&self, topic: &Name) -> Result<Arc<Log>> {
        let now = self.clock.monotonic();
        if let Some((log, seen)) = lock(&self.topics).get(topic)
            && now.saturating_sub(*seen) < BELIEVED
        {
            return Ok(log.clone());
        }
        self.look(topic).await
    }

    /// The topic, as it is now.
    async fn look(&self, topic: &Name) -> Result<Arc<Log>> {
        match self.backend.find(topic).await? {
            Some(log) => Ok(self.believe(log)),
            None => {
                self.gone(topic);
                Err(topic_unknown(topic))
            }
        }
    }

    fn believe(&self, log: Log) -> Arc<Log> {
        let mut topics = lock(&self.topics);
        let now = self.clock.monotonic();
        let same = topics.get(&log.topic).filter(|(known, _)| **known == log);
        let log = same.map_or_else(|| Arc::new(log), |(known, _)| known.clone());
        topics.insert(log.topic.clone(), (log.clone(), now));
        log
    }

    fn gone(&self, topic: &Name) {
        lock(&self.topics).remove(topic);
    }

    fn known(&self) -> Vec<Arc<Log>> {
        lock(&self.topics)
            .values()
            .map(|(log, _)| log.clone())
            .collect()
    }

    /// Takes a group that is at its end off the list.
    fn forget(&self, local: &Arc<Local>) {
        let key = (local.log.topic.clone(), local.group.clone());
        let mut locals = lock(&self.locals);
        if locals
            .get(&key)
            .is_some_and(|known| Arc::ptr_eq(known, local))
        {
            locals.remove(&key);
        }
        local.retire();
    }

    /// The same, unless somebody has begun to consume.
    fn forget_unused(&self, local: &Arc<Local>) -> bool {
        let key = (local.log.topic.clone(), local.group.clone());
        let mut locals = lock(&self.locals);
        let mut state = local.state();
        if !state.consumers.is_empty() || !state.held.is_empty() {
            return false;
        }
        state.ended.get_or_insert(local::Ended::Closed);
        if locals
            .get(&key)
            .is_some_and(|known| Arc::ptr_eq(known, local))
        {
            locals.remove(&key);
        }
        local.retire();
        true
    }

    /// Appends to a topic for dead letters, which is made when it does not exist.
    async fn append_dead(&self, topic: &Name, mut entry: Entry) -> Result<Appended> {
        let mut again = false;
        loop {
            let log = match self.log(topic).await {
                Ok(log) => log,
                Err(error) if error.code() == "bus.topic_unknown" => self.make(topic).await?,
                Err(error) => return Err(error),
            };
            entry.partition = self.place(&log, &entry.message);
            let result = self.append(&log, vec![entry.clone()]).await.pop();
            match result {
                Some(Err(error)) if error.code() == "bus.topic_unknown" && !again => {
                    self.gone(topic);
                    again = true;
                }
                Some(result) => return result,
                None => unreachable!("one entry has one answer"),
            }
        }
    }

    async fn make(&self, topic: &Name) -> Result<Arc<Log>> {
        match self.backend.create(topic, &TopicConfig::default()).await? {
            Some(log) => Ok(self.believe(log)),
            None => self.look(topic).await,
        }
    }
}
