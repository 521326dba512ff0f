//! Counters, gauges and histograms, in the Prometheus text format.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;

/// Upper bounds of the buckets, in seconds.
const BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// So many combinations of labels a metric keeps; further ones are counted nowhere. A label whose
/// values have no bound (a user, a path) must not eat the memory.
const MAX_SERIES: usize = 500;

/// The metrics of a service; `/metrics` shows them. Cheap to clone.
#[derive(Clone, Default)]
pub struct Metrics {
    families: Arc<Mutex<BTreeMap<String, Family>>>,
}

struct Family {
    help: String,
    type_: &'static str,
    /// By rendered labels, such as `method="GET",status="200"`.
    series: BTreeMap<String, Series>,
    full: bool,
}

#[derive(Clone)]
enum Series {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

/// Counts up.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

/// Goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicI64>);

/// Counts durations in buckets from 0.5 ms to 5 s.
#[derive(Clone, Debug, Default)]
pub struct Histogram(Arc<HistogramState>);

#[derive(Debug, Default)]
struct HistogramState {
    /// Not cumulative; the last one is for everything longer.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum_micros: AtomicU64,
}

impl Counter {
    /// Adds to it.
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Relaxed);
    }

    /// What it shows.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Gauge {
    /// Sets it.
    pub fn set(&self, to: i64) {
        self.0.store(to, Relaxed);
    }

    /// Adds to it, or takes away.
    pub fn add(&self, by: i64) {
        self.0.fetch_add(by, Relaxed);
    }

    /// What it shows.
    pub fn value(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BUCKETS.partition_point(|bound| *bound < seconds);
        self.0.buckets[bucket].fetch_add(1, Relaxed);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.0.sum_micros.fetch_add(micros, Relaxed);
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.0
            .buckets
            .iter()
            .map(|bucket| bucket.load(Relaxed))
            .sum()
    }
}

impl Metrics {
    /// No metrics yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The counter of this name and these labels; made when there is none. By convention the name
    /// ends in `_total`. A character that Prometheus does not allow in names becomes `_`; a name
    /// that stands for another type already answers a counter that is not shown, and a warning.
    pub fn counter(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Counter {
        let made = || Series::Counter(Counter::default());
        match self.series(name, help, "counter", labels, made) {
            Some(Series::Counter(counter)) => counter,
            _ => Counter::default(),
        }
    }

    /// The gauge of this name and these labels; as [`Metrics::counter`].
    pub fn gauge(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Gauge {
        match self.series(name, help, "gauge", labels, || {
            Series::Gauge(Gauge::default())
        }) {
            Some(Series::Gauge(gauge)) => gauge,
            _ => Gauge::default(),
        }
    }

    /// The histogram of this name and these labels; as [`Metrics::counter`]. By convention the name
    /// ends in `_seconds`.
    pub fn histogram(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Histogram {
        let made = || Series::Histogram(Histogram::default());
        match self.series(name, help, "histogram", labels, made) {
            Some(Series::Histogram(histogram)) => histogram,
            _ => Histogram::default(),
        }
    }

    fn series(
        &self,
        name: &str,
        help: &str,
        type_: &'static str,
        labels: &[(&str, &str)],
        make: impl FnOnce() -> Series,
    ) -> Option<Series> {
        let mut families = self.families.lock();
        // Names are well formed as a rule, and then nothing is allocated for them.
        let family = match families.get_mut(name) {
            Some(family) => family,
            None => families.entry(allowed(name)).or_insert_with(|| Family {
                help: help.replace('\\', "\\\\").replace('\n', "\\n"),
                type_,
                series: BTreeMap::new(),
                full: false,
            }),
        };
        if family.type_ != type_ {
            tracing::warn!(
                name,
                is = family.type_,
                asked = type_,
                "a metric has another type"
            );
            return None;
        }
        let labels = render_labels(labels);
        if let Some(series) = family.series.get(&labels) {
            return Some(series.clone());
        }
        if family.series.len() >= MAX_SERIES {
            if !std::mem::replace(&mut family.full, true) {
                tracing::warn!(name, limit = MAX_SERIES, "a metric has too many labels");
            }
            return None;
        }
        Some(family.series.entry(labels).or_insert_with(make).clone())
    }

    /// Everything, in the Prometheus text format (version 0.0.4).
    pub fn render(&self) -> String {
        let mut out = String::new();
        for (name, family) in &*self.families.lock() {
            let _ = writeln!(out, "# HELP {name} {}", family.help);
            let _ = writeln!(out, "# TYPE {name} {}", family.type_);
            for (labels, series) in &family.series {
                let braced = if labels.is_empty() {
                    String::new()
                } else {
                    format!("{{{labels}}}")
                };
                let _ = match series {
                    Series::Counter(counter) => writeln!(out, "{name}{braced} {}", counter.value()),
                    Series::Gauge(gauge) => writeln!(out, "{name}{braced} {}", gauge.value()),
                    Series::Histogram(histogram) => {
                        render_histogram(&mut out, name, labels, &braced, &histogram.0)
                    }
                };
            }
        }
        out
    }
}

fn render_histogram(
    out: &mut String,
    name: &str,
    labels: &str,
    braced: &str,
    state: &HistogramState,
) -> std::fmt::Result {
    let comma = if labels.is_empty() { "" } else { "," };
    let mut cumulative = 0;
    for (bucket, count) in state.buckets.iter().enumerate() {
        cumulative += count.load(Relaxed);
        let bound = BUCKETS
            .get(bucket)
            .map_or("+Inf".to_owned(), f64::to_string);
        writeln!(
            out,
            "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {cumulative}"
        )?;
    }
    let sum = Duration::from_micros(state.sum_micros.load(Relaxed)).as_secs_f64();
    writeln!(out, "{name}_sum{braced} {sum}")?;
    writeln!(out, "{name}_count{braced} {cumulative}")
}

fn allowed(name: &str) -> String {
    let mut allowed: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' || c == ':' {
                c
            } else {
                '_'
            }
        })
        .collect();
    if !allowed.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == ':') {
        allowed.insert(0, '_');
    }
    allowed
}

