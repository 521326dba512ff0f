//! Consul's HTTP API over Sinew's registry and keyspace, for the clients that speak it: agent, health,
//! catalog, status, KV, transactions and sessions, with blocking queries. One Sinew is one agent for everybody:
//! ids of services are unique in it. What is not there is refused and says so.

mod agent;
mod answer;
mod catalog;
mod checks;
mod duration;
mod filter;
mod health;
mod json;
mod kv;
mod query;
mod reply;
mod sessions;
mod shape;
mod txn;
mod views;
mod wait;

use std::{
    collections::HashMap,
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{Method, StatusCode, Uri},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use parking_lot::Mutex;
use sinew_coordination::{
    keyspace::Keyspace,
    registry::{Listing, Registry, ServiceId},
};
use sinew_core::{Drain, Error, InstanceId, Kind};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::rest::Tokens;

use query::Query;
use reply::Refusal;
use views::Views;

/// Requests that wait at once. Less than the connections that the listener takes, so that there are
/// always some for those who do not wait.
const WAITING: usize = 3584;
/// What needs no token, as in Consul or because clients send none with it: it tells nothing but that this
/// is Sinew.
const OPEN: [&str; 5] = [
    "/v1/agent/self",
    "/v1/agent/members",
    "/v1/catalog/datacenters",
    "/v1/status/leader",
    "/v1/status/peers",
];
/// How long a request that does not wait may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// And one that waits, in which is the longest wait there is.
const LONG_TIMEOUT: Duration = Duration::from_secs(700);
/// Changes of all services that follow each other closely wake those who wait for them together.
const TOGETHER: Duration = Duration::from_millis(20);

/// What is shown of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The one datacenter.
    pub datacenter: String,
    /// The name of the node.
    pub node: String,
    /// Where this API listens.
    pub address: std::net::SocketAddr,
}

/// Consul's API. Cheap to clone.
#[derive(Clone)]
pub struct Consul(Arc<Inner>);

struct Inner {
    registry: Registry,
    keyspace: Keyspace,
    tokens: Tokens,
    drain: Drain,
    settings: Settings,
    views: Views,
    waiting: Arc<Semaphore>,
    /// All services, newer than a moment ago; for those who wait.
    listing: watch::Receiver<Arc<Listing>>,
    _follower: AbortOnDropHandle<()>,
    /// Where checks of ids of their own were seen last.
    checks: Mutex<HashMap<String, (ServiceId, InstanceId)>>,
    /// Where services were seen last, by their ids.
    services: Mutex<HashMap<InstanceId, ServiceId>>,
    /// Responses by the first digit of their status.
    responses: [AtomicU64; 6],
    /// Requests that waited, by whether something changed before their time was over.
    woken: AtomicU64,
    expired: AtomicU64,
}

impl Consul {
    /// The API over these. Who waits is answered when `drain` starts. Must be called within a tokio
    /// runtime, which then runs what follows the registry.
    pub fn new(
        registry: Registry,
        keyspace: Keyspace,
        tokens: Tokens,
        drain: Drain,
        settings: Settings,
    ) -> Self {
        let (sender, listing) = watch::channel(Arc::new(registry.list()));
        let follower = tokio::spawn(follow(registry.clone(), sender));
        Self(Arc::new(Inner {
            registry,
            keyspace,
            tokens,
            drain,
            settings,
            views: Views::default(),
            waiting: Arc::new(Semaphore::new(WAITING)),
            listing,
            _follower: AbortOnDropHandle::new(follower),
            checks: Mutex::default(),
            services: Mutex::default(),
            responses: Default::default(),
            woken: AtomicU64::new(0),
            expired: AtomicU64::new(0),
        }))
    }

    /// The routes of the API with everything around them. Names may have slashes, which clients do not escape.
    pub fn router(self) -> Router {
        let keys = get(kv::get).put(kv::put).delete(kv::delete);
        Router::new()
            .route("/v1/agent/self", get(agent::itself))
            .route("/v1/agent/members", get(agent::members))
            .route("/v1/agent/services", get(agent::services))
            .route("/v1/agent/service/{*id}", get(agent::service))
            .route("/v1/agent/service/register", put(agent::register))
            .route("/v1/agent/service/deregister/{*id}", put(agent::deregister))
            .route(
                "/v1/agent/service/maintenance/{*id}",
                put(agent::maintenance),
            )
            .route("/v1/agent/checks", get(agent::checks))
            .route("/v1/agent/check/register", put(agent::register_check))
            .route(
                "/v1/agent/check/deregister/{*id}",
                put(agent::deregister_check),
            )
            .route("/v1/agent/check/{verb}/{*id}", put(agent::report))
            .route("/v1/health/service/{*service}", get(health::service))
            .route("/v1/health/checks/{*service}", get(health::checks))
            .route("/v1/health/state/{state}", get(health::state))
            .route("/v1/health/node/{*node}", get(health::node))
            .route("/v1/catalog/services", get(catalog::services))
            .route("/v1/catalog/service/{*service}", get(catalog::service))
            .route("/v1/catalog/nodes", get(catalog::nodes))
            .route("/v1/catalog/node/{*node}", get(catalog::node))
            .route("/v1/catalog/datacenters", get(catalog::datacenters))
            .route("/v1/status/leader", get(catalog::leader))
            .route("/v1/status/peers", get(catalog::peers))
            .route("/v1/kv", keys.clone())
            .route("/v1/kv/", keys.clone())
            .route("/v1/kv/{*key}", keys)
            .route("/v1/txn", put(txn::transact))
            .route("/v1/session/create", put(sessions::create))
            .route("/v1/session/destroy/{*id}", put(sessions::destroy))
            .route("/v1/session/renew/{*id}", put(sessions::renew))
            .route("/v1/session/info/{*id}", get(sessions::info))
            .route("/v1/session/list", get(sessions::list))
            .route("/v1/session/node/{*node}", get(sessions::of_node))
            .method_not_allowed_fallback(method_not_allowed)
            .fallback(not_found)
            .layer(middleware::from_fn_with_state(self.clone(), around))
            .with_state(self)
    }

