//! What is measured, behind one trait.

use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;
use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use sinew_core::Clock;
use sinew_engine::cache::{Cache, Lifetime};
use sinew_engine_embedded::cache::EmbeddedCache;
use sinew_engine_external::{memcached::MemcachedCache, redis::RedisCache};
use sinew_testbed::Server;

use super::{LIFETIME, ROOM_MIB};

#[async_trait]
pub(crate) trait Held: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// The process that leads its server.
    fn server(&self) -> Option<u32>;

    /// What one task uses.
    async fn user(&self) -> Result<Box<dyn User>>;
}

#[async_trait]
pub(crate) trait User: Send {
    /// The length of the value.
    async fn get(&mut self, key: Bytes) -> Result<usize>;

    async fn set(&mut self, key: Bytes, value: Bytes) -> Result<()>;
}

/// One of Sinew's.
pub(crate) struct OverCache {
    name: &'static str,
    cache: Arc<dyn Cache>,
    server: Option<Arc<Server>>,
}

pub(crate) fn embedded() -> OverCache {
    let cache = EmbeddedCache::new(Clock::system(), u64::from(ROOM_MIB) << 20);
    OverCache {
        name: "sinew",
        cache: Arc::new(cache),
        server: None,
    }
}

pub(crate) fn over_redis(server: &Arc<Server>) -> Result<OverCache> {
    let address = RedisCache::address(&format!("redis://{}", server.address()))?;
    Ok(OverCache {
        name: "RedisCache",
        cache: Arc::new(RedisCache::open(&address, Clock::system())?),
        server: Some(Arc::clone(server)),
    })
}

pub(crate) fn over_memcached(server: &Arc<Server>) -> Result<OverCache> {
    let address = MemcachedCache::address(&format!("memcached://{}", server.address()))?;
    Ok(OverCache {
        name: "MemcachedCache",
        cache: Arc::new(MemcachedCache::open(&address, Clock::system())?),
        server: Some(Arc::clone(server)),
    })
}

#[async_trait]
impl Held for OverCache {
    fn name(&self) -> &'static str {
        self.name
    }

    fn server(&self) -> Option<u32> {
        self.server.as_ref().and_then(|server| server.pid())
    }

    async fn user(&self) -> Result<Box<dyn User>> {
        Ok(Box::new(OfCache(Arc::clone(&self.cache))))
    }
}

struct OfCache(Arc<dyn Cache>);

#[async_trait]
impl User for OfCache {
    async fn get(&mut self, key: Bytes) -> Result<usize> {
        let item = self.0.get(&key).await?;
        Ok(item.context("a miss")?.value.len())
    }

    async fn set(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        self.0.set(key, value, Lifetime::For(LIFETIME)).await?;
        Ok(())
    }
}

/// The `redis` crate: one connection for all, on which it sends what they write together.
pub(crate) struct RedisCrate {
    connection: MultiplexedConnection,
    server: Arc<Server>,
}

impl RedisCrate {
    pub(crate) async fn connect(server: &Arc<Server>) -> Result<Self> {
        let client = redis::Client::open(format!("redis://{}", server.address()))?;
        Ok(Self {
            connection: client.get_multiplexed_async_connection().await?,
            server: Arc::clone(server),
        })
    }
}

#[async_trait]
impl Held for RedisCrate {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn server(&self) -> Option<u32> {
        self.server.pid()
    }

    async fn user(&self) -> Result<Box<dyn User>> {
        Ok(Box::new(OfRedis(self.connection.clone())))
    }
}

struct OfRedis(MultiplexedConnection);

#[async_trait]
impl User for OfRedis {
    async fn get(&mut self, key: Bytes) -> Result<usize> {
        let value: Option<Vec<u8>> = self.0.get(&key[..]).await?;
        Ok(value.context("a miss")?.len())
    }

    async fn set(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        let set = self.0.set_ex(&key[..], &value[..], LIFETIME.as_secs());
        Ok(set.await?)
    }
}
