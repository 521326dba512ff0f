//! A shared store is a store, so that `&Arc<dyn Kv>` goes wherever `&dyn Kv` does.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sinew_core::Result;

use super::{
    Capability, Condition, Entry, Kv, LeaseId, Outcome, Page, Revision, Span, Watch, Write,
};

#[async_trait]
impl<K: Kv + ?Sized> Kv for Arc<K> {
    fn capability(&self) -> &Capability {
        (**self).capability()
    }

    async fn revision(&self) -> Result<Revision> {
        (**self).revision().await
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        (**self).get(key).await
    }

    async fn range(&self, span: Span, limit: usize, at: Option<Revision>) -> Result<Page> {
        (**self).range(span, limit, at).await
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Outcome> {
        (**self).commit(conditions, writes).await
    }

    async fn watch(&self, span: Span, after: Revision) -> Result<Box<dyn Watch>> {
        (**self).watch(span, after).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        (**self).grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        (**self).keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        (**self).revoke(lease).await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        (**self).compact(revision).await
    }
}
