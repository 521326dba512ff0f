//! What goes over the wire. Kept apart from the blocks' own types, so that neither change moves the
//! other; `openapi.json` shows every change of these in review.

mod configs;
mod registry;
mod routes;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use configs::{
    ConfigAudit, ConfigAuditEntry, ConfigBundle, ConfigBundleItem, ConfigChange, ConfigComparison,
    ConfigContent, ConfigDraft, ConfigDrafts, ConfigEffective, ConfigFormat, ConfigGray,
    ConfigGrayChange, ConfigImported, ConfigItem, ConfigItems, ConfigPublish, ConfigRotated,
    ConfigRule, ConfigSetting, ConfigSettingChange, ConfigSource, ConfigValue, ConfigVersion,
    ConfigVersionContent, ConfigVersions, ConfigWritten,
};
pub(super) use registry::millis;
pub use registry::{
    Check, CheckKind, CheckReport, Heartbeat, Instance, InstanceHealth, InstanceStatus,
    ListedService, Port, Registration, Service, Services, StatusChange, Written,
};
pub use routes::{
    Difference, FieldChange, ListedRoute, RouteChange, RouteSource, Routes, RoutesCheck,
    RoutesDocument, RoutesFailure, RoutesStatus, RoutesVersion, RoutesVersions, RoutesWritten,
};

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
