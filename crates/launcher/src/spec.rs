use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
    time::Duration,
};

use sinew_core::{InstanceId, Name};
use tokio::process::Command;

use crate::{Logs, RestartPolicy, child::PARENT_PID};

/// A service to run.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    /// Its name; instances are called `<name>-1`, `<name>-2` and so on.
    pub name: Name,
    /// The program: a path, or a name that is looked up in `PATH`.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables on top of the launcher's own environment. They win over what the launcher sets
    /// itself: `PORT=0`, `SINEW_SERVICE`, `SINEW_INSTANCE`, `SINEW_DATA`, `SINEW_PARENT_PID`.
    pub env: Vec<(OsString, OsString)>,
    /// How many instances.
    pub replicas: u32,
    /// The working directory; the launcher's own when absent.
    pub directory: Option<PathBuf>,
    /// The service's data folder, shared by its instances; made when missing, handed on as
    /// `SINEW_DATA`.
    pub data: Option<PathBuf>,
    /// How long an instance may take to finish after SIGTERM, before SIGKILL.
    pub grace: Duration,
    /// When to start it again.
    pub restart: RestartPolicy,
}

impl ServiceSpec {
    /// One instance of `program` with default policies.
    pub fn new(name: Name, program: impl Into<PathBuf>) -> Self {
        Self {
            name,
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            replicas: 1,
            directory: None,
            data: None,
            grace: Duration::from_secs(10),
            restart: RestartPolicy::default(),
        }
    }

    /// Appends arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The command that starts `instance`, through the wrapper when there is one.
    pub(crate) fn command(&self, instance: &InstanceId, wrapper: &[OsString]) -> Command {
        let mut words = wrapper.iter().map(OsString::as_os_str);
        let mut command = match words.next() {
            None => Command::new(&self.program),
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg(&self.program);
                command
            }
        };
        command
            .args(&self.args)
            .env("PORT", "0")
            .env("SINEW_SERVICE", self.name.as_str())
            .env("SINEW_INSTANCE", instance.as_str())
            .env(PARENT_PID, std::process::id().to_string());
        if let Some(data) = &self.data {
            command.env("SINEW_DATA", data);
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }
}

/// What holds for all services of one launcher.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The words put before each program: this executable and its subcommand that calls
    /// [`run_child`](crate::run_child). Empty: programs are started directly, and outlive a launcher
    /// that is killed with -9.
    pub wrapper: Vec<OsString>,
    /// Where the services' output goes.
    pub logs: Logs,
}
