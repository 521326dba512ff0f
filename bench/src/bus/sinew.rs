//! The embedded bus, and the bare commit log beside it: what the disk gives at this moment.

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
use tempfile::TempDir;

use super::{Seen, Stream, Subject};

pub(super) const NAME: &str = "sinew";

pub(super) struct Embedded {
    bus: EmbeddedBus,
    // Dropped after the bus.
    _folder: TempDir,
}

impl Embedded {
    pub(super) fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let bus = EmbeddedBus::open(folder.path(), Clock::system(), BusOptions::default())?;
        Ok(Self {
            bus,
            _folder: folder,
        })
    }
}

struct Topic {
    bus: EmbeddedBus,
    topic: Name,
}

#[async_trait]
impl Subject for Embedded {
    fn name(&self) -> &'static str {
        NAME
    }

    fn durability(&self) -> &'static str {
        "synced before the answer, acks too"
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
