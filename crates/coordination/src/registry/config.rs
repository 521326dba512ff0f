use std::time::Duration;

/// Bounds of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The time to live of an instance that asks for none.
    pub default_ttl: Duration,
    /// The shortest that may be asked for.
    pub shortest_ttl: Duration,
    /// The longest that may be asked for.
    pub longest_ttl: Duration,
    /// How many instances one service may have.
    pub instances_per_service: usize,
    /// How many instances there may be.
    pub instances: usize,
    /// When fewer than so many percent of a service's instances are healthy, and at least three are
    /// not, this is not believed ([`Service::panic`](super::Service::panic)); never when 0.
    pub panic_threshold: u8,
    /// How long it is not believed.
    pub protect_for: Duration,
    /// Whether checks may look at other hosts than their instance's address.
    pub check_other_hosts: bool,
    /// How many leases of the default TTL lie ready for registrations.
    pub spare_leases: usize,
    /// How long the store may take for one request.
    pub store_timeout: Duration,
    /// How long a write waits to become visible to this node's readers.
    pub visible_within: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            default_ttl: Duration::from_secs(10),
            shortest_ttl: Duration::from_secs(1),
            longest_ttl: Duration::from_secs(600),
            instances_per_service: 1_000,
            instances: 200_000,
            panic_threshold: 50,
            protect_for: Duration::from_secs(600),
            check_other_hosts: false,
            spare_leases: 8,
            store_timeout: Duration::from_secs(5),
            visible_within: Duration::from_secs(1),
        }
    }
}
