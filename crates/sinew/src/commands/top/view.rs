//! What happened between two looks at the node's counters.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::exposition::{Exposition, Series};

/// Rates are per second, latencies in milliseconds; there is no latency where nothing was answered.
#[derive(Debug, Serialize)]
pub(super) struct View {
    pub(super) seconds: f64,
    pub(super) gateway: Gateway,
    /// The busiest first.
    pub(super) routes: Vec<Route>,
    pub(super) upstreams: Vec<Upstream>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Gateway {
    #[serde(flatten)]
    pub(super) requests: Requests,
    pub(super) in_flight: f64,
    pub(super) connections: f64,
    pub(super) upgraded: f64,
    pub(super) accepted_rate: f64,
    pub(super) refused_rate: f64,
    pub(super) malformed_rate: f64,
    pub(super) access_log_dropped_rate: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Route {
    pub(super) route: String,
    pub(super) service: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) subset: String,
    #[serde(flatten)]
    pub(super) requests: Requests,
    pub(super) received_bytes_rate: f64,
    pub(super) sent_bytes_rate: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Upstream {
    pub(super) service: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) subset: String,
    /// Of all routes to it.
    #[serde(flatten)]
    pub(super) requests: Requests,
    pub(super) in_flight: f64,
    pub(super) queued: f64,
    pub(super) instances: f64,
    pub(super) ejected: f64,
    pub(super) panicking: bool,
    pub(super) breaker: &'static str,
    pub(super) retries_rate: f64,
    pub(super) timeouts_rate: f64,
    /// Instances that hung up, answered nonsense or could not be connected to.
    pub(super) failures_rate: f64,
    pub(super) idle_connections: f64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Requests {
    pub(super) rate: f64,
    pub(super) rate_4xx: f64,
    pub(super) rate_5xx: f64,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
}

/// Which series belong together: route, service and subset, or the last two.
type Key = [String; 3];

/// A series' growth by its labels.
struct Growth<'a> {
    before: BTreeMap<Vec<&'a str>, f64>,
    seconds: f64,
}

impl<'a> Growth<'a> {
    fn new(before: &'a [Series], labels: &[&str], seconds: f64) -> Self {
        let key = |series: &'a Series| labels.iter().map(|label| series.label(label)).collect();
        Self {
            before: before
                .iter()
                .map(|series| (key(series), series.value))
                .collect(),
            seconds,
        }
    }

    /// Per second. A counter that went back began anew, with its node.
    fn rate(&self, now: &Series, labels: &[&str]) -> f64 {
        let key: Vec<&str> = labels.iter().map(|label| now.label(label)).collect();
        let before = self.before.get(&key).copied().unwrap_or(0.0);
        let more = if now.value >= before {
            now.value - before
        } else {
            now.value
        };
        more / self.seconds
    }
}

/// One kind of counter for each of what it counts for.
fn rates(
    (before, now): (&Exposition, &Exposition),
    seconds: f64,
    name: &str,
    labels: &[&str],
    mut each: impl FnMut(&Series, f64),
) {
    let growth = Growth::new(before.gateway(name), labels, seconds);
    for series in now.gateway(name) {
        each(series, growth.rate(series, labels));
    }
}

/// Requests as they are counted together.
#[derive(Default)]
struct Counted {
    requests: Requests,
    /// Upper bound in seconds, and requests a second up to it.
    buckets: Vec<(f64, f64)>,
}

impl Counted {
    fn add(&mut self, bound: f64, rate: f64) {
        match self.buckets.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, sum)) => *sum += rate,
            None => self.buckets.push((bound, rate)),
        }
    }

    fn finish(mut self) -> Requests {
        self.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.requests.p50_ms = quantile(&self.buckets, 0.5);
        self.requests.p99_ms = quantile(&self.buckets, 0.99);
        self.requests
    }
}

/// Milliseconds; within a bucket in proportion, as Prometheus' `histogram_quantile` does. Beyond the last bound it is that.
fn quantile(buckets: &[(f64, f64)], q: f64) -> Option<f64> {
    let (_, all) = buckets.last()?;
    if *all <= 0.0 {
        return None;
    }
    let wanted = all * q;
    let (mut below, mut counted) = (0.0, 0.0);
    for (bound, up_to) in buckets {
        if *up_to >= wanted {
            if bound.is_infinite() {
                return Some(below * 1e3);
            }
            let share = (wanted - counted) / (up_to - counted);
            return Some((below + (bound - below) * share) * 1e3);
        }
        (below, counted) = (*bound, *up_to);
    }
    None
}

