//! The REST API over real sockets, on a registry over the in-memory store.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod configs;
mod registry;
mod routes;
mod spring;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use client::{Client, Events};
use hyper::StatusCode;
use serde_json::{Value, json};
use sinew_api::{
    Server,
    rest::{Api, NodeView, RoutesControl, Tokens, model, openapi_document},
};
use sinew_coordination::{
    configs::{self as config_centre, Configs, MasterKeys},
    registry::{Config, Registry},
};
use sinew_core::{Clock, Drain, Result};
use sinew_engine::kv::MemoryKv;
use tokio::{net::TcpListener, sync::mpsc};

struct FixedNode;

#[async_trait]
impl NodeView for FixedNode {
    async fn status(&self) -> Result<model::Status> {
        Ok(model::Status {
            version: "0.1.0".into(),
            pid: 7,
            started_ms: 1,
            uptime_ms: 2,
            data: "/data".into(),
            kv: model::KvStatus {
                engine: "memory".into(),
                state: model::EngineState::Up,
                since_ms: None,
                reason: None,
                revision: Some(3),
            },
            memory: Some(model::MemoryStatus {
                budget: 100,
                used: 7,
            }),
            gateway: model::GatewayStatus {
                address: "127.0.0.1:8080".into(),
                requests: 4,
                in_flight: 5,
                connections: 6,
            },
            routes: model::RoutesStatus::default(),
            services: 0,
            instances: 0,
        })
    }
    fn backup(&self, since: Option<u64>) -> mpsc::Receiver<Result<Bytes>> {
        let (to, from) = mpsc::channel(2);
        let chunks = match since {
            Some(0) => vec![Err(sinew_core::Error::new(
                sinew_core::Kind::OutOfRange,
                "kv.compacted",
                "gone",
            ))],
            _ => vec![
                Ok(Bytes::from_static(b"one")),
                Ok(Bytes::from_static(b"two")),
            ],
        };
        for chunk in chunks {
            to.try_send(chunk).unwrap();
        }
        from
    }
    fn routes(&self) -> &dyn RoutesControl {
        &routes::Echo
    }
    fn metrics(&self, text: &mut String) {
        text.push_str("sinew_node_up 1\n");
    }
}

struct Running {
    drain: Drain,
    admin: Client,
    service: Client,
    anonymous: Client,
}

async fn start() -> Running {
    start_where(true).await
}

