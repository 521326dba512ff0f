use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::Signal,
    unistd::{Uid, User},
};

use crate::{Program, find, run};

/// Where Debian keeps the programs of its PostgreSQL versions, newest first.
const PLACES: [&str; 5] = [
    "/usr/lib/postgresql/18/bin",
    "/usr/lib/postgresql/17/bin",
    "/usr/lib/postgresql/16/bin",
    "/usr/lib/postgresql/15/bin",
    "/usr/lib/postgresql/14/bin",
];

/// PostgreSQL with fsync on, as its package sets it up. `sinew` is its superuser and needs no password on loopback;
/// every other role does. The database is `postgres`.
#[derive(Clone, Debug, Default)]
pub struct Postgres {
    settings: Vec<String>,
}

impl Postgres {
    /// With a setting more than the usual ones: `("wal_level", "logical")`.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push(format!("{name}={value}"));
        self
    }
}

impl Program for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn packages(&self) -> &'static [&'static str] {
        &["postgresql"]
    }

    fn prepare(&self, folder: &Path, _port: u16) -> Result<()> {
        let data = folder.join("data");
        fs::create_dir(&data)?;
        if let Some(user) = other_user()? {
            for folder in [folder, &data] {
                chown(folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
            }
        }
        run(program("initdb")?
            .args(["--username=sinew", "--auth=trust", "--encoding=UTF8"])
            .args(["--locale=C", "--pgdata"])
            .arg(&data))?;
        let rules = "local all all trust\n\
            host all sinew 127.0.0.1/32 trust\n\
            host all all 127.0.0.1/32 scram-sha-256\n";
        fs::write(data.join("pg_hba.conf"), rules)?;
        Ok(())
    }

    fn command(&self, folder: &Path, port: u16) -> Result<Command> {
        let data = folder.join("data");
        wait_for_the_last(&data);
        let mut command = program("postgres")?;
        command
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "max_prepared_transactions=64"])
            .arg("-c")
            .arg(format!("unix_socket_directories={}", folder.display()));
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        Ok(command)
    }

    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        let asked = program("pg_isready").and_then(|mut command| {
            run(command.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]))
        });
        asked.is_ok()
    }

    fn stop_signal(&self) -> Signal {
        // "Fast": SIGTERM would wait until the last client has gone.
        Signal::SIGINT
    }
}

/// One of PostgreSQL's programs, as a user that it accepts: it refuses to be root.
fn program(name: &str) -> Result<Command> {
    let mut command = Command::new(find(name, &PLACES, "postgresql")?);
    // A folder that everyone may enter.
    command.current_dir("/");
    if let Some(user) = other_user()? {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    Ok(command)
}

/// Whom to run it as, when we are root.
fn other_user() -> Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres")?.or(User::from_name("nobody")?);
    let user = user.context("PostgreSQL refuses to run as root, and there is no user postgres")?;
    Ok(Some(user))
}

/// After a kill, the children of the last run may live for a moment, and PostgreSQL refuses to start while they hold
/// its shared memory.
fn wait_for_the_last(data: &Path) {
    let since = Instant::now();
    while holders(&data.join("postmaster.pid")).is_some_and(|holders| holders > 0)
        && since.elapsed() < Duration::from_secs(30)
    {
        thread::sleep(Duration::from_millis(20));
    }
}

/// How many processes hold the shared memory that a `postmaster.pid` names.
fn holders(file: &PathBuf) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    // The seventh line is the segment's key and id.
    let id = text.lines().nth(6)?.split_whitespace().nth(1)?;
    let segments = fs::read_to_string("/proc/sysvipc/shm").ok()?;
    let segment = segments
        .lines()
        .find(|line| line.split_whitespace().nth(1) == Some(id))?;
    segment.split_whitespace().nth(6)?.parse().ok()
}
