use std::{fs, net::SocketAddr, path::Path, process::Command};

use anyhow::Result;

use crate::{Program, answers, find};

/// HAProxy as a proxy in front of one server, with what it does by default, HTTP/2 included. It waits three seconds for
/// clients.
#[derive(Clone, Copy, Debug)]
pub struct Haproxy {
    /// Where everything goes.
    pub to: SocketAddr,
}

impl Program for Haproxy {
    fn name(&self) -> &'static str {
        "haproxy"
    }

    fn packages(&self) -> &'static [&'static str] {
        &["haproxy"]
    }

    fn prepare(&self, folder: &Path, port: u16) -> Result<()> {
        let text = format!(
            "global\n  nbthread 1\n  maxconn 1024\n\
             defaults\n  mode http\n  timeout connect 3s\n  timeout client 3s\n  timeout server 10s\n\
             \x20 timeout http-request 3s\n  timeout http-keep-alive 3s\n  option forwardfor\n\
             frontend in\n  bind 127.0.0.1:{port}\n  default_backend up\n\
             backend up\n  server up {}\n",
            self.to
        );
        Ok(fs::write(folder.join("haproxy.cfg"), text)?)
    }

    fn command(&self, folder: &Path, _port: u16) -> Result<Command> {
        let mut command = Command::new(find("haproxy", &[], "haproxy")?);
        command.arg("-db").arg("-f").arg(folder.join("haproxy.cfg"));
        Ok(command)
    }

    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        answers(port)
    }
}
