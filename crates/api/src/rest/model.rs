//! What goes over the wire. Kept apart from the blocks' own types, so that neither change moves the
//! other; `openapi.json` shows every change of these in review.

mod routes;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use sinew_coordination::registry::{self, ServiceId};
use sinew_core::{Error, InstanceId, Kind, Result};
use utoipa::ToSchema;

pub use routes::{
    Difference, FieldChange, ListedRoute, RouteChange, RouteSource, Routes, RoutesCheck,
    RoutesDocument, RoutesFailure, RoutesStatus, RoutesVersion, RoutesVersions, RoutesWritten,
};

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

/// What a service says of one of its instances when it registers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// An IP address or a host name where the instance can be reached.
    #[schema(max_length = 253, example = "127.0.0.1")]
    pub address: String,
    /// Its port.
    #[schema(minimum = 1, maximum = 65535, example = 41234)]
    pub port: u16,
    /// How long it stays without a heartbeat; 1000 to 600000, 10000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1000, maximum = 600_000)]
    pub ttl_ms: Option<u64>,
    /// Whether it takes requests; `up` when absent.
    #[serde(default)]
    pub status: InstanceStatus,
    /// Anything: up to 64 pairs, keys to 128 bytes, values to 1024.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// A registered instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// Its service.
    pub service: String,
    /// Its id, unique within the service.
    pub id: String,
    /// An IP address or a host name.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Whether it takes requests.
    pub status: InstanceStatus,
    /// What it says of itself.
    pub metadata: BTreeMap<String, String>,
    /// How long it stays without a heartbeat.
    pub ttl_ms: u64,
    /// The store's revision that last changed it.
    pub revision: u64,
}

/// The list of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// The store's revision of which this is the list.
    pub revision: u64,
    /// The service.
    pub name: String,
    /// Its instances in the order of their ids.
    pub instances: Vec<Instance>,
}

/// A service within the list of all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListedService {
    /// The service.
    pub name: String,
    /// Its instances in the order of their ids.
    pub instances: Vec<Instance>,
}

/// All services that have instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Services {
    /// The store's revision of which this is the list.
    pub revision: u64,
    /// The services in the order of their names.
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

/// One route of the gateway. Times and sizes are written with their units (`15s`, `1MiB`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// What metrics and logs call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Before specificity: a higher one wins; 0 when absent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// Only requests to this host, or to every name below one (`*.example.com`); any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `/api/orders/**` takes the path and everything below, `/x` just that path, `/users/{id}` any
    /// one segment there, `~/img/\d+` what the regular expression takes.
    pub path: String,
    /// Only these methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Only requests whose header fields meet all of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<FieldMatch>,
    /// Only requests whose cookies meet all of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<FieldMatch>,
    /// Only requests whose query parameters meet all of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<FieldMatch>,
    /// Only clients from these addresses (`10.0.0.0/8`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Where requests go. A route has one of this, `backends`, `redirect` and `reply`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Where requests go, by weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
    /// Keeps clients with the backend that they had first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// Who gets copies of the requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,
    /// Where clients are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// What clients are answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
    /// A prefix of the path that the service does not see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strip_prefix: Option<String>,
    /// The path that the service sees instead, with the captures of `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<String>,
    /// What a request must prove before it passes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub auth: Vec<String>,
    /// How long connecting to an instance may take.
    pub connect_timeout: String,
    /// How long the service may take, retries included.
    pub timeout: String,
    /// How many more instances are tried where that is safe.
    pub retries: u8,
    /// Which failures are worth one of them: `connect`, `reset`, `timeout`, `5xx`, or a status.
    pub retry_on: Vec<String>,
    /// Around how long the first pause before another try is.
    pub retry_backoff: String,
    /// Requests are tried again whatever their method.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retry_any_method: bool,
    /// How long one try may take to answer; `timeout` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub try_timeout: Option<String>,
    /// How long the request may take as a whole; without bound when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_timeout: Option<String>,
    /// How long a response may stand still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<String>,
    /// When a second instance is asked at the same time; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    /// What is answered when the service cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// What the instances speak: `http1` or `h2`; what each says of itself when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The longest request body.
    pub max_body: String,
}

/// A condition on a header field, a cookie or a query parameter: there, whatever its value, when
/// nothing but the name is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldMatch {
    /// Its name.
    pub name: String,
    /// Its whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// A regular expression for its whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// `false` when it must not be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
}

/// One of the places that a route forwards to: a service, part of one, or fixed addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// A registered service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Only its instances whose metadata has all of these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subset: BTreeMap<String, String>,
    /// What happens while none of them is up: `503`, which is the default, or `any`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// Addresses (`10.0.0.1:8080`), instead of a service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// What metrics and logs call the addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its share of the requests, beside the other weights; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// Keeps clients with the backend that they had first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// The cookie that says which.
    pub cookie: String,
    /// For how long.
    pub max_age: String,
    /// Whether browsers send it over TLS only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secure: bool,
}

/// Sends copies of requests to another service, and drops its answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The service that gets the copies.
    pub service: String,
    /// Of how many requests in a hundred.
    #[schema(minimum = 1, maximum = 100)]
    pub percent: u8,
    /// How long a copy may take.
    pub timeout: String,
}

