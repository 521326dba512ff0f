//! The gateway beside nginx and HAProxy: the same upstream, the same load, in alternating rounds; one core for the proxy and
//! the other for load and upstream, but in the part with two threads.

mod h2load;
mod idle;
mod latency;
mod rig;
mod rounds;

use anyhow::{Result, ensure};

use self::{
    rig::{CIPHER, Layout, Rig, Subject},
    rounds::alternate,
};
use crate::{
    Options,
    report::{self, Figure},
    wrk,
};

const PROXY_CORE: &str = "0";
const LOAD_CORE: &str = "1";
const CONNECTIONS: u32 = 64;
/// Connections of the load over HTTP/2, and streams on each: as many requests at once as elsewhere.
const H2: (u32, u32) = (8, 8);

/// Where a proxy listens. Two of them may be one port.
#[derive(Clone, Copy)]
struct Ports {
    http: u16,
    https: u16,
    /// HTTP/2 without TLS.
    h2c: u16,
}

const UPSTREAM: u16 = 19080;
const CONTROL: u16 = 19070;
const SINEW: Ports = Ports {
    http: 19081,
    https: 19084,
    h2c: 19081,
};
const NGINX: Ports = Ports {
    http: 19082,
    https: 19085,
    h2c: 19087,
};
const HAPROXY: Ports = Ports {
    http: 19083,
    https: 19086,
    h2c: 19088,
};

/// Bytes in the reply's body.
const BODIES: [usize; 2] = [128, 10_240];

const PARTS: [&str; 7] = [
    "plain", "tls", "h2", "threads", "latency", "changes", "idle",
];

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(only) = &options.only {
        ensure!(
            PARTS.contains(&only.as_str()),
            "no part {only:?} of this bench; there are {}",
            PARTS.join(", ")
        );
    }
    let rounds = |whole| if options.quick { 5 } else { whole };
    let mut figures = Vec::new();
    let mut conditions = format!(
        "Sinew's metrics on; access logs off; X-Forwarded-For and -Proto added by all; keep-alive; turns of 1 s in rotation, \
         {} rounds over plain HTTP/1.1 and 7 or 11 elsewhere; {CONNECTIONS} connections of wrk, or {} of h2load with {} streams each; {CIPHER}; the proxy on \
         core {PROXY_CORE}, load and upstream (nginx) on core {LOAD_CORE}",
        rounds(21),
        H2.0,
        H2.1,
    );
    if ["plain", "tls", "h2"]
        .iter()
        .any(|part| options.wants(part))
    {
        let rig = Rig::start(Layout::ONE)?;
        let subjects = rig.subjects();
        for body in BODIES {
            if options.wants("plain") {
                figures.extend(over_h1(rounds(21), &subjects, body, false)?);
            }
            if options.wants("tls") {
                figures.extend(over_h1(rounds(11), &subjects, body, true)?);
            }
            if options.wants("h2") {
                figures.extend(over_h2(rounds(11), &subjects, body, false)?);
                figures.extend(over_h2(rounds(7), &subjects, body, true)?);
            }
        }
    }
    if options.wants("threads") {
        let rig = Rig::start(Layout::TWO)?;
        for body in BODIES {
            figures.extend(two_threads(rounds(11), &rig.subjects(), body)?);
        }
    }
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("took");
    if options.wants("latency") {
        let (added, rate) = latency::added(rounds(7), 2, &log)?;
        figures.extend(added);
        conditions += "; ";
        conditions += &rate;
    }
    if options.wants("changes") {
        figures.extend(latency::under_changes(rounds(11), 2, &log)?);
    }
    if options.wants("idle") {
        figures.extend(idle::measure(if options.quick { 1 } else { 3 })?);
    }
    report::print("gateway", &conditions, &figures, options)
}

/// Processor time of each request in a turn, in µs, and what the turn answers.
fn with_time<T>(
    subject: &Subject<'_>,
    turn: impl FnOnce() -> Result<(f64, T)>,
) -> Result<(f64, T)> {
    let before = subject.process.cpu_time()?;
    let (requests, seen) = turn()?;
    let spent = subject.process.cpu_time()? - before;
    Ok((spent.as_secs_f64() * 1e6 / requests, seen))
}

fn over_h1(rounds: usize, subjects: &[Subject<'_>], body: usize, tls: bool) -> Result<Vec<Figure>> {
    let metrics = [
        ("cpu", "µs/req"),
        ("rate", "req/s"),
        ("p50", "µs"),
        ("p99", "µs"),
    ];
    let load = format!("{}{}", size(body), if tls { " TLS 1.3" } else { "" });
    alternate(rounds, subjects, (&load, metrics), |subject| {
        let url = if tls {
            format!("https://127.0.0.1:{}/{body}", subject.ports.https)
        } else {
            format!("http://127.0.0.1:{}/{body}", subject.ports.http)
        };
        let (cpu, seen) = with_time(subject, || {
            let load = wrk::run(LOAD_CORE, (1, CONNECTIONS), 1, &url)?;
            Ok((load.requests, load))
        })?;
        Ok([cpu, seen.per_second, seen.p50_us, seen.p99_us])
    })
}

fn over_h2(rounds: usize, subjects: &[Subject<'_>], body: usize, tls: bool) -> Result<Vec<Figure>> {
    let metrics = [("cpu", "µs/req"), ("rate", "req/s")];
    let load = format!("{} HTTP/2{}", size(body), if tls { " TLS" } else { "" });
    alternate(rounds, subjects, (&load, metrics), |subject| {
        let url = if tls {
            format!("https://127.0.0.1:{}/{body}", subject.ports.https)
        } else {
            format!("http://127.0.0.1:{}/{body}", subject.ports.h2c)
        };
        let (cpu, seen) = with_time(subject, || {
            let load = h2load::run(LOAD_CORE, H2, 1, &url)?;
            Ok((load.requests, load))
        })?;
        Ok([cpu, seen.per_second])
    })
}

/// Everything on both cores: who takes less of them leaves more to the load.
fn two_threads(rounds: usize, subjects: &[Subject<'_>], body: usize) -> Result<Vec<Figure>> {
    let Layout { load, threads, .. } = Layout::TWO;
    let metrics = [("rate", "req/s"), ("cpu", "µs/req"), ("p99", "µs")];
    let name = format!("{}, two threads", size(body));
    alternate(rounds, subjects, (&name, metrics), |subject| {
        let url = format!("http://127.0.0.1:{}/{body}", subject.ports.http);
        let (cpu, seen) = with_time(subject, || {
            let load = wrk::run(load, (threads, CONNECTIONS), 1, &url)?;
            Ok((load.requests, load))
        })?;
        Ok([seen.per_second, cpu, seen.p99_us])
    })
}

fn size(body: usize) -> String {
    if body < 1_024 {
        format!("{body} B")
    } else {
        format!("{} KB", body / 1_024)
    }
}
