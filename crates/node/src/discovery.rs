//! The gateway's view of the registry: socket addresses instead of instances.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use sinew_coordination::registry::{Instance, Registry, Service, ServiceId, Status, Weight};
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
    services: Mutex<HashMap<ServiceId, watch::Receiver<Arc<[Endpoint]>>>>,
}

/// One service as the gateway sees it.
struct View {
    service: Arc<Service>,
    /// Of the host names among its instances.
    addresses: BTreeMap<Arc<str>, IpAddr>,
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
    fn watch(&self, name: &Name) -> watch::Receiver<Arc<[Endpoint]>> {
        let service = &ServiceId::from(name);
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

/// The endpoints of those instances that have a port and whose address is known.
fn convert(service: &Service, addresses: &BTreeMap<Arc<str>, IpAddr>) -> Arc<[Endpoint]> {
    let scale = Scale::of(service);
    let endpoint = |instance: &Arc<Instance>| {
        let ip = instance.address.parse().ok();
        let ip = ip.or_else(|| addresses.get(&instance.address).copied())?;
        Some(Endpoint {
            id: instance.id.clone(),
            address: SocketAddr::new(ip, instance.port),
            status: match service.status_of(instance) {
                Status::Up if instance.weight().thousandths() == 0 => EndpointStatus::Draining,
                Status::Up => EndpointStatus::Up,
                Status::Draining => EndpointStatus::Draining,
                Status::Down | Status::OutOfService => EndpointStatus::Down,
            },
            metadata: Arc::new(described(instance, scale)),
        })
    };
    let instances = service.instances.iter();
    let reachable = instances.filter(|instance| instance.port != 0);
    reachable.filter_map(endpoint).collect()
}

/// The gateway reads weight, zone and version in the metadata, where older registrations have them.
fn described(instance: &Instance, scale: Scale) -> BTreeMap<String, String> {
    let mut metadata = instance.metadata.to_map();
    let mut say = |key: &str, value: String| metadata.insert(key.to_owned(), value);
    if let Some(zone) = instance.zone() {
        say("zone", zone.to_owned());
    }
    if let Some(version) = instance.version() {
        say("version", version.to_owned());
    }
    if !instance.weight().is_default() || scale != Scale::Whole {
        say("weight", scale.apply(instance.weight()).to_string());
    }
    metadata
}

/// The gateway's weights are whole numbers up to 1000, with hashing up to 100. Those of a service are
/// scaled together so that as much as possible of their ratio stays.
#[derive(Clone, Copy, PartialEq)]
enum Scale {
    /// As they are.
    Whole,
    /// So that the greatest becomes 100.
    Greatest(u32),
}

impl Scale {
    fn of(service: &Service) -> Self {
        let weights = service.instances.iter().map(|instance| instance.weight());
        let weights = weights.map(Weight::thousandths);
        let whole = |weight: u32| weight.is_multiple_of(1_000) && weight <= 1_000_000;
        match weights.clone().all(whole) {
            true => Self::Whole,
            false => Self::Greatest(weights.max().unwrap_or(1)),
        }
    }

    fn apply(self, weight: Weight) -> u32 {
        let weight = weight.thousandths();
        let scaled = match self {
            Self::Whole => u64::from(weight) / 1_000,
            Self::Greatest(greatest) => u64::from(weight) * 100 / u64::from(greatest),
        };
        u32::try_from(scaled).unwrap_or(u32::MAX)
    }
}

fn names(service: &Service) -> Vec<Arc<str>> {
    let is_name = |address: &&Arc<str>| address.parse::<IpAddr>().is_err();
    let mut names: Vec<Arc<str>> = service
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
async fn resolve(
    names: Vec<Arc<str>>,
    known: &BTreeMap<Arc<str>, IpAddr>,
) -> BTreeMap<Arc<str>, IpAddr> {
    let mut addresses = BTreeMap::new();
    for name in names {
        let ask = async {
            let mut found = tokio::net::lookup_host((&*name, 0)).await?;
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

#[cfg(test)]
mod tests {
    use sinew_coordination::registry::{Config, Registration};
    use sinew_core::{Clock, InstanceId};
    use sinew_engine::kv::MemoryKv;

    use super::*;

    /// The endpoints of instances that are registered as `say` says of each.
    async fn endpoints(count: usize, say: impl Fn(usize, &mut Registration)) -> Arc<[Endpoint]> {
        let clock = Clock::system();
        let kv = Arc::new(MemoryKv::new(clock.clone()));
        let registry = Registry::start(kv, clock, Config::default()).await.unwrap();
        let name = Name::new("orders").unwrap();
        for n in 0..count {
            let id = InstanceId::new(&format!("orders-{n}")).unwrap();
            let mut registration = Registration::new(&name, id, "127.0.0.1", 80);
            say(n, &mut registration);
            registry.register(registration).await.unwrap();
        }
        convert(&registry.service(&name.into()), &BTreeMap::new())
    }

    fn weights(endpoints: &[Endpoint]) -> Vec<Option<&str>> {
        let weights = endpoints
            .iter()
            .map(|endpoint| endpoint.metadata.get("weight"));
        weights.map(|weight| weight.map(String::as_str)).collect()
    }

    #[tokio::test]
    async fn weights_keep_their_ratio() {
        let given = async |weights: [f64; 3]| {
            let say = |n: usize, registration: &mut Registration| {
                registration.weight = Weight::new(weights[n]).unwrap();
            };
            endpoints(3, say).await
        };
        let whole = given([1.0, 3.0, 1000.0]).await;
        assert_eq!(weights(&whole), [None, Some("3"), Some("1000")]);
        let parts = given([0.5, 1.0, 2.0]).await;
        assert_eq!(weights(&parts), [Some("25"), Some("50"), Some("100")]);
        let none = given([0.0, 1.0, 1.0]).await;
        assert_eq!(none[0].status, EndpointStatus::Draining);
        assert_eq!(none[1].status, EndpointStatus::Up);
    }

    #[tokio::test]
    async fn fields_come_before_the_metadata_of_their_name() {
        let say = |n: usize, registration: &mut Registration| {
            let said = [("zone", "a"), ("version", "1"), ("weight", "7")];
            for (key, value) in said {
                registration.metadata.insert(key.into(), value.into());
            }
            if n == 1 {
                registration.zone = Some("b".into());
                registration.version = Some("2".into());
                registration.weight = Weight::new(8.0).unwrap();
            }
            if n == 2 {
                registration.port = 0;
            }
        };
        let endpoints = endpoints(3, say).await;
        assert_eq!(endpoints.len(), 2, "without a port it gets no requests");
        let said = |n: usize| ["zone", "version", "weight"].map(|key| &*endpoints[n].metadata[key]);
        assert_eq!(said(0), ["a", "1", "7"]);
        assert_eq!(said(1), ["b", "2", "8"]);
    }
}
