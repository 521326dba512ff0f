use std::{
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::free_port;

/// How long a server may take until it is ready.
const START: Duration = Duration::from_secs(90);
/// How long it may take to end when it is asked to.
const STOP: Duration = Duration::from_secs(30);

/// How one kind of server is run.
pub trait Program: Send + Sync + 'static {
    /// What it is called: `postgres`.
    fn name(&self) -> &'static str;

    /// The Debian packages that it is in.
    fn packages(&self) -> &'static [&'static str];

    /// Makes what the server needs before its first start.
    fn prepare(&self, folder: &Path, port: u16) -> Result<()>;

    /// What runs the server in the foreground, on 127.0.0.1 and this port, with all its files in this folder.
    fn command(&self, folder: &Path, port: u16) -> Result<Command>;

    /// Whether it serves.
    fn is_ready(&self, folder: &Path, port: u16) -> bool;

    /// What its operator ends it with.
    fn stop_signal(&self) -> Signal {
        Signal::SIGTERM
    }
}

/// A server that runs. Dropping it kills it and removes its folder.
pub struct Server {
    program: Box<dyn Program>,
    port: u16,
    child: Option<Child>,
    // Last: removed when the process is gone.
    folder: TempDir,
}

impl Server {
    /// Starts one with a new folder on a free port, and waits until it serves.
    pub fn start(program: impl Program) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("sinew-{}-", program.name()))
            .tempdir()?;
        let mut server = Self {
            program: Box::new(program),
            port: free_port()?,
            child: None,
            folder,
        };
        let name = server.program.name();
        server
            .program
            .prepare(server.folder.path(), server.port)
            .with_context(|| format!("{name} cannot be prepared"))?;
        server.start_again()?;
        Ok(server)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where its files are. What it printed is in `output.log`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts it once more after [`Server::stop`] or [`Server::kill`], with the same port and data.
    pub fn start_again(&mut self) -> Result<()> {
        let name = self.program.name();
        ensure!(self.child.is_none(), "{name} runs already");
        let log = self.folder.path().join("output.log");
        let output = File::options().create(true).append(true).open(&log)?;
        let child = self
            .program
            .command(self.folder.path(), self.port)?
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Its children end with it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("{name} does not start; is it installed?"))?;
        self.child = Some(child);
        let since = Instant::now();
        while !self.program.is_ready(self.folder.path(), self.port) {
            let ended = self
                .child
                .as_mut()
                .is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))));
            if ended || since.elapsed() > START {
                self.kill();
                let said = fs::read_to_string(&log).unwrap_or_default();
                let from = said.len().saturating_sub(3000);
                let what = if ended {
                    "ended"
                } else {
                    "is not ready in time"
                };
                bail!("{name} {what}:\n{}", said.get(from..).unwrap_or(&said));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Ends it as its operator would, and waits.
    pub fn stop(&mut self) {
        self.signal(self.program.stop_signal());
        let since = Instant::now();
        while let Some(child) = &mut self.child {
            if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                // What it leaves behind would hold the port.
                self.kill();
            } else if since.elapsed() > STOP {
                self.kill();
            } else {
                thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Ends it with SIGKILL, it and all its children.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// Lets it stand still: connections stay, nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.pid().and_then(|id| i32::try_from(id).ok()) {
            // It may be gone already.
            let _ = killpg(Pid::from_raw(id), signal);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where a program is: on the path, in `/usr/sbin`, or in one of the places given. An error that names the package otherwise.
pub fn find(program: &str, places: &[&str], package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(places.iter().map(PathBuf::from))
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .with_context(|| {
            format!("{program} is not installed; `cargo xtask engines install` brings it (package {package})")
        })
}

/// Runs a command to its end; an error with what it printed when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Whether something accepts connections on a port of 127.0.0.1.
pub fn answers(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}
