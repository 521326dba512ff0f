use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use futures_util::future::select_all;
use sinew_core::{Name, Result};
use sinew_engine::kv::Revision;
use tokio::sync::watch;

use super::{Service, ServiceId, error, inner::Inner};

/// Follows all services, or some. It remembers only how far it has come, so a slow reader holds no
/// memory and gets, at each call, the newest list of each service that changed since its last.
pub struct Watcher {
    inner: Weak<Inner>,
    scope: Scope,
    revision: Revision,
}

enum Scope {
    All {
        namespace: Option<Name>,
        cursor: u64,
        applied: watch::Receiver<u64>,
    },
    // By name, so that no service is followed twice.
    Some(BTreeMap<ServiceId, watch::Receiver<Arc<Service>>>),
}

impl Watcher {
    /// With the lists that changed after `since`, or with all.
    pub(super) fn all(
        inner: &Arc<Inner>,
        namespace: Option<Name>,
        since: Option<Revision>,
    ) -> (Self, Vec<Arc<Service>>) {
        let applied = inner.applied();
        let shared = inner.shared.lock();
        let present = match since {
            Some(since) => shared.state.since(namespace.as_ref(), since),
            None => shared.state.listing(namespace.as_ref()).services,
        };
        let revision = shared.state.revision();
        let scope = Scope::All {
            namespace,
            cursor: shared.state.cursor(),
            applied,
        };
        drop(shared);
        let watcher = Self {
            inner: Arc::downgrade(inner),
            scope,
            revision,
        };
        (watcher, present)
    }

    pub(super) fn some(inner: &Arc<Inner>, names: Vec<ServiceId>) -> (Self, Vec<Arc<Service>>) {
        let mut receivers = BTreeMap::new();
        for name in names {
            let receiver = inner.watch(&name);
            receivers.insert(name, receiver);
        }
        // Lists are published under this lock: together they are one state.
        let shared = inner.shared.lock();
        let services = receivers
            .values_mut()
            .map(|receiver| receiver.borrow_and_update().clone())
            .collect();
        let revision = shared.state.revision();
        drop(shared);
        let watcher = Self {
            inner: Arc::downgrade(inner),
            scope: Scope::Some(receivers),
            revision,
        };
        (watcher, services)
    }

    /// Whoever has everything that this watcher has given has everything up to this revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The newest lists of the services that changed; waits for a change. Cancel safe.
    ///
    /// `registry.watch_lagged` (OutOfRange) when not all that went meanwhile is remembered any more,
    /// `registry.stopped` (Unavailable) at the end of the registry.
    pub async fn next(&mut self) -> Result<Vec<Arc<Service>>> {
        match &mut self.scope {
            Scope::All {
                namespace,
                cursor,
                applied,
            } => loop {
                // Marked as seen before the read, so that a change after the read wakes us.
                applied.borrow_and_update();
                let inner = self.inner.upgrade().ok_or_else(error::stopped)?;
                let (changed, newest, revision) = inner.changed_since(*cursor);
                drop(inner);
                let mut services = changed.ok_or_else(error::watch_lagged)?;
                (*cursor, self.revision) = (newest, revision);
                if let Some(namespace) = namespace {
                    services.retain(|service| service.id.namespace == *namespace);
                }
                if !services.is_empty() {
                    return Ok(services);
                }
                applied.changed().await.map_err(|_| error::stopped())?;
            },
            Scope::Some(receivers) if receivers.is_empty() => std::future::pending().await,
            Scope::Some(receivers) => {
                let waits = receivers
                    .values_mut()
                    .map(|receiver| Box::pin(receiver.changed()));
                let (outcome, woken, _) = select_all(waits).await;
                outcome.map_err(|_| error::stopped())?;
                let inner = self.inner.upgrade().ok_or_else(error::stopped)?;
                let shared = inner.shared.lock();
                self.revision = shared.state.revision();
                // Waiting marked the one that woke us as seen; the others still say so themselves.
                Ok(receivers
                    .values_mut()
                    .enumerate()
                    .filter(|(index, receiver)| {
                        *index == woken || receiver.has_changed().unwrap_or(false)
                    })
                    .map(|(_, receiver)| receiver.borrow_and_update().clone())
                    .collect())
            }
        }
    }
}
