//! What is registered.

mod check;
mod edit;
mod health;
mod metadata;
mod stored;
mod weight;

use std::{fmt, sync::Arc, sync::LazyLock, time::Duration};

use serde::{Deserialize, Serialize};
use sinew_core::{InstanceId, Name};
use sinew_engine::kv::{LeaseId, Revision};

use super::Spelling;

pub(super) use edit::edited;
pub use health::{Check, Health, Probe};
pub use metadata::Metadata;
pub(super) use metadata::Texts;
pub(super) use stored::{decode, encode};
pub use weight::Weight;

static DEFAULT: LazyLock<Name> = LazyLock::new(|| Name::new("default").expect("it is a name"));

/// The namespace of those who name none.
pub fn default_namespace() -> Name {
    DEFAULT.clone()
}

/// A service: its namespace and its name therein. As text, and made from a [`Name`], it is the name
/// alone when the namespace is the default one; else `namespace/name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId {
    /// The namespace.
    pub namespace: Name,
    /// The name.
    pub name: Name,
}

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

/// A port that has a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Unique within the instance, such as `admin`.
    pub name: Arc<str>,
    /// What is spoken there, such as `http`, `https`, `grpc`, `tcp`.
    pub protocol: Arc<str>,
    /// 1 to 65535.
    pub number: u16,
}

/// What a service says of one of its instances when it registers it. Begin with
/// [`Registration::new`]: there may be more fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    /// The service.
    pub service: ServiceId,
    /// The instance, unique within its service.
    pub id: InstanceId,
    /// An IP address or a host name where it can be reached.
    pub address: String,
    /// Its main port, where it gets its requests. Without one, 0, it gets none.
    pub port: u16,
    /// More ports by name, up to 16. The main one may be among them, which says what it speaks.
    pub ports: Vec<Port>,
    /// Whether it takes requests.
    pub status: Status,
    /// Its share of the requests.
    pub weight: Weight,
    /// Where it is.
    pub zone: Option<String>,
    /// What it is.
    pub version: Option<String>,
    /// Anything: up to 64 pairs, keys to 128 bytes, values to 1024.
    pub metadata: std::collections::BTreeMap<String, String>,
    /// How long it lives without a heartbeat. When not said: the configured default, or for ever if
    /// it is persistent.
    pub ttl: Option<Duration>,
    /// It stays listed, as critical, when its heartbeats cease.
    pub persistent: bool,
    /// When it has been critical for so long it is deregistered; when not said: never, if it is
    /// persistent.
    pub deregister_after: Option<Duration>,
    /// Up to 8 checks.
    pub checks: Vec<Check>,
    /// How its names were written, where not as they are kept.
    pub spelling: Spelling,
    /// What a dialect knows of it that nothing here stands for, by `<dialect>.<field>`: up to 32
    /// pairs, values to 8 KiB. Nobody else looks at it.
    pub attributes: std::collections::BTreeMap<String, String>,
}

/// One registered instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The service.
    pub service: ServiceId,
    /// The instance.
    pub id: InstanceId,
    /// An IP address or a host name.
    pub address: Arc<str>,
    /// Its main port; 0 if it has none.
    pub port: u16,
    /// More ports by name.
    pub ports: Box<[Port]>,
    /// Whether it takes requests, as it says itself. What counts is [`Service::status_of`].
    pub status: Status,
    /// What an operator said instead. It survives the instance's registering again.
    pub status_override: Option<Status>,
    /// Its share of the requests; [`Instance::weight`] also looks into the metadata.
    pub weight: Weight,
    /// Where it is; [`Instance::zone`] also looks into the metadata.
    pub zone: Option<Arc<str>>,
    /// What it is; [`Instance::version`] also looks into the metadata.
    pub version: Option<Arc<str>>,
    /// What it says of itself.
    pub metadata: Metadata,
    /// How long it lives without a heartbeat; for ever when not said.
    pub ttl: Option<Duration>,
    /// It stays listed, as critical, when its heartbeats cease.
    pub persistent: bool,
    /// Whether its heartbeats come, if it owes any.
    pub alive: bool,
    /// The store's revision that last changed it.
    pub revision: Revision,
    /// The lease that its heartbeats keep alive.
    pub(super) lease: Option<LeaseId>,
    /// Written by a version that attached the instance itself to its lease: it goes with it.
    pub(super) attached: bool,
    /// What few instances have.
    pub(super) extra: Option<Box<Extra>>,
}

/// What few instances have, apart, so that the many are small.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extra {
    pub(super) spelling: Spelling,
    pub(super) attributes: Metadata,
    pub(super) checks: Box<[Check]>,
    pub(super) deregister_after: Option<Duration>,
}

/// A change of one instance. Others may change it at the same time: nothing is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// What it says itself of whether it takes requests.
    Status(Status),
    /// What an operator says instead; `None` lets its own word count again.
    Override(Option<Status>),
    /// Adds pairs to the metadata, or replaces those of the same keys.
    Metadata(std::collections::BTreeMap<String, String>),
    /// The result of a check, by its id, and that in words. An unknown check is ignored.
    Report(Arc<str>, Health, String),
}

/// A service with all of its instances, in the order of their ids. Without instances it is not
/// registered, or no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace and name.
    pub id: ServiceId,
    /// The store's revision of which this is the list; it never goes back.
    pub revision: Revision,
    /// Its instances.
    pub instances: Vec<Arc<Instance>>,
    /// So many of its instances are critical at once that this is not believed: it looks like a fault
    /// of the network. Those whose heartbeats ceased stay listed, and all that are critical count as
    /// up, until things are better or the time of protection is over.
    pub panic: bool,
}

