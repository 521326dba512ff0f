//! Whether instances work, as far as somebody looks.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use sinew_core::Result;

use crate::registry::error;

/// How many checks an instance may have.
const CHECKS: usize = 8;
const TEXT_BYTES: usize = 512;
/// What is kept of what a check saw.
const OUTPUT_BYTES: usize = 256;

/// Whether something works. The worse is the greater.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It works.
    Passing,
    /// Nobody has looked yet, or nobody looks; taken as working.
    #[default]
    Unknown,
    /// It works, but somebody should look.
    Warning,
    /// It does not work.
    Critical,
}

/// What a check does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// Nothing: somebody reports the result ([`Edit::Report`](super::Edit::Report)).
    Reported,
    /// An HTTP request; a status between `from` and `to` passes, 429 warns.
    Http {
        /// A path on the instance's main port (`/health`), or a whole URL.
        target: Arc<str>,
        /// `GET` or another method.
        method: Arc<str>,
        /// The least good status.
        from: u16,
        /// The greatest good status.
        to: u16,
    },
    /// A TCP connection.
    Tcp {
        /// `host:port`; the instance's own when empty.
        target: Arc<str>,
    },
    /// A call of `grpc.health.v1.Health/Check`.
    Grpc {
        /// `host:port`; the instance's own when empty.
        target: Arc<str>,
        /// Which service is asked for; the whole server when empty.
        service: Arc<str>,
    },
}

/// One check of an instance, and what it saw last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Unique within the instance.
    pub id: Arc<str>,
    /// What it does.
    pub probe: Probe,
    /// How often.
    #[serde(rename = "interval_ms", with = "millis")]
    pub interval: Duration,
    /// How long it may take.
    #[serde(rename = "timeout_ms", with = "millis")]
    pub timeout: Duration,
    /// So many failures in a row make it critical.
    pub failures: u8,
    /// So many successes in a row make it pass again.
    pub passes: u8,
    /// What it saw last.
    #[serde(default)]
    pub health: Health,
    /// That in words, up to 256 bytes.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub output: Arc<str>,
}

impl Check {
    /// A check every 10 s that may take 3 s, fails at the third failure and passes at the second
    /// success.
    pub fn new(id: impl Into<Arc<str>>, probe: Probe) -> Self {
        Self {
            id: id.into(),
            probe,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(3),
            failures: 3,
            passes: 2,
            health: Health::Unknown,
            output: "".into(),
        }
    }

    fn check(&self) -> Result<()> {
        let refuse = |why: &str| {
            let id: String = self.id.chars().take(64).collect();
            Err(error::check_invalid(format!("check {id:?}: {why}")))
        };
        let short = |text: &str| text.len() <= TEXT_BYTES && !text.chars().any(char::is_control);
        if self.id.is_empty() || !short(&self.id) {
            return refuse("an id has 1 to 512 bytes and no control characters");
        }
        let seconds =
            |least: u64, most: u64| Duration::from_millis(least)..=Duration::from_secs(most);
        if !seconds(500, 86_400).contains(&self.interval) {
            return refuse("the interval is out of range; use 0.5 s to a day");
        }
        if !seconds(10, 60).contains(&self.timeout) {
            return refuse("the timeout is out of range; use 10 ms to 60 s");
        }
        if !(1..=100).contains(&self.failures) || !(1..=100).contains(&self.passes) {
            return refuse("thresholds are out of range; use 1 to 100");
        }
        match &self.probe {
            Probe::Reported => {}
            Probe::Http {
                target,
                method,
                from,
                to,
            } => {
                let known = ["GET", "HEAD", "POST", "PUT", "OPTIONS"];
                if !known.contains(&&**method) {
                    return refuse("the method is not one of GET, HEAD, POST, PUT, OPTIONS");
                }
                if !(100..=599).contains(from) || !(*from..=599).contains(to) {
                    return refuse("the expected status is out of range; use 100 to 599");
                }
                let begins = target.starts_with('/') || target.starts_with("http://");
                if !begins || !short(target) || target.contains(' ') {
                    return refuse("the target is neither a path nor an http:// URL");
                }
            }
            Probe::Tcp { target } | Probe::Grpc { target, .. } => {
                let port = target.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
                if !target.is_empty() && (!short(target) || !matches!(port, Some(Ok(1..)))) {
                    return refuse("the target is not host:port");
                }
                if let Probe::Grpc { service, .. } = &self.probe
                    && !short(service)
                {
                    return refuse("the service's name is too long");
                }
            }
        }
        Ok(())
    }
}

pub(super) fn check(checks: &[Check]) -> Result<()> {
    if checks.len() > CHECKS {
        return Err(error::check_invalid(format!(
            "{} checks are too many; use up to {CHECKS}",
            checks.len()
        )));
    }
    for (at, check) in checks.iter().enumerate() {
        check.check()?;
        if checks[..at].iter().any(|other| other.id == check.id) {
            return Err(error::check_invalid("two checks have the same id"));
        }
    }
    Ok(())
}

/// Cuts what a check saw to what is kept of it.
pub(super) fn cut(output: &str) -> &str {
    &output[..output.floor_char_boundary(OUTPUT_BYTES)]
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}
