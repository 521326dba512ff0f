//! What is registered, and how it is stored.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sinew_core::{InstanceId, Name, Result};
use sinew_engine::kv::{LeaseId, Revision};

use super::{Config, error};

const METADATA_PAIRS: usize = 64;
const METADATA_KEY_BYTES: usize = 128;
const METADATA_VALUE_BYTES: usize = 1024;
const ADDRESS_BYTES: usize = 253;

/// Whether an instance takes requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
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

/// What a service says of one of its instances when it registers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The service.
    pub service: Name,
    /// The instance, unique within its service.
    pub id: InstanceId,
    /// An IP address or a host name where it can be reached.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Whether it takes requests.
    pub status: Status,
    /// Anything: up to 64 pairs, keys to 128 bytes, values to 1024.
    pub metadata: BTreeMap<String, String>,
    /// How long it stays without a heartbeat; the configured default when not said.
    pub ttl: Option<Duration>,
}

/// One registered instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The service.
    pub service: Name,
    /// The instance.
    pub id: InstanceId,
    /// An IP address or a host name.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Whether it takes requests.
    pub status: Status,
    /// What it says of itself.
    pub metadata: BTreeMap<String, String>,
    /// How long it stays without a heartbeat.
    pub ttl: Duration,
    /// The store's revision that last changed it.
    pub revision: Revision,
    /// The lease that it goes with.
    pub(super) lease: Option<LeaseId>,
}

/// A service with all of its instances, in the order of their ids. Without instances it is not
/// registered, or no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// The store's revision of which this is the list; it never goes back.
    pub revision: Revision,
    /// Its instances.
    pub instances: Vec<Arc<Instance>>,
}

/// All services that have instances, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The store's revision of which this is the list.
    pub revision: Revision,
    /// The services.
    pub services: Vec<Arc<Service>>,
}

/// The answer to a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// As it stands in the registry.
    pub instance: Arc<Instance>,
    /// Whether it was not there before.
    pub created: bool,
}

/// What a registry has done since it started, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Services with instances.
    pub services: usize,
    /// Instances.
    pub instances: usize,
    /// Registrations, new and repeated.
    pub registrations: u64,
    /// Heartbeats.
    pub heartbeats: u64,
    /// Instances that left, by deregistration or with their lease.
    pub departures: u64,
    /// Times that everything was listed anew because the watch broke or was too far behind.
    pub relists: u64,
}

impl Service {
    pub(super) fn empty(name: Name, revision: Revision) -> Self {
        Self {
            name,
            revision,
            instances: Vec::new(),
        }
    }

    pub(super) fn position(&self, id: &InstanceId) -> Result<usize, usize> {
        self.instances
            .binary_search_by(|instance| instance.id.cmp(id))
    }

    /// The instance with this id.
    pub fn instance(&self, id: &InstanceId) -> Option<&Arc<Instance>> {
        self.position(id).ok().map(|index| &self.instances[index])
    }
}

impl Registration {
    /// Checks everything that the types do not, and makes an instance of it.
    pub(super) fn check(self, config: &Config) -> Result<Instance> {
        check_address(&self.address)?;
        if self.port == 0 {
            return Err(error::address_invalid(
                "port 0 cannot be reached; use 1 to 65535",
            ));
        }
        let ttl = self.ttl.unwrap_or(config.default_ttl);
        if ttl < config.shortest_ttl || ttl > config.longest_ttl {
            return Err(error::ttl_invalid(
                ttl,
                config.shortest_ttl,
                config.longest_ttl,
            ));
        }
        check_metadata(&self.metadata)?;
        Ok(Instance {
            service: self.service,
            id: self.id,
            address: self.address,
            port: self.port,
            status: self.status,
            metadata: self.metadata,
            ttl,
            revision: 0,
            lease: None,
        })
    }
}