    /// Appends the metrics in Prometheus' text format.
    pub fn metrics(&self, text: &mut String) {
        let inner = &self.0;
        let keyspace = inner.keyspace.stats();
        let (views, bytes) = inner.views.size();
        let waiting = WAITING - inner.waiting.available_permits();
        for (name, kind, help, value) in [
            (
                "consul_waiting",
                "gauge",
                "Blocking queries that wait.",
                waiting as u64,
            ),
            (
                "consul_woken_total",
                "counter",
                "Blocking queries that a change ended.",
                inner.woken.load(Relaxed),
            ),
            (
                "consul_expired_total",
                "counter",
                "Blocking queries whose time was over.",
                inner.expired.load(Relaxed),
            ),
            (
                "consul_views",
                "gauge",
                "Views of the registry that are remembered.",
                views as u64,
            ),
            (
                "consul_view_bytes",
                "gauge",
                "Bytes of their bodies.",
                bytes as u64,
            ),
            (
                "keyspace_sessions",
                "gauge",
                "Sessions.",
                keyspace.sessions as u64,
            ),
            (
                "keyspace_followers",
                "gauge",
                "Who follows keys and sessions.",
                keyspace.followers as u64,
            ),
            (
                "keyspace_released_total",
                "counter",
                "Locks released because their session had gone.",
                keyspace.released,
            ),
            (
                "keyspace_restarts_total",
                "counter",
                "Times that the watch began anew.",
                keyspace.restarts,
            ),
        ] {
            let _ = write!(
                text,
                "# HELP sinew_{name} {help}\n# TYPE sinew_{name} {kind}\nsinew_{name} {value}\n"
            );
        }
        text.push_str(
            "# HELP sinew_consul_responses_total Responses in Consul's dialect by status class.\n\
             # TYPE sinew_consul_responses_total counter\n",
        );
        for class in 2..=5 {
            let count = inner.responses[class].load(Relaxed);
            let _ = writeln!(
                text,
                "sinew_consul_responses_total{{class=\"{class}xx\"}} {count}"
            );
        }
    }

    fn datacenter(&self) -> &str {
        &self.0.settings.datacenter
    }

    fn shape(&self) -> shape::Shape<'_> {
        shape::Shape {
            datacenter: self.datacenter(),
        }
    }
}

/// Keeps the listing new for as long as somebody may wait for it.
async fn follow(registry: Registry, sender: watch::Sender<Arc<Listing>>) {
    loop {
        let (mut watcher, _) = registry.watch_all();
        loop {
            sender.send_replace(Arc::new(registry.list()));
            match watcher.next().await {
                Ok(_) => tokio::time::sleep(TOGETHER).await,
                Err(error) if error.kind() == Kind::OutOfRange => break,
                Err(_) => return,
            }
        }
    }
}

/// Around every request: who may, a time limit, and the count of responses.
async fn around(State(consul): State<Consul>, request: Request, next: Next) -> Response {
    let response = match consul.admit(&request) {
        Err(refusal) => refusal.into_response(),
        Ok(limit) => match tokio::time::timeout(limit, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Refusal::from(Error::new(
                Kind::DeadlineExceeded,
                "api.timeout",
                format!(
                    "no answer within {} s; it may have happened",
                    limit.as_secs()
                ),
            ))
            .into_response(),
        },
    };
    let class = usize::from(response.status().as_u16() / 100).min(5);
    consul.0.responses[class].fetch_add(1, Relaxed);
    response
}

impl Consul {
    /// Lets a request in if it carries one of the tokens. Answers how long it may take.
    fn admit(&self, request: &Request) -> Result<Duration, Refusal> {
        let query = Query::parse(request.uri().query().unwrap_or_default())?;
        let token = query::token(request.headers(), &query).unwrap_or_default();
        let open = OPEN.contains(&request.uri().path());
        if !open && !self.0.tokens.admits(token.as_bytes()) {
            let why = if token.is_empty() {
                "Permission denied: send a token of this node in the header X-Consul-Token"
            } else {
                "Permission denied: the token is not one of this node's"
            };
            // 403 and not 401, as Consul has it: its clients take 401 for access control that is off.
            return Err(Error::new(Kind::PermissionDenied, "consul.denied", why).into());
        }
        let waits = query.get("index").is_some();
        Ok(if waits { LONG_TIMEOUT } else { TIMEOUT })
    }
}

async fn not_found(uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(128).collect();
    Error::new(
        Kind::NotFound,
        "consul.path_unknown",
        format!("{path:?} is not a part of Consul's API that Sinew has"),
    )
    .into()
}

async fn method_not_allowed(method: Method) -> Refusal {
    let error = reply::invalid(format!("method {method} not allowed"));
    Refusal::with_status(error, StatusCode::METHOD_NOT_ALLOWED)
}

#[cfg(test)]
mod tests;
