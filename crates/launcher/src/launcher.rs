use std::{ffi::OsString, sync::Arc, time::Duration};

use parking_lot::Mutex;
use sinew_core::{Clock, Error, InstanceId, Kind, Name, Result};
use tokio::{sync::broadcast, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    Event, InstanceStatus, Options, ServiceSpec,
    instance::{Board, End, Instance},
    logs::{self, LogSink, Written},
    spawner::Spawner,
};

/// How long the last lines of the services may take to be written.
const LOGS_WAIT: Duration = Duration::from_secs(2);

/// Runs services as processes. See the crate's text.
///
/// Dropping it asks every service to stop but waits for none; use [`Launcher::shutdown`].
pub struct Launcher {
    wrapper: Arc<[OsString]>,
    board: Arc<Board>,
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    /// In the order in which they were started.
    services: Vec<Running>,
    /// `None` after [`Launcher::shutdown`].
    ground: Option<Ground>,
}

/// What instances stand on.
struct Ground {
    spawner: Spawner,
    logs: LogSink,
    written: Written,
}

struct Running {
    name: Name,
    stop: CancellationToken,
    instances: Vec<(InstanceId, JoinHandle<End>)>,
}

/// What became of instances that were asked to stop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Those that did not finish within their grace and were killed.
    pub killed: Vec<InstanceId>,
    /// Those that are still there: nothing could end them.
    pub survivors: Vec<InstanceId>,
}

impl Launcher {
    /// A launcher without services. Needs a tokio runtime, on which it watches its children.
    ///
    /// # Errors
    /// `launcher.spawn_failed` when no thread can be started, `launcher.logs_unwritable` when the
    /// folder for the logs cannot be made.
    pub fn start(options: Options) -> Result<Self> {
        let (logs, written) = logs::start(options.logs)?;
        let ground = Ground {
            spawner: Spawner::start()?,
            logs,
            written,
        };
        Ok(Self {
            wrapper: options.wrapper.into(),
            board: Arc::new(Board::new()),
            clock: Clock::system(),
            state: Mutex::new(State {
                services: Vec::new(),
                ground: Some(ground),
            }),
        })
    }

    /// Starts a service's instances, all at once, and keeps them running. A program that cannot be
    /// started shows in the events and is tried again like one that ended.
    ///
    /// # Errors
    /// `launcher.service_exists` when a service of this name runs, `launcher.stopped` after
    /// [`Launcher::shutdown`], `launcher.data_unwritable` when the service's data folder cannot be
    /// made.
    pub fn run(&self, spec: ServiceSpec) -> Result<()> {
        if let Some(data) = &spec.data {
            std::fs::create_dir_all(data).map_err(|error| {
                let text = format!("cannot make the data folder of {}: {error}", spec.name);
                Error::new(Kind::FailedPrecondition, "launcher.data_unwritable", text)
                    .with_context(data.display().to_string())
            })?;
        }
        let mut state = self.state.lock();
        let State { services, ground } = &mut *state;
        let Some(ground) = ground else {
            let text = "the launcher was shut down";
            return Err(Error::new(
                Kind::FailedPrecondition,
                "launcher.stopped",
                text,
            ));
        };
        if services.iter().any(|service| service.name == spec.name) {
            let text = format!("a service called {} runs already", spec.name);
            return Err(Error::new(
                Kind::AlreadyExists,
                "launcher.service_exists",
                text,
            ));
        }
        let spec = Arc::new(spec);
        let stop = CancellationToken::new();
        let mut instances = Vec::new();
        for number in 1..=spec.replicas {
            let id = InstanceId::new(&format!("{}-{number}", spec.name))?;
            let instance = Instance {
                spec: spec.clone(),
                number,
                id: id.clone(),
                wrapper: self.wrapper.clone(),
                spawner: ground.spawner.clone(),
                logs: ground.logs.clone(),
                board: self.board.clone(),
                clock: self.clock.clone(),
                stop: stop.clone(),
            };
            instance.announce();
            instances.push((id, tokio::spawn(instance.run())));
        }
        services.push(Running {
            name: spec.name.clone(),
            stop,
            instances,
        });
        Ok(())
    }

    /// What happens from now on. A receiver that falls more than 1024 events behind loses the oldest
    /// and is told so; [`Launcher::instances`] then says how things are.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.board.events()
    }

    /// All instances that were ever started, by service and number, as they are now.
    pub fn instances(&self) -> Vec<InstanceStatus> {
        self.board.instances()
    }

    /// Stops one service: SIGTERM, its grace, SIGKILL; returns when its processes are gone. An
    /// unknown name is nothing to stop.
    pub async fn stop_service(&self, name: &Name) -> Stopped {
        let service = {
            let services = &mut self.state.lock().services;
            let index = services.iter().position(|service| &service.name == name);
            index.map(|index| services.remove(index))
        };
        let mut stopped = Stopped::default();
        if let Some(service) = service {
            service.stop(&mut stopped).await;
        }
        stopped
    }

    /// Stops everything: the service that was started last first, each to its end before the next,
    /// so that what others rely on goes after them.
    pub async fn shutdown(&self) -> Stopped {
        let (mut services, ground) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.services), state.ground.take())
        };
        let mut stopped = Stopped::default();
        while let Some(service) = services.pop() {
            service.stop(&mut stopped).await;
        }
        if let Some(Ground {
            spawner,
            logs,
            written,
        }) = ground
        {
            drop((spawner, logs));
            written.wait(LOGS_WAIT).await;
        }
        stopped
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        for service in &self.state.lock().services {
            service.stop.cancel();
        }
    }
}

impl Running {
    async fn stop(self, stopped: &mut Stopped) {
        self.stop.cancel();
        for (id, task) in self.instances {
            match task.await {
                Ok(End::Drained) => {}
                Ok(End::Killed) => stopped.killed.push(id),
                // A task that panicked dropped its child, which kills it; but nobody saw it go.
                Ok(End::Survived) | Err(_) => stopped.survivors.push(id),
            }
        }
    }
}
