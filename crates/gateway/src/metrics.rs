//! Counters without contention: each thread adds to its own, and a scrape sums them. A counter has
//! one writer, so adding is a plain load and store.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use sinew_core::Name;

mod resilience;

pub(crate) use resilience::ResilienceCounters;

/// The series that one thread writes and everyone may read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        self.0
            .store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    pub(crate) fn sub(&self, amount: u64) {
        self.0
            .store(self.0.load(Relaxed).wrapping_sub(amount), Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the histogram's buckets, in microseconds.
const BOUNDS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// What one thread knows of one route.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct RouteCounters {
    /// By the first digit of the status, 1 to 5.
    statuses: [Counter; 5],
    /// The last is beyond all bounds.
    buckets: [Counter; BOUNDS.len() + 1],
    micros: Counter,
    body_in: Counter,
    body_out: Counter,
}

/// What one thread knows of one service.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ServiceCounters {
    pub(crate) connects: Counter,
    pub(crate) connect_failures: Counter,
    pub(crate) failures: Counter,
    pub(crate) timeouts: Counter,
    pub(crate) retries: Counter,
    pub(crate) retries_refused: Counter,
    /// Requests that are with an instance now.
    pub(crate) active: Counter,
    /// Unused connections kept.
    pub(crate) idle: Counter,
    pub(crate) upgrades: Counter,
    /// Upgraded connections open now.
    pub(crate) upgraded: Counter,
    /// Bytes on them, from clients and to clients.
    pub(crate) upgraded_in: Counter,
    pub(crate) upgraded_out: Counter,
    /// Copies of requests that it was sent.
    pub(crate) mirrored: Counter,
    pub(crate) mirror_failures: Counter,
    pub(crate) mirrors_dropped: Counter,
    pub(crate) resilience: ResilienceCounters,
}

/// What one thread knows of itself.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ThreadCounters {
    pub(crate) requests: Counter,
    pub(crate) in_flight: Counter,
    pub(crate) upgraded: Counter,
    pub(crate) connections: Counter,
    pub(crate) accepted: Counter,
    pub(crate) refused: Counter,
    pub(crate) malformed: Counter,
    pub(crate) log_dropped: Counter,
    pub(crate) log_sampled_out: Counter,
}

/// One block of counters per thread.
#[derive(Debug)]
pub(crate) struct PerThread<T>(Box<[T]>);

impl<T: Default> PerThread<T> {
    fn new(threads: usize) -> Arc<Self> {
        Arc::new(Self((0..threads).map(|_| T::default()).collect()))
    }

    pub(crate) fn of(&self, thread: usize) -> &T {
        &self.0[thread]
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn sum(&self, counter: impl Fn(&T) -> &Counter) -> u64 {
        self.0
            .iter()
            .fold(0, |sum, block| sum.wrapping_add(counter(block).get()))
    }
}

impl RouteCounters {
    pub(crate) fn record(&self, status: u16, took: Duration, body_in: u64, body_out: u64) {
        self.statuses[usize::from(status / 100).clamp(1, 5) - 1].add(1);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.buckets[BOUNDS.partition_point(|bound| *bound < micros)].add(1);
        self.micros.add(micros);
        if body_in > 0 {
            self.body_in.add(body_in);
        }
        self.body_out.add(body_out);
    }
}

/// More routes or services than this share one series.
const MOST_SERIES: usize = 2_000;
const OTHERS: &str = "(others)";

type Series<K, T> = BTreeMap<K, Arc<PerThread<T>>>;

/// All series. A route or service keeps its own over every change of the routes.
#[derive(Debug)]
pub(crate) struct Metrics {
    thread_count: usize,
    pub(crate) threads: Arc<PerThread<ThreadCounters>>,
    /// Requests that no route took.
    pub(crate) unrouted: Arc<PerThread<RouteCounters>>,
    /// By route, service and subset.
    routes: Mutex<Series<(String, String, String), RouteCounters>>,
    /// By service and subset.
    services: Mutex<Series<(String, String), ServiceCounters>>,
}

/// Figures of the whole gateway at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests answered since the start, whatever the answer.
    pub requests: u64,
    /// Requests being answered now.
    pub in_flight: u64,
    /// Upgraded connections (WebSockets and the like) open now; not among the requests.
    pub upgraded: u64,
    /// Client connections open now.
    pub connections: u64,
    /// Lines that the access log had no room for.
    pub access_log_dropped: u64,
}

