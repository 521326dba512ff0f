//! What every case works with: a store, and short ways to use it.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use sinew_core::Kind;

use super::{Harness, Subject, dense::Dense};
use crate::kv::{
    Batch, Condition, Entry, Event, Key, Kv, LeaseId, Outcome, Retention, Revision, Span, Watch,
    Write,
};

/// How long a case waits for something that must happen soon.
const SOON: Duration = Duration::from_secs(20);

pub(super) struct Stand {
    harness: Arc<dyn Harness>,
    subject: Box<dyn Subject>,
    /// The store with its commits numbered, when its revisions have gaps.
    dense: Option<Arc<Dense>>,
}

impl Stand {
    pub(super) async fn new(harness: Arc<dyn Harness>) -> Self {
        Self::over(harness, None).await
    }

    /// Another store of the same engine.
    pub(super) async fn another(&self, retention: Option<Retention>) -> Self {
        Self::over(self.harness.clone(), retention).await
    }

    async fn over(harness: Arc<dyn Harness>, retention: Option<Retention>) -> Self {
        let subject = harness.create(retention).await;
        let kv = subject.kv();
        let dense = (!kv.capability().dense_revisions).then(|| Arc::new(Dense::over(kv)));
        Self {
            harness,
            subject,
            dense,
        }
    }

    pub(super) fn time_is_manual(&self) -> bool {
        self.harness.time_is_manual()
    }

    pub(super) fn kv(&self) -> Arc<dyn Kv> {
        match &self.dense {
            Some(dense) => dense.clone(),
            None => self.subject.kv(),
        }
    }

    pub(super) async fn reopen(&mut self) {
        // The old store is closed when nobody holds it any more.
        let commits = self.dense.take().map(|dense| dense.commits());
        self.subject.reopen().await;
        self.dense = commits.map(|commits| Arc::new(Dense::after(self.subject.kv(), commits)));
    }

    pub(super) async fn pass(&self, time: Duration) {
        self.subject.pass(time).await;
    }

    /// A TTL well above the engine's minimum.
    pub(super) fn ttl(&self) -> Duration {
        self.kv().capability().limits.lease_minimum * 4
    }

    pub(super) async fn revision(&self) -> Revision {
        self.kv().revision().await.unwrap()
    }

    pub(super) async fn get(&self, key: &str) -> Option<Entry> {
        self.kv().get(key.as_bytes()).await.unwrap()
    }

    /// The value of a key, as text.
    pub(super) async fn value(&self, key: &str) -> Option<String> {
        self.get(key).await.map(|entry| text(&entry.value))
    }

    pub(super) async fn commit(&self, writes: Vec<Write>) -> Revision {
        committed(self.kv().commit(vec![], writes).await.unwrap())
    }

    pub(super) async fn put(&self, key: &str, value: &str) -> Revision {
        self.commit(vec![put(key, value)]).await
    }

    pub(super) async fn delete(&self, key: &str) -> Revision {
        self.commit(vec![delete(key)]).await
    }

    pub(super) async fn grant(&self) -> LeaseId {
        self.kv().grant(self.ttl()).await.unwrap()
    }

    pub(super) async fn watch(&self, span: Span, after: Revision) -> Box<dyn Watch> {
        self.kv().watch(span, after).await.unwrap()
    }

    /// The span as `key=value` texts, read page by page at one revision if the engine can.
    pub(super) async fn list(&self, span: Span) -> Vec<String> {
        list(&*self.kv(), span, None).await
    }

    /// Waits until the key is gone, as it is soon after its lease has expired.
    pub(super) async fn gone(&self, key: &str) {
        soon(async {
            while self.get(key).await.is_some() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }
}

pub(super) fn put(key: &str, value: &str) -> Write {
    Write::Put {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        lease: None,
    }
}

pub(super) fn put_leased(key: &str, value: &str, lease: LeaseId) -> Write {
    Write::Put {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        lease: Some(lease),
    }
}

pub(super) fn delete(key: &str) -> Write {
    Write::Delete {
        key: key.to_owned().into(),
    }
}

pub(super) fn key(text: &str) -> Key {
    text.to_owned().into()
}

pub(super) fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
pub(super) fn committed(outcome: Outcome) -> Revision {
    match outcome {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(index) => panic!("condition {index} was said not to hold"),
    }
}

/// All pages of a span as `key=value` texts.
pub(super) async fn list(kv: &dyn Kv, span: Span, at: Option<Revision>) -> Vec<String> {
    let at_one_revision = kv.capability().historical_reads;
    let (mut found, mut rest, mut at) = (Vec::new(), span, at);
    loop {
        let page = kv.range(rest.clone(), usize::MAX, at).await.unwrap();
        let texts = page.entries.iter();
        found.extend(texts.map(|entry| format!("{}={}", text(&entry.key), text(&entry.value))));
        if at_one_revision {
            at = Some(page.revision);
        }
        match page.next {
            Some(next) => rest.start = next,
            None => return found,
        }
    }
}

/// A batch as text: `7: a=1 -b`.
pub(super) fn shown(batch: &Batch) -> String {
    let events: Vec<String> = batch
        .events
        .iter()
        .map(|event| match event {
            Event::Put(entry) => format!("{}={}", text(&entry.key), text(&entry.value)),
            Event::Delete(key) => format!("-{}", text(key)),
        })
        .collect();
    format!("{}: {}", batch.revision, events.join(" "))
}

/// The next batch, which must come soon.
pub(super) async fn next(watch: &mut Box<dyn Watch>) -> Batch {
    soon(watch.next()).await.unwrap()
}

/// The next `count` batches as texts.
pub(super) async fn next_shown(watch: &mut Box<dyn Watch>, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    for _ in 0..count {
        found.push(shown(&next(watch).await));
    }
    found
}

pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future)
        .await
        .expect("this should have happened soon")
}

/// Checks an error's kind and code.
#[track_caller]
pub(super) fn fails<T>(result: sinew_core::Result<T>, kind: Kind, code: &str) {
    match result {
        Ok(_) => panic!("should have failed with {code}"),
        Err(error) => assert_eq!((error.kind(), error.code()), (kind, code), "{error:?}"),
    }
}

/// Checks that `kv.compacted` is what a reader from the forgotten past gets.
#[track_caller]
pub(super) fn is_compacted<T>(result: sinew_core::Result<T>) {
    fails(result, Kind::OutOfRange, "kv.compacted");
}

#[track_caller]
pub(super) fn is_revision_unknown<T>(result: sinew_core::Result<T>) {
    fails(result, Kind::OutOfRange, "kv.revision_unknown");
}

#[track_caller]
pub(super) fn is_lease_unknown<T>(result: sinew_core::Result<T>) {
    fails(result, Kind::NotFound, "kv.lease_unknown");
}

pub(super) fn unchanged(span: Span, since: Revision) -> Vec<Condition> {
    vec![Condition::Unchanged(span, since)]
}
