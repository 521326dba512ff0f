use std::{collections::BTreeSet, sync::Arc, time::Duration};

use shop::shoppers::Outages;
use sinew_core::{InstanceId, Name};
use sinew_launcher::What;
use tokio::{sync::broadcast::error::RecvError, task::JoinHandle};

use super::{platform::Platform, services::Services};

/// How often it is looked whether what fell serves again.
const LOOK: Duration = Duration::from_millis(25);

/// Follows the launcher's events: an instance that fell is taken out of the registry at once, not
/// when its lease ends, and counts as out until it is registered again.
pub(super) struct Watch(JoinHandle<()>);

impl Watch {
    pub(super) fn start(services: &Services, platform: &Platform, outages: Arc<Outages>) -> Self {
        let mut events = services.launcher().events();
        let directory = platform.directory();
        Self(tokio::spawn(async move {
            let mut down: BTreeSet<(Name, InstanceId)> = BTreeSet::new();
            let mut look = tokio::time::interval(LOOK);
            look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    event = events.recv() => match event {
                        Ok(event) => {
                            if let What::Exited { pid, exit, asked: false } = event.what {
                                outages.begin(event.instance.as_str());
                                tracing::warn!(instance = %event.instance, pid, %exit, "a service fell");
                                directory.forget(&event.service, &event.instance).await;
                                down.insert((event.service, event.instance));
                            }
                        }
                        // Hundreds of falls at once: the next events say how things are.
                        Err(RecvError::Lagged(_)) => {}
                        Err(RecvError::Closed) => return,
                    },
                    _ = look.tick(), if !down.is_empty() => {
                        down.retain(|(service, instance)| {
                            let up = directory.up(service, instance).is_some();
                            if up {
                                outages.end(instance.as_str());
                            }
                            !up
                        });
                    }
                }
            }
        }))
    }

    /// Ends it: what stops from now on was asked to.
    pub(super) fn stop(self) {
        self.0.abort();
    }
}