impl Metrics {
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            thread_count: threads,
            threads: PerThread::new(threads),
            unrouted: PerThread::new(threads),
            routes: Mutex::default(),
            services: Mutex::default(),
        }
    }

    pub(crate) fn route(
        &self,
        label: &str,
        service: &str,
        subset: &str,
    ) -> Arc<PerThread<RouteCounters>> {
        let mut routes = self.routes.lock();
        let mut key = (label.to_owned(), service.to_owned(), subset.to_owned());
        if routes.len() >= MOST_SERIES && !routes.contains_key(&key) {
            key = (OTHERS.to_owned(), OTHERS.to_owned(), String::new());
        }
        routes
            .entry(key)
            .or_insert_with(|| PerThread::new(self.thread_count))
            .clone()
    }

    pub(crate) fn service(&self, name: &Name, subset: &str) -> Arc<PerThread<ServiceCounters>> {
        let mut services = self.services.lock();
        let mut key = (name.to_string(), subset.to_owned());
        if services.len() >= MOST_SERIES && !services.contains_key(&key) {
            key = (OTHERS.to_owned(), String::new());
        }
        services
            .entry(key)
            .or_insert_with(|| PerThread::new(self.thread_count))
            .clone()
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            requests: self.threads.sum(|thread| &thread.requests),
            in_flight: self.threads.sum(|thread| &thread.in_flight),
            upgraded: self.threads.sum(|thread| &thread.upgraded),
            connections: self.threads.sum(|thread| &thread.connections),
            access_log_dropped: self.threads.sum(|thread| &thread.log_dropped),
        }
    }

    /// Everything in the Prometheus text format.
    pub(crate) fn text(&self) -> String {
        let mut text = String::with_capacity(16 << 10);
        self.thread_text(&mut text);
        self.route_text(&mut text);
        self.service_text(&mut text);
        resilience::text(&self.services.lock(), &mut text);
        text
    }

    fn thread_text(&self, text: &mut String) {
        type Pick = fn(&ThreadCounters) -> &Counter;
        let series: [(&str, &str, &str, Pick); 8] = [
            ("connections", "gauge", "Client connections open.", |t| {
                &t.connections
            }),
            (
                "connections_total",
                "counter",
                "Client connections accepted.",
                |t| &t.accepted,
            ),
            (
                "connections_refused_total",
                "counter",
                "Client connections over the limit.",
                |t| &t.refused,
            ),
            (
                "requests_in_flight",
                "gauge",
                "Requests being answered.",
                |t| &t.in_flight,
            ),
            (
                "upgraded_connections",
                "gauge",
                "Client connections that go on in another protocol.",
                |t| &t.upgraded,
            ),
            (
                "requests_malformed_total",
                "counter",
                "Requests refused before routing.",
                |t| &t.malformed,
            ),
            (
                "access_log_dropped_total",
                "counter",
                "Access log lines without room.",
                |t| &t.log_dropped,
            ),
            (
                "access_log_sampled_out_total",
                "counter",
                "Requests without a line because only a share has one.",
                |t| &t.log_sampled_out,
            ),
        ];
        for (name, kind, help, pick) in series {
            head(text, name, kind, help);
            for (index, block) in self.threads.0.iter().enumerate() {
                let value = pick(block).get();
                let _ = writeln!(text, "sinew_gateway_{name}{{thread=\"{index}\"}} {value}");
            }
        }
    }

    fn route_text(&self, text: &mut String) {
        let mut routes: Vec<(String, Arc<PerThread<RouteCounters>>)> = self
            .routes
            .lock()
            .iter()
            .map(|((route, service, subset), counters)| {
                let labels = format!("route=\"{}\",{}", escaped(route), of(service, subset));
                (labels, counters.clone())
            })
            .collect();
        routes.push((
            "route=\"(none)\",service=\"\"".to_owned(),
            self.unrouted.clone(),
        ));

        head(
            text,
            "requests_total",
            "counter",
            "Requests answered, by route and status class.",
        );
        for (labels, route) in &routes {
            for class in 0..5 {
                let count = route.sum(|block| &block.statuses[class]);
                let class = class + 1;
                let _ = writeln!(
                    text,
                    "sinew_gateway_requests_total{{{labels},status=\"{class}xx\"}} {count}"
                );
            }
        }
        let help = "From the request's head to the response's last byte.";
        head(text, "request_duration_seconds", "histogram", help);
        for (labels, route) in &routes {
            let mut count = 0;
            for bucket in 0..=BOUNDS.len() {
                count += route.sum(|block| &block.buckets[bucket]);
                let bound = BOUNDS.get(bucket).map_or("+Inf".to_owned(), |micros| {
                    (*micros as f64 / 1e6).to_string()
                });
                let _ = writeln!(
                    text,
                    "sinew_gateway_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {count}"
                );
            }
            let sum = route.sum(|block| &block.micros) as f64 / 1e6;
            let _ = writeln!(
                text,
                "sinew_gateway_request_duration_seconds_sum{{{labels}}} {sum}\n\
                 sinew_gateway_request_duration_seconds_count{{{labels}}} {count}"
            );
        }
        type Pick = fn(&RouteCounters) -> &Counter;
        let bytes: [(&str, &str, Pick); 2] = [
            (
                "request_body_bytes_total",
                "Bytes of request bodies.",
                |r| &r.body_in,
            ),
            (
                "response_body_bytes_total",
                "Bytes of response bodies.",
                |r| &r.body_out,
            ),
        ];
        for (name, help, pick) in bytes {
            head(text, name, "counter", help);
            for (labels, route) in &routes {
                let _ = writeln!(text, "sinew_gateway_{name}{{{labels}}} {}", route.sum(pick));
            }
        }
    }

    fn service_text(&self, text: &mut String) {
        type Pick = fn(&ServiceCounters) -> &Counter;
        let series: [(&str, &str, &str, Pick); 15] = [
            (
                "connects_total",
                "counter",
                "Connections opened to instances.",
                |s| &s.connects,
            ),
            (
                "connect_failures_total",
                "counter",
                "Connections that could not be opened.",
                |s| &s.connect_failures,
            ),
            (
                "failures_total",
                "counter",
                "Instances that hung up or answered nonsense.",
                |s| &s.failures,
            ),
            (
                "timeouts_total",
                "counter",
                "Requests without an answer in time.",
                |s| &s.timeouts,
            ),
            (
                "retries_total",
                "counter",
                "Requests sent once more.",
                |s| &s.retries,
            ),
            (
                "retries_refused_total",
                "counter",
                "Retries that the budget did not allow.",
                |s| &s.retries_refused,
            ),
            (
                "requests_active",
                "gauge",
                "Requests that are with an instance.",
                |s| &s.active,
            ),
            (
                "connections_idle",
                "gauge",
                "Unused connections to instances.",
                |s| &s.idle,
            ),
            (
                "upgrades_total",
                "counter",
                "Connections upgraded to another protocol.",
                |s| &s.upgrades,
            ),
            (
                "upgraded_connections",
                "gauge",
                "Upgraded connections open.",
                |s| &s.upgraded,
            ),
            (
                "upgraded_received_bytes_total",
                "counter",
                "Bytes from clients on upgraded connections.",
                |s| &s.upgraded_in,
            ),
            (
                "upgraded_sent_bytes_total",
                "counter",
                "Bytes to clients on upgraded connections.",
                |s| &s.upgraded_out,
            ),
            (
                "mirrored_total",
                "counter",
                "Copies of requests sent.",
                |s| &s.mirrored,
            ),
            (
                "mirror_failures_total",
                "counter",
                "Copies without an answer in time, or with a server's error.",
                |s| &s.mirror_failures,
            ),
            (
                "mirrors_dropped_total",
                "counter",
                "Copies not made because too many were on their way.",
                |s| &s.mirrors_dropped,
            ),
        ];
        let services = self.services.lock();
        for (name, kind, help, pick) in series {
            head(text, &format!("upstream_{name}"), kind, help);
            for ((service, subset), counters) in &*services {
                let (labels, value) = (of(service, subset), counters.sum(pick));
                let _ = writeln!(text, "sinew_gateway_upstream_{name}{{{labels}}} {value}");
            }
        }
    }
}

