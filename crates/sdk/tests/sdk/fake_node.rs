//! The part of a node's control API that services use, with switches for what can go wrong.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, RawQuery, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sinew_sdk::Environment;
use tokio::{net::TcpListener, sync::watch};
use tower::ServiceExt;

use crate::eventually;

pub(crate) const TOKEN: &str = "service-token";

pub(crate) struct FakeNode {
    address: SocketAddr,
    state: Arc<Registry>,
    /// Set to false to end all connections and the listener.
    up: Option<watch::Sender<bool>>,
}

#[derive(Default)]
pub(crate) struct Registry {
    instances: Mutex<BTreeMap<(String, String), Value>>,
    changed: watch::Sender<u64>,
    log: Mutex<Vec<String>>,
    refuse_all: AtomicBool,
    /// The number of the configuration, and what it says.
    config: Mutex<(u64, Value)>,
}

impl FakeNode {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut node = Self {
            address,
            state: Arc::default(),
            up: None,
        };
        node.serve(listener);
        node
    }

    /// An address where a node could be but is not.
    pub(crate) async fn not_started() -> Self {
        let mut node = Self::start().await;
        node.kill().await;
        node
    }

    /// Ends listener and connections, as `kill -9` would.
    pub(crate) async fn kill(&mut self) {
        let up = self.up.take().expect("it runs");
        up.send_replace(false);
        // Every task that serves holds a receiver.
        up.closed().await;
    }

    /// Comes back at the same address.
    pub(crate) async fn restart(&mut self) {
        let mut tries = 0;
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(error) if tries > 100 => panic!("cannot listen again: {error}"),
                Err(_) => tries += 1,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        let (up, alive) = watch::channel(true);
        self.up = Some(up);
        let router = router(self.state.clone());
        tokio::spawn(async move {
            let mut dead = alive.clone();
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    _ = dead.changed() => return,
                };
                let (router, mut dead) = (router.clone(), alive.clone());
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(
                        move |request: hyper::Request<hyper::body::Incoming>| {
                            router.clone().oneshot(request.map(Body::new))
                        },
                    );
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    tokio::select! {
                        _ = connection => {}
                        _ = dead.changed() => {}
                    }
                });
            }
        });
    }

    pub(crate) fn environment(&self) -> Environment {
        Environment::default()
            .with("SINEW_URL", format!("http://{}", self.address))
            .with("SINEW_TOKEN", TOKEN)
    }

    /// Forgets everything, as a node without its data would.
    pub(crate) fn forget(&self) {
        self.state.instances.lock().clear();
        self.state.touch();
    }

    pub(crate) fn refuse_all(&self, refuse: bool) {
        self.state.refuse_all.store(refuse, SeqCst);
    }

    /// Sets the configuration of every application.
    pub(crate) fn configure(&self, document: Value) {
        let mut config = self.state.config.lock();
        *config = (config.0 + 1, document);
        drop(config);
        self.state.touch();
    }

    pub(crate) fn put(&self, service: &str, id: &str, address: SocketAddr, status: &str) {
        let instance = instance(
            service,
            id,
            &address.ip().to_string(),
            address.port(),
            status,
        );
        self.state
            .instances
            .lock()
            .insert((service.into(), id.into()), instance);
        self.state.touch();
    }

    pub(crate) fn remove(&self, service: &str, id: &str) {
        self.state
            .instances
            .lock()
            .remove(&(service.into(), id.into()));
        self.state.touch();
    }

    pub(crate) fn has(&self, service: &str, id: &str) -> bool {
        self.find(service, id).is_some()
    }

    pub(crate) fn find(&self, service: &str, id: &str) -> Option<Value> {
        self.state
            .instances
            .lock()
            .get(&(service.into(), id.into()))
            .cloned()
    }

    /// The calls that arrived, such as `PUT /v1/services/orders/instances/a`.
    pub(crate) fn log(&self) -> Vec<String> {
        self.state.log.lock().clone()
    }

    pub(crate) async fn wait_for(&self, service: &str, id: &str) -> SocketAddr {
        eventually("registered", || self.has(service, id)).await;
        let instance = self.find(service, id).unwrap();
        let host = instance["address"].as_str().unwrap();
        format!("{host}:{}", instance["port"]).parse().unwrap()
    }

    /// Waits until somebody watches `service`.
    pub(crate) async fn wait_for_watch(&self, service: &str) {
        let wanted = format!("service={service}");
        eventually("watched", || {
            self.log()
                .iter()
                .any(|line| line.contains("/watch/") && line.contains(&wanted))
        })
        .await;
    }
}

fn instance(service: &str, id: &str, address: &str, port: u16, status: &str) -> Value {
    json!({
        "service": service, "id": id, "address": address, "port": port, "status": status,
        "metadata": {}, "ttl_ms": TTL_MS, "revision": 1,
    })
}

/// So long that no heartbeat comes by itself during a test.
const TTL_MS: u64 = 600_000;

impl Registry {
    fn touch(&self) {
        self.changed.send_modify(|revision| *revision += 1);
    }

    fn list(&self, service: &str) -> Vec<Value> {
        let instances = self.instances.lock();
        instances
            .iter()
            .filter(|((s, _), _)| s == service)
            .map(|(_, i)| i.clone())
            .collect()
    }
}