fn render_labels(labels: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in labels {
        if !out.is_empty() {
            out.push(',');
        }
        let value = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        let _ = write!(out, "{}=\"{value}\"", allowed(name).replace(':', "_"));
    }
    out
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Metrics({})", self.families.lock().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let metrics = Metrics::new();
        metrics
            .counter("orders_total", "Orders.", &[("state", "pa\"id")])
            .add(2);
        metrics
            .counter("orders_total", "Orders.", &[("state", "pa\"id")])
            .add(1);
        metrics.gauge("in-flight", "Now.", &[]).set(-1);
        let histogram = metrics.histogram("took_seconds", "Time.", &[("route", "/x")]);
        histogram.observe(Duration::from_millis(1));
        histogram.observe(Duration::from_secs(9));
        let text = metrics.render();
        for line in [
            "# TYPE orders_total counter",
            "orders_total{state=\"pa\\\"id\"} 3",
            "in_flight -1",
            "took_seconds_bucket{route=\"/x\",le=\"0.0005\"} 0",
            "took_seconds_bucket{route=\"/x\",le=\"0.001\"} 1",
            "took_seconds_bucket{route=\"/x\",le=\"5\"} 1",
            "took_seconds_bucket{route=\"/x\",le=\"+Inf\"} 2",
            "took_seconds_sum{route=\"/x\"} 9.001",
            "took_seconds_count{route=\"/x\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn labels_without_bound_stop_at_a_limit() {
        let metrics = Metrics::new();
        for user in 0..2 * MAX_SERIES {
            metrics
                .counter("x_total", "X.", &[("user", &user.to_string())])
                .add(1);
        }
        assert_eq!(metrics.render().lines().count(), MAX_SERIES + 2);
        // Another type under the same name does no harm.
        metrics.gauge("x_total", "X.", &[]).set(1);
        assert_eq!(metrics.render().lines().count(), MAX_SERIES + 2);
    }
}
