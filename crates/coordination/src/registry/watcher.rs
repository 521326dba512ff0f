use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use futures_util::future::select_all;
use sinew_core::Result;
use tokio::sync::watch;

use super::{Service, ServiceId, error, service::Inner};

/// Follows all services, or some. It remembers only how far it has come, so a slow reader holds no
/// memory and gets, at each call, the newest list of each service that changed since its last.
pub struct Watcher(Scope);

enum Scope {
    All {
        inner: Weak<Inner>,
        cursor: u64,
        applied: watch::Receiver<u64>,
    },
    // By name, so that no service is followed twice.
    Some(BTreeMap<ServiceId, watch::Receiver<Arc<Service>>>),
}

impl Watcher {
    pub(super) fn all(inner: &Arc<Inner>) -> (Self, Vec<Arc<Service>>) {
        let applied = inner.applied();
        let (listing, cursor) = inner.listing_with_cursor();
        (
            Self(Scope::All {
                inner: Arc::downgrade(inner),
                cursor,
                applied,
            }),
            listing.services,
        )
    }

    pub(super) fn some(inner: &Inner, names: Vec<ServiceId>) -> (Self, Vec<Arc<Service>>) {
        let mut receivers = BTreeMap::new();
        for name in names {
            let receiver = inner.watch(&name);
            receivers.insert(name, receiver);
        }
        let services = receivers
            .values_mut()
            .map(|receiver| receiver.borrow_and_update().clone())
            .collect();
        (Self(Scope::Some(receivers)), services)
    }

    /// The newest lists of the services that changed; waits for a change. Cancel safe.
    ///
    /// `registry.watch_lagged` (OutOfRange) when not all that went meanwhile is remembered any more,
    /// `registry.stopped` (Unavailable) at the end of the registry.
    pub async fn next(&mut self) -> Result<Vec<Arc<Service>>> {
        match &mut self.0 {
            Scope::All {
                inner,
                cursor,
                applied,
            } => loop {
                // Marked as seen before the read, so that a change after the read wakes us.
                applied.borrow_and_update();
                let inner = inner.upgrade().ok_or_else(error::stopped)?;
                let (services, newest) = inner
                    .changed_since(*cursor)
                    .ok_or_else(error::watch_lagged)?;
                drop(inner);
                *cursor = newest;
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
