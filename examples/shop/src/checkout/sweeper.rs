//! Takes over the orders that nobody works on any more: those of a replica that died, and those
//! whose work was put off.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::Checkout;
use crate::{fault::Result, storage::orders};

/// How often it looks.
const PAUSE: Duration = Duration::from_secs(1);
/// How many orders it works on at once.
const AT_ONCE: usize = 16;

impl Checkout {
    /// Sweeps until the drain starts.
    pub(crate) async fn sweep_for_ever(self) {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            if let Err(fault) = self.sweep(&room).await {
                tracing::warn!(error = %fault.error().detail(), "cannot look for orders at work");
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.inner.drain.wait() => return,
            }
        }
    }

    /// Claims as many due orders as there is room for and works on each in a task of its own.
    async fn sweep(&self, room: &Arc<Semaphore>) -> Result<()> {
        let now_ms = self.lease().now_ms;
        // Most of the time there is nothing to do, and nothing to write.
        if !self
            .inner
            .store
            .read(move |db| orders::any_due(db, now_ms))
            .await?
        {
            return Ok(());
        }
        let (lease, limit) = (self.lease(), room.available_permits() as i64);
        let claimed = self
            .inner
            .store
            .write(move |db| orders::claim(db, &lease, limit))
            .await?;
        for order in claimed {
            // Only this loop takes permits, and it claimed no more than there are.
            let Ok(place) = room.clone().try_acquire_owned() else {
                continue;
            };
            let (this, guard) = (self.clone(), self.inner.drain.guard());
            tokio::spawn(async move {
                let id = order.id;
                if let Err(fault) = this.work(order).await {
                    tracing::warn!(order = %id, error = %fault.error().detail(), "not finished");
                }
                drop((place, guard));
            });
        }
        Ok(())
    }

    /// One sweep, and the work on all that it claimed.
    #[cfg(test)]
    pub(crate) async fn sweep_once(&self) -> Result<()> {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        self.sweep(&room).await?;
        let all = room.acquire_many(AT_ONCE as u32).await;
        all.map(drop)
            .map_err(|_| unreachable!("the semaphore is never closed"))
    }
}
