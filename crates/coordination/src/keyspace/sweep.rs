//! Releases the locks of sessions that have gone.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use sinew_core::{Backoff, Result};
use sinew_engine::kv::{LeaseId, Transaction, transact};

use super::{keys, machine, model, service::Inner};

/// Releases as sessions go, as often as it takes.
pub(super) async fn sweep_for_ever(inner: Arc<Inner>) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
    loop {
        let next = inner.shared.lock().abandoned.pop_first();
        let Some(session) = next else {
            inner.abandoned.notified().await;
            continue;
        };
        match inner.sweep(&session).await {
            Ok(()) => backoff.reset(),
            Err(error) => {
                tracing::warn!(
                    %session,
                    error = error.detail(),
                    "the locks of a session that has gone cannot be released now; trying again"
                );
                inner.shared.lock().abandoned.insert(session);
                inner.clock.sleep(backoff.next_delay()).await;
            }
        }
    }
}

impl Inner {
    /// Releases what a session holds that has gone. Does nothing while it exists.
    pub(super) async fn sweep(&self, session: &str) -> Result<()> {
        let mut bytes = 0;
        let marks = self.list(keys::held_by(session), &mut bytes).await?;
        for mark in marks {
            let Some((_, key)) = keys::parse_held(&mark.key) else {
                continue;
            };
            self.abandon(session, key).await?;
        }
        Ok(())
    }

    async fn abandon(&self, session: &str, key: &str) -> Result<()> {
        let stored = keys::key(key);
        let Some(entry) = self.within("get", self.kv.get(&stored)).await? else {
            return self.settle(session, key, None).await;
        };
        let item = model::decode(key, &entry)?;
        let delay = machine::abandon(&item, session).map_or(Duration::ZERO, |(_, delay)| delay);
        // Before the transaction, which may run more than once.
        let lease = match delay {
            Duration::ZERO => None,
            delay => Some(self.grant(delay).await?),
        };
        self.settle(session, key, lease).await
    }

    async fn settle(&self, session: &str, key: &str, delay: Option<LeaseId>) -> Result<()> {
        let run = transact(&*self.kv, |tx| settle(tx, session, key, delay));
        let (released, revision) = self.within("release", run).await?;
        if released {
            self.released.fetch_add(1, Relaxed);
            self.visible(revision).await;
        }
        Ok(())
    }
}

async fn settle(
    tx: Transaction<'_>,
    session: &str,
    key: &str,
    delay: Option<LeaseId>,
) -> Result<bool> {
    if tx.get(keys::session(session)).await?.is_some() {
        return Ok(false);
    }
    let entry = tx.get(keys::key(key)).await?;
    let item = entry.map(|entry| model::decode(key, &entry)).transpose()?;
    let left = item.and_then(|item| machine::abandon(&item, session));
    tx.delete(keys::held(session, key));
    let Some((item, _)) = left else {
        // It was given back in the meantime.
        return Ok(false);
    };
    match item {
        Some(item) => tx.put(keys::key(key), model::encode(&item)),
        None => tx.delete(keys::key(key)),
    }
    if let Some(lease) = delay {
        tx.put_with_lease(keys::delay(key), Bytes::new(), lease);
    }
    Ok(true)
}
