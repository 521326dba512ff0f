//! `Bus` over Kafka 2.8 or newer, with or without ZooKeeper, and over what speaks its protocol.
//!
//! `kafka://user@host:9092,host:9092?namespace=…`. Options of its own:
//! - `replicas`: copies of each topic that is made (1 to 9); 1 unless it is given. Of more than one, a majority must have a
//!   message before it is acknowledged (`min.insync.replicas`).
//! - `flush`: `always` lets brokers sync each batch to the disk before it is acknowledged (`flush.messages=1`), `never`
//!   leaves that to their operating systems. Without it: `always` with one replica, `never` with several.
//! - `sasl`: how the password is shown, `plain`, `scram-sha-256` or `scram-sha-512`; the second unless it is given.
//! - `lease`: how long a node that is gone without a word keeps others from its partitions (`10s`).
//!
//! # How the contract is kept
//! A topic is one in Kafka, with its partitions, and each message a record with key, value and headers, which other clients
//! of Kafka can read. Groups are run by the shell (`bus_shell`), not by Kafka: its groups commit one offset a partition, so that
//! nothing can be settled behind a message that waits. What the shell keeps is in *registers* (module `register`): logs
//! whose conditional writes everybody who reads them decides alike.
//!
//! Of a dead letter Kafka may hold copies, of which a register says which one counts (module `marks`).
//!
//! # What durable means
//! Publishes ask for `acks=all`. With `flush=always` a message is on the disk of the partition's leader, and with several
//! replicas on that of each that is in sync, when it is acknowledged. With `flush=never` it is with a majority of the replicas,
//! in the memory of their operating systems: brokers that are killed lose nothing, power that fails on all of them at
//! once may take the newest messages. With one replica and `flush=never` a warning says so once.
//!
//! # What it cannot do
//! - Due times: a record enters the log when it is published.
//! - Remember ids: Kafka de-duplicates what one producer sends twice over one session, which is something else. A publish whose fate is
//!   unknown and that is repeated may be there twice.
//! - All-or-nothing publishes over several partitions. Kafka's transactions could, at the price of a marker in the log for each,
//!   which would count as lag. Messages that go to one partition at the same time are one batch, and all there or none.
//! - Measure a topic exactly, and refuse what has no room: with `Unsettled::Keep` what a group owes stays, what is older
//!   than the topic's age and not owed goes, and bytes bound nothing. With `Unsettled::Drop` brokers remove whole
//!   segments, later than they could, and each partition has its share of the bytes.
//!
//! # What was rejected
//! - *rdkafka*: C, with a TLS of its own.
//! - *krafka*: its producer and consumer do much that must not be done here (their own groups, batching and retries), at the price of 120,000
//!   lines; *rskafka*: makes topics without settings and repeats publishes whose fate is unknown. So requests are
//!   written and read by `kafka-protocol`, and the connection is ours (module `wire`).
//! - *Transactions for settling* (fencing by `transactional.id`): one for each partition of each group that is
//!   held, two more round trips for each write, and values that must be kept somewhere all the same.

mod backend;
mod batch;
mod brokers;
mod catalogue;
mod codes;
mod envelope;
mod follow;
mod intake;
mod ledger;
mod link;
mod marks;
mod register;
mod requests;
mod scram;
mod wire;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sinew_core::{Name, Result, units};
use sinew_engine::{
    Health,
    bus::{
        Bus, Capability, Consumer, GroupState, Limits, Message, Position, Published, Record, Seek,
        Subscription, TopicConfig, TopicState,
    },
};
use tokio::{sync::watch, task::AbortHandle};

use crate::{Address, bus_shell::Shell, fault};
use backend::Handle;
use brokers::Brokers;
use link::Link;
use wire::{Credentials, Mechanism};

/// The port that Kafka usually listens on.
pub const PORT: u16 = 9092;

const ENGINE: &str = "kafka";

/// How a password is shown to Kafka.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sasl {
    /// As it is; only over TLS.
    Plain,
    /// By SCRAM with SHA-256: the password does not leave the machine.
    #[default]
    Scram256,
    /// By SCRAM with SHA-512.
    Scram512,
}

/// How a [`KafkaBus`] works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Copies of each topic that is made.
    pub replicas: u8,
    /// Whether brokers sync each batch to the disk before they acknowledge it.
    pub flush: bool,
    /// How a password is shown.
    pub sasl: Sasl,
    /// How long a node that is gone without a word keeps others from its partitions.
    pub lease: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            replicas: 1,
            flush: true,
            sasl: Sasl::default(),
            lease: Duration::from_secs(10),
        }
    }
}

impl Options {
    /// The names of the options that a URL may have, for [`Address::parse`].
    pub const NAMES: &[&str] = &["replicas", "flush", "sasl", "lease"];

