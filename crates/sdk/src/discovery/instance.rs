use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::uri::Authority;
use sinew_core::InstanceId;

use crate::node::Listed;

/// A failed instance is set aside for this long, doubled with each further failure.
const ASIDE: Duration = Duration::from_millis(500);
const ASIDE_CAP: Duration = Duration::from_secs(5);
/// So many time-outs in a row count as a failure; a single one may be the request's own fault.
const SLOW_LIMIT: u32 = 3;

/// One instance of a service, with what this process knows of it.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) authority: Authority,
    in_flight: AtomicU64,
    failures: AtomicU32,
    slow: AtomicU32,
    /// Monotonic milliseconds.
    aside_until: AtomicU64,
}

impl Instance {
    fn new(id: InstanceId, authority: Authority) -> Self {
        Self {
            id,
            authority,
            in_flight: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            slow: AtomicU32::new(0),
            aside_until: AtomicU64::new(0),
        }
    }

    /// The instance at a fixed address; `None` for an IPv6 address with a scope, which no URL holds.
    pub(crate) fn at(id: InstanceId, address: SocketAddr) -> Option<Self> {
        Some(Self::new(id, address.to_string().parse().ok()?))
    }

    /// The instance, if it takes new requests and its address is one.
    pub(crate) fn listed(listed: &Listed) -> Option<Self> {
        if listed.status != "up" {
            return None;
        }
        let host = match listed.address.parse() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            _ => listed.address.clone(),
        };
        let authority = format!("{host}:{}", listed.port).parse().ok()?;
        Some(Self::new(listed.id.clone(), authority))
    }

    /// Whether it is the same process at the same place.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.id == other.id && self.authority == other.authority
    }

    pub(crate) fn load(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    pub(crate) fn is_aside(&self, now: Duration) -> bool {
        self.aside_until.load(Relaxed) > millis(now)
    }

    pub(crate) fn succeeded(&self) {
        self.failures.store(0, Relaxed);
        self.slow.store(0, Relaxed);
        self.aside_until.store(0, Relaxed);
    }

    /// It could not be reached, or broke the connection.
    pub(crate) fn failed(&self, now: Duration) {
        let before = self.failures.fetch_add(1, Relaxed);
        let aside = ASIDE.saturating_mul(1 << before.min(8)).min(ASIDE_CAP);
        self.aside_until.store(millis(now + aside), Relaxed);
    }

    /// It did not answer in time.
    pub(crate) fn timed_out(&self, now: Duration) {
        if self.slow.fetch_add(1, Relaxed) + 1 >= SLOW_LIMIT {
            self.failed(now);
        }
    }
}

/// Counts a request as in flight at an instance until it is dropped.
pub(crate) struct Busy(Arc<Instance>);

impl Busy {
    pub(crate) fn with(instance: &Arc<Instance>) -> Self {
        instance.in_flight.fetch_add(1, Relaxed);
        Self(instance.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_set_aside_for_longer_and_longer_and_success_ends_it() {
        let id = InstanceId::new("a").unwrap();
        let instance = Instance::new(id, Authority::from_static("127.0.0.1:1"));
        let at = Duration::from_secs;
        instance.failed(at(10));
        assert!(instance.is_aside(at(10)) && !instance.is_aside(at(11)));
        for _ in 0..20 {
            instance.failed(at(20));
        }
        assert!(instance.is_aside(at(24)) && !instance.is_aside(at(25)));
        instance.succeeded();
        assert!(!instance.is_aside(at(20)));
        instance.timed_out(at(30));
        instance.timed_out(at(30));
        assert!(!instance.is_aside(at(30)));
        instance.timed_out(at(30));
        assert!(instance.is_aside(at(30)));
    }
}
