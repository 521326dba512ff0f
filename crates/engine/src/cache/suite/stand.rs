//! What every case works with: a cache, and short ways to use it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use sinew_core::Kind;

use super::{Harness, Subject};
use crate::cache::{Cache, Increment, Item, Key, Lifetime, Limits, Statistics, Swap, Version};

pub(super) struct Stand {
    harness: Arc<dyn Harness>,
    subject: Box<dyn Subject>,
}

impl Stand {
    pub(super) async fn new(harness: Arc<dyn Harness>) -> Self {
        let subject = harness.create(false).await;
        Self { harness, subject }
    }

    /// Another cache of the same engine.
    pub(super) async fn another(&self, small: bool) -> Self {
        let harness = self.harness.clone();
        let subject = harness.create(small).await;
        Self { harness, subject }
    }

    pub(super) fn time_is_manual(&self) -> bool {
        self.harness.time_is_manual()
    }

    pub(super) fn cache(&self) -> Arc<dyn Cache> {
        self.subject.cache()
    }

    pub(super) fn limits(&self) -> Limits {
        self.cache().capability().limits
    }

    pub(super) async fn pass(&self, time: Duration) {
        self.subject.pass(time).await;
    }

    /// A lifetime that is a few steps long, and long enough for a few operations where time cannot be stopped.
    pub(super) fn short(&self) -> Duration {
        let least = if self.time_is_manual() { 200 } else { 1500 };
        (self.limits().lifetime_step * 3).max(Duration::from_millis(least))
    }

    /// Lets a lifetime of [`Self::short`] pass for certain.
    pub(super) async fn pass_short(&self) {
        self.pass(self.short() + self.limits().lifetime_step).await;
    }

    pub(super) async fn get(&self, key: &str) -> Option<Item> {
        self.cache().get(key.as_bytes()).await.unwrap()
    }

    /// The value of a key, as text.
    pub(super) async fn value(&self, key: &str) -> Option<String> {
        self.get(key).await.map(|item| text(&item.value))
    }

    pub(super) async fn set(&self, name: &str, value: &str) -> Version {
        self.set_for(name, value, Lifetime::Unlimited).await
    }

    pub(super) async fn set_for(&self, name: &str, value: &str, lifetime: Lifetime) -> Version {
        self.cache()
            .set(key(name), key(value), lifetime)
            .await
            .unwrap()
    }

    pub(super) async fn add(&self, name: &str, value: &str) -> Option<Version> {
        self.cache()
            .set_if_absent(key(name), key(value), Lifetime::Unlimited)
            .await
            .unwrap()
    }

    pub(super) async fn swap(&self, name: &str, expected: Version, value: &str) -> Swap {
        let cache = self.cache();
        cache
            .compare_and_set(key(name), expected, key(value), Lifetime::Unlimited)
            .await
            .unwrap()
    }

    pub(super) async fn increment(
        &self,
        name: &str,
        increment: Increment,
    ) -> sinew_core::Result<i64> {
        self.cache().increment(key(name), increment).await
    }

    pub(super) async fn delete(&self, key: &str) -> bool {
        self.cache().delete(key.as_bytes()).await.unwrap()
    }

    pub(super) async fn touch(&self, key: &str, lifetime: Lifetime) -> bool {
        self.cache().touch(key.as_bytes(), lifetime).await.unwrap()
    }

    pub(super) async fn statistics(&self) -> Statistics {
        self.cache().statistics().await.unwrap()
    }
}

pub(super) fn key(text: &str) -> Key {
    text.to_owned().into()
}

pub(super) fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Checks an error's kind and code.
#[track_caller]
pub(super) fn fails<T>(result: sinew_core::Result<T>, kind: Kind, code: &str) {
    match result {
        Ok(_) => panic!("should have failed with {code}"),
        Err(error) => assert_eq!((error.kind(), error.code()), (kind, code), "{error:?}"),
    }
}
