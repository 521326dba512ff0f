//! Health and checks on the wire.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sinew_coordination::registry::{self, Probe};
use utoipa::ToSchema;

use super::millis;

/// Whether something works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InstanceHealth {
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

/// What a check does: one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CheckKind {
    /// Nothing: somebody reports the result.
    Reported {},
    /// An HTTP request by the node.
    Http {
        /// A path on the instance's main port, or a whole `http://` URL.
        #[schema(example = "/health")]
        target: String,
        /// Its method; `GET` when absent.
        #[serde(default = "get")]
        method: String,
        /// The least status that passes; 200 when absent.
        #[serde(default = "ok")]
        from: u16,
        /// The greatest status that passes; 299 when absent.
        #[serde(default = "last_ok")]
        to: u16,
    },
    /// A TCP connection by the node.
    Tcp {
        /// `host:port`; the instance's own when absent.
        #[serde(default)]
        target: String,
    },
    /// A call of `grpc.health.v1.Health/Check` by the node.
    Grpc {
        /// `host:port`; the instance's own when absent.
        #[serde(default)]
        target: String,
        /// Which service is asked for; the whole server when absent.
        #[serde(default)]
        service: String,
    },
}

fn get() -> String {
    "GET".to_owned()
}

fn ok() -> u16 {
    200
}

fn last_ok() -> u16 {
    299
}

/// A check of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Unique within the instance.
    #[schema(max_length = 512, example = "alive")]
    pub id: String,
    /// What it does.
    pub kind: CheckKind,
    /// How often; 500 to 86400000, 10000 when absent.
    #[serde(default = "ten_seconds")]
    #[schema(minimum = 500, maximum = 86_400_000)]
    pub interval_ms: u64,
    /// How long it may take; 10 to 60000, 3000 when absent.
    #[serde(default = "three_seconds")]
    #[schema(minimum = 10, maximum = 60_000)]
    pub timeout_ms: u64,
    /// So many failures in a row make it critical; 3 when absent.
    #[serde(default = "three")]
    #[schema(minimum = 1, maximum = 100)]
    pub failures: u8,
    /// So many successes in a row make it pass again; 2 when absent.
    #[serde(default = "two")]
    #[schema(minimum = 1, maximum = 100)]
    pub passes: u8,
    /// What it saw last, or what is taken as such until it has looked.
    #[serde(default)]
    pub health: InstanceHealth,
    /// That in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
}

fn ten_seconds() -> u64 {
    10_000
}

fn three_seconds() -> u64 {
    3_000
}

fn three() -> u8 {
    3
}

fn two() -> u8 {
    2
}

/// What a check saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckReport {
    /// Whether it works.
    pub health: InstanceHealth,
    /// That in words; the first 256 bytes are kept.
    #[serde(default)]
    pub output: String,
}

impl From<Check> for registry::Check {
    fn from(check: Check) -> Self {
        let probe = match check.kind {
            CheckKind::Reported {} => Probe::Reported,
            CheckKind::Http {
                target,
                method,
                from,
                to,
            } => Probe::Http {
                target: target.into(),
                method: method.into(),
                from,
                to,
            },
            CheckKind::Tcp { target } => Probe::Tcp {
                target: target.into(),
            },
            CheckKind::Grpc { target, service } => Probe::Grpc {
                target: target.into(),
                service: service.into(),
            },
        };
        Self {
            interval: Duration::from_millis(check.interval_ms),
            timeout: Duration::from_millis(check.timeout_ms),
            failures: check.failures,
            passes: check.passes,
            health: check.health.into(),
            ..Self::new(check.id, probe)
        }
    }
}

impl From<&registry::Check> for Check {
    fn from(check: &registry::Check) -> Self {
        let kind = match &check.probe {
            Probe::Reported => CheckKind::Reported {},
            Probe::Http {
                target,
                method,
                from,
                to,
            } => CheckKind::Http {
                target: target.to_string(),
                method: method.to_string(),
                from: *from,
                to: *to,
            },
            Probe::Tcp { target } => CheckKind::Tcp {
                target: target.to_string(),
            },
            Probe::Grpc { target, service } => CheckKind::Grpc {
                target: target.to_string(),
                service: service.to_string(),
            },
        };
        Self {
            id: check.id.to_string(),
            kind,
            interval_ms: millis(check.interval),
            timeout_ms: millis(check.timeout),
            failures: check.failures,
            passes: check.passes,
            health: check.health.into(),
            output: check.output.to_string(),
        }
    }
}

same!(
    InstanceHealth,
    registry::Health,
    Passing,
    Unknown,
    Warning,
    Critical
);
