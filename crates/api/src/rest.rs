//! The REST API, `/v1`: JSON in and out, problem details for every error, server-sent events for
//! watches, bearer tokens in two scopes. Its description is `crates/api/openapi.json`.

mod auth;
mod configs;
mod extract;
mod instances;
pub mod model;
mod node;
mod openapi;
mod problem;
mod routes;
mod selection;
mod services;
mod spring;
mod watch;

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use bytes::Bytes;
use serde_json::Value;
use sinew_coordination::{configs::Configs, registry::Registry};
use sinew_core::{Drain, Error, Kind, Name, Result, Retry};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

pub use auth::Tokens;
pub use openapi::document as openapi_document;

use auth::Scope;

/// How long a request may take until its response begins.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Watches, and reads that wait for a change, at once.
const WATCHES: usize = 1024;

/// What the API needs to know of the node that it is an edge of.
#[async_trait]
pub trait NodeView: Send + Sync + 'static {
    /// How the node is doing.
    async fn status(&self) -> Result<model::Status>;
    /// The gateway's routes.
    fn routes(&self) -> &dyn RoutesControl;
    /// Begins a backup of the key-value store: a full one, or what came after a revision. The chunks come as they are read.
    fn backup(&self, since: Option<u64>) -> mpsc::Receiver<Result<Bytes>>;
    /// Appends the node's own metrics in Prometheus' text format.
    fn metrics(&self, text: &mut String);
}

/// Who changes the routes, and on what condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct By {
    /// Who, as they say themselves.
    pub author: String,
    /// Why; empty when they do not say.
    pub note: String,
    /// The version of the stored routes that must be the current one.
    pub expected: Option<u64>,
}

/// The gateway's routes, as the API reads and changes them. Documents are what `[[routes]]` and its
/// sisters in `sinew.toml` would be as JSON.
#[async_trait]
pub trait RoutesControl: Send + Sync + 'static {
    /// What this node serves.
    fn served(&self) -> model::Routes;
    /// What a document would change, and whether it could be stored.
    async fn check(&self, document: Value) -> Result<model::RoutesCheck>;
    /// Replaces the stored document.
    async fn replace(&self, document: Value, by: By) -> Result<model::RoutesWritten>;
    /// Adds a route to the stored document, or replaces the one of that name.
    async fn set(&self, name: Name, route: Value, by: By) -> Result<model::RoutesWritten>;
    /// Takes a route out of the stored document.
    async fn delete(&self, name: Name, by: By) -> Result<model::RoutesWritten>;
    /// Stores the content of an earlier version again.
    async fn roll_back(&self, version: u64, by: By) -> Result<model::RoutesWritten>;
    /// All stored versions that are kept, the newest first.
    async fn versions(&self) -> Result<model::RoutesVersions>;
    /// A stored version, or the current one.
    async fn version(&self, version: Option<u64>) -> Result<model::RoutesDocument>;
}

/// Everything that the handlers work with. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    registry: Registry,
    configs: Configs,
    node: Arc<dyn NodeView>,
    tokens: Tokens,
    drain: Drain,
    watches: Arc<Semaphore>,
    /// Responses by the first digit of their status.
    responses: [AtomicU64; 6],
}

impl Api {
    /// An API over these. Watches end when `drain` starts.
    pub fn new(
        registry: Registry,
        configs: Configs,
        node: Arc<dyn NodeView>,
        tokens: Tokens,
        drain: Drain,
    ) -> Self {
        let watches = Arc::new(Semaphore::new(WATCHES));
        let responses = Default::default();
        Self(Arc::new(Inner {
            registry,
            configs,
            node,
            tokens,
            drain,
            watches,
            responses,
        }))
    }

    /// The routes of the API with everything around them.
    pub fn router(self) -> Router {
        let with_scope = |scope| middleware::from_fn_with_state((self.clone(), scope), auth::check);
        let services = Router::new()
            .route("/v1/services", get(services::list))
            .route("/v1/services/{service}", get(services::one))
            .route(
                "/v1/services/{service}/instances/{id}",
                get(services::instance)
                    .put(instances::register)
                    .delete(instances::deregister),
            )
            .route(
                "/v1/services/{service}/instances/{id}/heartbeat",
                post(instances::heartbeat),
            )
            .route(
                "/v1/services/{service}/instances/{id}/status",
                put(instances::set_status),
            )
            .route(
                "/v1/services/{service}/instances/{id}/checks/{check}",
                put(instances::report),
            )
            .route("/v1/watch/services", get(watch::services))
            .method_not_allowed_fallback(problem::method_not_allowed)
            .route_layer(with_scope(Scope::Service));
        let admin = Router::new()
            .route("/v1/routes", get(routes::served).put(routes::replace))
            .route("/v1/routes/check", post(routes::check))
            .route("/v1/routes/rollback", post(routes::roll_back))
            .route("/v1/routes/versions", get(routes::versions))
            .route("/v1/routes/versions/{version}", get(routes::version))
            .route("/v1/routes/{name}", put(routes::set).delete(routes::delete))
            .route(
                "/v1/services/{service}/instances/{id}/override",
                put(instances::set_override).delete(instances::take_back_override),
            )
            .route("/v1/status", get(node::status))
            .route("/v1/backup", get(node::backup))
            .method_not_allowed_fallback(problem::method_not_allowed)
            .route_layer(with_scope(Scope::Admin));
        let metrics = Router::new()
            .route("/metrics", get(node::metrics))
            .method_not_allowed_fallback(problem::method_not_allowed)
            .route_layer(with_scope(Scope::LocalOrAdmin));
        Router::new()
            .route("/v1/health", get(node::health))
            .route("/v1/openapi.json", get(openapi::serve))
            .method_not_allowed_fallback(problem::method_not_allowed)
            .merge(services)
            .merge(configs::router(&self))
            .merge(spring::router(&self, "/config"))
            .merge(spring::router(&self, "/namespaces/{namespace}/config"))
            .merge(admin)
            .merge(metrics)
            .fallback(problem::not_found)
            .layer(middleware::from_fn_with_state(self.clone(), around))
            .with_state(self)
    }

