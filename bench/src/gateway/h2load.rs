//! Load by h2load: over HTTP/2 as much as goes, and over HTTP/1.1 at a rate.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use super::rig::CIPHER;
use crate::{process::search_path, report::quantile};

/// What one run over HTTP/2 saw.
pub(super) struct Load {
    pub(super) requests: f64,
    pub(super) per_second: f64,
}

/// What one run at a rate saw.
pub(super) struct Paced {
    pub(super) per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// As many requests as go through, with so many streams on each connection.
pub(super) fn run(
    core: &str,
    (connections, streams): (u32, u32),
    seconds: u32,
    url: &str,
) -> Result<Load> {
    let (connections, streams) = (connections.to_string(), streams.to_string());
    let time = seconds.to_string();
    let text = h2load(
        core,
        &["-c", &connections, "-m", &streams, "-D", &time, url],
    )?;
    ensure!(
        text.contains("Application protocol: h2"),
        "{url} does not speak HTTP/2:\n{text}"
    );
    parse(&text).with_context(|| format!("cannot read h2load's report:\n{text}"))
}

/// Requests over HTTP/1.1 at a rate, whatever their answers take; each connection sends what is due one after the other.
pub(super) fn paced(
    core: &str,
    (connections, per_second): (u32, u32),
    seconds: u32,
    url: &str,
    log: &Path,
) -> Result<Paced> {
    // h2load appends to a log that is there.
    let _ = fs::remove_file(log);
    let each = (per_second / connections).to_string();
    let (connections, time) = (connections.to_string(), seconds.to_string());
    let log_to = format!("--log-file={}", log.display());
    let text = h2load(
        core,
        &[
            "--h1",
            "-c",
            &connections,
            "--rps",
            &each,
            "-D",
            &time,
            &log_to,
            url,
        ],
    )?;
    let load = parse(&text).with_context(|| format!("cannot read h2load's report:\n{text}"))?;
    let mut took = Vec::new();
    for line in fs::read_to_string(log)?.lines() {
        let micros = line.split('\t').nth(2).and_then(|text| text.parse().ok());
        took.push(micros.context("malformed log of h2load")?);
    }
    ensure!(!took.is_empty(), "{url}: nothing was answered");
    took.sort_by(f64::total_cmp);
    Ok(Paced {
        per_second: load.per_second,
        p50_us: quantile(&took, 0.5),
        p99_us: quantile(&took, 0.99),
    })
}

/// What is spoken at a port with TLS: version and cipher.
pub(super) fn spoken(port: u16) -> Result<String> {
    let url = format!("https://127.0.0.1:{port}/128");
    let text = h2load("0", &["-c", "1", "-n", "1", &url])?;
    let lines = text
        .lines()
        .filter(|line| line.starts_with("TLS Protocol") || line.starts_with("Cipher"));
    Ok(lines.collect::<Vec<_>>().join(", "))
}

fn h2load(core: &str, options: &[&str]) -> Result<String> {
    let output = Command::new("taskset")
        .args(["-c", core, "h2load", "-t", "1"])
        // What wrk asks for first.
        .args(["--tls13-ciphers", CIPHER])
        .args(options)
        .env("PATH", search_path())
        .output()
        .context("cannot run h2load")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "h2load failed: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(
        text.contains(" 0 failed, 0 errored, 0 timeout"),
        "h2load saw failures:\n{text}"
    );
    Ok(text)
}

fn parse(text: &str) -> Option<Load> {
    // "finished in 1.00s, 41234.00 req/s, 7.1MB/s"
    let finished = text.lines().find(|line| line.starts_with("finished in "))?;
    let rate = finished.split(", ").nth(1)?.split(' ').next()?;
    // "requests: 41234 total, 41298 started, 41234 done, …"
    let requests = text
        .lines()
        .find_map(|line| line.strip_prefix("requests: "))?;
    let done = requests.split(", ").find(|part| part.ends_with(" done"))?;
    Some(Load {
        requests: done.split(' ').next()?.parse().ok()?,
        per_second: rate.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_a_report() {
        let report = "Application protocol: h2c\n\nfinished in 1.00s, 41234.00 req/s, 7.10MB/s\n\
                      requests: 41234 total, 41298 started, 41230 done, 41234 succeeded, 0 failed, 0 errored, 0 timeout\n";
        let load = super::parse(report).unwrap();
        assert_eq!((load.requests, load.per_second), (41_230.0, 41_234.0));
    }
}
