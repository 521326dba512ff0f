//! Figures: collected as samples, shown as median with spread, kept as JSON lines.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::Options;

/// Samples of one metric of one subject.
pub(crate) struct Figure {
    pub(crate) metric: String,
    pub(crate) subject: String,
    pub(crate) unit: &'static str,
    /// How durable what was measured is, or what else must be known of it.
    pub(crate) note: String,
    pub(crate) samples: Vec<f64>,
}

impl Figure {
    pub(crate) fn new(
        metric: impl Into<String>,
        subject: impl Into<String>,
        unit: &'static str,
    ) -> Self {
        Self {
            metric: metric.into(),
            subject: subject.into(),
            unit,
            note: String::new(),
            samples: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, samples: Vec<f64>) -> Self {
        self.samples = samples;
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// (median, least, greatest); a figure has at least one sample.
    fn spread(&self) -> (f64, f64, f64) {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        let middle = (sorted[last / 2] + sorted[last.div_ceil(2)]) / 2.0;
        (middle, sorted[0], sorted[last])
    }
}

/// Sample by sample `subject` over `peer`, as a figure of its own. Both were measured in the same
/// rounds, so what the machine did meanwhile touches both and drops out.
pub(crate) fn ratio(subject: &Figure, peer: &Figure) -> Figure {
    let both = subject.samples.iter().zip(&peer.samples);
    Figure::new(
        subject.metric.clone(),
        format!("{}/{}", subject.subject, peer.subject),
        "ratio",
    )
    .with(both.map(|(a, b)| a / b).collect())
}

/// The quantile `q` (0 to 1) of samples, by nearest rank.
pub(crate) fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted[rank.saturating_sub(1).min(sorted.len() - 1)]
}

/// Prints the table and writes the JSON lines.
pub(crate) fn print(
    bench: &str,
    conditions: &str,
    figures: &[Figure],
    options: &Options,
) -> Result<()> {
    let machine = machine();
    println!("\n{bench}: {conditions}\n{machine}\n");
    println!(
        "{:<34} {:<30} {:>10} {:>10} {:>10}  unit",
        "metric", "subject", "median", "min", "max"
    );
    for figure in figures {
        let (median, least, greatest) = figure.spread();
        println!(
            "{:<34} {:<30} {median:>10.2} {least:>10.2} {greatest:>10.2}  {:<6} {}",
            figure.metric, figure.subject, figure.unit, figure.note
        );
    }
    let Some(path) = &options.json else {
        return Ok(());
    };
    let mut file =
        File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    for figure in figures {
        let (median, min, max) = figure.spread();
        let line = json!({
            "bench": bench, "metric": figure.metric, "subject": figure.subject,
            "median": median, "min": min, "max": max, "unit": figure.unit, "note": figure.note,
            "conditions": conditions, "machine": machine,
        });
        writeln!(file, "{line}")?;
    }
    Ok(())
}

/// The machine, and how busy it has been.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor".to_owned(), |(_, name)| name.to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split(' ').take(3).collect();
    format!(
        "{processor}, {cores} cores, Linux {}, temporary files on {}; load averages at the end {}",
        read("/proc/sys/kernel/osrelease").trim(),
        file_system(&std::env::temp_dir()),
        load.join(" "),
    )
}

/// The kind of the file system that a folder is on.
fn file_system(folder: &Path) -> String {
    let folder = fs::canonicalize(folder).unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut mounts: Vec<(&str, &str)> = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            fields.next().zip(fields.next())
        })
        .filter(|(place, _)| folder.starts_with(place))
        .collect();
    // The innermost, and of those in one place the last.
    mounts.sort_by_key(|(place, _)| place.len());
    mounts.last().map_or("unknown", |(_, kind)| kind).to_owned()
}

/// An error when what is written into the folder for temporary files, where all subjects have theirs, never gets to a disk.
pub(crate) fn wants_a_disk() -> Result<()> {
    let kind = file_system(&std::env::temp_dir());
    ensure!(
        kind != "tmpfs" && kind != "ramfs",
        "the folder for temporary files is in memory; name one on a disk in TMPDIR"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let figure =
            |subject: &str, samples: &[f64]| Figure::new("cpu", subject, "µs").with(samples.into());
        let ratio = ratio(
            &figure("a", &[10.0, 30.0, 50.0]),
            &figure("b", &[10.0, 20.0, 20.0]),
        );
        assert_eq!(ratio.subject, "a/b");
        assert_eq!(ratio.spread(), (1.5, 1.0, 2.5));
    }

    #[test]
    fn quantiles_by_nearest_rank() {
        let samples: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(quantile(&samples, 0.5), 100.0);
        assert_eq!(quantile(&samples, 0.99), 198.0);
    }
}