    /// The right to one of the watches that may be open at once.
    fn watch_permit(&self) -> Result<OwnedSemaphorePermit> {
        self.0.watches.clone().try_acquire_owned().map_err(|_| {
            Error::new(
                Kind::ResourceExhausted,
                "api.watches_exhausted",
                format!("{WATCHES} watches are open, which is the limit"),
            )
            .with_retry(Retry::After(Duration::from_secs(5)))
        })
    }

    /// Spring Cloud Config's dialect at the root, for a listener of its own.
    pub fn spring_router(self) -> Router {
        spring::router(&self, "")
            .fallback(problem::not_found)
            .layer(middleware::from_fn_with_state(self.clone(), around))
            .with_state(self)
    }

    fn metrics(&self, text: &mut String) {
        let stats = self.0.registry.stats();
        let registry = [
            (
                "services",
                "gauge",
                "Services that have instances.",
                stats.services as u64,
            ),
            (
                "instances",
                "gauge",
                "Registered instances.",
                stats.instances as u64,
            ),
            (
                "registrations_total",
                "counter",
                "Registrations, repeated ones too.",
                stats.registrations,
            ),
            (
                "heartbeats_total",
                "counter",
                "Heartbeats.",
                stats.heartbeats,
            ),
            (
                "departures_total",
                "counter",
                "Instances that left or expired.",
                stats.departures,
            ),
            (
                "critical",
                "gauge",
                "Listed instances that are critical.",
                stats.critical as u64,
            ),
            (
                "panics",
                "gauge",
                "Services so many of whose instances are critical that this is not believed.",
                stats.panics as u64,
            ),
            (
                "reaped_total",
                "counter",
                "Instances that this node deregistered because they were dead for too long.",
                stats.reaped,
            ),
            (
                "stale_milliseconds",
                "gauge",
                "For how long this node has not been in step with its store; 0 while it is.",
                self.0.registry.stale().map_or(0, model::millis),
            ),
            (
                "relists_total",
                "counter",
                "Times that all was listed anew.",
                stats.relists,
            ),
        ];
        for (name, kind, help, value) in registry {
            let _ = write!(
                text,
                "# HELP sinew_registry_{name} {help}\n# TYPE sinew_registry_{name} {kind}\n\
                 sinew_registry_{name} {value}\n"
            );
        }
        self.config_metrics(text);
        let watches = WATCHES - self.0.watches.available_permits();
        let _ = write!(
            text,
            "# HELP sinew_api_watches Open watches.\n# TYPE sinew_api_watches gauge\n\
             sinew_api_watches {watches}\n\
             # HELP sinew_api_responses_total Responses of the control API by status class.\n\
             # TYPE sinew_api_responses_total counter\n"
        );
        for class in 2..=5 {
            let count = self.0.responses[class].load(Relaxed);
            let _ = writeln!(
                text,
                "sinew_api_responses_total{{class=\"{class}xx\"}} {count}"
            );
        }
    }
}

impl Api {
    fn config_metrics(&self, text: &mut String) {
        let stats = self.0.configs.stats();
        let configs = [
            (
                "items",
                "gauge",
                "Configuration items in force.",
                stats.items as u64,
            ),
            (
                "gray_releases",
                "gauge",
                "Items with a version in gray release.",
                stats.gray as u64,
            ),
            (
                "content_bytes",
                "gauge",
                "Contents in memory.",
                stats.bytes as u64,
            ),
            (
                "changes_total",
                "counter",
                "Changes made through this node.",
                stats.changes,
            ),
            (
                "reveals_total",
                "counter",
                "Answers with decrypted values.",
                stats.reveals,
            ),
            (
                "relists_total",
                "counter",
                "Times that all was listed anew.",
                stats.relists,
            ),
            (
                "revision",
                "gauge",
                "The store's revision that readers see.",
                stats.revision,
            ),
            (
                "stale",
                "gauge",
                "1 while the store is out of reach.",
                u64::from(stats.is_stale),
            ),
        ];
        for (name, kind, help, value) in configs {
            let _ = write!(
                text,
                "# HELP sinew_configs_{name} {help}\n# TYPE sinew_configs_{name} {kind}\n\
                 sinew_configs_{name} {value}\n"
            );
        }
    }
}

/// Around every request: a time limit, and the count of responses.
async fn around(State(api): State<Api>, request: Request, next: Next) -> Response {
    let query = request.uri().query();
    let limit = TIMEOUT + selection::patience(query).max(configs::patience(query));
    let response = match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => problem::timeout(limit).into_response(),
    };
    let class = usize::from(response.status().as_u16() / 100).min(5);
    api.0.responses[class].fetch_add(1, Relaxed);
    response
}
