//! A whole node on a temporary folder, over real sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dialects;
#[cfg(any(feature = "etcd", feature = "postgres"))]
mod engines;
mod http;
mod routes;

use std::{net::SocketAddr, path::Path, time::Duration};

use axum::{Router, routing::get};
use http::{Answer, eventually};
use sinew_coordination::registry::Registration;
use sinew_core::{Clock, InstanceId, Name};
use sinew_gateway::{Auth, PathPattern, Route};
use sinew_node::{Config, Endpoints, JwtConfig, Node, ServiceUrl};
use sinew_token::{Claims, SigningKey};

const LIMIT: Duration = Duration::from_secs(5);

fn config(data: &Path) -> Config {
    let mut config = Config {
        data: data.to_owned(),
        ..Config::default()
    };
    config.control.set_port(0);
    config.gateway.address = SocketAddr::from(([127, 0, 0, 1], 0));
    config.gateway.threads = Some(1);
    config
}

fn route(path: &str, service: &str) -> Route {
    Route::new(
        PathPattern::parse(path).unwrap(),
        Name::new(service).unwrap(),
    )
}

/// Starts an instance of a service that answers with these paths and texts.
async fn upstream(paths: &[(&'static str, String)]) -> SocketAddr {
    let mut router = Router::new();
    for (path, text) in paths {
        let text = text.clone();
        router = router.route(path, get(move || async move { text }));
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn register(node: &Node, service: &str, id: &str, address: SocketAddr, host: &str) {
    let name = Name::new(service).unwrap();
    let id = InstanceId::new(id).unwrap();
    let registration = Registration::new(name, id, host, address.port());
    node.registry().register(registration).await.unwrap();
}

#[tokio::test]
async fn a_node_routes_stops_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.gateway.routing.routes = vec![route("/api/hello/**", "hello")];
    let node = Node::start(config.clone()).await.unwrap();
    assert!(node.tokens_are_new());
    let endpoints = Endpoints::read(dir.path()).unwrap();
    assert_eq!(endpoints, node.endpoints());
    assert_eq!(
        endpoints.control,
        format!("http://{}", node.control_address())
    );

    let gateway = node.gateway_address();
    assert_eq!(http::get(gateway, "/api/hello", None).await.status, 503);
    let address = upstream(&[("/api/hello", "hello".into())]).await;
    register(&node, "hello", "hello-1", address, "127.0.0.1").await;
    // No waiting: it is routed to when its registration returns, and not after it has left.
    let answer = http::get(gateway, "/api/hello", None).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, "hello");

    let admin = node.admin_token().to_owned();
    let control = node.control_address();
    let status = http::get(control, "/v1/status", Some(&admin)).await.json();
    assert_eq!(status["kv"]["engine"], "embedded");
    assert_eq!(
        (&status["services"], &status["instances"]),
        (&1.into(), &1.into())
    );
    assert!(status["gateway"]["requests"].as_u64().unwrap() >= 2);
    let routes = http::get(control, "/v1/routes", Some(&admin)).await.json();
    assert_eq!(routes["routes"][0]["path"], "/api/hello/**");
    let metrics = http::get(control, "/metrics", None).await.body;
    assert!(
        metrics.contains("sinew_registry_instances 1\n"),
        "{metrics}"
    );
    assert!(metrics.contains("sinew_build_info{"), "{metrics}");
    let refused = http::get(control, "/v1/status", Some(node.service_token())).await;
    assert_eq!(refused.status, 403);

    assert_eq!(node.drain_and_stop(LIMIT).await.unwrap(), 0);
    assert!(
        Endpoints::read(dir.path()).is_err(),
        "a clean stop takes the endpoints back"
    );

    let node = Node::start(config).await.unwrap();
    assert!(!node.tokens_are_new());
    assert_eq!(node.admin_token(), admin);
    let hello = node.registry().service(&Name::new("hello").unwrap().into());
    assert_eq!(
        hello.instances.len(),
        1,
        "what was registered is still there"
    );
    assert_eq!(
        http::get(node.gateway_address(), "/api/hello", None)
            .await
            .status,
        200
    );
    drop(node);
}

#[tokio::test]
async fn nobody_needs_to_wait_for_the_end_of_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(config(dir.path())).await.unwrap();
    let stopping = node.drain_and_stop(LIMIT);
    // As at a second Ctrl-C. It is polled once, and dropped within this runtime.
    let given_up = tokio::time::timeout(Duration::ZERO, stopping).await;
    assert!(given_up.is_err(), "it was too quick for this test");
}

#[tokio::test]
async fn an_instance_under_a_host_name_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.gateway.routing.routes = vec![route("/**", "hello")];
    let node = Node::start(config).await.unwrap();
    let address = upstream(&[("/", "hello".into())]).await;
    register(&node, "hello", "hello-1", address, "localhost").await;
    register(&node, "hello", "hello-2", address, "does-not-exist.invalid").await;
    let gateway = node.gateway_address();
    eventually(|| http::get(gateway, "/", None), |a| a.status == 200).await;
    node.drain_and_stop(LIMIT).await.unwrap();
}