/// With a say in whether the services' token opens encrypted values.
async fn start_where(services_decrypt: bool) -> Running {
    let clock = Clock::system();
    let kv = Arc::new(MemoryKv::new(clock.clone()));
    let masters = MasterKeys::read(&"A".repeat(43)).unwrap();
    let bounds = config_centre::Config {
        services_decrypt,
        ..config_centre::Config::default()
    };
    let configs = Configs::start(kv.clone(), clock.clone(), bounds, masters);
    let configs = configs.await.unwrap();
    let registry = Registry::start(kv, clock, Config::default()).await.unwrap();
    let tokens = Tokens {
        admin: "admin-".repeat(8),
        service: "service-".repeat(8),
    };
    let drain = Drain::new();
    let api = Api::new(
        registry,
        configs,
        Arc::new(FixedNode),
        tokens.clone(),
        drain.clone(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Server::new(listener, api.router(), drain.clone()).run());
    let client = |token: Option<String>| Client { address, token };
    Running {
        drain,
        admin: client(Some(tokens.admin)),
        service: client(Some(tokens.service)),
        anonymous: client(None),
    }
}

fn orders() -> Value {
    json!({"address": "127.0.0.1", "port": 41234, "metadata": {"zone": "a"}})
}

const ORDERS_1: &str = "/v1/services/orders/instances/orders-1";

#[tokio::test]
async fn the_life_of_an_instance() {
    let node = start().await;
    let client = &node.service;
    let created = client.put(ORDERS_1, orders()).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let revision = created.json["revision"].as_u64().unwrap();
    let mut expected = json!({
        "service": "orders", "id": "orders-1", "address": "127.0.0.1", "port": 41234,
        "status": "up", "health": "passing", "zone": "a", "metadata": {"zone": "a"},
        "ttl_ms": 10000, "revision": revision,
    });
    assert_eq!(created.json, expected);
    let list = client.get("/v1/services").await.json;
    assert_eq!(
        list,
        json!({"revision": revision, "services": [{"name": "orders", "instances": [expected]}]})
    );

    let again = client.put(ORDERS_1, orders()).await;
    assert_eq!(again.status, StatusCode::OK);
    let heartbeat = client.post(&format!("{ORDERS_1}/heartbeat")).await;
    assert_eq!(
        (heartbeat.status, heartbeat.json),
        (StatusCode::OK, json!({"ttl_ms": 10000}))
    );

    let draining = client
        .put(&format!("{ORDERS_1}/status"), json!({"status": "draining"}))
        .await;
    expected["status"] = json!("draining");
    expected["revision"] = draining.json["revision"].clone();
    assert_eq!(
        (draining.status, &draining.json),
        (StatusCode::OK, &expected)
    );
    let one = client.get("/v1/services/orders").await.json;
    assert_eq!(
        one,
        json!({"revision": expected["revision"], "name": "orders", "instances": [expected]})
    );

    for _ in 0..2 {
        let gone = client.delete(ORDERS_1).await;
        assert_eq!(
            (gone.status, gone.json),
            (StatusCode::NO_CONTENT, Value::Null)
        );
    }
    assert_eq!(
        client.get("/v1/services/orders").await.json["instances"],
        json!([])
    );
    assert_eq!(client.get("/v1/services").await.json["services"], json!([]));
    for response in [
        client.post(&format!("{ORDERS_1}/heartbeat")).await,
        client
            .put(&format!("{ORDERS_1}/status"), json!({"status": "up"}))
            .await,
    ] {
        response.is_problem(404, "registry.instance_unknown");
    }
}

#[tokio::test]
async fn tokens_open_what_they_should() {
    let node = start().await;
    for path in [
        "/v1/services",
        "/v1/services/a",
        "/v1/watch/services",
        "/v1/routes",
        "/v1/status",
    ] {
        let refused = node.anonymous.get(path).await;
        refused.is_problem(401, "api.unauthenticated");
        assert_eq!(refused.headers["www-authenticate"], "Bearer");
    }
    for path in ["/v1/routes", "/v1/status"] {
        node.service.get(path).await.is_problem(403, "api.scope");
        assert_eq!(node.admin.get(path).await.status, StatusCode::OK);
    }
    node.anonymous
        .put(ORDERS_1, orders())
        .await
        .is_problem(401, "api.unauthenticated");
    assert_eq!(
        node.admin.put(ORDERS_1, orders()).await.status,
        StatusCode::CREATED
    );

    assert_eq!(
        node.anonymous.get("/v1/health").await.json,
        json!({"status": "up"})
    );
    let metrics = node.anonymous.get("/metrics").await.text;
    for line in [
        "sinew_registry_instances 1\n",
        "sinew_registry_registrations_total 1\n",
        "sinew_api_responses_total{class=\"4xx\"} 8\n",
        "sinew_node_up 1\n",
    ] {
        assert!(metrics.contains(line), "{line:?} is not in {metrics}");
    }
    let served = node.anonymous.get("/v1/openapi.json").await;
    assert_eq!(served.text, openapi_document());
}

#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong() {
    let node = start().await;
    let client = &node.service;
    let cases = [
        (
            json!({"address": "127.0.0.1"}),
            "api.body_invalid",
            "missing field `port`",
        ),
        (
            json!({"address": "a", "port": 1, "x": 1}),
            "api.body_invalid",
            "unknown field `x`",
        ),
        (
            json!({"address": "a", "port": 70000}),
            "api.body_invalid",
            "70000",
        ),
        (
            json!({"address": "a", "port": 1, "status": "UP"}),
            "api.body_invalid",
            "`up`",
        ),
        (
            json!({"address": "a", "port": 0}),
            "registry.address_invalid",
            "port 0",
        ),
        (
            json!({"address": "a/b", "port": 1}),
            "registry.address_invalid",
            "host name",
        ),
        (
            json!({"address": "a", "port": 1, "ttl_ms": 5}),
            "registry.ttl_invalid",
            "1000 to 600000",
        ),
        (
            json!({"address": "a", "port": 1, "metadata": {"": ""}}),
            "registry.metadata_invalid",
            "1 to 128",
        ),
    ];
    for (body, code, hint) in cases {
        let refused = client.put(ORDERS_1, body).await;
        refused.is_problem(400, code);
        let detail = refused.json["detail"].as_str().unwrap();
        assert!(detail.contains(hint), "{hint:?} is not in {detail:?}");
    }
    let large = json!({"address": "a".repeat(300_000), "port": 1});
    client
        .put(ORDERS_1, large)
        .await
        .is_problem(413, "api.body_too_large");
    let not_json = client
        .send("PUT", ORDERS_1, Some(("text/plain", "{}".into())))
        .await;
    not_json.is_problem(415, "api.body_not_json");
    let broken = client
        .send("PUT", ORDERS_1, Some(("application/json", "{".into())))
        .await;
    broken.is_problem(400, "api.body_invalid");

    client
        .get("/v1/services/Orders")
        .await
        .is_problem(400, "core.name_invalid");
    client
        .post("/v1/services/a/instances/b%20c/heartbeat")
        .await
        .is_problem(400, "core.instance_id_invalid");
    client
        .get("/v1/watch/services?name=a")
        .await
        .is_problem(400, "api.query_invalid");
    client
        .get("/v1/watch/services?service=A")
        .await
        .is_problem(400, "core.name_invalid");
    client
        .get("/v1/unknown")
        .await
        .is_problem(404, "api.path_unknown");
    client.get("/").await.is_problem(404, "api.path_unknown");
    client
        .delete("/v1/services")
        .await
        .is_problem(405, "api.method_unknown");
    node.anonymous
        .post("/v1/health")
        .await
        .is_problem(405, "api.method_unknown");
}

