//! A shared cache is a cache, so that `&Arc<dyn Cache>` goes wherever `&dyn Cache` does.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sinew_core::Result;

use super::{Cache, Capability, Increment, Item, Key, Lifetime, Statistics, Swap, Version};

#[async_trait]
impl<C: Cache + ?Sized> Cache for Arc<C> {
    fn capability(&self) -> &Capability {
        (**self).capability()
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Item>> {
        (**self).get(key).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>> {
        (**self).get_many(keys).await
    }

    async fn set(&self, key: Key, value: Bytes, lifetime: Lifetime) -> Result<Version> {
        (**self).set(key, value, lifetime).await
    }

    async fn set_many(&self, items: Vec<(Key, Bytes)>, lifetime: Lifetime) -> Result<()> {
        (**self).set_many(items, lifetime).await
    }

    async fn set_if_absent(
        &self,
        key: Key,
        value: Bytes,
        lifetime: Lifetime,
    ) -> Result<Option<Version>> {
        (**self).set_if_absent(key, value, lifetime).await
    }

    async fn compare_and_set(
        &self,
        key: Key,
        expected: Version,
        value: Bytes,
        lifetime: Lifetime,
    ) -> Result<Swap> {
        (**self)
            .compare_and_set(key, expected, value, lifetime)
            .await
    }

    async fn increment(&self, key: Key, increment: Increment) -> Result<i64> {
        (**self).increment(key, increment).await
    }

    async fn touch(&self, key: &[u8], lifetime: Lifetime) -> Result<bool> {
        (**self).touch(key, lifetime).await
    }

    async fn delete(&self, key: &[u8]) -> Result<bool> {
        (**self).delete(key).await
    }

    async fn compare_and_delete(&self, key: &[u8], expected: Version) -> Result<bool> {
        (**self).compare_and_delete(key, expected).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        (**self).delete_many(keys).await
    }

    async fn clear(&self) -> Result<()> {
        (**self).clear().await
    }

    async fn statistics(&self) -> Result<Statistics> {
        (**self).statistics().await
    }
}
