//! `Bus` over NATS JetStream, 2.9 or newer.
//!
//! `nats://user@host:4222,host:4222?namespace=…`. Options of its own:
//! - `replicas`: copies of each stream that is made (1 to 5); 1 unless it is given.
//! - `lease`: how long a node that is gone without a word keeps others from its partitions (`10s`).
//!
//! With a user and no password, the password is empty; with a password and no user, it is a token.
//!
//! # How the contract is kept
//! A topic is a stream with a subject for each partition, so its ids, its bytes and its age are the topic's, as the
//! contract wants. An offset is the sequence number of the stream less one: offsets of a partition
//! grow, with gaps where other partitions have theirs. Groups are run by the shell (`bus_shell`), which keeps its
//! records in a second stream, the last of each subject; a conditional write is a publish with the
//! sequence number that is expected. A stream is read with a consumer that settles nothing and can be lost at any time.
//!
//! A dead letter has a subject of its own, made of where it comes from, and is published on the
//! condition that there is none: it is there once for as long as it is kept, however often the publish is repeated. No window of
//! de-duplication could promise that.
//!
//! # What durable means
//! JetStream acknowledges what the operating system has. With `sync_interval: always` in the server's `jetstream`
//! block it is on the disk; otherwise a power loss takes the last two minutes of a stream with one replica, and a stream
//! with three survives the loss of one machine. The server does not tell its setting, so with
//! `replicas=1` a warning says so once, at the first connection.
//!
//! # What it cannot do
//! Due times: a scheduled message would have to be de-duplicated with those of its topic before it is in its stream.
//! All-or-nothing publishes of many messages: servers before 2.12 have none. A publish sends its messages one
//! behind the other up to a key that comes again, and waits there, so that of the messages of a key never a
//! later one is there without the earlier ones.

mod api;
mod backend;
mod envelope;
mod jetstream;
mod link;
mod log;
mod names;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sinew_core::{Name, Result, units};
use sinew_engine::{
    Health,
    bus::{
        Bus, Capability, Consumer, GroupState, Message, Position, Published, Record, Seek,
        Subscription, TopicConfig, TopicState,
    },
};
use tokio::{sync::watch, task::AbortHandle};

use crate::{Address, bus_shell::Shell, fault};
use jetstream::Jetstream;
use link::Link;
use names::Names;

/// The port that NATS usually listens on.
pub const PORT: u16 = 4222;

/// How a [`NatsBus`] works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Copies of each stream that is made.
    pub replicas: usize,
    /// How long a node that is gone without a word keeps others from its partitions.
    pub lease: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            replicas: 1,
            lease: Duration::from_secs(10),
        }
    }
}

impl Options {
    /// The names of the options that a URL may have, for [`Address::parse`].
    pub const NAMES: &[&str] = &["replicas", "lease"];

    /// Reads the options of a URL; `engine.address` (InvalidArgument) says what is wrong with them.
    pub fn read(address: &Address) -> Result<Self> {
        let mut options = Self::default();
        if let Some(text) = address.option("replicas") {
            let replicas = text.parse().ok().filter(|count| (1..=5).contains(count));
            options.replicas = replicas
                .ok_or_else(|| fault::address(format!("replicas is 1 to 5, not {text:?}")))?;
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
        if !(1..=5).contains(&self.replicas) {
            return Err(fault::address("replicas is 1 to 5"));
        }
        Ok(())
    }
}

/// `Bus` over NATS JetStream. See the module's text. Clones are the same bus.
#[derive(Clone)]
pub struct NatsBus {
    shell: Shell,
    link: Arc<Link>,
    _connecting: Arc<Connecting>,
}

struct Connecting(AbortHandle);

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl NatsBus {
    /// Opens a bus; the server may be away. `engine.address` (InvalidArgument) when something is wrong with the URL or the
    /// options. Wants a tokio runtime.
    pub fn open(address: &Address, options: &Options) -> Result<Self> {
        options.check()?;
        let (link, connecting) = Link::open(address, options.replicas == 1)?;
        let backend = Jetstream {
            link: link.clone(),
            names: Names {
                namespace: address.namespace.clone(),
            },
            replicas: options.replicas,
            lease: options.lease,
            capability: jetstream::capability(),
        };
        Ok(Self {
            shell: Shell::new(Arc::new(backend), options.lease, address.timeout),
            link,
            _connecting: Arc::new(Connecting(connecting.abort_handle())),
        })
    }

    /// Whether the server can be reached.
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
impl Bus for NatsBus {
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