#[tokio::test]
async fn tokens_are_verified_by_the_published_keys_even_after_their_issuer_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let url = |path: &str| ServiceUrl {
        service: Name::new("users").unwrap(),
        path: path.into(),
    };
    let mut config = config(dir.path());
    let mut guarded = route("/**", "hello");
    guarded.auth = vec![Auth::Jwt];
    config.gateway.routing.routes = vec![guarded];
    config.jwt = Some(JwtConfig {
        issuer: "shop".into(),
        audience: "shop".into(),
        jwks: url("/jwks.json"),
        revoked: Some(url("/revoked.json")),
        refresh: Duration::from_secs(1),
    });
    let node = Node::start(config).await.unwrap();
    let hello = upstream(&[("/", "hello".into())]).await;
    register(&node, "hello", "hello-1", hello, "127.0.0.1").await;

    let key = SigningKey::generate().unwrap();
    let token = |subject: &str| {
        let now = Clock::system().now();
        let claims = Claims::new("shop", "shop", subject, now, Duration::from_secs(60));
        key.sign(&claims.with_version(1)).unwrap()
    };
    let gateway = node.gateway_address();
    let ask =
        |token: Option<String>| async move { http::get(gateway, "/", token.as_deref()).await };
    assert_eq!(
        ask(Some(token("ann"))).await.status,
        503,
        "the keys are not known yet"
    );

    let revoked = r#"{"min_version":{"bob":2}}"#;
    let users = upstream(&[
        ("/jwks.json", key.jwks()),
        ("/revoked.json", revoked.into()),
    ])
    .await;
    register(&node, "users", "users-1", users, "127.0.0.1").await;
    let passed = |answer: &Answer| answer.status == 200;
    eventually(|| ask(Some(token("ann"))), passed).await;
    assert_eq!(ask(Some(token("bob"))).await.status, 401, "revoked");
    assert_eq!(ask(None).await.status, 401);

    let id = InstanceId::new("users-1").unwrap();
    node.registry()
        .deregister(&Name::new("users").unwrap().into(), &id)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(
        ask(Some(token("ann"))).await.status,
        200,
        "the last good keys stay"
    );
    node.drain_and_stop(LIMIT).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_shared_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(config(dir.path())).await.unwrap();
    let refusal = |config: Config| async { Node::start(config).await.err().unwrap() };

    let locked = refusal(config(dir.path())).await;
    assert_eq!(locked.code(), "node.data_locked");
    assert!(
        locked.message().contains(&std::process::id().to_string()),
        "{locked}"
    );

    let other = tempfile::tempdir().unwrap();
    let mut taken = config(other.path());
    taken.control = node.control_address();
    let taken = refusal(taken).await;
    assert_eq!(taken.code(), "node.port_taken");
    assert!(taken.message().contains("--control"), "{taken}");

    let mut taken = config(other.path());
    taken.gateway.address = node.gateway_address();
    let taken = refusal(taken).await;
    assert_eq!(taken.code(), "node.port_taken");
    assert!(taken.message().contains("--gateway"), "{taken}");
    assert!(
        Endpoints::read(other.path()).is_err(),
        "a node that did not start leaves no traces"
    );

    let mut exposed = config(other.path());
    exposed.control = SocketAddr::from(([0, 0, 0, 0], 0));
    assert_eq!(refusal(exposed).await.code(), "config.control_exposed");
    let mut foreign = config(other.path());
    foreign.kv = match cfg!(feature = "etcd") {
        true => "zookeeper://localhost".into(),
        false => "etcd://localhost".into(),
    };
    assert_eq!(refusal(foreign).await.code(), "config.engine_unsupported");

    // None of them holds anything back.
    Node::start(config(other.path()))
        .await
        .unwrap()
        .drain_and_stop(LIMIT)
        .await
        .unwrap();
    node.drain_and_stop(LIMIT).await.unwrap();
}