/// Sends clients elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// Where to, with `{host}`, `{path}`, `{rest}` and the captures of the route's path.
    pub to: String,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// An answer that is always the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// 200 to 599.
    pub status: u16,
    /// The body.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// Its type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// More header fields.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

fn is_zero(priority: &i32) -> bool {
    *priority == 0
}

/// When a second instance is asked at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Hedge {
    /// How long the first is waited for.
    pub after: String,
}

/// What a route answers when its service cannot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    /// Its status.
    pub status: u16,
    /// Its `Content-Type`.
    pub content_type: String,
    /// Its body.
    pub body: String,
}

/// How the node is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Sinew's version.
    pub version: String,
    /// The node's process id.
    pub pid: u32,
    /// When it started, milliseconds since 1970.
    pub started_ms: u64,
    /// For how long it has run.
    pub uptime_ms: u64,
    /// Its data folder.
    pub data: String,
    /// Its store.
    pub kv: KvStatus,
    /// The memory of its embedded engines, when it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryStatus>,
    /// Its gateway.
    pub gateway: GatewayStatus,
    /// Which routes its gateway serves.
    pub routes: RoutesStatus,
    /// How many services have instances.
    pub services: usize,
    /// How many instances are registered.
    pub instances: usize,
}

/// The memory of all embedded engines together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemoryStatus {
    /// What they may hold, bytes.
    pub budget: u64,
    /// What they hold, bytes, as they count it.
    pub used: u64,
}

/// The node's store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KvStatus {
    /// Which engine it is.
    pub engine: String,
    /// Whether it answers.
    pub state: EngineState,
    /// Since when it does not, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Why it does not, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its newest revision, when it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// Whether an engine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EngineState {
    /// It has not been reached yet.
    Starting,
    /// It answers.
    Up,
    /// It does not.
    Away,
}

/// The node's gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GatewayStatus {
    /// Where it listens.
    pub address: String,
    /// Requests since the start.
    pub requests: u64,
    /// Requests at this moment.
    pub in_flight: u64,
    /// Open connections of clients.
    pub connections: u64,
}

/// The node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `up`.
    pub status: String,
}

/// Problem details (RFC 9457), the body of every error.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes sinew_core::Problem, which knows no OpenAPI"
)]
pub(super) struct Problem {
    /// `urn:sinew:error:<code>`.
    r#type: String,
    /// The kind in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What went wrong, for the one who asked.
    detail: String,
    /// A stable code; it has a page in the documentation.
    #[schema(example = "registry.instance_unknown")]
    code: String,
    /// The canonical kind.
    #[schema(example = "not_found")]
    kind: String,
    /// When to try again, if the server can tell.
    retry_after_ms: Option<u64>,
}

impl Registration {
    pub(super) fn of(self, service: ServiceId, id: InstanceId) -> Result<registry::Registration> {
        if self.port == 0 {
            return Err(Error::new(
                Kind::InvalidArgument,
                "registry.address_invalid",
                "port 0 cannot be reached; use 1 to 65535",
            ));
        }
        Ok(registry::Registration {
            status: self.status.into(),
            metadata: self.metadata,
            ttl: self.ttl_ms.map(Duration::from_millis),
            ..registry::Registration::new(service, id, self.address, self.port)
        })
    }
}

impl From<&registry::Instance> for Instance {
    fn from(instance: &registry::Instance) -> Self {
        Self {
            service: instance.service.name.to_string(),
            id: instance.id.to_string(),
            address: instance.address.to_string(),
            port: instance.port,
            status: instance.effective().into(),
            metadata: instance.metadata.to_map(),
            ttl_ms: instance.ttl.map_or(0, millis),
            revision: instance.revision,
        }
    }
}

impl From<&registry::Service> for Service {
    fn from(service: &registry::Service) -> Self {
        Self {
            revision: service.revision,
            name: service.id.name.to_string(),
            instances: instances(service),
        }
    }
}

impl From<registry::Listing> for Services {
    fn from(listing: registry::Listing) -> Self {
        let services = listing.services.iter().map(|service| ListedService {
            name: service.id.name.to_string(),
            instances: instances(service),
        });
        Self {
            revision: listing.revision,
            services: services.collect(),
        }
    }
}

fn instances(service: &registry::Service) -> Vec<Instance> {
    service
        .instances
        .iter()
        .map(|instance| Instance::from(instance.as_ref()))
        .collect()
}

impl From<registry::Status> for InstanceStatus {
    fn from(status: registry::Status) -> Self {
        match status {
            registry::Status::Up => Self::Up,
            registry::Status::Draining => Self::Draining,
            registry::Status::Down => Self::Down,
            registry::Status::OutOfService => Self::OutOfService,
        }
    }
}

impl From<InstanceStatus> for registry::Status {
    fn from(status: InstanceStatus) -> Self {
        match status {
            InstanceStatus::Up => Self::Up,
            InstanceStatus::Draining => Self::Draining,
            InstanceStatus::Down => Self::Down,
            InstanceStatus::OutOfService => Self::OutOfService,
        }
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