    /// Reads the options of a URL; `engine.address` (InvalidArgument) says what is wrong with them.
    pub fn read(address: &Address) -> Result<Self> {
        let mut options = Self::default();
        if let Some(text) = address.option("replicas") {
            options.replicas = text
                .parse()
                .map_err(|_| fault::address(format!("replicas is 1 to 9, not {text:?}")))?;
        }
        options.flush = match address.option("flush") {
            Some("always") => true,
            Some("never") => false,
            Some(text) => {
                let why = format!("flush is always or never, not {text:?}");
                return Err(fault::address(why));
            }
            None => options.replicas == 1,
        };
        if let Some(text) = address.option("sasl") {
            options.sasl = match text {
                "plain" => Sasl::Plain,
                "scram-sha-256" => Sasl::Scram256,
                "scram-sha-512" => Sasl::Scram512,
                _ => {
                    return Err(fault::address(format!(
                        "sasl is plain, scram-sha-256 or scram-sha-512, not {text:?}"
                    )));
                }
            };
        }
        if let Some(text) = address.option("lease") {
            options.lease = units::read_duration(text)
                .ok_or_else(|| fault::address(format!("lease is a time like 10s, not {text:?}")))?;
        }
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<()> {
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(600));
        if !(least..=most).contains(&self.lease) {
            return Err(fault::address("lease is 1 s to 10 min"));
        }
        if !(1..=9).contains(&self.replicas) {
            return Err(fault::address("replicas is 1 to 9"));
        }
        Ok(())
    }

    fn credentials(&self, address: &Address) -> Result<Option<Credentials>> {
        let mechanism = match self.sasl {
            Sasl::Plain => Mechanism::Plain,
            Sasl::Scram256 => Mechanism::Scram256,
            Sasl::Scram512 => Mechanism::Scram512,
        };
        match (&address.user, address.password()) {
            (Some(user), password) => Ok(Some(Credentials {
                mechanism,
                user: user.clone(),
                password: password.unwrap_or_default().to_owned(),
            })),
            (None, Some(_)) => Err(fault::address("a password needs a user before the hosts")),
            (None, None) => Ok(None),
        }
    }
}

/// What the engine can do.
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
        partitions: 256,
        deduplication: Duration::from_secs(24 * 3600),
        in_flight: 10_000,
        window: 20_000,
        ack_timeout_minimum: Duration::from_millis(100),
        delay: Duration::from_secs(30 * 24 * 3600),
        read_messages: 1000,
    },
};

/// `Bus` over Kafka. See the module's text. Clones are the same bus.
#[derive(Clone)]
pub struct KafkaBus {
    shell: Shell,
    link: Arc<Link>,
    _watching: Arc<Watching>,
}

struct Watching(AbortHandle);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl KafkaBus {
    /// Opens a bus; the brokers may be away. `engine.address` (InvalidArgument) when something is wrong with the URL or the
    /// options. Wants a tokio runtime.
    pub fn open(address: &Address, options: &Options) -> Result<Self> {
        options.check()?;
        let credentials = options.credentials(address)?;
        let warns = options.replicas == 1 && !options.flush;
        let link = Arc::new(Link::new(address, credentials, warns)?);
        let watched = link.clone();
        let watching = tokio::spawn(async move { watched.watch().await });
        let namespace = address.namespace.clone();
        let brokers = Brokers::new(link.clone(), namespace, options.clone(), CAPABILITY);
        let backend = Arc::new(Handle(Arc::new(brokers)));
        Ok(Self {
            shell: Shell::new(backend, options.lease, address.timeout),
            link,
            _watching: Arc::new(Watching(watching.abort_handle())),
        })
    }

    /// Whether the brokers can be reached.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.link.health()
    }

    /// Gives up what this node holds, so that other nodes go on at once and not after the lease. The consumers
    /// of this bus are at their end.
    pub async fn close(&self) {
        self.shell.close().await;
    }
}

#[async_trait]
impl Bus for KafkaBus {
    fn capability(&self) -> &Capability {
        self.shell.capability()
    }

    async fn create_topic(&self, topic: &Name, config: TopicConfig) -> Result<bool> {
        self.shell.create_topic(topic, config).await
    }

    async fn configure_topic(&self, topic: &Name, config: TopicConfig) -> Result<()> {
        self.shell.configure_topic(topic, config).await
    }

    async fn topic(&self, topic: &Name) -> Result<TopicState> {
        self.shell.topic(topic).await
    }

    async fn topics(&self) -> Result<Vec<Name>> {
        self.shell.topics().await
    }

    async fn delete_topic(&self, topic: &Name) -> Result<()> {
        self.shell.delete_topic(topic).await
    }

    async fn publish(&self, topic: &Name, messages: Vec<Message>) -> Result<Vec<Published>> {
        self.shell.publish(topic, messages).await
    }

    async fn subscribe(
        &self,
        topic: &Name,
        group: &Name,
        subscription: Subscription,
    ) -> Result<Arc<dyn Consumer>> {
        self.shell.subscribe(topic, group, subscription).await
    }

    async fn group(&self, topic: &Name, group: &Name) -> Result<GroupState> {
        self.shell.group(topic, group).await
    }

    async fn groups(&self, topic: &Name) -> Result<Vec<Name>> {
        self.shell.groups(topic).await
    }

    async fn seek(&self, topic: &Name, group: &Name, seek: Seek) -> Result<()> {
        self.shell.seek(topic, group, seek).await
    }

    async fn delete_group(&self, topic: &Name, group: &Name) -> Result<()> {
        self.shell.delete_group(topic, group).await
    }

    async fn read(&self, topic: &Name, from: Position, most: usize) -> Result<Vec<Record>> {
        self.shell.read(topic, from, most).await
    }
}
