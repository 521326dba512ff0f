//! How the gateway treats a service: what operators write under `[[upstreams]]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sinew_core::{Error, Kind, Name, Result, units};

mod balance;
mod conditions;
mod protection;

pub use balance::{Balance, HashBy};
pub(crate) use conditions::Cause;
pub use conditions::Conditions;
pub use protection::{Breaker, Bulkhead, Fallback, Hedge, Shedding};

/// How one service is treated: in `sinew.toml` an `[[upstreams]]` table. Services without one have
/// the defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Which service.
    pub service: Name,
    /// Which instance gets the next request.
    #[serde(default)]
    pub balance: Balance,
    /// When an instance that fails gets no requests for a while.
    #[serde(default)]
    pub ejection: Ejection,
    /// How long the share of a new or returned instance grows until it is a full one; `0ms` gives it
    /// its full share at once.
    #[serde(default, with = "units::duration")]
    pub slow_start: Duration,
    /// When the service is not asked for a while; always asked when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breaker>,
    /// How many requests it may have at once; any number when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bulkhead: Option<Bulkhead>,
    /// Requests beyond what it can do are refused; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shedding: Option<Shedding>,
}

/// Outlier ejection: an instance that fails where others do not is left alone for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ejection {
    /// What counts as a failure. Refused connections are not among it: an instance that refuses one
    /// is left alone in any case, for as long as it takes to come back.
    pub on: Conditions,
    /// So many failures in a row eject; 0 never.
    pub consecutive: u32,
    /// Such a part of the requests of a `window` failing ejects; 0 never.
    pub failure_percent: u8,
    /// Over which time that part is counted.
    #[serde(with = "units::duration")]
    pub window: Duration,
    /// With fewer requests than this in the window its failures say nothing.
    pub minimum_requests: u32,
    /// How long the first ejection lasts; each further one that much longer.
    #[serde(with = "units::duration")]
    pub time: Duration,
    /// How long one lasts at most.
    #[serde(with = "units::duration")]
    pub longest: Duration,
    /// When more of the instances than this are out, requests go to all of them again: most likely
    /// it is not the instances that are ill.
    pub most_percent: u8,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            on: Conditions::gateway_failures(),
            consecutive: 5,
            failure_percent: 50,
            window: Duration::from_secs(10),
            minimum_requests: 20,
            time: Duration::from_secs(10),
            longest: Duration::from_secs(300),
            most_percent: 50,
        }
    }
}

impl Upstream {
    /// The defaults.
    pub fn new(service: Name) -> Self {
        Self {
            service,
            balance: Balance::default(),
            ejection: Ejection::default(),
            slow_start: Duration::ZERO,
            breaker: None,
            bulkhead: None,
            shedding: None,
        }
    }

    fn faults(&self) -> Vec<String> {
        let Ejection {
            window,
            time,
            longest,
            failure_percent,
            most_percent,
            ..
        } = &self.ejection;
        let mut faults: Vec<String> = self.balance.fault().into_iter().collect();
        for (key, value) in [("window", window), ("time", time)] {
            within(&mut faults, &format!("ejection.{key}"), *value, (100, DAY));
        }
        if longest < time {
            faults.push("ejection.longest is less than ejection.time".to_owned());
        }
        for (key, value) in [
            ("failure_percent", failure_percent),
            ("most_percent", most_percent),
        ] {
            if *value > 100 {
                faults.push(format!("ejection.{key} is {value}; use 0 to 100"));
            }
        }
        within(&mut faults, "slow_start", self.slow_start, (0, DAY));
        if let Some(breaker) = &self.breaker {
            breaker.faults(&mut faults);
        }
        if let Some(bulkhead) = &self.bulkhead {
            bulkhead.faults(&mut faults);
        }
        if let Some(shedding) = &self.shedding {
            shedding.faults(&mut faults);
        }
        faults
    }
}

/// For serde's `with`: a time, or nothing.
pub(crate) mod optional_duration {
    use serde::{Deserializer, Serializer};

    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        to: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        match value {
            Some(value) => units::duration::serialize(value, to),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> std::result::Result<Option<Duration>, D::Error> {
        units::duration::deserialize(from).map(Some)
    }
}

const DAY: u64 = 86_400_000;

fn within(faults: &mut Vec<String>, key: &str, value: Duration, (least, most): (u64, u64)) {
    if !(u128::from(least)..=u128::from(most)).contains(&value.as_millis()) {
        let value = value.as_millis();
        faults.push(format!("{key} is {value}ms; use {least}ms to {most}ms"));
    }
}

/// Whether a gateway would take them: `gateway.upstreams_invalid` (InvalidArgument) otherwise, with
/// all that is wrong.
pub(crate) fn check(upstreams: &[Upstream]) -> Result<()> {
    let mut faults = Vec::new();
    for (index, upstream) in upstreams.iter().enumerate() {
        let (number, service) = (index + 1, &upstream.service);
        let same = |other: &Upstream| other.service == *service;
        if let Some(other) = upstreams[..index].iter().position(same) {
            faults.push(format!(
                "upstreams {} and {number} are both for service {service}",
                other + 1
            ));
        }
        let own = upstream.faults();
        faults.extend(
            own.iter()
                .map(|why| format!("upstream {number} ({service}): {why}")),
        );
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::InvalidArgument,
        "gateway.upstreams_invalid",
        faults.join("; "),
    ))
}

#[cfg(test)]
mod tests;
