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
//! once may take the newest messages. The confirm does not tell the offset (`Published::In`). Retention removes whole
//! segments, is fixed when a topic is made, and knows nothing of groups: what a topic with
//! [`Unsettled::Keep`](sinew_engine::bus::Unsettled::Keep) holds, it holds for ever.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::AtomicU32},
    time::Duration,
};

use futures_util::future::try_join_all;
use sinew_core::{Clock, Name, Result};
use sinew_engine::{
    Health,
    bus::{Capability, Limits, TopicConfig},
};
use tokio::sync::{Semaphore, watch};

use crate::{Address, fault as common};
use catalogue::{Held, Topic};
use host::Host;
use link::{Lines, Link};
use progress::{Answer, Request};
use seat::Seat;

mod bus;
mod catalogue;
mod consumer;
mod envelope;
mod fault;
mod host;
mod intake;
mod link;
mod progress;
mod publish;
mod register;
mod seat;
mod session;
mod state;
mod streams;

const ENGINE: &str = "rabbitmq";
const PORT: u16 = 5672;
const TLS_PORT: u16 = 5671;

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
        let port = if is_tls { TLS_PORT } else { PORT };
        // `amqps` says on loopback too what `tls=on` says.
        let is_said = url.contains("?tls=") || url.contains("&tls=");
        let mark = if url.contains('?') { '&' } else { '?' };
        let address = if is_tls && !is_said {
            Address::parse(&format!("{url}{mark}tls=on"), port, &[])?
        } else {
            Address::parse(url, port, &[])?
        };
        if !matches!(address.scheme.as_str(), "amqp" | "amqps") {
            return Err(common::address(
                "RabbitMQ's URL begins with amqp:// or amqps://",
            ));
        }
        if is_tls && address.tls.is_none() {
            return Err(common::address(
                "amqps:// says that TLS is on, and tls=off that it is not",
            ));
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
            unconfirmed: Semaphore::new(publish::UNCONFIRMED_KIB as usize),
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
