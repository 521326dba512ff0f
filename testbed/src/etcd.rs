use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Result, bail};

use crate::{Program, Server, find, free_port, run};

/// A member of an etcd cluster, the only one unless it is made by [`Etcd::cluster`], with fsync as its package sets it up.
#[derive(Clone, Debug, Default)]
pub struct Etcd {
    arguments: Vec<String>,
    tls: Option<(PathBuf, PathBuf)>,
    /// Which member it is, and the ports on which all members talk to each other.
    member: Option<(usize, Vec<u16>)>,
}

impl Etcd {
    /// With an argument more than the usual ones: `--quota-backend-bytes=16777216`.
    #[must_use]
    pub fn with(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Serves TLS with this certificate, which signs itself and is for 127.0.0.1, and its key.
    #[must_use]
    pub fn with_tls(mut self, certificate: PathBuf, key: PathBuf) -> Self {
        self.tls = Some((certificate, key));
        self
    }

    /// Starts a cluster of this many members.
    pub fn cluster(members: usize) -> Result<Vec<Server>> {
        let ports = (0..members)
            .map(|_| free_port())
            .collect::<Result<Vec<_>>>()?;
        // None of them serves before most of them are there.
        let starting: Vec<_> = (0..members)
            .map(|member| {
                let program = Self {
                    member: Some((member, ports.clone())),
                    ..Self::default()
                };
                thread::spawn(move || Server::start(program))
            })
            .collect();
        let started = starting.into_iter().map(|starting| match starting.join() {
            Ok(started) => started,
            Err(_) => bail!("starting a member panicked"),
        });
        started.collect()
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Runs `etcdctl` against the server on this port.
    pub fn control(port: u16, arguments: &[&str]) -> Result<()> {
        run(Command::new(find("etcdctl", &[], "etcd-client")?)
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints=127.0.0.1:{port}"))
            .args(["--dial-timeout=2s", "--command-timeout=5s"])
            .args(arguments))
    }
}

impl Program for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn packages(&self) -> &'static [&'static str] {
        &["etcd-server", "etcd-client"]
    }

    fn prepare(&self, folder: &Path, _port: u16) -> Result<()> {
        // They are written into the data, so they stay what they are.
        let ports = match &self.member {
            Some((_, ports)) => ports.clone(),
            None => vec![free_port()?],
        };
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        fs::write(folder.join("peers"), ports.join(" "))?;
        Ok(())
    }

    fn command(&self, folder: &Path, port: u16) -> Result<Command> {
        let scheme = self.scheme();
        let peers = fs::read_to_string(folder.join("peers"))?;
        let peers: Vec<&str> = peers.split(' ').collect();
        let member = self.member.as_ref().map_or(0, |(member, _)| *member);
        let peer = peers[member];
        let everybody: Vec<String> = peers
            .iter()
            .enumerate()
            .map(|(member, port)| format!("member{member}=http://127.0.0.1:{port}"))
            .collect();
        let mut command = Command::new(find("etcd", &[], "etcd-server")?);
        command
            .arg("--data-dir")
            .arg(folder.join("data"))
            .arg(format!("--name=member{member}"))
            .args(["--log-outputs", "stderr"])
            .args(["--logger", "zap", "--log-level", "warn"])
            .arg(format!("--listen-client-urls={scheme}://127.0.0.1:{port}"))
            .arg(format!(
                "--advertise-client-urls={scheme}://127.0.0.1:{port}"
            ))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!(
                "--initial-advertise-peer-urls=http://127.0.0.1:{peer}"
            ))
            .arg(format!("--initial-cluster={}", everybody.join(",")))
            .args(&self.arguments);
        if let Some((certificate, key)) = &self.tls {
            command.arg("--cert-file").arg(certificate);
            command.arg("--key-file").arg(key);
        }
        Ok(command)
    }

    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        let asked = find("etcdctl", &[], "etcd-client").and_then(|program| {
            let mut command = Command::new(program);
            command
                .env("ETCDCTL_API", "3")
                .arg(format!("--endpoints={}://127.0.0.1:{port}", self.scheme()))
                .args(["--dial-timeout=1s", "--command-timeout=2s"]);
            if let Some((certificate, _)) = &self.tls {
                command.arg("--cacert").arg(certificate);
            }
            // What it answers without rights too.
            run(command.args(["endpoint", "status"]))
        });
        asked.is_ok()
    }
}
