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

/// Redis, without persistence unless it is asked for.
#[derive(Clone, Debug, Default)]
pub struct Redis {
    /// Whether every write is in the append-only file, and synced, before it is answered.
    pub durable: bool,
    /// What the items may take, bytes; what was not used for longest is evicted then.
    pub memory: Option<u64>,
    /// The password that clients must give.
    pub password: Option<String>,
}

impl Program for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn packages(&self) -> &'static [&'static str] {
        &["redis-server"]
    }

    fn prepare(&self, folder: &Path, port: u16) -> Result<()> {
        let mut lines = vec![
            format!("port {port}"),
            "bind 127.0.0.1".to_owned(),
            "daemonize no".to_owned(),
            format!("dir {}", folder.display()),
            "save \"\"".to_owned(),
        ];
        if self.durable {
            lines.extend(["appendonly yes", "appendfsync always"].map(str::to_owned));
        }
        if let Some(bytes) = self.memory {
            lines.push(format!("maxmemory {bytes}"));
            lines.push("maxmemory-policy allkeys-lru".to_owned());
        }
        if let Some(password) = &self.password {
            lines.push(format!("requirepass {password}"));
        }
        Ok(fs::write(folder.join("redis.conf"), lines.join("\n"))?)
    }

    fn command(&self, folder: &Path, _port: u16) -> Result<Command> {
        let mut command = Command::new(find("redis-server", &[], "redis-server")?);
        command.arg(folder.join("redis.conf"));
        Ok(command)
    }

    /// Whether it answers, be it that it wants a password; it says `-LOADING` while it reads its file.
    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let wait = Duration::from_millis(500);
        let Ok(mut connection) = TcpStream::connect_timeout(&address, wait) else {
            return false;
        };
        let mut answer = [0; 7];
        connection.set_read_timeout(Some(wait)).is_ok()
            && connection.write_all(b"PING\r\n").is_ok()
            && connection.read_exact(&mut answer).is_ok()
            && (answer.starts_with(b"+PONG") || answer.starts_with(b"-NOAUTH"))
    }
}