fn check_address(address: &str) -> Result<()> {
    if let Ok(ip) = address.parse::<IpAddr>() {
        return if ip.is_unspecified() || ip.is_multicast() {
            Err(error::address_invalid(format!(
                "{ip} is not an address that others can reach; register the one they shall use"
            )))
        } else {
            Ok(())
        };
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    // All digits in the last label would be an address that somebody mistyped.
    let name = address.strip_suffix('.').unwrap_or(address);
    let numeric = name
        .rsplit('.')
        .next()
        .is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    if address.len() <= ADDRESS_BYTES && !numeric && name.split('.').all(label) {
        Ok(())
    } else {
        Err(error::address_invalid(format!(
            "the address is neither an IP address nor a host name of up to {ADDRESS_BYTES} characters"
        )))
    }
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<()> {
    if metadata.len() > METADATA_PAIRS {
        return Err(error::metadata_invalid(format!(
            "{} pairs of metadata are too many; use up to {METADATA_PAIRS}",
            metadata.len()
        )));
    }
    for (key, value) in metadata {
        if key.is_empty() || key.len() > METADATA_KEY_BYTES {
            return Err(error::metadata_invalid(format!(
                "a metadata key has {} bytes; use 1 to {METADATA_KEY_BYTES}",
                key.len()
            )));
        }
        if value.len() > METADATA_VALUE_BYTES {
            return Err(error::metadata_invalid(format!(
                "the metadata value of {key:?} has {} bytes; use up to {METADATA_VALUE_BYTES}",
                value.len()
            )));
        }
    }
    Ok(())
}

/// The stored form, version 1. Fields may be added with a default; anything else is a new version.
#[derive(Serialize, Deserialize)]
struct Stored {
    v: u8,
    address: String,
    port: u16,
    status: Status,
    ttl_ms: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
}

/// The value to store for an instance.
pub(super) fn encode(instance: &Instance) -> Bytes {
    let stored = Stored {
        v: 1,
        address: instance.address.clone(),
        port: instance.port,
        status: instance.status,
        ttl_ms: u64::try_from(instance.ttl.as_millis()).unwrap_or(u64::MAX),
        metadata: instance.metadata.clone(),
    };
    serde_json::to_vec(&stored)
        .expect("strings and numbers serialise")
        .into()
}

/// The instance that a stored value describes; `None` when this version cannot read it.
pub(super) fn decode(
    (service, id): (Name, InstanceId),
    value: &[u8],
    revision: Revision,
    lease: Option<LeaseId>,
) -> Option<Instance> {
    let stored: Stored = serde_json::from_slice(value)
        .ok()
        .filter(|stored: &Stored| stored.v == 1)?;
    Some(Instance {
        service,
        id,
        address: stored.address,
        port: stored.port,
        status: stored.status,
        metadata: stored.metadata,
        ttl: Duration::from_millis(stored.ttl_ms),
        revision,
        lease,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in [
            "127.0.0.1",
            "::1",
            "orders",
            "a-b.example.com",
            "x_1.local.",
            "10.0.0.1",
        ] {
            assert!(check_address(good).is_ok(), "{good}");
        }
        let long = "a".repeat(254);
        for bad in [
            "",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "a b",
            "a/b",
            "-a",
            "a..b",
            "[::1]",
            "1.2.3",
            "300.1.1.1",
            &long,
        ] {
            assert_eq!(
                check_address(bad).unwrap_err().code(),
                "registry.address_invalid",
                "{bad}"
            );
        }
    }

    #[test]
    fn metadata_is_bounded() {
        let pairs = |n: usize, key: usize, value: usize| -> BTreeMap<_, _> {
            (0..n)
                .map(|i| (format!("{i:0key$}"), "v".repeat(value)))
                .collect()
        };
        assert!(check_metadata(&pairs(64, 128, 1024)).is_ok());
        for bad in [pairs(65, 8, 1), pairs(1, 129, 1), pairs(1, 8, 1025)] {
            assert_eq!(
                check_metadata(&bad).unwrap_err().code(),
                "registry.metadata_invalid"
            );
        }
    }

    /// Written by version 0.1.0. It must be read by every later one.
    #[test]
    fn the_stored_form_of_version_1_is_read() {
        let value = br#"{"v":1,"address":"127.0.0.1","port":8081,"status":"out_of_service","ttl_ms":10000,"metadata":{"zone":"a"}}"#;
        let name = || {
            (
                Name::new("orders").unwrap(),
                InstanceId::new("orders-1").unwrap(),
            )
        };
        let instance = decode(name(), value, 7, None).unwrap();
        assert_eq!((&*instance.address, instance.port), ("127.0.0.1", 8081));
        assert_eq!(instance.status, Status::OutOfService);
        assert_eq!(instance.ttl, Duration::from_secs(10));
        assert_eq!(instance.metadata["zone"], "a");
        assert_eq!(&encode(&instance)[..], value);
        assert!(decode(name(), br#"{"v":2}"#, 7, None).is_none());
    }
}
