use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use parking_lot::Mutex;
use sinew_core::{InstanceId, Name};
use tokio::sync::watch;

/// Where one instance of a service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Which instance it is.
    pub id: InstanceId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it wants requests.
    pub status: EndpointStatus,
    /// What it says of itself.
    pub metadata: Arc<BTreeMap<String, String>>,
}

/// Whether an instance wants new requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointStatus {
    /// It gets new requests.
    Up,
    /// It finishes what it has.
    Draining,
    /// It is there, and must not be asked.
    Down,
}

/// Tells which instances a service has.
pub trait Discovery: Send + Sync + 'static {
    /// The instances of `service`, now and after each change. A service that nobody knows has an
    /// empty list; if the sender ever goes, the last list stays in use.
    fn watch(&self, service: &Name) -> watch::Receiver<Arc<[Endpoint]>>;
}

/// A [`Discovery`] that is told the instances: for tests, benches and fixed upstreams.
#[derive(Debug, Default)]
pub struct FixedDiscovery {
    services: Mutex<HashMap<Name, watch::Sender<Arc<[Endpoint]>>>>,
}

impl FixedDiscovery {
    /// Knows no instance.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the instances of `service`; all gateways that watch it see that at once.
    pub fn set(&self, service: &Name, endpoints: Vec<Endpoint>) {
        self.with(service, |sender| sender.send_replace(endpoints.into()));
    }

    /// Replaces the instances of `service` by these addresses, all up.
    pub fn set_addresses(&self, service: &Name, addresses: &[SocketAddr]) {
        let endpoint = |address: &SocketAddr| Endpoint {
            id: InstanceId::new(&format!("{service}-{}", address.port()))
                .expect("a name, a dash and a number make an id"),
            address: *address,
            status: EndpointStatus::Up,
            metadata: Arc::default(),
        };
        self.set(service, addresses.iter().map(endpoint).collect());
    }

    fn with<T>(&self, service: &Name, act: impl FnOnce(&watch::Sender<Arc<[Endpoint]>>) -> T) -> T {
        let mut services = self.services.lock();
        let sender = services
            .entry(service.clone())
            .or_insert_with(|| watch::channel(Arc::from([])).0);
        act(sender)
    }
}

impl Discovery for FixedDiscovery {
    fn watch(&self, service: &Name) -> watch::Receiver<Arc<[Endpoint]>> {
        self.with(service, watch::Sender::subscribe)
    }
}
