//! `Bus` over RabbitMQ 3.10 or newer, by AMQP 0-9-1 alone: no plugin, no management interface.
//!
//! # What a topic is
//! A partition is a *stream* (`x-queue-type: stream`): RabbitMQ's only kind of queue that keeps messages that were
//! consumed, so the only one of which groups that come later, seeking and reading can be made. Messages are published to it
//! by name, with publisher confirms.
//!
//! # What a group is
//! For each partition a register: a quorum queue with a single active consumer, which holds how far the group is,
//! and which one node at a time holds. That node reads the stream and runs the same machine as every other
//! Sinew bus ([`sinew_engine::bus::group`]) over the window, so order per key, redelivery, backoff and attempts are what they are
//! everywhere. An ack answers when an entry with it has gone through the quorum queue's log, which the
//! broker syncs to disk. When the node goes, its connection does, and the next in line goes on.
//!
//! # What was rejected
//! - *Quorum queues for the messages themselves* (one a partition and group): nothing is left for groups that come
//!   later, there are no offsets to read or seek, AMQP's acks are never confirmed, so an ack could not be durable when
//!   it answers, and a delayed or late message comes back out of its key's order.
//! - *RabbitMQ's stream protocol*: a plugin and another port that are off by default.
//! - *The delayed-message plugin, or queues with a time to live for due times*: the first is no part of
//!   RabbitMQ, the second needs a queue for each delay and breaks the order of what is due at the same time.
//!   So due times are refused (`delay: false`).
//! - *Compare-and-set*: AMQP has none; see the register for what stands for it.
//!
//! # What that costs
//! Streams are not synced to disk by the broker: a confirmed message is with a quorum of the stream's replicas, in
//! their operating systems' memory. A broker that is killed loses nothing; power that fails on all replicas of a stream at
//! once may take the newest messages. The confirm does not tell the offset ([`Published::In`]). Retention removes whole
//! segments, is fixed when a topic is made, and knows nothing of groups: what a topic with
//! [`Unsettled::Keep`](sinew_engine::bus::Unsettled::Keep) holds, it holds for ever.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use sinew_core::{Clock, Error, Name, Result};
use sinew_engine::{
    Health,
    bus::{
        Bus, Capability, Consumer, GroupState, Limits, Message, Position, Published, Record, Seek,
        Start, Subscription, TopicConfig, TopicState, group_invalid, position_unknown,
        topic_exists, topic_invalid, unsupported,
    },
};
use tokio::{
    sync::{Semaphore, watch},
    time::{self, Instant},
};

use crate::{Address, fault as common};
use catalogue::{Held, Topic};
use consumer::RabbitConsumer;
use host::Host;
use link::{Lines, Link};
use progress::{Answer, Request};
use seat::Seat;
use streams::Sent;

mod catalogue;
mod consumer;
mod envelope;
mod fault;
mod host;
mod intake;
mod link;
mod progress;
mod register;
mod seat;
mod session;
mod streams;

const ENGINE: &str = "rabbitmq";
const PORT: u16 = 5672;
const TLS_PORT: u16 = 5671;

/// KiB of messages that may wait for their confirmation.
const UNCONFIRMED_KIB: u32 = 32 << 10;
/// How often a publisher looks whether the broker takes messages again.
const BLOCKED: Duration = Duration::from_millis(50);

const CAPABILITY: Capability = Capability {
    engine: ENGINE,
    durable: true,
    delay: false,
    deduplication: false,
    replay: true,
    atomic_publish: false,
    keeps_unsettled: false,
    exact_bytes: false,
    exact_retention: false,
    atomic_with_kv: false,
    limits: Limits {
        message_bytes: 1 << 20,
        key_bytes: 1024,
        id_bytes: 256,
        headers: 64,
        publish_messages: 1024,
        publish_bytes: 8 << 20,
        partitions: 64,
        deduplication: Duration::from_secs(24 * 3600),
        in_flight: 10_000,
        window: 100_000,
        ack_timeout_minimum: Duration::from_millis(500),
        delay: Duration::from_secs(30 * 24 * 3600),
        read_messages: 1000,
    },
};

