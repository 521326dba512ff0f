//! Services and their instances on the wire.

/// Two enums with the same variants.
macro_rules! same {
    ($ours:ty, $theirs:ty, $($variant:ident),+) => {
        impl From<$theirs> for $ours {
            fn from(value: $theirs) -> Self {
                match value { $(<$theirs>::$variant => Self::$variant),+ }
            }
        }
        impl From<$ours> for $theirs {
            fn from(value: $ours) -> Self {
                match value { $(<$ours>::$variant => Self::$variant),+ }
            }
        }
    };
}
mod check;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use sinew_coordination::registry::{self, ServiceId};
use sinew_core::{Error, InstanceId, Kind, Result};
use utoipa::ToSchema;

pub use check::{Check, CheckKind, CheckReport, InstanceHealth};

/// Whether an instance takes requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InstanceStatus {
    /// It takes requests.
    #[default]
    Up,
    /// It finishes what it has and takes nothing new.
    Draining,
    /// It is known not to work.
    Down,
    /// An operator took it out.
    OutOfService,
}

/// A port that has a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Unique within the instance.
    #[schema(max_length = 32, example = "admin")]
    pub name: String,
    /// What is spoken there.
    #[schema(max_length = 32, example = "http")]
    pub protocol: String,
    /// Its number.
    #[schema(minimum = 1, maximum = 65535)]
    pub number: u16,
}

/// What a service says of one of its instances when it registers it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// An IP address or a host name where the instance can be reached.
    #[schema(max_length = 253, example = "127.0.0.1")]
    pub address: String,
    /// Its main port, where it gets its requests.
    #[schema(minimum = 1, maximum = 65535, example = 41234)]
    pub port: u16,
    /// More ports by name, up to 16. The main one may be among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 16)]
    pub ports: Vec<Port>,
    /// How long it stays without a heartbeat; 1000 to 600000. When absent 10000, or for ever if it is persistent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1000, maximum = 600_000)]
    pub ttl_ms: Option<u64>,
    /// Whether it takes requests; `up` when absent.
    #[serde(default)]
    pub status: InstanceStatus,
    /// Its share of the requests, compared with others; 0 to 10000, 1 when absent.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    #[schema(minimum = 0, maximum = 10_000)]
    pub weight: f64,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128)]
    pub zone: Option<String>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128)]
    pub version: Option<String>,
    /// Anything: up to 64 pairs, keys to 128 bytes, values to 1024.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// It stays listed, as critical, when its heartbeats cease.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub persistent: bool,
    /// When it has been critical for so long it is deregistered; never when absent, if it is persistent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deregister_after_ms: Option<u64>,
    /// Up to 8 checks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 8)]
    pub checks: Vec<Check>,
}

/// How names were written where they are not written as they are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Written {
    /// The namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The group of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// A registered instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// The namespace of its service, unless it is `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its service.
    pub service: String,
    /// Its id, unique within the service.
    pub id: String,
    /// An IP address or a host name.
    pub address: String,
    /// Its main port; 0 if it has none.
    pub port: u16,
    /// More ports by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Whether it takes requests, all things considered: what it says, what an operator says, its
    /// health, and whether its service is in panic.
    pub status: InstanceStatus,
    /// What it says itself, if that differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_status: Option<InstanceStatus>,
    /// What an operator says instead, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_status: Option<InstanceStatus>,
    /// What its heartbeats and checks say together: the worst.
    #[serde(default)]
    pub health: InstanceHealth,
    /// Its share of the requests; 1 when absent.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: f64,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What it says of itself.
    pub metadata: BTreeMap<String, String>,
    /// How long it stays without a heartbeat; for ever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// It stays listed, as critical, when its heartbeats cease.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub persistent: bool,
    /// When it has been critical for so long it is deregistered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deregister_after_ms: Option<u64>,
    /// Its checks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// How its names were written, where not as they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<Written>,
    /// What dialects of other registries know of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// The store's revision that last changed it.
    pub revision: u64,
}

fn one() -> f64 {
    1.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_one(weight: &f64) -> bool {
    registry::Weight::new(*weight).is_some_and(|weight| weight.is_default())
}

/// The list of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// The store's revision of which this is the list.
    pub revision: u64,
    /// Its namespace, unless it is `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The service.
    pub name: String,
    /// So many of its instances are critical at once that this is not believed: they count as up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub panic: bool,
    /// Its instances in the order of their ids.
    pub instances: Vec<Instance>,
}

/// A service within the list of all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ListedService {
    /// Its namespace, unless it is `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The service.
    pub name: String,
    /// So many of its instances are critical at once that this is not believed: they count as up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub panic: bool,
    /// Its instances in the order of their ids.
    pub instances: Vec<Instance>,
}

