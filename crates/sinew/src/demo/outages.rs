use std::{collections::BTreeSet, sync::Arc, time::Duration};

use shop::shoppers::Outages;
use sinew_core::{InstanceId, Name};
use sinew_launcher::What;
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    task::JoinHandle,
};

use super::{platform::Platform, services::Services};

/// How often it is looked whether what fell serves again.
const LOOK: Duration = Duration::from_millis(25);

/// Follows the launcher's events: an instance that fell is taken out of the registry at once, not
/// when its lease ends, and counts as out until it is registered again.
pub(super) struct Watch {
    task: JoinHandle<()>,
    notes: mpsc::Receiver<String>,
}

impl Watch {
    pub(super) fn start(services: &Services, platform: &Platform, outages: Arc<Outages>) -> Self {
        let mut events = services.launcher().events();
        let directory = platform.directory();
        // For people, who can do without one of very many.
        let (say, notes) = mpsc::channel(64);
        let task = tokio::spawn(async move {
            let mut down: BTreeSet<(Name, InstanceId)> = BTreeSet::new();
            let mut look = tokio::time::interval(LOOK);
            look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    event = events.recv() => match event {
                        Ok(event) => {
                            if let What::Exited { pid, exit, asked: false } = event.what {
                                outages.begin(event.instance.as_str());
                                let _ = say.try_send(format!(
                                    "{} (process {pid}) fell: {exit}; it is started again",
                                    event.instance
                                ));
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
                                let _ = say.try_send(format!("{instance} serves again"));
                            }
                            !up
                        });
                    }
                }
            }
        });
        Self { task, notes }
    }

    /// The next thing worth telling. Cancel safe.
    pub(super) async fn note(&mut self) -> String {
        match self.notes.recv().await {
            Some(note) => note,
            // Nothing is watched any more.
            None => std::future::pending().await,
        }
    }

    /// Ends it: what stops from now on was asked to.
    pub(super) fn stop(self) {
        self.task.abort();
    }
}