/// All services that have instances, in the order of their namespaces and names.
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
    /// Instances that are listed and critical.
    pub critical: usize,
    /// Services so many of whose instances are critical that this is not believed.
    pub panics: usize,
    /// Instances that were deregistered because they were critical for too long.
    pub reaped: u64,
}

impl ServiceId {
    /// A service of a namespace.
    pub fn new(namespace: Name, name: Name) -> Self {
        Self { namespace, name }
    }

    /// Whether it is of the default namespace.
    pub fn is_default(&self) -> bool {
        self.namespace == *DEFAULT
    }
}

impl From<Name> for ServiceId {
    fn from(name: Name) -> Self {
        Self::new(default_namespace(), name)
    }
}

impl From<&Name> for ServiceId {
    fn from(name: &Name) -> Self {
        name.clone().into()
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_default() {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}", self.name)
    }
}

impl fmt::Debug for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Registration {
    /// An ephemeral instance that is up, with the default TTL, and nothing more said.
    pub fn new(
        service: impl Into<ServiceId>,
        id: InstanceId,
        address: impl Into<String>,
        port: u16,
    ) -> Self {
        Self {
            service: service.into(),
            id,
            address: address.into(),
            port,
            ports: Vec::new(),
            status: Status::Up,
            weight: Weight::default(),
            zone: None,
            version: None,
            metadata: Default::default(),
            ttl: None,
            persistent: false,
            deregister_after: None,
            checks: Vec::new(),
            spelling: Spelling::default(),
            attributes: Default::default(),
        }
    }
}

impl Extra {
    pub(super) fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

impl Instance {
    /// Its share of the requests: as registered, or as its metadata say under `weight`.
    pub fn weight(&self) -> Weight {
        if !self.weight.is_default() {
            return self.weight;
        }
        let text = self.metadata.get("weight");
        let said = text.and_then(|text| text.parse().ok());
        said.filter(|weight: &Weight| weight.thousandths() > 0)
            .unwrap_or(self.weight)
    }

    /// Where it is: as registered, or as its metadata say under `zone`.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref().or_else(|| self.metadata.get("zone"))
    }

    /// What it is: as registered, or as its metadata say under `version`.
    pub fn version(&self) -> Option<&str> {
        self.version
            .as_deref()
            .or_else(|| self.metadata.get("version"))
    }

    /// What its heartbeats and checks say together: the worst.
    pub fn health(&self) -> Health {
        if !self.alive {
            return Health::Critical;
        }
        let beats = match self.ttl {
            Some(_) => Health::Passing,
            None => Health::Unknown,
        };
        // Whoever looks knows more than that nobody looked.
        let worst = self.checks().iter().map(|check| check.health).max();
        match worst {
            Some(Health::Unknown) | None => beats,
            Some(worst) => worst,
        }
    }

    /// Whether it takes requests, all things considered but the other instances of its service
    /// ([`Service::status_of`]).
    pub fn effective(&self) -> Status {
        match self.said() {
            Status::Up if self.health() == Health::Critical => Status::Down,
            said => said,
        }
    }

    /// Takes in whether its heartbeats come, and on which lease.
    pub(super) fn beats(&mut self, lease: Option<LeaseId>) {
        if !self.attached {
            self.lease = lease.filter(|_| self.ttl.is_some());
            self.alive = lease.is_some() || self.ttl.is_none();
        }
    }

    /// Whether it is to be deregistered if it stays as it is.
    pub(super) fn is_dead(&self) -> bool {
        let ends = !self.persistent || self.deregister_after().is_some();
        ends && self.health() == Health::Critical
            && (!self.alive || self.deregister_after().is_some())
    }

    /// What an operator, or else the instance itself, says.
    pub(super) fn said(&self) -> Status {
        self.status_override.unwrap_or(self.status)
    }

    /// Its checks.
    pub fn checks(&self) -> &[Check] {
        self.extra.as_ref().map_or(&[], |extra| &extra.checks)
    }

    /// When it has been critical for so long it is deregistered.
    pub fn deregister_after(&self) -> Option<Duration> {
        self.extra.as_ref().and_then(|extra| extra.deregister_after)
    }

    /// How its names were written.
    pub fn spelling(&self) -> &Spelling {
        static PLAIN: LazyLock<Spelling> = LazyLock::new(Spelling::default);
        self.extra.as_ref().map_or(&PLAIN, |extra| &extra.spelling)
    }

    /// What dialects know of it.
    pub fn attributes(&self) -> &Metadata {
        static NONE: LazyLock<Metadata> = LazyLock::new(Metadata::default);
        self.extra.as_ref().map_or(&NONE, |extra| &extra.attributes)
    }
}

impl Service {
    pub(super) fn empty(id: ServiceId, revision: Revision) -> Self {
        Self {
            id,
            revision,
            instances: Vec::new(),
            panic: false,
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

    /// Whether one of its instances takes requests, all things considered.
    pub fn status_of(&self, instance: &Instance) -> Status {
        match instance.said() {
            Status::Up if self.panic => Status::Up,
            _ => instance.effective(),
        }
    }

    /// How its names were written by the first of its instances that wrote them otherwise than they
    /// are kept.
    pub fn spelling(&self) -> Option<&Spelling> {
        let written = self.instances.iter().map(|instance| instance.spelling());
        written.into_iter().find(|spelling| !spelling.is_plain())
    }
}
