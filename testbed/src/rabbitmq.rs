use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{Program, find, free_port};

/// RabbitMQ as a single node without plugins, with a name and an Erlang port mapper of its own. `guest` with the
/// password `guest` may do everything, on loopback.
#[derive(Clone, Debug, Default)]
pub struct RabbitMq {
    settings: Vec<String>,
}

impl RabbitMq {
    /// With a line more in `rabbitmq.conf`: `("vm_memory_high_watermark.absolute", "100MB")`.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push(format!("{name} = {value}"));
        self
    }

    /// Runs `rabbitmqctl` against a server that was started here.
    pub fn control(folder: &Path, port: u16, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(script("rabbitmqctl")?);
        environment(&mut command, folder, port)?;
        crate::run(command.args(arguments))
    }
}

impl Program for RabbitMq {
    fn name(&self) -> &'static str {
        "rabbitmq"
    }

    fn packages(&self) -> &'static [&'static str] {
        &["rabbitmq-server"]
    }

    fn prepare(&self, folder: &Path, port: u16) -> Result<()> {
        let mut settings = format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\n\
             log.console = true\n\
             log.console.level = warning\n\
             log.file = false\n"
        );
        for setting in &self.settings {
            settings.push_str(setting);
            settings.push('\n');
        }
        fs::write(folder.join("rabbitmq.conf"), settings)?;
        fs::write(folder.join("enabled_plugins"), "[].\n")?;
        for file in ["mapper.port", "nodes.port"] {
            fs::write(folder.join(file), free_port()?.to_string())?;
        }
        Ok(())
    }

    fn command(&self, folder: &Path, port: u16) -> Result<Command> {
        let mapper = find("epmd", &["/usr/lib/erlang/bin"], "erlang-base")?;
        let mut command = Command::new("/bin/sh");
        // The port mapper in the foreground, so that it is killed with the server; as a daemon it would stay. The server needs
        // it to end in order.
        command
            .args([
                "-c",
                "(trap '' TERM; exec \"$0\" -address 127.0.0.1 -port \"$ERL_EPMD_PORT\") & exec \"$1\"",
            ])
            .arg(mapper)
            .arg(script("rabbitmq-server")?);
        environment(&mut command, folder, port)?;
        Ok(command)
    }

    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        greets(port).unwrap_or(false)
    }
}

/// RabbitMQ's own scripts: those on the path change to another user, or refuse to be root.
fn script(name: &str) -> Result<std::path::PathBuf> {
    let places = ["/usr/lib/rabbitmq/bin", "/opt/homebrew/sbin"];
    let own = places.iter().map(|place| Path::new(place).join(name));
    match own.into_iter().find(|file| file.is_file()) {
        Some(file) => Ok(file),
        None => find(name, &[], "rabbitmq-server"),
    }
}

fn environment(command: &mut Command, folder: &Path, port: u16) -> Result<()> {
    let noted = |file: &str| {
        fs::read_to_string(folder.join(file)).with_context(|| format!("{file} was not prepared"))
    };
    command
        .env("HOME", folder)
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("ERL_EPMD_PORT", noted("mapper.port")?)
        .env("RABBITMQ_DIST_PORT", noted("nodes.port")?)
        .env("RABBITMQ_NODENAME", format!("sinew-{port}@localhost"))
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
        .env(
            "RABBITMQ_ENABLED_PLUGINS_FILE",
            folder.join("enabled_plugins"),
        )
        .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
        .env("RABBITMQ_LOG_BASE", folder.join("log"))
        .env("RABBITMQ_PID_FILE", folder.join("pid"))
        // As under systemd: the script becomes the server, which ends at SIGTERM, instead of waiting beside it.
        .env("NOTIFY_SOCKET", folder.join("notify"))
        // Schedulers that spin while they wait would take the processors from everyone else here.
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        );
    Ok(())
}

/// Whether an AMQP server answers our greeting with a frame.
fn greets(port: u16) -> Result<bool> {
    let wait = Duration::from_secs(2);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, wait)?;
    stream.set_read_timeout(Some(wait))?;
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    Ok(kind == [1])
}