#[tokio::test]
async fn a_watch_begins_with_everything_and_follows_changes() {
    let node = start().await;
    let path = |service, n| format!("/v1/services/{service}/instances/{service}-{n}");
    node.service.put(&path("orders", 1), orders()).await;
    node.service.put(&path("carts", 1), orders()).await;

    let mut all = Events::open(&node.service, "/v1/watch/services").await;
    let first = [all.next().await, all.next().await];
    assert_eq!(
        first.each_ref().map(|e| e.counted()),
        [("carts", 1), ("orders", 1)]
    );
    let listed = node.service.get("/v1/services/orders").await.json;
    assert_eq!(first[1].data, listed, "an event is the list of its service");
    assert_eq!(first[1].id, "", "whoever has it has not yet everything");
    assert_eq!(all.next().await.event, "synced");

    let mut some = Events::open(
        &node.service,
        "/v1/watch/services?service=orders&service=payments&service=orders",
    )
    .await;
    assert_eq!(some.next().await.counted(), ("orders", 1));
    assert_eq!(some.next().await.counted(), ("payments", 0));
    assert_eq!(some.next().await.event, "synced");

    node.service.put(&path("carts", 2), orders()).await;
    assert_eq!(all.next().await.counted(), ("carts", 2));
    node.service.put(&path("payments", 1), orders()).await;
    node.service.delete(&path("orders", 1)).await;
    // The two may arrive in one go or two, but both arrive, and nothing of carts.
    let mut seen = [some.next().await, some.next().await];
    seen.sort_by_key(|event| event.data["name"].to_string());
    assert_eq!(
        seen.each_ref().map(|e| e.counted()),
        [("orders", 0), ("payments", 1)]
    );
    assert_eq!(all.next().await.counted(), ("payments", 1));
    assert_eq!(all.next().await.counted(), ("orders", 0));

    node.drain.start();
    assert!(
        all.ended().await && some.ended().await,
        "watches end when the node drains"
    );
    assert_eq!(
        node.drain.finish(std::time::Duration::from_secs(5)).await,
        0
    );
}

#[tokio::test]
async fn a_backup_is_streamed_and_its_failure_is_an_error() {
    let node = start().await;
    let whole = node.admin.get("/v1/backup").await;
    assert_eq!(
        (whole.status, whole.text.as_str()),
        (StatusCode::OK, "onetwo")
    );
    let gone = node.admin.get("/v1/backup?since=0").await;
    assert_eq!(gone.status, StatusCode::RANGE_NOT_SATISFIABLE);
    let wrong = node.admin.get("/v1/backup?since=yesterday").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    let service = node.service.get("/v1/backup").await;
    assert_eq!(service.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn the_description_is_the_committed_one_and_true() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let document = openapi_document();
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(path, &document).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == document,
        "the API changed: run `UPDATE_SNAPSHOTS=1 cargo test -p sinew-api` and review openapi.json"
    );

    let node = start().await;
    let document: Value = serde_json::from_str(&document).unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 38);
    for (path, methods) in paths {
        let path = path
            .replace("{service}", "orders")
            .replace("{id}", "orders-1")
            .replace("{check}", "alive")
            .replace("{name}", "orders")
            .replace("{version}", "1");
        for method in methods.as_object().unwrap().keys() {
            let status = node
                .anonymous
                .send(&method.to_uppercase(), &path, None)
                .await
                .status;
            let open = methods[method]["security"]
                .as_array()
                .is_some_and(|needed| needed.first().is_none_or(|first| *first == json!({})));
            let expected = if open {
                StatusCode::OK
            } else {
                StatusCode::UNAUTHORIZED
            };
            assert_eq!(status, expected, "{method} {path}");
        }
    }
}
