//! The gateway's view of the registry: socket addresses instead of instances.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use sinew_coordination::registry::{Instance, Registry, Service, Status};
use sinew_core::Name;
use sinew_gateway::{Discovery, Endpoint, EndpointStatus};
use tokio::{runtime::Handle, sync::watch, time::timeout};

const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Host names are asked for anew this often.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);

/// [`Discovery`] over the registry. Endpoints change within the registry's own change, so that an
/// instance is routed to when its registration returns, and no longer when its deregistration does.
pub(crate) struct RegistryDiscovery {
    registry: Registry,
    runtime: Handle,
    // Those that routes name, so there is no need to forget any.
    services: Mutex<HashMap<Name, watch::Receiver<Arc<[Endpoint]>>>>,
}

/// One service as the gateway sees it.
struct View {
    service: Arc<Service>,
    /// Of the host names among its instances.
    addresses: BTreeMap<String, IpAddr>,
    endpoints: watch::Sender<Arc<[Endpoint]>>,
}

impl RegistryDiscovery {
    /// Must be made within the runtime that shall run its tasks.
    pub(crate) fn new(registry: Registry) -> Self {
        Self {
            registry,
            runtime: Handle::current(),
            services: Mutex::default(),
        }
    }
}

impl Discovery for RegistryDiscovery {
    fn watch(&self, service: &Name) -> watch::Receiver<Arc<[Endpoint]>> {
        let mut services = self.services.lock();
        if let Some(known) = services.get(service) {
            return known.clone();
        }
        let (endpoints, receiver) = watch::channel(Arc::from([]));
        let view = Arc::new(Mutex::new(View {
            service: self.registry.service(service),
            addresses: BTreeMap::new(),
            endpoints,
        }));
        self.registry.observe(service, {
            let view = view.clone();
            move |service| {
                let mut view = view.lock();
                view.service = service.clone();
                view.publish();
                true
            }
        });
        self.runtime
            .spawn(resolve_names(self.registry.watch(service), view));
        services.insert(service.clone(), receiver.clone());
        receiver
    }
}

impl View {
    fn publish(&self) {
        let new = convert(&self.service, &self.addresses);
        self.endpoints.send_if_modified(|old| {
            let changed = *old != new;
            *old = new;
            changed
        });
    }
}

/// Keeps the addresses of a service's host names, until the registry ends.
async fn resolve_names(mut instances: watch::Receiver<Arc<Service>>, view: Arc<Mutex<View>>) {
    loop {
        let names = names(&instances.borrow_and_update());
        if names.is_empty() {
            if instances.changed().await.is_err() {
                return;
            }
            continue;
        }
        let known = view.lock().addresses.clone();
        let resolved = resolve(names, &known).await;
        {
            let mut view = view.lock();
            view.addresses = resolved;
            view.publish();
        }
        if let Ok(Err(_)) = timeout(RESOLVE_EVERY, instances.changed()).await {
            return;
        }
    }
}

/// The endpoints of those instances whose address is known.
fn convert(service: &Service, addresses: &BTreeMap<String, IpAddr>) -> Arc<[Endpoint]> {
    let endpoint = |instance: &Arc<Instance>| {
        let ip = instance.address.parse().ok();
        let ip = ip.or_else(|| addresses.get(&instance.address).copied())?;
        Some(Endpoint {
            id: instance.id.clone(),
            address: SocketAddr::new(ip, instance.port),
            status: match instance.status {
                Status::Up => EndpointStatus::Up,
                Status::Draining => EndpointStatus::Draining,
                Status::Down | Status::OutOfService => EndpointStatus::Down,
            },
            metadata: Arc::new(instance.metadata.clone()),
        })
    };
    service.instances.iter().filter_map(endpoint).collect()
}

fn names(service: &Service) -> Vec<String> {
    let is_name = |address: &&String| address.parse::<IpAddr>().is_err();
    let mut names: Vec<String> = service
        .instances
        .iter()
        .map(|instance| &instance.address)
        .filter(is_name)
        .cloned()
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Asks for all names, one after the other; one that does not answer keeps its last address.
async fn resolve(names: Vec<String>, known: &BTreeMap<String, IpAddr>) -> BTreeMap<String, IpAddr> {
    let mut addresses = BTreeMap::new();
    for name in names {
        let ask = async {
            let mut found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok::<_, std::io::Error>(found.next().map(|address| address.ip()))
        };
        let found = match timeout(RESOLVE_TIMEOUT, ask).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(%name, %error, "a host name of an instance cannot be resolved");
                None
            }
            Err(_) => {
                tracing::warn!(%name, "a host name of an instance was not resolved in time");
                None
            }
        };
        if let Some(ip) = found.or_else(|| known.get(&name).copied()) {
            addresses.insert(name, ip);
        }
    }
    addresses
}
