//! Load by wrk, and what it reports.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::process::search_path;

/// What one run of wrk saw.
pub(crate) struct Load {
    pub(crate) requests: f64,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Runs wrk on some cores. Fails when a reply was not 2xx or a connection broke.
pub(crate) fn run(
    cores: &str,
    (threads, connections): (usize, u32),
    seconds: u32,
    url: &str,
) -> Result<Load> {
    let output = Command::new("taskset")
        .args(["-c", cores, "wrk", "--latency"])
        .args(["-t", &threads.to_string()])
        .args(["-c", &connections.to_string()])
        .args(["-d", &format!("{seconds}s"), url])
        .env("PATH", search_path())
        .output()
        .context("cannot run wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "wrk failed: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for fault in ["Non-2xx", "Socket errors"] {
        if let Some(line) = text.lines().find(|line| line.contains(fault)) {
            bail!("{url}: {}", line.trim());
        }
    }
    parse(&text).with_context(|| format!("cannot read wrk's report:\n{text}"))
}

fn parse(text: &str) -> Option<Load> {
    let after = |label: &str| {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(label))?;
        line.trim_start()
            .strip_prefix(label)?
            .split_whitespace()
            .next()
            .map(str::to_owned)
    };
    let requests = text.lines().find(|line| line.contains(" requests in "))?;
    Some(Load {
        requests: requests.split_whitespace().next()?.parse().ok()?,
        per_second: after("Requests/sec:")?.parse().ok()?,
        p50_us: microseconds(&after("50%")?)?,
        p99_us: microseconds(&after("99%")?)?,
    })
}

fn microseconds(text: &str) -> Option<f64> {
    for (unit, factor) in [("us", 1.0), ("ms", 1e3), ("s", 1e6)] {
        if let Some(number) = text.strip_suffix(unit) {
            return number.parse::<f64>().ok().map(|number| number * factor);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_a_report() {
        let report = "Running 2s test @ http://127.0.0.1:1/\n  Latency Distribution\n     50%    1.61ms\n     \
                      75%    1.80ms\n     99%  812.00us\n  75000 requests in 2.00s, 19.10MB read\n\
                      Requests/sec:  37466.12\nTransfer/sec:      9.54MB\n";
        let load = super::parse(report).unwrap();
        assert_eq!((load.requests, load.per_second), (75000.0, 37466.12));
        assert_eq!((load.p50_us, load.p99_us), (1610.0, 812.0));
    }
}
