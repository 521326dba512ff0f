//! RabbitMQ by lapin: a quorum queue or a stream, each publish confirmed.

use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use sinew_testbed::{RabbitMq as Program, Server};

use super::{Seen, Stream, Subject};

/// Messages that the consumer may have at once.
const AHEAD: u16 = 4096;

pub(super) struct RabbitMq {
    /// What `x-queue-type` calls it.
    kind: &'static str,
    connection: Connection,
    pub(super) server: Arc<Server>,
}

impl RabbitMq {
    pub(super) async fn start(kind: &'static str) -> Result<Self> {
        let program = Program::default();
        let server = tokio::task::spawn_blocking(|| Server::start(program)).await??;
        let url = format!("amqp://guest:guest@{}/%2f", server.address());
        let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
        Ok(Self {
            kind,
            connection,
            server: Arc::new(server),
        })
    }
}

struct Queue {
    name: String,
    is_stream: bool,
    producers: Channel,
    consumer: Channel,
}

#[async_trait]
impl Subject for RabbitMq {
    fn name(&self) -> &'static str {
        match self.kind {
            "stream" => "lapin, stream",
            _ => "rabbitmq quorum",
        }
    }

    fn durability(&self) -> &'static str {
        match self.kind {
            "stream" => "stream, confirmed, not synced by the broker",
            _ => "quorum queue of one, confirmed: its log is synced",
        }
    }

    fn server(&self) -> Option<u32> {
        self.server.pid()
    }

    async fn stream(&self, name: &str) -> Result<Arc<dyn Stream>> {
        let producers = self.connection.create_channel().await?;
        let confirms = ConfirmSelectOptions::default();
        producers.confirm_select(confirms).await?;
        let mut arguments = FieldTable::default();
        let kind = AMQPValue::LongString(self.kind.into());
        arguments.insert("x-queue-type".into(), kind);
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let name = format!("plain-{name}");
        producers
            .queue_declare(name.as_str().into(), durable, arguments)
            .await?;
        Ok(Arc::new(Queue {
            name,
            is_stream: self.kind == "stream",
            producers,
            consumer: self.connection.create_channel().await?,
        }))
    }
}

#[async_trait]
impl Stream for Queue {
    async fn publish(&self, payloads: Vec<Bytes>) -> Result<()> {
        let mut confirms = Vec::with_capacity(payloads.len());
        for payload in payloads {
            let persistent = BasicProperties::default().with_delivery_mode(2);
            let options = BasicPublishOptions::default();
            let (exchange, key) = ("".into(), self.name.as_str().into());
            let sent = self
                .producers
                .basic_publish(exchange, key, options, &payload, persistent);
            confirms.push(sent.await?);
        }
        for confirm in confirms {
            let confirmed = confirm.await?;
            anyhow::ensure!(confirmed.is_ack(), "a message was not confirmed");
        }
        Ok(())
    }

    async fn consume(&self, seen: Arc<Seen>) -> Result<()> {
        let qos = BasicQosOptions::default();
        self.consumer.basic_qos(AHEAD, qos).await?;
        let mut arguments = FieldTable::default();
        if self.is_stream {
            let first = AMQPValue::LongString("first".into());
            arguments.insert("x-stream-offset".into(), first);
        }
        let options = BasicConsumeOptions::default();
        let (queue, tag) = (self.name.as_str().into(), "bench".into());
        let consuming = self
            .consumer
            .basic_consume(queue, tag, options, arguments)
            .await;
        let mut messages = consuming.context("it cannot be consumed")?;
        while let Some(message) = messages.next().await {
            let message = message?;
            seen.note(std::iter::once(&message.data[..]));
            message.ack(BasicAckOptions::default()).await?;
        }
        Ok(())
    }
}