type Shared = State<Arc<Registry>>;

fn router(state: Arc<Registry>) -> Router {
    Router::new()
        .route(
            "/v1/services/{service}/instances/{id}",
            put(register).delete(deregister),
        )
        .route(
            "/v1/services/{service}/instances/{id}/heartbeat",
            post(heartbeat),
        )
        .route(
            "/v1/services/{service}/instances/{id}/status",
            put(set_status),
        )
        .route("/v1/watch/services", get(watch_services))
        .route(
            "/v1/watch/config/{namespace}/{application}",
            get(watch_config),
        )
        .layer(middleware::from_fn_with_state(state.clone(), admit))
        .with_state(state)
}

async fn admit(State(state): Shared, request: Request, next: Next) -> Response {
    state
        .log
        .lock()
        .push(format!("{} {}", request.method(), request.uri()));
    let token = request.headers().get(header::AUTHORIZATION);
    if token.is_none_or(|token| token != &format!("Bearer {TOKEN}")) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if state.refuse_all.load(SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    next.run(request).await
}

async fn register(
    State(state): Shared,
    Path((service, id)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Response {
    let (host, port) = (
        body["address"].as_str().unwrap(),
        body["port"].as_u64().unwrap(),
    );
    let mut instance = instance(&service, &id, host, u16::try_from(port).unwrap(), "up");
    instance["metadata"] = body["metadata"].clone();
    state
        .instances
        .lock()
        .insert((service, id), instance.clone());
    state.touch();
    (StatusCode::CREATED, Json(instance)).into_response()
}

fn unknown() -> Response {
    let problem = json!({
        "type": "urn:sinew:error:registry.instance_unknown", "title": "Not found", "status": 404,
        "detail": "no such instance", "code": "registry.instance_unknown", "kind": "not_found",
    });
    let media_type = [(header::CONTENT_TYPE, "application/problem+json")];
    (StatusCode::NOT_FOUND, media_type, problem.to_string()).into_response()
}

async fn heartbeat(State(state): Shared, Path(key): Path<(String, String)>) -> Response {
    match state.instances.lock().contains_key(&key) {
        true => Json(json!({ "ttl_ms": TTL_MS })).into_response(),
        false => unknown(),
    }
}

async fn set_status(
    State(state): Shared,
    Path(key): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Response {
    let response = match state.instances.lock().get_mut(&key) {
        Some(instance) => {
            instance["status"] = body["status"].clone();
            Json(instance.clone()).into_response()
        }
        None => unknown(),
    };
    state.touch();
    response
}

async fn deregister(State(state): Shared, Path(key): Path<(String, String)>) -> StatusCode {
    state.instances.lock().remove(&key);
    state.touch();
    StatusCode::NO_CONTENT
}

/// Sends all lists at each change, which the contract allows.
async fn watch_services(State(state): Shared, RawQuery(query): RawQuery) -> Response {
    let services: Vec<String> = query
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.strip_prefix("service=").map(str::to_owned))
        .collect();
    let changed = state.changed.subscribe();
    let stream = futures_util::stream::unfold((changed, false), move |(mut changed, synced)| {
        let (state, services) = (state.clone(), services.clone());
        async move {
            let alive = Duration::from_secs(1);
            if synced
                && tokio::time::timeout(alive, changed.changed())
                    .await
                    .is_err()
            {
                return Some((Ok(Bytes::from(": alive\n")), (changed, true)));
            }
            let revision = *changed.borrow_and_update();
            let mut text = String::new();
            for service in &services {
                let data = json!({
                    "revision": revision, "name": service, "instances": state.list(service),
                });
                text += &format!("event: service\nid: {revision}\ndata: {data}\n\n");
            }
            if !synced {
                text += "event: synced\ndata: {}\n\n: alive\n";
            }
            Some((Ok::<_, Infallible>(Bytes::from(text)), (changed, true)))
        }
    });
    (
        [(header::CONTENT_TYPE, "text/event-stream")],
        Body::from_stream(stream),
    )
        .into_response()
}

/// The configuration, unless it is the one that is known, and then each that is another.
async fn watch_config(State(state): Shared, headers: HeaderMap) -> Response {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let known = last
        .and_then(|id| id.split_once(":v")?.1.parse().ok())
        .unwrap_or(0);
    let changed = state.changed.subscribe();
    let begin = (changed, known, false);
    let stream = futures_util::stream::unfold(begin, move |(mut changed, mut known, synced)| {
        let state = state.clone();
        async move {
            let alive = Duration::from_secs(1);
            if synced {
                let _ = tokio::time::timeout(alive, changed.changed()).await;
            }
            changed.borrow_and_update();
            let (number, document) = state.config.lock().clone();
            let mut text = ": alive\n\n".to_owned();
            if number != known {
                known = number;
                let data = json!({"revision": number, "version": format!("v{number}"), "document": document});
                text += &format!("event: config\nid: {number}:v{number}\ndata: {data}\n\n");
            }
            if !synced {
                text += "event: synced\ndata: {}\n\n";
            }
            Some((
                Ok::<_, Infallible>(Bytes::from(text)),
                (changed, known, true),
            ))
        }
    });
    let media_type = [(header::CONTENT_TYPE, "text/event-stream")];
    (media_type, Body::from_stream(stream)).into_response()
}
