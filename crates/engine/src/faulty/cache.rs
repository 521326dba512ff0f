use async_trait::async_trait;
use bytes::Bytes;
use sinew_core::Result;

use super::Faulty;
use crate::cache::{Cache, Capability, Increment, Item, Key, Lifetime, Statistics, Swap, Version};

/// Carries out a write, of which nobody could find out what became of it.
macro_rules! write {
    ($layer:expr, $call:expr) => {{
        $layer.before(false).await?;
        let answer = $call.await?;
        $layer.after(false)?;
        Ok(answer)
    }};
}

#[async_trait]
impl<C: Cache> Cache for Faulty<C> {
    fn capability(&self) -> &Capability {
        self.inner.capability()
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Item>> {
        // Not twice: hits and misses are counted.
        self.before(true).await?;
        self.inner.get(key).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>> {
        self.before(true).await?;
        self.inner.get_many(keys).await
    }

    async fn set(&self, key: Key, value: Bytes, lifetime: Lifetime) -> Result<Version> {
        write!(self, self.inner.set(key, value, lifetime))
    }

    async fn set_many(&self, items: Vec<(Key, Bytes)>, lifetime: Lifetime) -> Result<()> {
        write!(self, self.inner.set_many(items, lifetime))
    }

    async fn set_if_absent(
        &self,
        key: Key,
        value: Bytes,
        lifetime: Lifetime,
    ) -> Result<Option<Version>> {
        write!(self, self.inner.set_if_absent(key, value, lifetime))
    }

    async fn compare_and_set(
        &self,
        key: Key,
        expected: Version,
        value: Bytes,
        lifetime: Lifetime,
    ) -> Result<Swap> {
        let call = self.inner.compare_and_set(key, expected, value, lifetime);
        write!(self, call)
    }

    async fn increment(&self, key: Key, increment: Increment) -> Result<i64> {
        write!(self, self.inner.increment(key, increment))
    }

    async fn touch(&self, key: &[u8], lifetime: Lifetime) -> Result<bool> {
        repeatable!(self, self.inner.touch(key, lifetime))
    }

    async fn delete(&self, key: &[u8]) -> Result<bool> {
        write!(self, self.inner.delete(key))
    }

    async fn compare_and_delete(&self, key: &[u8], expected: Version) -> Result<bool> {
        write!(self, self.inner.compare_and_delete(key, expected))
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        write!(self, self.inner.delete_many(keys))
    }

    async fn clear(&self) -> Result<()> {
        repeatable!(self, self.inner.clear())
    }

    async fn statistics(&self) -> Result<Statistics> {
        repeatable!(self, self.inner.statistics())
    }
}
