//! One instance's life, as one task.

use std::{collections::BTreeMap, ffi::OsString, process::Stdio, sync::Arc, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use parking_lot::Mutex;
use sinew_core::{Clock, InstanceId, Name};
use tokio::{process::Child, sync::broadcast};
use tokio_util::sync::CancellationToken;

use crate::{
    Event, Exit, InstanceStatus, Phase, ServiceSpec, What,
    logs::LogSink,
    restart::{Decision, Restarts},
    spawner::Spawner,
};

/// After SIGKILL a process is gone within milliseconds, unless the kernel holds it (a dead disk).
const KILL_WAIT: Duration = Duration::from_secs(5);

/// What everyone may see: the instances as they are, and what happens to them.
pub(crate) struct Board {
    instances: Mutex<BTreeMap<(Name, u32), InstanceStatus>>,
    events: broadcast::Sender<Event>,
}

impl Board {
    pub(crate) fn new() -> Self {
        let (events, _) = broadcast::channel(1024);
        Self {
            instances: Mutex::default(),
            events,
        }
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    pub(crate) fn instances(&self) -> Vec<InstanceStatus> {
        self.instances.lock().values().cloned().collect()
    }

    fn set(&self, instance: &Instance, phase: Phase, pid: Option<u32>, restarts: u32) {
        let status = InstanceStatus {
            service: instance.spec.name.clone(),
            instance: instance.id.clone(),
            phase,
            pid,
            restarts,
        };
        self.instances
            .lock()
            .insert((instance.spec.name.clone(), instance.number), status);
    }

    fn say(&self, instance: &Instance, what: What) {
        let event = Event {
            service: instance.spec.name.clone(),
            instance: instance.id.clone(),
            what,
        };
        // Without a listener there is nobody to tell.
        let _ = self.events.send(event);
    }
}

pub(crate) struct Instance {
    pub(crate) spec: Arc<ServiceSpec>,
    pub(crate) number: u32,
    pub(crate) id: InstanceId,
    pub(crate) wrapper: Arc<[OsString]>,
    pub(crate) spawner: Spawner,
    pub(crate) logs: LogSink,
    pub(crate) board: Arc<Board>,
    pub(crate) clock: Clock,
    pub(crate) stop: CancellationToken,
}

/// How an instance came to its end after it was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, within its grace; or no process ran.
    Drained,
    /// By SIGKILL.
    Killed,
    /// Not even SIGKILL ended it.
    Survived,
}

impl Instance {
    /// Shows the instance on the board before its task has begun.
    pub(crate) fn announce(&self) {
        self.board.set(self, Phase::Starting, None, 0);
    }

    /// Runs, and runs again, until asked to stop.
    pub(crate) async fn run(self) -> End {
        let mut restarts = Restarts::new(self.spec.restart.clone());
        let mut count = 0;
        loop {
            if self.stop.is_cancelled() {
                self.board.set(&self, Phase::Stopped, None, count);
                return End::Drained;
            }
            let began = self.clock.monotonic();
            match self.spawn(count).await {
                Ok(mut child) => {
                    let pid = child.id().unwrap_or_default();
                    tokio::select! {
                        status = child.wait() => self.ended(pid, status, false),
                        () = self.stop.cancelled() => {
                            self.board.set(&self, Phase::Stopping, Some(pid), count);
                            let end = self.drain(&mut child, pid).await;
                            let left = (end == End::Survived).then_some(pid);
                            self.board.set(&self, Phase::Stopped, left, count);
                            return end;
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(instance = %self.id, error = %error.detail(), "a service cannot be started");
                }
            }
            match restarts.ended(self.clock.monotonic().saturating_sub(began)) {
                Decision::Restart { after, attempt } => {
                    self.board.set(&self, Phase::Waiting, None, count);
                    self.board.say(&self, What::Restarting { after, attempt });
                    tokio::select! {
                        () = self.clock.sleep(after) => {}
                        () = self.stop.cancelled() => {}
                    }
                    count += 1;
                }
                Decision::GiveUp => {
                    self.board.set(&self, Phase::GaveUp, None, count);
                    self.board.say(&self, What::GaveUp);
                    self.stop.cancelled().await;
                }
            }
        }
    }

    async fn spawn(&self, restarts: u32) -> sinew_core::Result<Child> {
        let output = || {
            if self.logs.wanted() {
                Stdio::piped()
            } else {
                Stdio::null()
            }
        };
        let mut command = self.spec.command(&self.id, &self.wrapper);
        command
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = self.spawner.spawn(command).await?;
        self.logs.capture(&self.id, child.stdout.take());
        self.logs.capture(&self.id, child.stderr.take());
        // The id is there until the child was waited for.
        let pid = child.id().unwrap_or_default();
        self.board.set(self, Phase::Running, Some(pid), restarts);
        self.board.say(self, What::Started { pid });
        Ok(child)
    }

    /// SIGTERM, the grace, SIGKILL.
    async fn drain(&self, child: &mut Child, pid: u32) -> End {
        signal_group(pid, Signal::SIGTERM);
        if let Ok(status) = tokio::time::timeout(self.spec.grace, child.wait()).await {
            self.ended(pid, status, true);
            return End::Drained;
        }
        tracing::warn!(instance = %self.id, pid, "it did not finish in time and is killed");
        signal_group(pid, Signal::SIGKILL);
        match tokio::time::timeout(KILL_WAIT, child.wait()).await {
            Ok(status) => {
                self.ended(pid, status, true);
                End::Killed
            }
            Err(_) => End::Survived,
        }
    }

    /// Takes note that the process is gone, and ends whatever it had started and left behind.
    fn ended(&self, pid: u32, status: std::io::Result<std::process::ExitStatus>, asked: bool) {
        signal_group(pid, Signal::SIGKILL);
        let exit = status.map_or(Exit::Code(-1), Exit::from);
        self.board.say(self, What::Exited { pid, exit, asked });
    }
}

/// Signals every process of the group that `pid` leads or led. A group that is empty is no error.
fn signal_group(pid: u32, signal: Signal) {
    // 0 would be the launcher's own group, and 1 everything.
    if let Ok(group @ 2..) = i32::try_from(pid) {
        let _ = killpg(Pid::from_raw(group), signal);
    }
}
