//! Redis Streams, each write synced before its answer.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use redis::{
    AsyncCommands as _, AsyncConnectionConfig, Client, Value,
    aio::MultiplexedConnection,
    streams::{StreamReadOptions, StreamReadReply},
};
use sinew_testbed::{Redis as Program, Server};

use super::{Seen, Stream, Subject};

pub(super) struct Redis {
    client: Client,
    /// One for all producers: the client sends what they write together.
    producers: MultiplexedConnection,
    server: Server,
}

impl Redis {
    pub(super) async fn start() -> Result<Self> {
        let durable = Program {
            durable: true,
            ..Program::default()
        };
        let server = tokio::task::spawn_blocking(|| Server::start(durable)).await??;
        let client = Client::open(format!("redis://{}", server.address()))?;
        let producers = connect(&client).await?;
        Ok(Self {
            client,
            producers,
            server,
        })
    }
}

/// A slow disk is no error here.
async fn connect(client: &Client) -> Result<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
    Ok(client
        .get_multiplexed_async_connection_with_config(&config)
        .await?)
}

struct Key {
    key: String,
    producers: MultiplexedConnection,
    consumer: MultiplexedConnection,
}

#[async_trait]
impl Subject for Redis {
    fn name(&self) -> &'static str {
        "redis streams"
    }

    fn durability(&self) -> &'static str {
        "appendfsync always"
    }

    fn server(&self) -> Option<u32> {
        self.server.pid()
    }

    async fn stream(&self, name: &str) -> Result<Arc<dyn Stream>> {
        let mut consumer = connect(&self.client).await?;
        let made: Value = consumer.xgroup_create_mkstream(name, "bench", "0").await?;
        drop(made);
        Ok(Arc::new(Key {
            key: name.to_owned(),
            producers: self.producers.clone(),
            consumer,
        }))
    }
}

#[async_trait]
impl Stream for Key {
    async fn publish(&self, payloads: Vec<Bytes>) -> Result<()> {
        let mut pipeline = redis::pipe();
        for payload in &payloads {
            pipeline
                .xadd(&self.key, "*", &[("p", &payload[..])])
                .ignore();
        }
        let mut producers = self.producers.clone();
        let _: () = pipeline.query_async(&mut producers).await?;
        Ok(())
    }

    async fn consume(&self, seen: Arc<Seen>) -> Result<()> {
        let mut connection = self.consumer.clone();
        let options = StreamReadOptions::default()
            .group("bench", "one")
            .count(1024)
            .block(200);
        loop {
            let reply: Option<StreamReadReply> = connection
                .xread_options(&[&self.key], &[">"], &options)
                .await?;
            for key in reply.map(|reply| reply.keys).unwrap_or_default() {
                let payload = |value: &Value| match value {
                    Value::BulkString(payload) => payload.clone(),
                    _ => Vec::new(),
                };
                let entries = key.ids.iter().filter_map(|id| id.map.get("p"));
                let payloads: Vec<Vec<u8>> = entries.map(payload).collect();
                seen.note(payloads.iter().map(|payload| &payload[..]));
                let ids: Vec<&str> = key.ids.iter().map(|id| id.id.as_str()).collect();
                let _: u64 = connection.xack(&self.key, "bench", &ids).await?;
            }
        }
    }
}
