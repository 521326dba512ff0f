//! What is shown of a view, as lines of text.

use super::view::{Requests, Route, Upstream, View};
use crate::table;

/// Everything, for a pipe.
pub(super) fn text(view: &View) -> String {
    lines(view).into_iter().map(|line| line + "\n").collect()
}

/// The gateway, its upstreams, its routes: what is cut off at a low terminal's end are the routes with the fewest requests.
pub(super) fn lines(view: &View) -> Vec<String> {
    let gateway = &view.gateway;
    let requests = &gateway.requests;
    let mut lines = vec![
        format!(
            "requests  {}/s, 4xx {}/s, 5xx {}/s, p50 {} ms, p99 {} ms, {} in flight",
            number(requests.rate),
            number(requests.rate_4xx),
            number(requests.rate_5xx),
            millis(requests.p50_ms),
            millis(requests.p99_ms),
            gateway.in_flight,
        ),
        format!(
            "clients   {} connections, {} upgraded, {}/s new, {}/s refused, {}/s malformed",
            gateway.connections,
            gateway.upgraded,
            number(gateway.accepted_rate),
            number(gateway.refused_rate),
            number(gateway.malformed_rate),
        ),
    ];
    if gateway.access_log_dropped_rate > 0.0 {
        let dropped = number(gateway.access_log_dropped_rate);
        lines.push(format!("log       {dropped}/s LINES DROPPED"));
    }
    lines.push(String::new());
    let header = [
        "UPSTREAM",
        "REQ/S",
        "5XX/S",
        "P50 MS",
        "P99 MS",
        "IN FLIGHT",
        "QUEUED",
        "UP",
        "EJECTED",
        "BREAKER",
        "RETRY/S",
        "TIMEOUT/S",
        "FAIL/S",
        "IDLE",
    ];
    let rows: Vec<_> = view.upstreams.iter().map(upstream).collect();
    lines.extend(table::render(header, &rows).lines().map(str::to_owned));
    lines.push(String::new());
    let header = [
        "ROUTE", "TO", "REQ/S", "4XX/S", "5XX/S", "P50 MS", "P99 MS", "IN/S", "OUT/S",
    ];
    let rows: Vec<_> = view.routes.iter().map(route).collect();
    lines.extend(table::render(header, &rows).lines().map(str::to_owned));
    lines
}

fn upstream(upstream: &Upstream) -> [String; 14] {
    let [rate, _, rate_5xx, p50, p99] = requests(&upstream.requests);
    let ejected = if upstream.panicking {
        format!("{} (panic)", upstream.ejected)
    } else {
        upstream.ejected.to_string()
    };
    [
        named(&upstream.service, &upstream.subset),
        rate,
        rate_5xx,
        p50,
        p99,
        upstream.in_flight.to_string(),
        upstream.queued.to_string(),
        upstream.instances.to_string(),
        ejected,
        upstream.breaker.to_owned(),
        number(upstream.retries_rate),
        number(upstream.timeouts_rate),
        number(upstream.failures_rate),
        upstream.idle_connections.to_string(),
    ]
}

fn route(route: &Route) -> [String; 9] {
    let [rate, rate_4xx, rate_5xx, p50, p99] = requests(&route.requests);
    [
        table::one_line(&route.route),
        named(&route.service, &route.subset),
        rate,
        rate_4xx,
        rate_5xx,
        p50,
        p99,
        bytes(route.received_bytes_rate),
        bytes(route.sent_bytes_rate),
    ]
}

fn requests(requests: &Requests) -> [String; 5] {
    [
        number(requests.rate),
        number(requests.rate_4xx),
        number(requests.rate_5xx),
        millis(requests.p50_ms),
        millis(requests.p99_ms),
    ]
}

fn named(service: &str, subset: &str) -> String {
    let name = match (service, subset) {
        ("", _) => "-".to_owned(),
        (service, "") => service.to_owned(),
        (service, subset) => format!("{service} ({subset})"),
    };
    table::one_line(&name)
}

fn number(rate: f64) -> String {
    if rate == 0.0 {
        "0".to_owned()
    } else if rate < 100.0 {
        format!("{rate:.1}")
    } else {
        format!("{rate:.0}")
    }
}

fn millis(time: Option<f64>) -> String {
    match time {
        None => "-".to_owned(),
        Some(ms) if ms < 100.0 => format!("{ms:.2}"),
        Some(ms) => format!("{ms:.0}"),
    }
}

fn bytes(rate: f64) -> String {
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match units.iter().find(|(size, _)| rate >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", rate / size),
        None => format!("{rate:.0} B"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::commands::top::exposition::Exposition;

    #[test]
    fn a_page_has_the_gateway_its_upstreams_and_its_routes() {
        let now = Exposition::read(
            "sinew_gateway_requests_total{route=\"a\\nb\",service=\"orders\",subset=\"v=2\",status=\"2xx\"} 250\n\
             sinew_gateway_request_duration_seconds_bucket{route=\"a\\nb\",service=\"orders\",subset=\"v=2\",le=\"0.0005\"} 250\n\
             sinew_gateway_response_body_bytes_total{route=\"a\\nb\",service=\"orders\",subset=\"v=2\"} 2500000\n\
             sinew_gateway_requests_in_flight{thread=\"0\"} 3\n\
             sinew_gateway_access_log_dropped_total{thread=\"0\"} 4\n\
             sinew_gateway_upstream_retries_total{service=\"orders\",subset=\"v=2\"} 1\n\
             sinew_gateway_upstream_panicking{service=\"orders\",subset=\"v=2\"} 1\n\
             sinew_gateway_upstream_instances_ejected{service=\"orders\",subset=\"v=2\"} 2\n",
        );
        let view = View::between(&Exposition::default(), &now, Duration::from_secs(1));
        let text = text(&view);
        let words = |begin: &str| {
            let line = text.lines().find(|line| line.starts_with(begin));
            let line = line.unwrap_or_else(|| panic!("no {begin}: {text}"));
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            words("requests"),
            "requests 250/s, 4xx 0/s, 5xx 0/s, p50 0.25 ms, p99 0.49 ms, 3 in flight"
        );
        assert_eq!(words("log"), "log 4.0/s LINES DROPPED");
        assert_eq!(
            words("orders"),
            "orders (v=2) 250 0 0.25 0.49 0 0 0 2 (panic) closed 1.0 0 0 0"
        );
        assert_eq!(
            words("a\u{fffd}b"),
            "a\u{fffd}b orders (v=2) 250 0 0 0.25 0.49 0 B 2.5 MB"
        );
    }
}