impl View {
    pub(super) fn between(before: &Exposition, now: &Exposition, time: Duration) -> Self {
        let seconds = time.as_secs_f64().max(1e-3);
        let both = (before, now);
        let mut routes: BTreeMap<Key, Counted> = BTreeMap::new();
        let mut upstreams: BTreeMap<Key, Counted> = BTreeMap::new();
        let mut all = Counted::default();
        let labels = ["route", "service", "subset", "status", "le"];
        let key = |series: &Series| {
            ["route", "service", "subset"].map(|label| series.label(label).to_owned())
        };
        let of_service = |[_, service, subset]: Key| [String::new(), service, subset];

        rates(both, seconds, "requests_total", &labels, |series, rate| {
            let key = key(series);
            let to = [
                &mut all,
                routes.entry(key.clone()).or_default(),
                upstreams.entry(of_service(key)).or_default(),
            ];
            for Counted { requests, .. } in to {
                requests.rate += rate;
                match series.label("status") {
                    "4xx" => requests.rate_4xx += rate,
                    "5xx" => requests.rate_5xx += rate,
                    _ => {}
                }
            }
        });
        let buckets = "request_duration_seconds_bucket";
        rates(both, seconds, buckets, &labels, |series, rate| {
            // "+Inf" is a number to Rust, too.
            let Ok(bound) = series.label("le").parse() else {
                return;
            };
            let key = key(series);
            all.add(bound, rate);
            routes.entry(key.clone()).or_default().add(bound, rate);
            upstreams
                .entry(of_service(key))
                .or_default()
                .add(bound, rate);
        });
        let mut bytes: BTreeMap<Key, [f64; 2]> = BTreeMap::new();
        for (index, name) in ["request_body_bytes_total", "response_body_bytes_total"]
            .into_iter()
            .enumerate()
        {
            rates(both, seconds, name, &labels, |series, rate| {
                bytes.entry(key(series)).or_default()[index] += rate;
            });
        }
        let mut routes: Vec<Route> = routes
            .into_iter()
            .map(|(key, counted)| {
                let [received, sent] = bytes.remove(&key).unwrap_or_default();
                let [route, service, subset] = key;
                Route {
                    route,
                    service,
                    subset,
                    requests: counted.finish(),
                    received_bytes_rate: received,
                    sent_bytes_rate: sent,
                }
            })
            .collect();
        routes.sort_by(|a, b| b.requests.rate.total_cmp(&a.requests.rate));
        Self {
            seconds,
            gateway: Gateway::between(both, seconds, all.finish()),
            routes,
            upstreams: upstreams_between(both, seconds, upstreams),
        }
    }
}

impl Gateway {
    fn between(both: (&Exposition, &Exposition), seconds: f64, requests: Requests) -> Self {
        let sum = |name: &str| both.1.gateway(name).iter().map(|series| series.value).sum();
        let rate = |name: &str| {
            let mut sum = 0.0;
            rates(both, seconds, name, &["thread"], |_, rate| sum += rate);
            sum
        };
        Self {
            requests,
            in_flight: sum("requests_in_flight"),
            connections: sum("connections"),
            upgraded: sum("upgraded_connections"),
            accepted_rate: rate("connections_total"),
            refused_rate: rate("connections_refused_total"),
            malformed_rate: rate("requests_malformed_total"),
            access_log_dropped_rate: rate("access_log_dropped_total"),
        }
    }
}

