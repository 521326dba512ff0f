//! What is looked after every second: whether readers are in step with the store, and the dead.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::StreamExt;
use sinew_core::Result;
use sinew_engine::kv::Condition;

use super::{
    Instance,
    inner::Inner,
    keys,
    machine::{Effect, Input},
};

/// How often that is looked at.
const TICK: Duration = Duration::from_secs(1);
const REAPS_AT_ONCE: usize = 32;

impl Inner {
    /// Looks after the registry, for ever.
    pub(super) async fn look_after(&self) {
        loop {
            // Not all nodes at the same moment: whoever is first reaps for all.
            let spread = rand::random_range(0.8..1.2);
            self.clock.sleep(TICK.mul_f64(spread)).await;
            if let Err(error) = self.newest().await {
                // Readers are told how long this lasts; what broke is logged where it is mended.
                tracing::debug!(error = error.detail(), "not in step with the store");
                continue;
            }
            let effects = self
                .step(Input::Tick(self.clock.monotonic()))
                .unwrap_or_default();
            let reaped = effects.into_iter().filter_map(|effect| match effect {
                Effect::Reap(instance) => Some(self.reap_one(instance)),
                _ => None,
            });
            let mut reaped = futures_util::stream::iter(reaped).buffer_unordered(REAPS_AT_ONCE);
            while let Some(outcome) = reaped.next().await {
                match outcome {
                    Ok(true) => {
                        self.counters.reaped.fetch_add(1, Relaxed);
                    }
                    Ok(false) => {}
                    Err(error) => {
                        tracing::debug!(error = error.detail(), "a dead instance stays for now");
                    }
                }
            }
        }
    }

    async fn reap_one(&self, instance: Arc<Instance>) -> Result<bool> {
        let Instance { service, id, .. } = instance.as_ref();
        let mut conditions = vec![Condition::KeyAt(
            keys::instance(service, id),
            instance.revision,
        )];
        if !instance.alive {
            conditions.push(Condition::Absent(keys::beat(service, id)));
        }
        let reaped = self.remove(&instance, conditions).await?;
        if reaped {
            tracing::info!(%service, instance = %id, "deregistered, for it has been dead for long");
        }
        Ok(reaped)
    }
}
