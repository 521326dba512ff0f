//! Figures: collected as samples, shown as median with spread, kept as JSON lines.

use std::{fs::File, io::Write};

use anyhow::{Context, Result};
use serde_json::json;

use crate::Options;

/// Samples of one metric of one subject.
pub(crate) struct Figure {
    pub(crate) metric: &'static str,
    pub(crate) subject: String,
    pub(crate) unit: &'static str,
    pub(crate) samples: Vec<f64>,
}

impl Figure {
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
    Figure {
        metric: subject.metric,
        subject: format!("{}/{}", subject.subject, peer.subject),
        unit: "ratio",
        samples: subject
            .samples
            .iter()
            .zip(&peer.samples)
            .map(|(a, b)| a / b)
            .collect(),
    }
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
    println!("\n{bench}: {conditions}\n");
    println!(
        "{:<28} {:<16} {:>10} {:>10} {:>10}  unit",
        "metric", "subject", "median", "min", "max"
    );
    for figure in figures {
        let (median, least, greatest) = figure.spread();
        println!(
            "{:<28} {:<16} {median:>10.2} {least:>10.2} {greatest:>10.2}  {}",
            figure.metric, figure.subject, figure.unit
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
            "median": median, "min": min, "max": max, "unit": figure.unit, "conditions": conditions,
        });
        writeln!(file, "{line}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let figure = |subject: &str, samples: &[f64]| Figure {
            metric: "cpu",
            subject: subject.into(),
            unit: "µs",
            samples: samples.into(),
        };
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