/// All services that have instances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Services {
    /// The store's revision of which this is the list.
    pub revision: u64,
    /// The services in the order of their namespaces and names.
    pub services: Vec<ListedService>,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Heartbeat {
    /// How long the instance stays from now on without another.
    pub ttl_ms: u64,
}

/// A new status for an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StatusChange {
    /// Whether it takes requests.
    pub status: InstanceStatus,
}

impl Registration {
    pub(in crate::rest) fn of(
        self,
        service: ServiceId,
        id: InstanceId,
    ) -> Result<registry::Registration> {
        if self.port == 0 {
            return Err(Error::new(
                Kind::InvalidArgument,
                "registry.address_invalid",
                "port 0 cannot be reached; use 1 to 65535",
            ));
        }
        let Some(weight) = registry::Weight::new(self.weight) else {
            return Err(Error::new(
                Kind::InvalidArgument,
                "registry.metadata_invalid",
                "the weight is out of range; use 0 to 10000",
            ));
        };
        Ok(registry::Registration {
            ports: self.ports.into_iter().map(Into::into).collect(),
            status: self.status.into(),
            weight,
            zone: self.zone,
            version: self.version,
            metadata: self.metadata,
            ttl: self.ttl_ms.map(Duration::from_millis),
            persistent: self.persistent,
            deregister_after: self.deregister_after_ms.map(Duration::from_millis),
            checks: self.checks.into_iter().map(Into::into).collect(),
            ..registry::Registration::new(service, id, self.address, self.port)
        })
    }
}

impl Instance {
    /// An instance as it stands within its service.
    pub(in crate::rest) fn within(
        service: &registry::Service,
        instance: &registry::Instance,
    ) -> Self {
        let status = service.status_of(instance);
        let spelling = instance.spelling();
        let text = |text: &Option<Arc<str>>| text.as_ref().map(ToString::to_string);
        Self {
            namespace: namespace(&instance.service),
            service: instance.service.name.to_string(),
            id: instance.id.to_string(),
            address: instance.address.to_string(),
            port: instance.port,
            ports: instance.ports.iter().map(Into::into).collect(),
            status: status.into(),
            own_status: (instance.status != status).then(|| instance.status.into()),
            override_status: instance.status_override.map(Into::into),
            health: instance.health().into(),
            weight: instance.weight().as_f64(),
            zone: instance.zone().map(ToOwned::to_owned),
            version: instance.version().map(ToOwned::to_owned),
            metadata: instance.metadata.to_map(),
            ttl_ms: instance.ttl.map(millis),
            persistent: instance.persistent,
            deregister_after_ms: instance.deregister_after().map(millis),
            checks: instance.checks().iter().map(Into::into).collect(),
            written: (!spelling.is_plain()).then(|| Written {
                namespace: text(&spelling.namespace),
                group: text(&spelling.group),
                service: text(&spelling.service),
                id: text(&spelling.id),
            }),
            attributes: instance.attributes().to_map(),
            revision: instance.revision,
        }
    }

    /// An instance on its own.
    pub(in crate::rest) fn alone(instance: &Arc<registry::Instance>) -> Self {
        let service = registry::Service {
            id: instance.service.clone(),
            revision: instance.revision,
            instances: Vec::new(),
            panic: false,
        };
        Self::within(&service, instance)
    }
}

impl Service {
    /// The list of a service, of those instances that are wanted.
    pub(in crate::rest) fn of(
        service: &registry::Service,
        wanted: impl Fn(&registry::Instance) -> bool,
    ) -> Self {
        let instances = service.instances.iter();
        let instances = instances.filter(|instance| wanted(instance));
        Self {
            revision: service.revision,
            namespace: namespace(&service.id),
            name: service.id.name.to_string(),
            panic: service.panic,
            instances: instances
                .map(|instance| Instance::within(service, instance))
                .collect(),
        }
    }
}

impl From<Service> for ListedService {
    fn from(service: Service) -> Self {
        Self {
            namespace: service.namespace,
            name: service.name,
            panic: service.panic,
            instances: service.instances,
        }
    }
}

fn namespace(service: &ServiceId) -> Option<String> {
    (!service.is_default()).then(|| service.namespace.to_string())
}

impl From<Port> for registry::Port {
    fn from(port: Port) -> Self {
        Self {
            name: port.name.into(),
            protocol: port.protocol.into(),
            number: port.number,
        }
    }
}

impl From<&registry::Port> for Port {
    fn from(port: &registry::Port) -> Self {
        Self {
            name: port.name.to_string(),
            protocol: port.protocol.to_string(),
            number: port.number,
        }
    }
}

same!(
    InstanceStatus,
    registry::Status,
    Up,
    Draining,
    Down,
    OutOfService
);
pub(in crate::rest) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
