//! NATS JetStream in files, synced before its answers or every two minutes, which is its default.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use async_nats::jetstream::{
    self, Context,
    consumer::pull,
    stream::{Config, StorageType},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use sinew_testbed::{Nats as Program, Server};

use super::{Seen, Stream, Subject};

pub(super) struct Nats {
    is_synced: bool,
    context: Context,
    pub(super) server: Arc<Server>,
}

impl Nats {
    pub(super) async fn start(is_synced: bool) -> Result<Self> {
        let program = if is_synced {
            Program::default().synced()
        } else {
            Program::default()
        };
        let server = tokio::task::spawn_blocking(|| Server::start(program)).await??;
        let client = async_nats::connect(server.address()).await?;
        Ok(Self {
            is_synced,
            context: jetstream::new(client),
            server: Arc::new(server),
        })
    }
}

struct Named {
    name: String,
    context: Context,
    stream: jetstream::stream::Stream,
}

#[async_trait]
impl Subject for Nats {
    fn name(&self) -> &'static str {
        if self.is_synced {
            "nats synced"
        } else {
            "nats default"
        }
    }

    fn durability(&self) -> &'static str {
        if self.is_synced {
            "sync_interval always"
        } else {
            "not synced before the answer (sync_interval 2m)"
        }
    }

    fn server(&self) -> Option<u32> {
        self.server.pid()
    }

    async fn stream(&self, name: &str) -> Result<Arc<dyn Stream>> {
        let config = Config {
            name: name.to_owned(),
            subjects: vec![name.to_owned()],
            storage: StorageType::File,
            ..Config::default()
        };
        let stream = self.context.create_stream(config).await?;
        Ok(Arc::new(Named {
            name: name.to_owned(),
            context: self.context.clone(),
            stream,
        }))
    }
}

#[async_trait]
impl Stream for Named {
    async fn publish(&self, payloads: Vec<Bytes>) -> Result<()> {
        let mut acks = Vec::with_capacity(payloads.len());
        for payload in payloads {
            acks.push(self.context.publish(self.name.clone(), payload).await?);
        }
        for ack in acks {
            ack.await?;
        }
        Ok(())
    }

    async fn consume(&self, seen: Arc<Seen>) -> Result<()> {
        let config = pull::Config {
            durable_name: Some("bench".to_owned()),
            max_ack_pending: 4096,
            ..pull::Config::default()
        };
        let consumer = self.stream.create_consumer(config).await?;
        let mut messages = consumer.messages().await?;
        while let Some(message) = messages.next().await {
            let message = message?;
            seen.note(std::iter::once(&message.payload[..]));
            let acked = message.ack().await;
            acked
                .map_err(|cause| anyhow::anyhow!(cause))
                .context("an ack failed")?;
        }
        Ok(())
    }
}
