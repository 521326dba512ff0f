use std::time::Duration;

use async_trait::async_trait;
use sinew_core::Result;

use super::{Faulty, unavailable};
use crate::kv::{
    Batch, Capability, Condition, Entry, Kv, LeaseId, Outcome, Page, Revision, Span, Watch, Write,
};

#[async_trait]
impl<K: Kv + Clone> Kv for Faulty<K> {
    fn capability(&self) -> &Capability {
        self.inner.capability()
    }

    async fn revision(&self) -> Result<Revision> {
        repeatable!(self, self.inner.revision())
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        repeatable!(self, self.inner.get(key))
    }

    async fn range(&self, span: Span, limit: usize, at: Option<Revision>) -> Result<Page> {
        repeatable!(self, self.inner.range(span.clone(), limit, at))
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Outcome> {
        // With a mark ([`crate::retry`]) it can often be found out what became of a commit, not always.
        let decidable = writes.is_empty();
        self.before(decidable).await?;
        let outcome = self.inner.commit(conditions, writes).await?;
        self.after(decidable)?;
        Ok(outcome)
    }

    async fn watch(&self, span: Span, after: Revision) -> Result<Box<dyn Watch>> {
        let watch = repeatable!(self, self.inner.watch(span.clone(), after))?;
        Ok(Box::new(FaultyWatch {
            watch,
            layer: self.clone(),
        }))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.before(true).await?;
        let lease = self.inner.grant(ttl).await?;
        self.after(true)?;
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        repeatable!(self, self.inner.keep_alive(lease))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        // Nobody could tell then whether this call ended it, or its time.
        self.before(false).await?;
        self.inner.revoke(lease).await?;
        self.after(false)
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        repeatable!(self, self.inner.compact(revision))
    }
}

struct FaultyWatch<K> {
    watch: Box<dyn Watch>,
    layer: Faulty<K>,
}

#[async_trait]
impl<K: Kv + Clone> Watch for FaultyWatch<K> {
    async fn next(&mut self) -> Result<Batch> {
        let batch = self.watch.next().await?;
        if self.layer.is_away() || self.layer.happens(self.layer.faults.breaks) {
            return Err(unavailable());
        }
        Ok(batch)
    }
}
