//! What the access log says, and of which requests.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use sinew_core::units;

use crate::random::Random;

/// The `[gateway.logging]` table of `sinew.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logging {
    /// The fields of a line, in this order. One that a request has nothing for is left out.
    pub fields: Vec<LogField>,
    /// Of which share of the requests there is a line.
    pub sample: Share,
    /// Requests that took as long have a line whatever the share; zero takes nothing as slow.
    #[serde(with = "units::duration")]
    pub slow: Duration,
    /// What is shown of the query's parameters.
    pub query: QueryValues,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            fields: LogField::USUAL.to_vec(),
            sample: Share::ALL,
            slow: Duration::from_secs(1),
            query: QueryValues::Hidden,
        }
    }
}

impl Logging {
    /// What is wrong with it, or nothing.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        if self.fields.is_empty() {
            return Some(
                "logging.fields must name at least one field; access_log = \"off\" logs nothing",
            );
        }
        let twice = |(at, field): (usize, &LogField)| self.fields[..at].contains(field);
        if self.fields.iter().enumerate().any(twice) {
            return Some("logging.fields must name each field once");
        }
        None
    }

    /// Whether there is a line of a request: of each that failed or was slow, and of the rest a share.
    pub(crate) fn wants(&self, failed: bool, took: Duration, random: &Random) -> bool {
        failed || (took >= self.slow && !self.slow.is_zero()) || self.sample.draws(random)
    }
}

/// What a line can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogField {
    /// When it was answered, milliseconds since 1970.
    Time,
    /// `X-Request-Id`.
    RequestId,
    /// The W3C trace that it is part of.
    TraceId,
    /// The client's address.
    Peer,
    /// `http/1.0`, `http/1.1` or `h2`.
    Protocol,
    /// The method.
    Method,
    /// The host, in lower case.
    Host,
    /// The canonical path.
    Path,
    /// The canonical query, without its values or those that look like secrets.
    Query,
    /// The response's status; 499 when the client left before it had one.
    Status,
    /// The code of the gateway's error.
    Code,
    /// The route's name, or its matchers.
    Route,
    /// The service.
    Service,
    /// The part of the service, if the route names one.
    Subset,
    /// The instance that answered.
    Instance,
    /// How often it was sent once more.
    Retries,
    /// Milliseconds from its head to the response's last byte.
    TookMs,
    /// Bytes of the request's body.
    BodyIn,
    /// Bytes of the response's body.
    BodyOut,
    /// `User-Agent`.
    UserAgent,
    /// `Referer` without its query.
    Referer,
}

impl LogField {
    /// Those that lines have when nothing else is said.
    pub const USUAL: [Self; 18] = [
        Self::Time,
        Self::RequestId,
        Self::Peer,
        Self::Protocol,
        Self::Method,
        Self::Host,
        Self::Path,
        Self::Query,
        Self::Status,
        Self::Code,
        Self::Route,
        Self::Service,
        Self::Subset,
        Self::Instance,
        Self::Retries,
        Self::TookMs,
        Self::BodyIn,
        Self::BodyOut,
    ];
}

/// What is shown of a query's parameters; their names always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueryValues {
    /// No value.
    Hidden,
    /// Values of parameters whose names do not look like those of secrets.
    Shown,
}

/// A share of all, 0 to 1, kept as millionths.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Share(u32);

impl Share {
    /// Every one.
    pub const ALL: Self = Self(Self::WHOLE);

    const WHOLE: u32 = 1_000_000;

    fn draws(self, random: &Random) -> bool {
        self == Self::ALL
            || random
                .below(Self::WHOLE as usize)
                .is_some_and(|drawn| drawn < self.0 as usize)
    }
}

impl TryFrom<f64> for Share {
    type Error = String;

    fn try_from(share: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&share) {
            Ok(Self((share * f64::from(Self::WHOLE)).round() as u32))
        } else {
            Err(format!(
                "{share} is no share: 1 is every request, 0.01 one in a hundred, 0 none"
            ))
        }
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> Self {
        Self::from(share.0) / Self::from(Share::WHOLE)
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f64::from(*self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_and_slow_requests_are_logged_whatever_the_share() {
        let random = Random::seeded(7);
        let (quick, slow) = (Duration::from_millis(999), Duration::from_secs(1));
        let none = Logging {
            sample: Share::try_from(0.0).unwrap(),
            ..Logging::default()
        };
        assert!(!none.wants(false, quick, &random));
        assert!(none.wants(true, quick, &random));
        assert!(none.wants(false, slow, &random));
        let never_slow = Logging {
            slow: Duration::ZERO,
            ..none
        };
        assert!(!never_slow.wants(false, slow, &random));
        let tenth = Logging {
            sample: Share::try_from(0.1).unwrap(),
            ..never_slow
        };
        let drawn = (0..10_000)
            .filter(|_| tenth.wants(false, quick, &random))
            .count();
        assert!((800..1_200).contains(&drawn), "{drawn}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            "sample = 1.5",
            "sample = -0.1",
            "sample = \"1%\"",
            "fields = [\"cookie\"]",
            "query = \"all\"",
        ] {
            assert!(toml::from_str::<Logging>(wrong).is_err(), "{wrong}");
        }
        for wrong in ["fields = []", "fields = [\"path\", \"path\"]"] {
            assert!(
                toml::from_str::<Logging>(wrong).unwrap().fault().is_some(),
                "{wrong}"
            );
        }
        let good: Logging = toml::from_str(
            "fields = [\"took_ms\", \"path\"]\nsample = 0.01\nslow = \"250ms\"\nquery = \"shown\"",
        )
        .unwrap();
        assert_eq!(good.fault(), None);
        assert_eq!(good.fields, [LogField::TookMs, LogField::Path]);
        assert_eq!(
            toml::from_str::<Logging>(&toml::to_string(&good).unwrap()).unwrap(),
            good
        );
    }
}
