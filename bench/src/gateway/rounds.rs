//! Rounds in which all subjects have their turn, and what they come to.

use anyhow::{Context, Result};

use super::rig::Subject;
use crate::report::{Figure, ratio};

/// What is read off each turn: its name and its unit.
pub(super) type Metric = (&'static str, &'static str);

/// So many rounds, and one before them to warm up. `turn` answers a value for each metric.
pub(super) fn alternate<const N: usize>(
    rounds: usize,
    subjects: &[Subject<'_>],
    (load, metrics): (&str, [Metric; N]),
    mut turn: impl FnMut(&Subject<'_>) -> Result<[f64; N]>,
) -> Result<Vec<Figure>> {
    let mut samples = vec![vec![Vec::new(); N]; subjects.len()];
    for round in 0..=rounds {
        for place in 0..subjects.len() {
            // The order rotates, so that nobody always follows the same neighbour.
            let subject = (place + round) % subjects.len();
            let values = turn(&subjects[subject])
                .with_context(|| format!("{}, {load}", subjects[subject].name()))?;
            if round > 0 {
                for (samples, value) in samples[subject].iter_mut().zip(values) {
                    samples.push(value);
                }
            }
        }
    }
    let mut figures = Vec::new();
    for (index, (metric, unit)) in metrics.into_iter().enumerate() {
        let each = subjects.iter().zip(&samples).map(|(subject, samples)| {
            Figure::new(format!("{metric} {load}"), subject.name(), unit)
                .with(samples[index].clone())
        });
        let each: Vec<Figure> = each.collect();
        let ratios: Vec<Figure> = each[1..].iter().map(|peer| ratio(&each[0], peer)).collect();
        figures.extend(each);
        figures.extend(ratios);
    }
    Ok(figures)
}
