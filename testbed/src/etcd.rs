use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{Program, find, free_port, run};

/// A cluster of one etcd member, with fsync as its package sets it up.
#[derive(Clone, Debug, Default)]
pub struct Etcd {
    arguments: Vec<String>,
    tls: Option<(PathBuf, PathBuf)>,
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
        // The port for other members; there are none, but it is written into the data.
        std::fs::write(folder.join("peer"), free_port()?.to_string())?;
        Ok(())
    }

    fn command(&self, folder: &Path, port: u16) -> Result<Command> {
        let scheme = self.scheme();
        let peer = std::fs::read_to_string(folder.join("peer"))?;
        let mut command = Command::new(find("etcd", &[], "etcd-server")?);
        command
            .arg("--data-dir")
            .arg(folder.join("data"))
            .args(["--name", "one", "--log-outputs", "stderr"])
            .args(["--logger", "zap", "--log-level", "warn"])
            .arg(format!("--listen-client-urls={scheme}://127.0.0.1:{port}"))
            .arg(format!(
                "--advertise-client-urls={scheme}://127.0.0.1:{port}"
            ))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!(
                "--initial-advertise-peer-urls=http://127.0.0.1:{peer}"
            ))
            .arg(format!("--initial-cluster=one=http://127.0.0.1:{peer}"))
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