pub(crate) fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(
        text,
        "# HELP sinew_gateway_{name} {help}\n# TYPE sinew_gateway_{name} {kind}"
    );
}

/// The labels of a service, or of a part of it.
fn of(service: &str, subset: &str) -> String {
    let service = escaped(service);
    if subset.is_empty() {
        format!("service=\"{service}\"")
    } else {
        format!("service=\"{service}\",subset=\"{}\"", escaped(subset))
    }
}

pub(crate) fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_summed_and_labels_bounded() {
        let metrics = Metrics::new(2);
        let route = metrics.route("a\"b", "orders", "");
        route.of(0).record(200, Duration::from_micros(400), 0, 128);
        route.of(1).record(503, Duration::from_secs(60), 5, 0);
        metrics.threads.of(1).requests.add(2);
        let text = metrics.text();
        let labels = "route=\"a\\\"b\",service=\"orders\"";
        for line in [
            format!("sinew_gateway_requests_total{{{labels},status=\"2xx\"}} 1"),
            format!("sinew_gateway_requests_total{{{labels},status=\"5xx\"}} 1"),
            format!("sinew_gateway_request_duration_seconds_bucket{{{labels},le=\"0.0005\"}} 1"),
            format!("sinew_gateway_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 2"),
            format!("sinew_gateway_request_duration_seconds_sum{{{labels}}} 60.0004"),
            format!("sinew_gateway_response_body_bytes_total{{{labels}}} 128"),
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
        assert_eq!(metrics.stats().requests, 2);
        for index in 0..MOST_SERIES + 10 {
            metrics.route(&index.to_string(), "orders", "v=1");
        }
        assert!(metrics.routes.lock().len() <= MOST_SERIES + 1);
    }
}
