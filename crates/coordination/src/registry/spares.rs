//! Leases granted before they are needed, so that a registration is one commit and not a grant and
//! then a commit, each with its own sync to disk. They are kept alive until they are taken, and
//! come back when their instance deregisters; those of an earlier run end by themselves.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use parking_lot::Mutex;
use sinew_core::Clock;
use sinew_engine::kv::{Kv, LeaseId};
use tokio::sync::Notify;

pub(super) struct Spares {
    ttl: Duration,
    wanted: usize,
    ready: Mutex<Vec<LeaseId>>,
    taken: Notify,
}

impl Spares {
    pub(super) fn new(ttl: Duration, wanted: usize) -> Self {
        Self {
            ttl,
            wanted,
            ready: Mutex::default(),
            taken: Notify::new(),
        }
    }

    /// A lease of this TTL, if one is ready. It was kept alive a while ago: keep it alive when using it.
    pub(super) fn take(&self, ttl: Duration) -> Option<LeaseId> {
        let lease = (ttl == self.ttl)
            .then(|| self.ready.lock().pop())
            .flatten()?;
        self.taken.notify_one();
        Some(lease)
    }

    /// Takes back a lease on which nothing hangs any more. It may be near its end; whoever takes it
    /// finds out, or the next round of keeping alive does.
    pub(super) fn give_back(&self, lease: Option<LeaseId>, ttl: Option<Duration>) {
        let mut ready = self.ready.lock();
        if ttl == Some(self.ttl) && ready.len() < 2 * self.wanted {
            ready.extend(lease);
        }
    }

    /// Keeps the wanted number of leases ready, for ever.
    pub(super) async fn keep(&self, kv: &Arc<dyn Kv>, clock: &Clock) {
        loop {
            self.refill(kv).await;
            tokio::select! {
                () = self.taken.notified() => {}
                () = clock.sleep(self.ttl / 3) => self.renew(kv).await,
            }
        }
    }

    async fn refill(&self, kv: &Arc<dyn Kv>) {
        let missing = self.wanted.saturating_sub(self.ready.lock().len());
        // Half of them together, rather than a sync to disk for every one that was taken.
        if missing < self.wanted.div_ceil(2) {
            return;
        }
        // All at once, so that the store syncs them together.
        let granted = join_all((0..missing).map(|_| kv.grant(self.ttl))).await;
        // A failure shows in the registrations themselves; the next round tries again.
        self.ready
            .lock()
            .extend(granted.into_iter().filter_map(Result::ok));
    }

    async fn renew(&self, kv: &Arc<dyn Kv>) {
        let leases = self.ready.lock().clone();
        let renewed = join_all(leases.iter().map(|lease| kv.keep_alive(*lease))).await;
        let lost = leases
            .iter()
            .zip(renewed)
            .filter(|(_, renewed)| renewed.is_err());
        for (lease, _) in lost {
            self.ready.lock().retain(|ready| ready != lease);
        }
    }
}
