//! Sinew's buses, and the bare commit log beside it: what the disk gives at this moment.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use sinew_core::{Clock, Name};
use sinew_engine::bus::{
    Bus, GroupConfig, Message, Retention, Subscription, TopicConfig, Unsettled,
};
use sinew_engine_embedded::{
    BusOptions, EmbeddedBus,
    log::{self, Log},
    storage::RealStorage,
};
use sinew_engine_external::{
    Address,
    nats::{self, NatsBus},
    rabbitmq::RabbitBus,
};
use sinew_testbed::Server;
use tempfile::TempDir;

use super::{Seen, Stream, Subject};

pub(super) const NAME: &str = "sinew";

/// Kept as long as the bus is.
enum Beneath {
    Folder(#[expect(dead_code, reason = "removed when it is dropped")] TempDir),
    Server(Arc<Server>),
}

pub(super) struct OverBus {
    name: &'static str,
    durability: &'static str,
    bus: Arc<dyn Bus>,
    // Dropped after the bus.
    beneath: Beneath,
}

impl OverBus {
    pub(super) fn embedded() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let bus = EmbeddedBus::open(folder.path(), Clock::system(), BusOptions::default())?;
        Ok(Self {
            name: NAME,
            durability: "synced before the answer, acks too",
            bus: Arc::new(bus),
            beneath: Beneath::Folder(folder),
        })
    }
}

pub(super) fn over_nats(server: &Arc<Server>) -> Result<OverBus> {
    let url = format!("nats://{}?timeout=30s", server.address());
    let address = Address::parse(&url, nats::PORT, nats::Options::NAMES)?;
    let bus = NatsBus::open(&address, &nats::Options::default())?;
    Ok(OverBus {
        name: "NatsBus",
        durability: "not synced before the answer (sync_interval 2m)",
        bus: Arc::new(bus),
        beneath: Beneath::Server(Arc::clone(server)),
    })
}

pub(super) fn over_rabbitmq(server: &Arc<Server>) -> Result<OverBus> {
    let address = RabbitBus::address(&format!("amqp://{}?timeout=30s", server.address()))?;
    Ok(OverBus {
        name: "RabbitBus",
        durability: "stream, confirmed, not synced by the broker",
        bus: Arc::new(RabbitBus::open(address, Clock::system())),
        beneath: Beneath::Server(Arc::clone(server)),
    })
}

struct Topic {
    bus: Arc<dyn Bus>,
    topic: Name,
}

#[async_trait]
impl Subject for OverBus {
    fn name(&self) -> &'static str {
        self.name
    }

    fn durability(&self) -> &'static str {
        self.durability
    }

    fn server(&self) -> Option<u32> {
        match &self.beneath {
            Beneath::Folder(_) => None,
            Beneath::Server(server) => server.pid(),
        }
    }

    async fn stream(&self, name: &str) -> Result<Arc<dyn Stream>> {
        let topic = Name::new(&name.to_lowercase())?;
        let config = TopicConfig {
            partitions: 1,
            retention: Retention {
                age: None,
                bytes: None,
                unsettled: Unsettled::Keep,
            },
            deduplication: Duration::ZERO,
        };
        self.bus.create_topic(&topic, config).await?;
        Ok(Arc::new(Topic {
            bus: self.bus.clone(),
            topic,
        }))
    }
}

#[async_trait]
impl Stream for Topic {
    async fn publish(&self, payloads: Vec<Bytes>) -> Result<()> {
        let messages = payloads.into_iter().map(Message::new).collect();
        self.bus.publish(&self.topic, messages).await?;
        Ok(())
    }

    async fn consume(&self, seen: Arc<Seen>) -> Result<()> {
        let subscription = Subscription {
            group: GroupConfig::default(),
            in_flight: 4096,
        };
        let group = Name::new("bench")?;
        let consumer = self
            .bus
            .subscribe(&self.topic, &group, subscription)
            .await?;
        loop {
            let deliveries = consumer.next_many(1024).await?;
            seen.note(
                deliveries
                    .iter()
                    .map(|delivery| &delivery.record.message.payload[..]),
            );
            let receipts: Vec<_> = deliveries.iter().map(|delivery| delivery.receipt).collect();
            let consumer = Arc::clone(&consumer);
            // The next are taken while the ack is on its way.
            tokio::spawn(async move { consumer.ack(&receipts).await });
        }
    }
}

/// Appends of the same size to the log, without a bus.
pub(super) struct LogAlone {
    log: Arc<Log>,
    _folder: TempDir,
}

impl LogAlone {
    pub(super) fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path: &Path = folder.path();
        let log = Log::open(
            Arc::new(RealStorage),
            &path.join("log"),
            &log::Options::default(),
        )?;
        Ok(Self {
            log: Arc::new(log),
            _folder: folder,
        })
    }
}

#[async_trait]
impl Subject for LogAlone {
    fn name(&self) -> &'static str {
        "log alone"
    }

    fn durability(&self) -> &'static str {
        "synced before the answer, nobody consumes"
    }

    async fn stream(&self, _name: &str) -> Result<Arc<dyn Stream>> {
        Ok(Arc::new(Appender(Arc::clone(&self.log))))
    }
}

struct Appender(Arc<Log>);

#[async_trait]
impl Stream for Appender {
    async fn publish(&self, payloads: Vec<Bytes>) -> Result<()> {
        self.0.append(payloads.concat()).await?;
        Ok(())
    }

    async fn consume(&self, _seen: Arc<Seen>) -> Result<()> {
        Ok(())
    }
}