fn upstreams_between(
    both: (&Exposition, &Exposition),
    seconds: f64,
    mut requests: BTreeMap<Key, Counted>,
) -> Vec<Upstream> {
    let labels = ["service", "subset"];
    let of = |name: &str, service: &str, subset: &str| {
        let mut found = both.1.gateway(name).iter();
        let found = found.find(|s| s.label("service") == service && s.label("subset") == subset);
        found.map_or(0.0, |series| series.value)
    };
    let mut grown: BTreeMap<(String, String), [f64; 4]> = BTreeMap::new();
    let counters = [
        "upstream_retries_total",
        "upstream_timeouts_total",
        "upstream_failures_total",
        "upstream_connect_failures_total",
    ];
    for (index, name) in counters.into_iter().enumerate() {
        rates(both, seconds, name, &labels, |series, rate| {
            let key = (
                series.label("service").to_owned(),
                series.label("subset").to_owned(),
            );
            grown.entry(key).or_default()[index] += rate;
        });
    }
    let mut upstreams: Vec<Upstream> = grown
        .into_iter()
        .map(
            |((service, subset), [retries, timeouts, failures, connects])| {
                let counted = requests.remove(&[String::new(), service.clone(), subset.clone()]);
                let gauge = |name: &str| of(name, &service, &subset);
                Upstream {
                    requests: counted.unwrap_or_default().finish(),
                    in_flight: gauge("upstream_requests_active"),
                    queued: gauge("upstream_requests_queued"),
                    instances: gauge("upstream_instances"),
                    ejected: gauge("upstream_instances_ejected"),
                    panicking: gauge("upstream_panicking") > 0.0,
                    breaker: match gauge("upstream_breaker_state") as u8 {
                        0 => "closed",
                        1 => "half open",
                        _ => "open",
                    },
                    retries_rate: retries,
                    timeouts_rate: timeouts,
                    failures_rate: failures + connects,
                    idle_connections: gauge("upstream_connections_idle"),
                    service,
                    subset,
                }
            },
        )
        .collect();
    upstreams.sort_by(|a, b| b.requests.rate.total_cmp(&a.requests.rate));
    upstreams
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(requests: u64, failed: u64, slow: u64, retries: u64) -> Exposition {
        let labels = "route=\"a\",service=\"orders\"";
        let all = requests + failed;
        let fast = all - slow;
        Exposition::read(&format!(
            "sinew_gateway_requests_total{{{labels},status=\"2xx\"}} {requests}\n\
             sinew_gateway_requests_total{{{labels},status=\"5xx\"}} {failed}\n\
             sinew_gateway_request_duration_seconds_bucket{{{labels},le=\"0.001\"}} {fast}\n\
             sinew_gateway_request_duration_seconds_bucket{{{labels},le=\"0.01\"}} {all}\n\
             sinew_gateway_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {all}\n\
             sinew_gateway_response_body_bytes_total{{{labels}}} {}\n\
             sinew_gateway_connections{{thread=\"0\"}} 3\nsinew_gateway_connections{{thread=\"1\"}} 4\n\
             sinew_gateway_upstream_retries_total{{service=\"orders\"}} {retries}\n\
             sinew_gateway_upstream_instances{{service=\"orders\"}} 4\n\
             sinew_gateway_upstream_instances_ejected{{service=\"orders\"}} 1\n\
             sinew_gateway_upstream_breaker_state{{service=\"orders\"}} 2\n",
            all * 100
        ))
    }

    #[test]
    fn rates_and_quantiles_are_of_the_time_between() {
        let time = Duration::from_secs(2);
        let view = View::between(&read(1_000, 10, 0, 5), &read(1_190, 20, 20, 9), time);
        let route = &view.routes[0];
        assert_eq!((route.requests.rate, route.requests.rate_5xx), (100.0, 5.0));
        assert_eq!(route.sent_bytes_rate, 10_000.0);
        // 180 of 200 below 1 ms: the 100th at 100/180 of it, the 198th at 18/20 of the way from 1 to 10 ms.
        let rounded = |ms: Option<f64>| (ms.unwrap() * 1e3).round();
        assert_eq!(rounded(route.requests.p50_ms), 556.0);
        assert_eq!(rounded(route.requests.p99_ms), 9_100.0);
        assert_eq!(view.gateway.connections, 7.0);
        let upstream = &view.upstreams[0];
        assert_eq!(
            (upstream.requests.rate, upstream.retries_rate),
            (100.0, 2.0)
        );
        assert_eq!((upstream.instances, upstream.ejected), (4.0, 1.0));
        assert_eq!(upstream.breaker, "open");
    }

    #[test]
    fn a_node_that_began_anew_counts_from_zero() {
        let view = View::between(
            &read(1_000, 10, 0, 5),
            &read(50, 0, 0, 0),
            Duration::from_secs(1),
        );
        assert_eq!(view.routes[0].requests.rate, 50.0);
        let idle = View::between(&read(9, 0, 0, 0), &read(9, 0, 0, 0), Duration::from_secs(1));
        assert_eq!(idle.routes[0].requests.p99_ms, None);
        assert_eq!(
            quantile(&[(0.5, 0.0), (f64::INFINITY, 4.0)], 0.5),
            Some(500.0)
        );
    }
}
