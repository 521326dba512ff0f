//! Who is dead, whether that is believed, and for how long they are kept.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Config, Effect, Health, Instance, ServiceId, State};
use crate::registry::Status;

/// So many are reaped at one tick.
const REAPED_AT_ONCE: usize = 512;
/// Fewer critical instances are no panic, whatever their share: of one or two, both may well be dead.
const PANIC_LEAST: usize = 3;

/// Whether so many of those that shall take requests are critical that this is not believed.
pub(super) fn in_panic(instances: &[Arc<Instance>], config: &Config) -> bool {
    let wanted = instances.iter().filter(|i| i.said() == Status::Up);
    let (mut all, mut critical) = (0, 0);
    for instance in wanted {
        all += 1;
        critical += usize::from(instance.health() == Health::Critical);
    }
    critical >= PANIC_LEAST && (all - critical) * 100 < all * usize::from(config.panic_threshold)
}

impl State {
    /// Keeps the list of the dead, with since when they are.
    pub(super) fn note_dead(&mut self, name: &ServiceId, instances: &[Arc<Instance>]) {
        let dead = instances.iter().filter(|instance| instance.is_dead());
        let before = self.dead.remove(name).unwrap_or_default();
        let now: BTreeMap<_, _> = dead
            .map(|instance| {
                let since = before.get(&instance.id).copied().flatten();
                (instance.id.clone(), since)
            })
            .collect();
        if !now.is_empty() {
            self.dead.insert(name.clone(), now);
        }
    }

    /// Those that have been dead for too long.
    pub(super) fn reap(&mut self, now: Duration, config: &Config) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (service, dead) in &mut self.dead {
            let Some(slot) = self.services.get(service) else {
                continue;
            };
            for (id, since) in dead {
                let since = *since.get_or_insert(now);
                let Some(instance) = slot.any(id) else {
                    continue;
                };
                let mut keep = instance.deregister_after();
                if !instance.persistent {
                    // Those of one fault die within one TTL.
                    keep = keep.max(instance.ttl);
                }
                if slot.service.panic {
                    keep = keep.map(|keep| keep.max(config.protect_for));
                }
                let late = keep.is_some_and(|keep| since + keep <= now);
                if late && effects.len() < REAPED_AT_ONCE {
                    effects.push(Effect::Reap(instance.clone()));
                }
            }
        }
        effects
    }
}
