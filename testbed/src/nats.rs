use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{Program, answers, find, programs::go_program};

/// A NATS server with JetStream on its folder. Without users it lets everybody in; with some, only those.
#[derive(Clone, Debug, Default)]
pub struct Nats {
    is_synced: bool,
    is_plain: bool,
    /// Name, password, and rights where they are not all.
    users: Vec<(String, String, String)>,
}

impl Nats {
    /// Sees to it that there is a server for [`Nats::synced`].
    pub fn install() -> Result<()> {
        newer().map(drop)
    }

    /// Everything is on the disk before it is acknowledged (`sync_interval: always`). Wants a server of version 2.10 or
    /// newer: where the system's is older, one is built from its Go module.
    #[must_use]
    pub fn synced(mut self) -> Self {
        self.is_synced = true;
        self
    }

    /// Nothing but messages that are forgotten.
    #[must_use]
    pub fn without_jetstream(mut self) -> Self {
        self.is_plain = true;
        self
    }

    /// Lets a user in, with a password.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users
            .push((name.to_owned(), password.to_owned(), String::new()));
        self
    }

    /// Lets a user in who may use JetStream, and the subjects of one namespace.
    #[must_use]
    pub fn limited_user(mut self, name: &str, password: &str, namespace: &str) -> Self {
        let rights = format!(
            ", permissions: {{ publish: [\"$JS.API.>\", \"{namespace}.bus.>\"], \
             subscribe: [\"_INBOX.>\", \"{namespace}.bus.h.>\"] }}"
        );
        self.users
            .push((name.to_owned(), password.to_owned(), rights));
        self
    }
}

/// The version that is built when the system's server is too old.
const MODULE: &str = "github.com/nats-io/nats-server/v2@v2.11.10";

/// A server that knows `sync_interval`.
fn newer() -> Result<PathBuf> {
    let knows = |program: &PathBuf| {
        let output = Command::new(program).arg("--version").output().ok();
        let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let version = said
            .as_deref()
            .and_then(|said| said.trim().split("v2.").nth(1));
        let minor = version.and_then(|version| version.split('.').next()?.parse::<u32>().ok());
        minor.is_some_and(|minor| minor >= 10)
    };
    let usual = find("nats-server", &[], "nats-server").ok();
    match usual.filter(knows) {
        Some(program) => Ok(program),
        None => go_program("nats-server", MODULE),
    }
}

impl Program for Nats {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn packages(&self) -> &'static [&'static str] {
        &["nats-server"]
    }

    fn prepare(&self, folder: &Path, port: u16) -> Result<()> {
        let sync = if self.is_synced {
            "  sync_interval: always\n"
        } else {
            ""
        };
        let users: String = self
            .users
            .iter()
            .map(|(name, password, rights)| {
                format!("    {{ user: {name:?}, password: {password:?}{rights} }}\n")
            })
            .collect();
        let users = if users.is_empty() {
            users
        } else {
            format!("authorization {{\n  users: [\n{users}  ]\n}}\n")
        };
        let store = folder.join("store");
        let jetstream = format!("jetstream {{\n  store_dir: {store:?}\n{sync}}}\n");
        let jetstream = if self.is_plain { "" } else { &jetstream };
        let config = format!("listen: \"127.0.0.1:{port}\"\n{jetstream}{users}");
        fs::write(folder.join("nats.conf"), config)?;
        Ok(())
    }

    fn command(&self, folder: &Path, _port: u16) -> Result<Command> {
        let program = if self.is_synced {
            newer()?
        } else {
            find("nats-server", &[], "nats-server")?
        };
        let mut command = Command::new(program);
        command.arg("--config").arg(folder.join("nats.conf"));
        Ok(command)
    }

    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        answers(port)
    }
}
