use async_trait::async_trait;
use bytes::Bytes;
use sinew_core::Result;

use super::{Retrying, is_undone};
use crate::cache::{Cache, Capability, Increment, Item, Key, Lifetime, Statistics, Swap, Version};

/// Reads, lifetimes and the clearing are repeated; writes only when nothing was done, since a write that comes late would
/// bring an old value back over a newer one.
///
/// A reader that has a source to go to had better take an error for a miss at once, with a short
/// [`super::Policy::within`] or without this layer.
#[async_trait]
impl<C: Cache> Cache for Retrying<C> {
    fn capability(&self) -> &Capability {
        self.inner.capability()
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Item>> {
        repeat!(self, self.inner.get(key))
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>> {
        repeat!(self, self.inner.get_many(keys))
    }

    async fn set(&self, key: Key, value: Bytes, lifetime: Lifetime) -> Result<Version> {
        let call = || self.inner.set(key.clone(), value.clone(), lifetime);
        repeat!(self, call(), is_undone)
    }

    async fn set_many(&self, items: Vec<(Key, Bytes)>, lifetime: Lifetime) -> Result<()> {
        let call = || self.inner.set_many(items.clone(), lifetime);
        repeat!(self, call(), is_undone)
    }

    async fn set_if_absent(
        &self,
        key: Key,
        value: Bytes,
        lifetime: Lifetime,
    ) -> Result<Option<Version>> {
        let call = || {
            let (key, value) = (key.clone(), value.clone());
            self.inner.set_if_absent(key, value, lifetime)
        };
        repeat!(self, call(), is_undone)
    }

    async fn compare_and_set(
        &self,
        key: Key,
        expected: Version,
        value: Bytes,
        lifetime: Lifetime,
    ) -> Result<Swap> {
        let call = || {
            let (key, value) = (key.clone(), value.clone());
            self.inner.compare_and_set(key, expected, value, lifetime)
        };
        repeat!(self, call(), is_undone)
    }

    async fn increment(&self, key: Key, increment: Increment) -> Result<i64> {
        let call = || self.inner.increment(key.clone(), increment);
        repeat!(self, call(), is_undone)
    }

    async fn touch(&self, key: &[u8], lifetime: Lifetime) -> Result<bool> {
        repeat!(self, self.inner.touch(key, lifetime))
    }

    async fn delete(&self, key: &[u8]) -> Result<bool> {
        repeat!(self, self.inner.delete(key), is_undone)
    }

    async fn compare_and_delete(&self, key: &[u8], expected: Version) -> Result<bool> {
        let call = || self.inner.compare_and_delete(key, expected);
        repeat!(self, call(), is_undone)
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        repeat!(self, self.inner.delete_many(keys), is_undone)
    }

    async fn clear(&self) -> Result<()> {
        repeat!(self, self.inner.clear())
    }

    async fn statistics(&self) -> Result<Statistics> {
        repeat!(self, self.inner.statistics())
    }
}
