use std::{fs, net::TcpStream, os::unix::fs::chown, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};
use nix::unistd::{Uid, User};

use crate::{Program, find, run};

/// MariaDB with durable settings. `sinew` may do everything and needs no password on loopback; the database is `test`.
#[derive(Clone, Debug, Default)]
pub struct Mariadb {
    settings: Vec<String>,
}

impl Mariadb {
    /// With a setting more than the usual ones: `("log-bin", "on")`.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push(format!("--{name}={value}"));
        self
    }
}

impl Program for Mariadb {
    fn name(&self) -> &'static str {
        "mariadb"
    }

    fn packages(&self) -> &'static [&'static str] {
        &["mariadb-server"]
    }

    fn prepare(&self, folder: &Path, _port: u16) -> Result<()> {
        let data = folder.join("data");
        fs::create_dir(&data)?;
        let user = other_user()?;
        if let Some(user) = &user {
            for folder in [folder, &data] {
                chown(folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
            }
        }
        let mut install = Command::new(find("mariadb-install-db", &[], "mariadb-server")?);
        install
            .args([
                "--no-defaults",
                "--skip-test-db",
                "--auth-root-authentication-method=normal",
            ])
            .arg(format!("--datadir={}", data.display()));
        if let Some(user) = &user {
            install.arg(format!("--user={}", user.name));
        }
        run(&mut install)?;
        // Run at each start, so it says the same each time.
        let setup = "CREATE USER IF NOT EXISTS sinew@'127.0.0.1';\n\
            GRANT ALL ON *.* TO sinew@'127.0.0.1' WITH GRANT OPTION;\n\
            CREATE DATABASE IF NOT EXISTS test;\n";
        fs::write(folder.join("setup.sql"), setup)?;
        Ok(())
    }

    fn command(&self, folder: &Path, port: u16) -> Result<Command> {
        let mut command = Command::new(find("mariadbd", &[], "mariadb-server")?);
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", folder.join("data").display()))
            .arg(format!("--socket={}", folder.join("socket").display()))
            .arg(format!("--pid-file={}", folder.join("pid").display()))
            .arg(format!("--port={port}"))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve"])
            .args(["--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1"])
            // Small: many of them run beside each other in tests.
            .args([
                "--innodb-buffer-pool-size=64M",
                "--innodb-log-file-size=32M",
            ])
            .args(["--performance-schema=off", "--character-set-server=utf8mb4"]);
        if !self
            .settings
            .iter()
            .any(|setting| setting.starts_with("--read-only"))
        {
            command.arg(format!(
                "--init-file={}",
                folder.join("setup.sql").display()
            ));
        }
        if let Some(user) = other_user()? {
            command.arg(format!("--user={}", user.name));
        }
        command.args(&self.settings);
        Ok(command)
    }

    fn is_ready(&self, folder: &Path, port: u16) -> bool {
        // It listens before the setup has run only when there is none; the handshake proves that it serves.
        let greeted = || -> Result<bool> {
            let mut stream = TcpStream::connect_timeout(
                &([127, 0, 0, 1], port).into(),
                Duration::from_millis(500),
            )?;
            stream.set_read_timeout(Some(Duration::from_millis(500)))?;
            let mut head = [0; 5];
            std::io::Read::read_exact(&mut stream, &mut head)?;
            // The protocol's version 10; 255 would be an error.
            Ok(head[4] == 10)
        };
        folder.join("pid").exists() && greeted().unwrap_or(false)
    }
}

/// Whom to run it as, when we are root: it refuses to be root.
fn other_user() -> Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let user = User::from_name("mysql")?.or(User::from_name("nobody")?);
    let user = user.context("MariaDB refuses to run as root, and there is no user mysql")?;
    Ok(Some(user))
}
