//! The series about instances that fail and services that are protected.

use std::fmt::Write;

use super::{Counter, PerThread, Series, ServiceCounters, head, of as of_service};

/// What one thread knows of the protection of one service.
#[derive(Debug, Default)]
pub(crate) struct ResilienceCounters {
    /// Instances that are up.
    pub(crate) instances: Counter,
    /// Those of them that are ejected.
    pub(crate) ejected: Counter,
    pub(crate) ejections: Counter,
    /// 1 while so many are ejected that all get requests.
    pub(crate) panicking: Counter,
    /// 0 closed, 1 half open, 2 open.
    pub(crate) breaker_state: Counter,
    pub(crate) breaker_opened: Counter,
    pub(crate) breaker_refused: Counter,
    pub(crate) bulkhead_refused: Counter,
    /// Requests that wait for their turn.
    pub(crate) queued: Counter,
    /// What load shedding lets through at once.
    pub(crate) concurrency_limit: Counter,
    pub(crate) shed: Counter,
    /// Requests that a second instance was asked too.
    pub(crate) hedges: Counter,
    pub(crate) hedges_won: Counter,
}

/// How the threads' figures become one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Each thread counts its own.
    Sum,
    /// Each thread sees the same, and one may have seen it first.
    Most,
}

type Pick = fn(&ResilienceCounters) -> &Counter;

const SERIES: &[(&str, &str, &str, Of, Pick)] = &[
    (
        "instances",
        "gauge",
        "Instances that are up.",
        Of::Most,
        |r| &r.instances,
    ),
    (
        "instances_ejected",
        "gauge",
        "Instances left alone because they failed too often.",
        Of::Most,
        |r| &r.ejected,
    ),
    (
        "ejections_total",
        "counter",
        "Ejections of instances, each thread's counted.",
        Of::Sum,
        |r| &r.ejections,
    ),
    (
        "panicking",
        "gauge",
        "1 while so many instances are ejected that all get requests.",
        Of::Most,
        |r| &r.panicking,
    ),
    (
        "breaker_state",
        "gauge",
        "Circuit breaker: 0 closed, 1 half open, 2 open; the worst of the threads.",
        Of::Most,
        |r| &r.breaker_state,
    ),
    (
        "breaker_opened_total",
        "counter",
        "How often a circuit breaker opened, each thread's counted.",
        Of::Sum,
        |r| &r.breaker_opened,
    ),
    (
        "breaker_refused_total",
        "counter",
        "Requests refused because a circuit breaker was open.",
        Of::Sum,
        |r| &r.breaker_refused,
    ),
    (
        "bulkhead_refused_total",
        "counter",
        "Requests refused because the service had all it may have.",
        Of::Sum,
        |r| &r.bulkhead_refused,
    ),
    (
        "requests_queued",
        "gauge",
        "Requests that wait for their turn at the service.",
        Of::Sum,
        |r| &r.queued,
    ),
    (
        "concurrency_limit",
        "gauge",
        "Requests at once that load shedding lets through; 0 without it.",
        Of::Sum,
        |r| &r.concurrency_limit,
    ),
    (
        "shed_total",
        "counter",
        "Requests refused by load shedding.",
        Of::Sum,
        |r| &r.shed,
    ),
    (
        "hedges_total",
        "counter",
        "Requests that a second instance was asked too.",
        Of::Sum,
        |r| &r.hedges,
    ),
    (
        "hedges_won_total",
        "counter",
        "Those that the second instance answered first.",
        Of::Sum,
        |r| &r.hedges_won,
    ),
];

pub(super) fn text(services: &Series<(String, String), ServiceCounters>, text: &mut String) {
    for (name, kind, help, of, pick) in SERIES {
        head(text, &format!("upstream_{name}"), kind, help);
        for ((service, subset), counters) in services {
            let (labels, value) = (of_service(service, subset), value(counters, *of, *pick));
            let _ = writeln!(text, "sinew_gateway_upstream_{name}{{{labels}}} {value}");
        }
    }
}

fn value(counters: &PerThread<ServiceCounters>, of: Of, pick: Pick) -> u64 {
    match of {
        Of::Sum => counters.sum(|block| pick(&block.resilience)),
        Of::Most => {
            let each = counters.0.iter().map(|block| pick(&block.resilience).get());
            each.max().unwrap_or_default()
        }
    }
}
