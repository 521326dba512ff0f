use std::{fmt, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use sinew_core::{InstanceId, Name};

/// Something that happened to one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its service.
    pub service: Name,
    /// Which instance.
    pub instance: InstanceId,
    /// What happened.
    pub what: What,
}

/// What happened to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A process runs.
    Started {
        /// Its process id, which is also its process group.
        pid: u32,
    },
    /// The process is gone.
    Exited {
        /// The process id it had.
        pid: u32,
        /// How it ended.
        exit: Exit,
        /// Whether it was asked to stop.
        asked: bool,
    },
    /// It will be started again.
    Restarting {
        /// After this time.
        after: Duration,
        /// How many times in a row it ended before it was stable.
        attempt: u32,
    },
    /// It ended or failed to start too often in a row and stays down.
    GaveUp,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// Whether it ended by itself with code 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            // Not reachable for a process that was waited for; -1 is no code that a process can give.
            (None, None) => Self::Code(-1),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(signal) => write!(f, "signal {signal}"),
                Err(_) => write!(f, "signal {signal}"),
            },
        }
    }
}

/// Where an instance is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Being started for the first time.
    Starting,
    /// A process runs. Whether it serves is for its registration or health check to say.
    Running,
    /// It ended and will be started again.
    Waiting,
    /// Asked to stop.
    Stopping,
    /// Stopped as asked.
    Stopped,
    /// It ended too often and stays down.
    GaveUp,
}

/// One instance now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceStatus {
    /// Its service.
    pub service: Name,
    /// Its id: the service's name, `-`, and a number from 1.
    pub instance: InstanceId,
    /// Where it is in its life.
    pub phase: Phase,
    /// The process, when one runs.
    pub pid: Option<u32>,
    /// How often it was started again so far.
    pub restarts: u32,
}