/// A bus on a RabbitMQ. Clones are the same bus. See the module's text.
#[derive(Clone)]
pub struct RabbitBus {
    shared: Arc<Shared>,
}

struct Shared {
    link: Link,
    namespace: Name,
    clock: Clock,
    /// What publishers need to know of topics. May be old: a deleted topic's streams are gone.
    topics: Mutex<HashMap<Name, Arc<Known>>>,
    /// The groups of this node, by their ids.
    hosts: Mutex<HashMap<String, Weak<Host>>>,
    unconfirmed: Semaphore,
    /// Where the next message without a key goes.
    spread: AtomicU32,
}

struct Known {
    id: String,
    streams: Vec<String>,
}

/// A name that nobody else has.
fn token() -> String {
    format!("{:016x}", rand::random::<u64>())
}

impl RabbitBus {
    /// Reads a URL: `amqp://user@host:5672/vhost?namespace=…`, or `amqps://`. Several hosts are the nodes of one cluster.
    /// Without a user it is `guest`.
    pub fn address(url: &str) -> Result<Address> {
        let is_tls = url.starts_with("amqps://");
        let mut address = Address::parse(url, if is_tls { TLS_PORT } else { PORT }, &[])?;
        if !matches!(address.scheme.as_str(), "amqp" | "amqps") {
            return Err(common::address(
                "RabbitMQ's URL begins with amqp:// or amqps://",
            ));
        }
        if is_tls && address.tls.is_none() {
            address.tls = Some(crate::Tls::default());
        }
        if address.tls.as_ref().is_some_and(|tls| tls.ca.is_none()) {
            return Err(common::address(
                "TLS to RabbitMQ needs ca_file: the certificates to trust, for well-known ones \
                 the system's (/etc/ssl/certs/ca-certificates.crt); on a network that is safe, say tls=off",
            ));
        }
        Ok(address)
    }

