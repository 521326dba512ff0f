use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::Result;

use crate::{Program, find};

/// Memcached.
#[derive(Clone, Debug, Default)]
pub struct Memcached {
    /// What the items may take, MiB; 64 unless it is given.
    pub megabytes: Option<u32>,
    /// The user and the password that clients must give.
    pub login: Option<(String, String)>,
}

impl Program for Memcached {
    fn name(&self) -> &'static str {
        "memcached"
    }

    fn packages(&self) -> &'static [&'static str] {
        &["memcached"]
    }

    fn prepare(&self, folder: &Path, _port: u16) -> Result<()> {
        if let Some((user, password)) = &self.login {
            fs::write(folder.join("logins"), format!("{user}:{password}\n"))?;
        }
        Ok(())
    }

    fn command(&self, folder: &Path, port: u16) -> Result<Command> {
        let mut command = Command::new(find("memcached", &[], "memcached")?);
        command
            .args([
                "-l",
                "127.0.0.1",
                "-U",
                "0",
                "-t",
                "2",
                "-p",
                &port.to_string(),
            ])
            .args(["-m", &self.megabytes.unwrap_or(64).to_string()]);
        // It will not run as root unless it is told so.
        if nix::unistd::geteuid().is_root() {
            command.args(["-u", "root"]);
        }
        if self.login.is_some() {
            command.arg("-Y").arg(folder.join("logins"));
        }
        Ok(command)
    }

    /// Whether it answers, be it that it wants a login first.
    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let wait = Duration::from_millis(500);
        let Ok(mut connection) = TcpStream::connect_timeout(&address, wait) else {
            return false;
        };
        let mut answer = [0; 4];
        connection.set_read_timeout(Some(wait)).is_ok()
            && connection.write_all(b"mn\r\n").is_ok()
            && connection.read_exact(&mut answer).is_ok()
            && (answer.starts_with(b"MN") || answer.starts_with(b"CLIE"))
    }
}
