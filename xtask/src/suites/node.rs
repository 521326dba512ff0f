//! A node whose gateway brings everything to one server.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use anyhow::{Result, ensure};
use sinew_testbed::{Program, Server, answers, certificate, free_port};

/// What it is to be.
pub(super) struct Node {
    upstream: u16,
    tls: u16,
}

/// A node that runs, and where its gateway speaks without and with TLS.
pub(super) struct Running {
    _server: Server,
    pub(super) plain: SocketAddr,
    pub(super) tls: SocketAddr,
}

impl Node {
    pub(super) fn start(upstream: u16) -> Result<Running> {
        let tls = free_port()?;
        let server = Server::start(Self { upstream, tls })?;
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Ok(Running {
            plain: at(server.port()),
            tls: at(tls),
            _server: server,
        })
    }
}

impl Program for Node {
    fn name(&self) -> &'static str {
        "sinew"
    }

    fn packages(&self) -> &'static [&'static str] {
        &[]
    }

    fn prepare(&self, folder: &Path, port: u16) -> Result<()> {
        certificate(folder)?;
        let Self { upstream, tls } = self;
        let config = format!(
            "\
[control]
address = \"127.0.0.1:0\"

[gateway]
address = \"127.0.0.1:{port}\"

[gateway.tls]
address = \"127.0.0.1:{tls}\"

[[gateway.tls.certificates]]
cert = \"server.crt\"
key = \"server.key\"

[[routes]]
path = \"/**\"

[[routes.backends]]
addresses = [\"127.0.0.1:{upstream}\"]
"
        );
        Ok(fs::write(folder.join("sinew.toml"), config)?)
    }

    fn command(&self, folder: &Path, _port: u16) -> Result<Command> {
        let program = super::sinew();
        ensure!(program.is_file(), "{} is not built", program.display());
        let mut command = Command::new(program);
        command.arg("serve").current_dir(folder);
        Ok(command)
    }

    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        answers(port) && answers(self.tls)
    }
}