    /// A bus at this address, connected in the background.
    pub fn open(address: Address, clock: Clock) -> Self {
        let shared = Shared {
            namespace: address.namespace.clone(),
            link: Link::open(address, clock.clone()),
            clock,
            topics: Mutex::default(),
            hosts: Mutex::default(),
            unconfirmed: Semaphore::new(UNCONFIRMED_KIB as usize),
            spread: AtomicU32::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Whether the broker answers.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.shared.link.health()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Holds the catalogue, does this, and lets it go.
    async fn with_catalogue<T>(
        &self,
        action: impl AsyncFnOnce(&Lines, &mut Held) -> Result<T>,
    ) -> Result<T> {
        let lines = self.link.lines().await?;
        self.link
            .within(async {
                let mut held = Held::take(&lines, &self.namespace).await?;
                let answer = match held.clear(&lines).await {
                    Ok(()) => action(&lines, &mut held).await,
                    Err(error) => Err(error),
                };
                held.release().await;
                answer
            })
            .await
    }

    /// A topic as it is now.
    async fn look(&self, topic: &Name) -> Result<Topic> {
        let found = self
            .with_catalogue(async |_, held| held.catalogue.topic(topic).cloned())
            .await;
        let mut known = locked(&self.topics);
        match &found {
            Ok(found) => {
                let streams = found.streams(&self.namespace, topic);
                let id = found.id.clone();
                known.insert(topic.clone(), Arc::new(Known { id, streams }));
            }
            Err(_) => drop(known.remove(topic)),
        }
        drop(known);
        found
    }

    async fn known(&self, topic: &Name) -> Result<Arc<Known>> {
        let known = locked(&self.topics).get(topic).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let found = self.look(topic).await?;
        Ok(Arc::new(Known {
            streams: found.streams(&self.namespace, topic),
            id: found.id,
        }))
    }

    /// Makes a topic; false when there is one.
    async fn make_topic(
        &self,
        lines: &Lines,
        held: &mut Held,
        topic: &Name,
        config: &TopicConfig,
    ) -> Result<bool> {
        if held.catalogue.topics.contains_key(topic) {
            return Ok(false);
        }
        let made = Topic::new(config);
        let streams = made.streams(&self.namespace, topic);
        held.catalogue.note_debris(&streams);
        held.save().await?;
        for stream in &streams {
            streams::make(lines, stream, config).await?;
        }
        held.catalogue.call_off(&streams);
        held.catalogue.topics.insert(topic.clone(), made);
        held.save().await?;
        Ok(true)
    }

    fn partition(&self, message: &Message, partitions: usize) -> u32 {
        let partitions = u32::try_from(partitions).unwrap_or(u32::MAX).max(1);
        match &message.key {
            Some(key) => (hash(key) % u64::from(partitions)) as u32,
            None => self.spread.fetch_add(1, Ordering::Relaxed) % partitions,
        }
    }

    /// Waits until the broker takes messages.
    async fn unblocked(&self, lines: &Lines) -> Result<()> {
        let deadline = Instant::now() + self.link.timeout;
        while lines.is_blocked() {
            if Instant::now() >= deadline {
                return Err(fault::blocked());
            }
            time::sleep(BLOCKED).await;
        }
        Ok(())
    }

    async fn publish(&self, topic: &Name, messages: &[Message]) -> Result<Vec<Published>> {
        for _ in 0..2 {
            let known = self.known(topic).await?;
            let lines = self.link.lines().await?;
            self.unblocked(&lines).await?;
            let sent = self.send(&lines, &known, messages).await?;
            if let Some(published) = sent {
                return Ok(published);
            }
            // The streams that we knew are gone.
            if self.look(topic).await?.id == known.id {
                break;
            }
        }
        Err(common::unavailable(
            ENGINE,
            "the topic has no stream, or was deleted while messages were published to it",
        ))
    }

    /// Publishes in this order. None when there was no stream for one.
    async fn send(
        &self,
        lines: &Lines,
        known: &Known,
        messages: &[Message],
    ) -> Result<Option<Vec<Published>>> {
        let now = self.clock.now();
        let weight: u64 = messages.iter().map(|message| message.weight() + 64).sum();
        let kib = u32::try_from(weight / 1024 + 1)
            .unwrap_or(u32::MAX)
            .min(UNCONFIRMED_KIB);
        let sending = async {
            let permits = self.unconfirmed.acquire_many(kib).await;
            let _permits = permits.map_err(|_| common::unavailable(ENGINE, "closed"))?;
            let mut sending = Vec::with_capacity(messages.len());
            for message in messages {
                let partition = self.partition(message, known.streams.len());
                let body = envelope::encode(message, now);
                let stream = &known.streams[partition as usize];
                let mut sent: Pin<Box<dyn Future<Output = Result<Sent>> + Send>> =
                    Box::pin(async move { streams::append(lines, stream, &body).await });
                // The first poll is what puts it behind those before it; waiting for each to be written takes a
                // thread's switch a message.
                let first =
                    std::future::poll_fn(|context| Poll::Ready(sent.as_mut().poll(context)));
                sending.push(match first.await {
                    Poll::Ready(answer) => (partition, Err(answer)),
                    Poll::Pending => (partition, Ok(sent)),
                });
            }
            let (mut published, mut is_lost) = (Vec::with_capacity(sending.len()), false);
            for (partition, sent) in sending {
                let sent = match sent {
                    Ok(sent) => sent.await,
                    Err(answer) => answer,
                };
                match sent? {
                    Sent::Written => published.push(Published::In(partition)),
                    Sent::Nowhere => is_lost = true,
                    Sent::Refused => {
                        return Err(common::unavailable(ENGINE, "the broker refused a message"));
                    }
                }
            }
            if is_lost && !published.is_empty() {
                return Err(common::unavailable(
                    ENGINE,
                    "the topic was deleted meanwhile",
                ));
            }
            Ok((!is_lost).then_some(published))
        };
        self.link.within(sending).await
    }

    /// Publishes a dead letter.
    async fn bury(&self, topic: &Name, message: Message) -> Result<()> {
        match self.publish(topic, std::slice::from_ref(&message)).await {
            Err(error) if error.code() == "bus.topic_unknown" => {
                self.with_catalogue(async |lines, held| {
                    let config = TopicConfig::default();
                    self.make_topic(lines, held, topic, &config).await
                })
                .await?;
                self.publish(topic, &[message]).await.map(drop)
            }
            answer => answer.map(drop),
        }
    }

    /// The group on this node, which gets in line for its partitions.
    fn host(self: &Arc<Self>, topic: &Name, found: &Topic, group: &Name) -> Result<Arc<Host>> {
        let member = found.group(group)?;
        let mut hosts = locked(&self.hosts);
        hosts.retain(|_, host| host.strong_count() > 0);
        if let Some(host) = hosts.get(&member.id).and_then(Weak::upgrade) {
            for seat in &host.seats {
                seat.configure(member.version, member.config.config());
            }
            return Ok(host);
        }
        let (changed, _) = watch::channel(());
        let streams = found.streams(&self.namespace, topic);
        let queues = member.queues(&self.namespace, group);
        let partitions = streams.len();
        let places = streams.into_iter().zip(queues).zip(&member.starts);
        let seats = (0..)
            .zip(places)
            .map(|(partition, ((stream, queue), start))| {
                Arc::new(Seat::new(
                    topic.clone(),
                    group.clone(),
                    partition,
                    partitions,
                    stream,
                    queue,
                    *start,
                    member.version,
                    member.config.config(),
                    self.clock.clone(),
                    changed.clone(),
                ))
            });
        let host = Host::start(self, seats.collect(), changed.clone());
        hosts.insert(member.id.clone(), Arc::downgrade(&host));
        Ok(host)
    }

    /// Asks the holders of all partitions, each its own.
    async fn ask(&self, host: &Host, requests: Vec<(usize, Request)>) -> Result<Vec<Answer>> {
        let asking = requests.into_iter().map(|(partition, request)| async move {
            host::ask(self, &host.seats[partition].queue, &request).await
        });
        self.link.within(try_join_all(asking)).await
    }

    /// Tells the holders of partitions on other nodes how the group is now.
    async fn spread_config(&self, host: &Host, member: &catalogue::Group) -> Result<()> {
        let lines = self.link.lines().await?;
        let request = Request::Configure(member.version, member.config.clone());
        let spreading = async {
            let channel = lines.channel().await?;
            for seat in &host.seats {
                if !seat.lock().is_held {
                    let queue = &seat.queue;
                    register::ask(&channel, queue, &request, None, self.link.timeout).await?;
                }
            }
            Ok(())
        };
        self.link.within(spreading).await
    }

    async fn extents(&self, streams: &[String]) -> Result<Vec<streams::Extent>> {
        let lines = self.link.lines().await?;
        let extents = streams.iter().map(|stream| streams::extent(&lines, stream));
        self.link.within(try_join_all(extents)).await
    }
}

/// FNV-1a, with its high bits mixed in: the same on every node, for ever.
fn hash(key: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^ (hash >> 32)
}

async fn starts(lines: &Lines, streams: &[String], start: Start) -> Result<Vec<u64>> {
    let starts = streams.iter().map(async |stream| match start {
        Start::Earliest => Ok(streams::extent(lines, stream).await?.range.start),
        Start::Latest => streams::end(lines, stream).await,
        Start::At(time) => streams::since(lines, stream, time).await,
    });
    try_join_all(starts).await
}

#[async_trait]
impl Bus for RabbitBus {
    fn capability(&self) -> &Capability {
        &CAPABILITY
    }

    async fn create_topic(&self, topic: &Name, config: TopicConfig) -> Result<bool> {
        CAPABILITY.limits.check_topic(&config)?;
        self.shared
            .with_catalogue(async |lines, held| match held.catalogue.topics.get(topic) {
                Some(before) if before.config() == config => Ok(false),
                Some(_) => Err(topic_exists(topic)),
                None => self.shared.make_topic(lines, held, topic, &config).await,
            })
            .await
    }

    async fn configure_topic(&self, topic: &Name, config: TopicConfig) -> Result<()> {
        CAPABILITY.limits.check_topic(&config)?;
        self.shared
            .with_catalogue(async |_, held| {
                let before = held.catalogue.topic_mut(topic)?;
                if before.partitions() != config.partitions {
                    return Err(topic_invalid("the number of partitions cannot be changed"));
                }
                if before.config().retention != config.retention {
                    return Err(unsupported(ENGINE, "changing what a topic keeps"));
                }
                before.set_config(&config);
                held.save().await
            })
            .await
    }

    async fn topic(&self, topic: &Name) -> Result<TopicState> {
        let found = self.shared.look(topic).await?;
        let streams = found.streams(&self.shared.namespace, topic);
        let extents = self.shared.extents(&streams).await?;
        let weight = |extent: &streams::Extent| {
            (extent.range.end - extent.range.start).saturating_mul(extent.first_bytes)
        };
        Ok(TopicState {
            config: found.config(),
            bytes: extents.iter().map(weight).sum(),
            partitions: extents.into_iter().map(|extent| extent.range).collect(),
            scheduled: 0,
        })
    }

    async fn topics(&self) -> Result<Vec<Name>> {
        self.shared
            .with_catalogue(async |_, held| Ok(held.catalogue.topics.keys().cloned().collect()))
            .await
    }

    async fn delete_topic(&self, topic: &Name) -> Result<()> {
        let shared = &self.shared;
        locked(&shared.topics).remove(topic);
        shared
            .with_catalogue(async |lines, held| {
                let Some(gone) = held.catalogue.topics.remove(topic) else {
                    return Ok(());
                };
                let mut queues = gone.streams(&shared.namespace, topic);
                for (name, group) in &gone.groups {
                    queues.extend(group.queues(&shared.namespace, name));
                }
                held.catalogue.note_debris(&queues);
                held.save().await?;
                held.clear(lines).await
            })
            .await
    }

    async fn publish(&self, topic: &Name, messages: Vec<Message>) -> Result<Vec<Published>> {
        CAPABILITY.limits.check_messages(&messages)?;
        let now = self.shared.clock.now();
        if messages
            .iter()
            .any(|message| message.due.is_some_and(|due| due > now))
        {
            self.shared.known(topic).await?;
            return Err(unsupported(ENGINE, "messages with a due time"));
        }
        self.shared.publish(topic, &messages).await
    }

    async fn subscribe(
        &self,
        topic: &Name,
        group: &Name,
        subscription: Subscription,
    ) -> Result<Arc<dyn Consumer>> {
        CAPABILITY.limits.check_subscription(&subscription)?;
        let shared = &self.shared;
        let config = subscription.group;
        let (found, is_changed) = shared
            .with_catalogue(async |lines, held| {
                let found = held.catalogue.topic(topic)?;
                if config
                    .dead_letter
                    .as_ref()
                    .is_some_and(|dead| dead.topic == *topic)
                {
                    return Err(group_invalid("a topic cannot take its own dead letters"));
                }
                let is_new = !found.groups.contains_key(group);
                let starts = if is_new {
                    let streams = found.streams(&shared.namespace, topic);
                    starts(lines, &streams, config.start).await?
                } else {
                    Vec::new()
                };
                if let Some(dead) = &config.dead_letter {
                    let usual = TopicConfig::default();
                    shared.make_topic(lines, held, &dead.topic, &usual).await?;
                }
                if is_new {
                    let member = catalogue::Group::new(&config, starts);
                    let queues = member.queues(&shared.namespace, group);
                    held.catalogue.note_debris(&queues);
                    held.save().await?;
                    let channel = lines.channel().await?;
                    for queue in &queues {
                        register::make(&channel, queue).await?;
                    }
                    held.catalogue.call_off(&queues);
                    let groups = &mut held.catalogue.topic_mut(topic)?.groups;
                    groups.insert(group.clone(), member);
                    held.save().await?;
                }
                let found = held.catalogue.topic_mut(topic)?;
                let is_changed = found.change_group(group, &config);
                let found = found.clone();
                if is_changed {
                    held.save().await?;
                }
                Ok((found, is_changed))
            })
            .await?;
        let host = shared.host(topic, &found, group)?;
        if is_changed {
            shared.spread_config(&host, found.group(group)?).await?;
        }
        Ok(Arc::new(RabbitConsumer {
            shared: Arc::clone(shared),
            id: host.join(),
            host,
            topic: topic.clone(),
            topic_id: found.id,
            group: group.clone(),
            in_flight: subscription.in_flight,
            turn: Mutex::new(0),
        }))
    }

    async fn group(&self, topic: &Name, group: &Name) -> Result<GroupState> {
        let found = self.shared.look(topic).await?;
        let config = found.group(group)?.config.config();
        let host = self.shared.host(topic, &found, group)?;
        let requests = (0..host.seats.len()).map(|partition| (partition, Request::State));
        let answers = self.shared.ask(&host, requests.collect()).await?;
        let sum = |of: fn(&Answer) -> u64| answers.iter().map(of).sum();
        Ok(GroupState {
            config,
            cursors: answers.iter().map(|answer| answer.cursor).collect(),
            lag: sum(|answer| answer.lag),
            in_flight: sum(|answer| answer.in_flight),
            waiting: sum(|answer| answer.waiting),
            lost: sum(|answer| answer.lost),
            consumers: host.consumers.load(Ordering::Relaxed),
        })
    }

    async fn groups(&self, topic: &Name) -> Result<Vec<Name>> {
        Ok(self.shared.look(topic).await?.groups.into_keys().collect())
    }

    async fn seek(&self, topic: &Name, group: &Name, seek: Seek) -> Result<()> {
        let shared = &self.shared;
        let found = shared.look(topic).await?;
        found.group(group)?;
        let streams = found.streams(&shared.namespace, topic);
        let targets: Vec<(usize, u64)> = match seek {
            Seek::To(position) => {
                let partition = self.held(&streams, position).await?;
                vec![(partition, position.offset)]
            }
            Seek::Earliest | Seek::Latest => {
                let extents = shared.extents(&streams).await?;
                let place = |extent: &streams::Extent| match seek {
                    Seek::Earliest => extent.range.start,
                    _ => extent.range.end,
                };
                extents.iter().map(place).enumerate().collect()
            }
            Seek::Time(time) => {
                let lines = shared.link.lines().await?;
                let found = starts(&lines, &streams, Start::At(time));
                shared
                    .link
                    .within(found)
                    .await?
                    .into_iter()
                    .enumerate()
                    .collect()
            }
        };
        let host = shared.host(topic, &found, group)?;
        let requests = targets
            .into_iter()
            .map(|(partition, offset)| (partition, Request::Seek(offset)));
        shared.ask(&host, requests.collect()).await.map(drop)
    }

    async fn delete_group(&self, topic: &Name, group: &Name) -> Result<()> {
        let shared = &self.shared;
        shared
            .with_catalogue(async |lines, held| {
                let Some(gone) = held.catalogue.topic_mut(topic)?.groups.remove(group) else {
                    return Ok(());
                };
                held.catalogue
                    .note_debris(&gone.queues(&shared.namespace, group));
                held.save().await?;
                held.clear(lines).await
            })
            .await
    }

    async fn read(&self, topic: &Name, from: Position, most: usize) -> Result<Vec<Record>> {
        let shared = &self.shared;
        let most = most.clamp(1, CAPABILITY.limits.read_messages);
        let known = shared.known(topic).await?;
        let partition = match self.held(&known.streams, from).await {
            Ok(partition) => partition,
            Err(error) => return Err(self.unless_gone(topic, error).await),
        };
        let lines = shared.link.lines().await?;
        let reading = streams::read(&lines, &known.streams[partition], from, most);
        shared.link.within(reading).await
    }
}

impl RabbitBus {
    /// Checks that a topic holds a place, or ends there.
    async fn held(&self, streams: &[String], position: Position) -> Result<usize> {
        let unknown = || position_unknown(position);
        let partition = usize::try_from(position.partition).map_err(|_| unknown())?;
        let stream = streams.get(partition).ok_or_else(unknown)?;
        let lines = self.shared.link.lines().await?;
        let extent = self
            .shared
            .link
            .within(streams::extent(&lines, stream))
            .await?;
        let range = extent.range;
        if (range.start..=range.end).contains(&position.offset) {
            Ok(partition)
        } else {
            Err(unknown())
        }
    }

    /// The error of a call that knew a topic of old.
    async fn unless_gone(&self, topic: &Name, error: Error) -> Error {
        match self.shared.look(topic).await {
            Ok(_) => error,
            Err(gone) => gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_partitions_for_ever() {
        let places: Vec<u64> = [&b""[..], b"a", b"order-17"]
            .map(|key| hash(key) % 16)
            .into();
        assert_eq!(places, [1, 0, 8]);
    }
}
