//! Processes under measurement: pinned to a core, their processor time read from `/proc`.

use std::{
    fs,
    net::TcpStream,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Processor time is counted in these (Linux fixes USER_HZ at 100 for user space).
const TICK: Duration = Duration::from_millis(10);

/// A running program; killed when dropped.
pub(crate) struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts a program on some cores (`0`, `0,1`), its output thrown away, and waits until `port` accepts.
    pub(crate) fn start(name: &str, cores: &str, command: &[&str], port: u16) -> Result<Self> {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            bail!("port {port} is taken, but {name} needs it");
        }
        let child = Command::new("taskset")
            .args(["-c", cores])
            .args(command)
            .env("PATH", search_path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let mut process = Self {
            child,
            name: name.to_owned(),
        };
        process.wait_for(port)?;
        Ok(process)
    }

    /// Waits until the program accepts connections on this port too.
    pub(crate) fn wait_for(&mut self, port: u16) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at once: {status}", self.name);
            }
            if start.elapsed() > Duration::from_secs(10) {
                bail!("{} does not listen on port {port} after 10 s", self.name);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// User and system time of the process and its direct children so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let mut total = 0;
        for pid in self.family()? {
            total += ticks(pid)?;
        }
        Ok(TICK * total)
    }

    /// Bytes of memory that the process and its direct children have for themselves.
    pub(crate) fn memory(&self) -> Result<u64> {
        let mut total = 0;
        for pid in self.family()? {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let of = |label: &str| {
                let line = rollup.lines().find_map(|line| line.strip_prefix(label));
                let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
                kib.context("malformed smaps_rollup")
            };
            total += of("Private_Clean:")? + of("Private_Dirty:")?;
        }
        Ok(total * 1024)
    }

    fn family(&self) -> Result<Vec<u32>> {
        let own = self.child.id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children"))?;
        let mut family = vec![own];
        for child in children.split_whitespace() {
            family.push(child.parse()?);
        }
        Ok(family)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Masters stop their workers when asked politely, not when killed.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `PATH` with the folders in which Debian keeps servers.
pub(crate) fn search_path() -> String {
    format!(
        "{}:/usr/sbin:/usr/local/sbin",
        std::env::var("PATH").unwrap_or_default()
    )
}

/// User and system time of this process so far.
pub(crate) fn own_time() -> Result<Duration> {
    Ok(TICK * ticks(std::process::id())?)
}

/// User and system time so far of a server that leads a group of processes: of the group, of all their children, which
/// may have groups of their own, and of those that have ended and were waited for.
pub(crate) fn server_time(leader: u32) -> Result<Duration> {
    let mut others = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse::<u32>().ok());
        // It may have ended just now.
        if let Some(pid) = pid
            && let Ok(stat) = Stat::of(pid)
        {
            others.push((pid, stat));
        }
    }
    let (mut known, mut total) = (Vec::new(), 0);
    loop {
        let before = known.len();
        for (pid, stat) in &others {
            let (parent, group) = (stat.number(1)?, stat.number(2)?);
            if (group == leader || known.contains(&parent)) && !known.contains(pid) {
                known.push(*pid);
                for field in 11..=14 {
                    total += stat.number(field)?;
                }
            }
        }
        if known.len() == before {
            return Ok(TICK * total);
        }
    }
}

fn ticks(pid: u32) -> Result<u32> {
    let stat = Stat::of(pid)?;
    Ok(stat.number(11)? + stat.number(12)?)
}

/// What `/proc/<pid>/stat` says after the program's name.
struct Stat(String);

impl Stat {
    fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is the program's name in parentheses and may hold spaces.
        let fields = stat.rsplit_once(')').context("malformed /proc stat")?.1;
        Ok(Self(fields.to_owned()))
    }

    /// Field 0 is the state.
    fn number(&self, field: usize) -> Result<u32> {
        let text = self.0.split_whitespace().nth(field);
        text.and_then(|text| text.parse().ok())
            .context("malformed /proc stat")
    }
}
