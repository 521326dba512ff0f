//! An engine whose revisions have gaps, as the suite's cases want to see it: the first commit is 1, the
//! second 2. The numbers come from a watch of everything, so this also checks that every revision
//! which the engine answers is one of a commit, and that its watch tells of all of them.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sinew_core::Result;
use tokio::{sync::watch, task::JoinHandle};

use super::stand::soon;
use crate::kv::{
    Batch, Capability, Condition, Entry, Event, Kv, LeaseId, Outcome, Page, Revision, Span, Watch,
    Write,
};

pub(super) struct Dense {
    inner: Arc<dyn Kv>,
    numbers: Numbers,
    watching: JoinHandle<()>,
}

impl Drop for Dense {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Dense {
    /// Over an empty store.
    pub(super) fn over(inner: Arc<dyn Kv>) -> Self {
        Self::after(inner, Vec::new())
    }

    /// Over a store that has these commits, and perhaps more.
    pub(super) fn after(inner: Arc<dyn Kv>, commits: Vec<Revision>) -> Self {
        let last = commits.last().copied().unwrap_or(0);
        let (sender, receiver) = watch::channel(commits);
        let store = inner.clone();
        let watching = tokio::spawn(async move {
            let mut watch = store.watch(Span::all(), last).await.unwrap();
            while let Ok(batch) = watch.next().await {
                sender.send_modify(|commits| commits.push(batch.revision));
            }
        });
        Self {
            inner,
            numbers: Numbers(receiver),
            watching,
        }
    }

    /// The engine's revisions of all commits so far.
    pub(super) fn commits(&self) -> Vec<Revision> {
        self.numbers.0.borrow().clone()
    }
}

#[derive(Clone)]
struct Numbers(watch::Receiver<Vec<Revision>>);

impl Numbers {
    /// The number of the commit that has this revision in the engine.
    async fn dense(&self, revision: Revision) -> Revision {
        let mut commits = self.0.clone();
        let seen = commits.wait_for(|commits| commits.last().copied().unwrap_or(0) >= revision);
        let commits = soon(seen).await.unwrap();
        match commits.binary_search(&revision) {
            Ok(index) => index as Revision + 1,
            Err(_) if revision == 0 => 0,
            Err(_) => panic!("{revision} is not the revision of a commit"),
        }
    }

    /// What the engine calls a number. Those of the future stay in the future.
    fn sparse(&self, number: Revision) -> Revision {
        let commits = self.0.borrow();
        let last = commits.last().copied().unwrap_or(0);
        match (number as usize).checked_sub(1) {
            None => 0,
            Some(index) => commits.get(index).copied().unwrap_or_else(|| {
                let further = number - commits.len() as Revision;
                last.saturating_add(further)
            }),
        }
    }

    async fn entry(&self, entry: Entry) -> Entry {
        let revision = self.dense(entry.revision).await;
        Entry { revision, ..entry }
    }
}

#[async_trait]
impl Kv for Dense {
    fn capability(&self) -> &Capability {
        self.inner.capability()
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(self.numbers.dense(self.inner.revision().await?).await)
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        match self.inner.get(key).await? {
            Some(entry) => Ok(Some(self.numbers.entry(entry).await)),
            None => Ok(None),
        }
    }

    async fn range(&self, span: Span, limit: usize, at: Option<Revision>) -> Result<Page> {
        let at = at.map(|at| self.numbers.sparse(at));
        let page = self.inner.range(span, limit, at).await?;
        let mut entries = Vec::new();
        for entry in page.entries {
            entries.push(self.numbers.entry(entry).await);
        }
        Ok(Page {
            entries,
            revision: self.numbers.dense(page.revision).await,
            next: page.next,
        })
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Outcome> {
        let sparse = |condition| match condition {
            Condition::KeyAt(key, at) => Condition::KeyAt(key, self.numbers.sparse(at)),
            Condition::Unchanged(span, at) => Condition::Unchanged(span, self.numbers.sparse(at)),
            other => other,
        };
        let conditions = conditions.into_iter().map(sparse).collect();
        Ok(match self.inner.commit(conditions, writes).await? {
            Outcome::Committed(revision) => Outcome::Committed(self.numbers.dense(revision).await),
            conflict => conflict,
        })
    }

    async fn watch(&self, span: Span, after: Revision) -> Result<Box<dyn Watch>> {
        let inner = self.inner.watch(span, self.numbers.sparse(after)).await?;
        Ok(Box::new(DenseWatch {
            inner,
            numbers: self.numbers.clone(),
            undelivered: None,
        }))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.inner.revoke(lease).await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.inner.compact(self.numbers.sparse(revision)).await
    }
}

struct DenseWatch {
    inner: Box<dyn Watch>,
    numbers: Numbers,
    /// Read, but given up before its number was known: `next` is cancel safe.
    undelivered: Option<Batch>,
}

#[async_trait]
impl Watch for DenseWatch {
    async fn next(&mut self) -> Result<Batch> {
        if self.undelivered.is_none() {
            self.undelivered = Some(self.inner.next().await?);
        }
        let batch = self.undelivered.clone().unwrap();
        let mut events = Vec::new();
        for event in batch.events {
            events.push(match event {
                Event::Put(entry) => Event::Put(self.numbers.entry(entry).await),
                delete => delete,
            });
        }
        let revision = self.numbers.dense(batch.revision).await;
        self.undelivered = None;
        Ok(Batch { revision, events })
    }
}
