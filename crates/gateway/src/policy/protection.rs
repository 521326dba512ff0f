//! What protects a service from too much, and its callers from waiting for it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sinew_core::{Error, Kind, Result, units};

use super::{Conditions, DAY, optional_duration, within};

/// Circuit breaker: a service that fails is not asked for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// What counts as a failure of a request, after all its tries.
    pub on: Conditions,
    /// Such a part of the requests failing opens it.
    pub failure_percent: u8,
    /// A request without an answer after so long counts as slow; none does when absent.
    #[serde(with = "optional_duration", skip_serializing_if = "Option::is_none")]
    pub slow: Option<Duration>,
    /// Such a part of the requests being slow opens it.
    pub slow_percent: u8,
    /// With fewer requests than this in the window it stays closed.
    pub minimum_requests: u32,
    /// Over which time requests are counted.
    #[serde(with = "units::duration")]
    pub window: Duration,
    /// Counts the last so many requests instead, however long ago they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_requests: Option<u32>,
    /// How long nothing is asked.
    #[serde(with = "units::duration")]
    pub open: Duration,
    /// So many requests find out then whether it answers again.
    pub probes: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            on: Conditions::all_failures(),
            failure_percent: 50,
            slow: None,
            slow_percent: 80,
            minimum_requests: 20,
            window: Duration::from_secs(10),
            window_requests: None,
            open: Duration::from_secs(5),
            probes: 3,
        }
    }
}

/// Bulkhead: so much of the gateway one service may take, and no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bulkhead {
    /// Requests to the service at once, over all threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    /// Requests to one instance at once. Each thread has its part of them, at least one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_instance: Option<u32>,
    /// So many more wait for their turn.
    pub queue: u32,
    /// For how long at most.
    #[serde(with = "units::duration")]
    pub queue_wait: Duration,
}

impl Default for Bulkhead {
    fn default() -> Self {
        Self {
            requests: None,
            per_instance: None,
            queue: 0,
            queue_wait: Duration::from_millis(500),
        }
    }
}

/// Load shedding: how many requests may be with the service at once is learnt from how long they
/// take. Each thread learns for its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shedding {
    /// Requests at once to begin with.
    pub initial: u32,
    /// Never fewer than these.
    pub least: u32,
    /// Never more than these.
    pub most: u32,
    /// A service may become so much slower under load than it is without, in percent.
    pub tolerance_percent: u32,
    /// How often it is measured how fast it is without load.
    #[serde(with = "units::duration")]
    pub remeasure: Duration,
}

impl Default for Shedding {
    fn default() -> Self {
        Self {
            initial: 20,
            least: 2,
            most: 1_000,
            tolerance_percent: 200,
            remeasure: Duration::from_secs(15),
        }
    }
}

impl Breaker {
    pub(super) fn faults(&self, faults: &mut Vec<String>) {
        for (key, value) in [
            ("failure_percent", self.failure_percent),
            ("slow_percent", self.slow_percent),
        ] {
            if !(1..=100).contains(&value) {
                faults.push(format!("breaker.{key} is {value}; use 1 to 100"));
            }
        }
        within(faults, "breaker.window", self.window, (100, DAY));
        within(faults, "breaker.open", self.open, (1, DAY));
        if let Some(slow) = self.slow {
            within(faults, "breaker.slow", slow, (1, DAY));
        }
        if !(1..=1_000).contains(&self.probes) {
            faults.push(format!("breaker.probes is {}; use 1 to 1000", self.probes));
        }
        if let Some(requests) = self.window_requests {
            if !(1..=10_000).contains(&requests) {
                let why = format!("breaker.window_requests is {requests}; use 1 to 10000");
                faults.push(why);
            } else if requests < self.minimum_requests {
                faults.push(
                    "breaker.minimum_requests is more than breaker.window_requests: it would \
                     never open"
                        .to_owned(),
                );
            }
        }
    }
}

impl Bulkhead {
    pub(super) fn faults(&self, faults: &mut Vec<String>) {
        if self.requests.is_none() && self.per_instance.is_none() {
            faults.push("bulkhead needs `requests`, `per_instance` or both".to_owned());
        }
        for (key, value) in [
            ("requests", self.requests),
            ("per_instance", self.per_instance),
        ] {
            if value.is_some_and(|value| !(1..=1_000_000).contains(&value)) {
                faults.push(format!("bulkhead.{key} must be 1 to 1000000"));
            }
        }
        if self.queue > 100_000 {
            faults.push(format!("bulkhead.queue is {}; use 0 to 100000", self.queue));
        }
        within(faults, "bulkhead.queue_wait", self.queue_wait, (1, 60_000));
    }
}

impl Shedding {
    pub(super) fn faults(&self, faults: &mut Vec<String>) {
        let ordered = 1 <= self.least && self.least <= self.initial && self.initial <= self.most;
        if !ordered || self.most > 1_000_000 {
            faults.push(
                "shedding needs 1 <= least <= initial <= most <= 1000000 requests at once"
                    .to_owned(),
            );
        }
        if !(110..=1_000).contains(&self.tolerance_percent) {
            let percent = self.tolerance_percent;
            faults.push(format!(
                "shedding.tolerance_percent is {percent}; use 110 to 1000"
            ));
        }
        within(faults, "shedding.remeasure", self.remeasure, (1_000, DAY));
    }
}

/// Hedging: a second instance is asked when the first takes long, and whoever answers first is heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hedge {
    /// How long the first is waited for.
    #[serde(with = "units::duration")]
    pub after: Duration,
}

/// What a route answers when its service cannot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "FallbackTable", into = "FallbackTable")]
pub struct Fallback(FallbackTable);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FallbackTable {
    #[serde(default = "ok")]
    status: u16,
    #[serde(default = "plain")]
    content_type: String,
    body: String,
}

fn ok() -> u16 {
    200
}

fn plain() -> String {
    "text/plain; charset=utf-8".to_owned()
}

impl Fallback {
    /// `gateway.route_invalid` (InvalidArgument) when this is no response: a status that is not 200
    /// to 599 or has no body (204, 205, 304), a content type that is no header's value.
    pub fn new(status: u16, content_type: &str, body: &str) -> Result<Self> {
        let content_type = content_type.to_owned();
        let body = body.to_owned();
        Self::try_from(FallbackTable {
            status,
            content_type,
            body,
        })
    }

    /// Its status.
    pub fn status(&self) -> u16 {
        self.0.status
    }

    /// Its `Content-Type`.
    pub fn content_type(&self) -> &str {
        &self.0.content_type
    }

    /// Its body.
    pub fn body(&self) -> &str {
        &self.0.body
    }
}

impl TryFrom<FallbackTable> for Fallback {
    type Error = Error;

    fn try_from(table: FallbackTable) -> Result<Self> {
        let printable = |byte: u8| (b' '..=b'~').contains(&byte);
        let why = if !(200..=599).contains(&table.status) {
            "its status must be 200 to 599"
        } else if matches!(table.status, 204 | 205 | 304) {
            "responses with its status have no body"
        } else if table.content_type.is_empty() || !table.content_type.bytes().all(printable) {
            "its content_type must be printable ASCII"
        } else if table.body.len() > 64 << 10 {
            "its body must not be longer than 64 KiB"
        } else {
            return Ok(Self(table));
        };
        let message = format!("the fallback cannot be sent: {why}");
        Err(Error::new(
            Kind::InvalidArgument,
            "gateway.route_invalid",
            message,
        ))
    }
}

impl From<Fallback> for FallbackTable {
    fn from(fallback: Fallback) -> Self {
        fallback.0
    }
}
