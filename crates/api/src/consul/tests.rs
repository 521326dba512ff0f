//! The dialect as clients meet it: requests in, responses out, over the reference store.

use std::sync::Arc;

use axum::{body::Body, http::HeaderMap};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use sinew_coordination::{keyspace, registry};
use sinew_core::{ManualClock, Timestamp};
use sinew_engine::kv::MemoryKv;
use tower::ServiceExt;

use super::*;

struct Setup {
    manual: ManualClock,
    consul: Consul,
    drain: Drain,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn index(&self) -> u64 {
        self.headers["x-consul-index"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Setup {
    async fn new() -> Self {
        let manual = ManualClock::new(Timestamp(1_000_000));
        let kv = Arc::new(MemoryKv::new(manual.clock()));
        let config = registry::Config::default();
        let registry = Registry::start(kv.clone(), manual.clock(), config)
            .await
            .unwrap();
        let keyspace = Keyspace::start(kv, manual.clock(), keyspace::Config::default());
        let tokens = Tokens {
            admin: "a".repeat(43),
            service: "s".repeat(43),
        };
        let drain = Drain::new();
        let settings = Settings {
            datacenter: "dc1".to_owned(),
            node: "sinew".to_owned(),
            address: "127.0.0.1:8500".parse().unwrap(),
        };
        let consul = Consul::new(registry, keyspace, tokens, drain.clone(), settings);
        settle().await;
        Self {
            manual,
            consul,
            drain,
        }
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        body: impl Into<Body>,
    ) -> impl Future<Output = Answer> + Send + 'static {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-consul-token", "s".repeat(43))
            .body(body.into())
            .unwrap();
        let router = self.consul.clone().router();
        async move {
            let response = router.oneshot(request).await.unwrap();
            let (parts, body) = response.into_parts();
            Answer {
                status: parts.status.as_u16(),
                headers: parts.headers,
                body: body.collect().await.unwrap().to_bytes(),
            }
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "").await
    }

    async fn put(&self, path: &str, body: &str) -> Answer {
        self.send("PUT", path, body.to_owned()).await
    }

    async fn register(&self, body: Value) {
        let answer = self
            .put("/v1/agent/service/register", &body.to_string())
            .await;
        assert_eq!((answer.status, answer.text()), (200, ""));
    }
}

/// Lets the background tasks do what they can do without time passing.
async fn settle() {
    for _ in 0..300 {
        tokio::task::yield_now().await;
    }
}

fn web(port: u16) -> Value {
    json!({"ID": "web-1", "name": "web", "port": port, "Tags": ["blue"], "Check": {"TTL": "15s"}})
}

#[tokio::test]
async fn only_with_a_token_of_the_node() {
    let setup = Setup::new().await;
    for token in [None, Some("x".repeat(43))] {
        let mut request = Request::builder().uri("/v1/agent/services");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Body::empty()).unwrap();
        let response = setup
            .consul
            .clone()
            .router()
            .oneshot(request)
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.starts_with(b"Permission denied"));
    }
    let open = Request::builder().uri("/v1/status/leader");
    let open = open.body(Body::empty()).unwrap();
    let response = setup.consul.clone().router().oneshot(open).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let own = setup.get("/v1/agent/self").await.json();
    assert_eq!(own["Config"]["Datacenter"], "dc1");
    assert_eq!(setup.get("/v1/agent/self?dc=dc2").await.status, 400);
}

#[tokio::test]
async fn a_service_lives_by_its_check() {
    let setup = Setup::new().await;
    setup.register(web(80)).await;
    let status = async || {
        let entries = setup.get("/v1/health/service/web").await.json();
        let passing = setup.get("/v1/health/service/web?passing=1").await.json();
        let passing = passing.as_array().unwrap().len();
        (entries[0]["Checks"][0]["Status"].clone(), passing)
    };
    assert_eq!(status().await, (json!("critical"), 0), "until it is passed");
    assert_eq!(
        setup
            .put("/v1/agent/check/pass/service:web-1?note=ok", "")
            .await
            .status,
        200
    );
    assert_eq!(status().await, (json!("passing"), 1));
    let entry = setup.get("/v1/health/service/WEB").await.json()[0].clone();
    assert_eq!(
        entry["Service"]["Address"], "127.0.0.1",
        "whence it was registered"
    );
    assert_eq!(entry["Service"]["Tags"], json!(["blue"]));

    setup.manual.advance(Duration::from_secs(16));
    settle().await;
    assert_eq!(
        status().await,
        (json!("critical"), 0),
        "its heartbeats ceased"
    );
    let update = json!({"Status": "warning", "Output": "slow"}).to_string();
    let update = setup
        .put("/v1/agent/check/update/service:web-1", &update)
        .await;
    assert_eq!(update.status, 200);
    assert_eq!(
        status().await,
        (json!("warning"), 0),
        "it is back, but warns"
    );
    assert_eq!(
        setup
            .put("/v1/agent/service/deregister/web-1", "")
            .await
            .status,
        200
    );
    let unknown = setup.put("/v1/agent/service/deregister/web-1", "").await;
    assert_eq!(unknown.status, 404);
    assert!(
        unknown.text().ends_with("(consul.unknown_id)"),
        "{}",
        unknown.text()
    );
}

#[tokio::test]
async fn an_id_is_of_one_service() {
    let setup = Setup::new().await;
    setup.register(web(80)).await;
    setup.register(json!({"ID": "web-1", "Name": "shop"})).await;
    let services = setup.get("/v1/catalog/services").await.json();
    assert_eq!(services, json!({"shop": []}), "it was renamed");
    setup
        .register(json!({"Name": "a b/c", "ID": "x/y", "Check": {"TTL": "1m"}}))
        .await;
    assert_eq!(
        setup
            .put("/v1/agent/check/pass/service:x/y", "")
            .await
            .status,
        200
    );
    let found = setup.get("/v1/health/service/a%20b/c?passing").await.json();
    assert_eq!(found[0]["Service"]["Service"], "a b/c");
    assert_eq!(
        setup.get("/v1/agent/service/x%2Fy").await.json()["ID"],
        "x/y"
    );
    assert_eq!(
        setup
            .put("/v1/agent/service/deregister/x/y", "")
            .await
            .status,
        200
    );
    setup.register(json!({"Name": "bare"})).await;
    let services = setup.get("/v1/agent/services").await.json();
    assert_eq!(services["bare"]["ID"], "bare");
}

#[tokio::test]
async fn checks_of_their_own_outlive_a_registration() {
    let setup = Setup::new().await;
    setup.register(web(80)).await;
    let check =
        json!({"Name": "disk", "ServiceID": "web-1", "TCP": "127.0.0.1:1", "Interval": "10s"});
    assert_eq!(
        setup
            .put("/v1/agent/check/register", &check.to_string())
            .await
            .status,
        200
    );
    let ids = async || {
        let checks = setup.get("/v1/agent/checks").await.json();
        checks
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(ids().await, ["disk", "service:web-1"]);
    setup.register(web(81)).await;
    assert_eq!(ids().await, ["disk", "service:web-1"]);
    let refused = setup.put("/v1/agent/check/pass/disk", "").await;
    assert_eq!(refused.status, 400, "the node looks itself");
    assert_eq!(
        setup
            .put("/v1/agent/check/deregister/disk", "")
            .await
            .status,
        200
    );
    assert_eq!(ids().await, ["service:web-1"]);
    let path = "/v1/agent/service/register?replace-existing-checks=true";
    setup
        .put("/v1/agent/check/register", &check.to_string())
        .await;
    assert_eq!(setup.put(path, &web(82).to_string()).await.status, 200);
    assert_eq!(ids().await, ["service:web-1"]);
}

#[tokio::test]
async fn who_waits_is_woken_by_what_concerns_him_alone() {
    let setup = Setup::new().await;
    setup.register(web(80)).await;
    setup.put("/v1/agent/check/pass/service:web-1", "").await;
    let paths = [
        "/v1/health/service/web?passing",
        "/v1/catalog/services?a",
        "/v1/kv/app/?recurse",
        "/v1/session/list?a",
    ];
    let mut waiting = Vec::new();
    for path in paths {
        let index = setup.get(path).await.index();
        assert!(index >= 1);
        let path = format!("{path}&index={index}&wait=600s");
        waiting.push((index, tokio::spawn(setup.send("GET", &path, ""))));
    }
    settle().await;
    assert_eq!(setup.consul.0.waiting.available_permits(), WAITING - 4);
    // Heartbeats, other services, other keys.
    setup
        .put("/v1/agent/check/pass/service:web-1?note=again", "")
        .await;
    setup.put("/v1/kv/other", "x").await;
    for (_, waiting) in &waiting[..3] {
        assert!(!waiting.is_finished());
    }
    setup.register(json!({"Name": "stock"})).await;
    // The listing follows a moment later.
    let services = waiting.remove(1);
    let services = (services.0, services.1.await.unwrap());
    assert!(services.1.index() > services.0);
    assert_eq!(services.1.json(), json!({"stock": [], "web": ["blue"]}));
    settle().await;
    assert!(waiting.iter().all(|(_, waiting)| !waiting.is_finished()));

    setup.register(web(81)).await;
    setup.put("/v1/kv/app/a", "1").await;
    setup.put("/v1/session/create", "").await.json();
    for (index, waiting) in waiting {
        let answer = waiting.await.unwrap();
        assert!(answer.index() > index, "{}", answer.text());
        assert_eq!(answer.json().as_array().unwrap().len(), 1);
    }
    assert_eq!(setup.consul.0.waiting.available_permits(), WAITING);
}

#[tokio::test]
async fn waiting_ends_with_the_same_index() {
    let setup = Setup::new().await;
    setup.register(web(80)).await;
    setup.put("/v1/kv/a", "1").await;
    for path in [
        "/v1/health/service/web?",
        "/v1/health/service/none?",
        "/v1/catalog/nodes?",
        "/v1/kv/a?",
        "/v1/kv/none?",
    ] {
        let index = setup.get(path).await.index();
        setup.register(json!({"Name": "elsewhere"})).await;
        let path = format!("{path}index={index}&wait=20ms");
        let ends = setup.get(&path).await;
        assert_eq!(ends.index(), index, "{path}");
    }
    // An index of another store: the client shall begin anew.
    let index = setup.get("/v1/kv/a?index=900&wait=20ms").await.index();
    assert!(index < 900);
    let index = setup
        .get("/v1/health/service/web?index=900&wait=20ms")
        .await
        .index();
    assert!(index < 900);
    assert!(setup.get("/v1/kv/a?index=-1").await.index() >= 1);

    let path = format!("/v1/health/service/web?index={index}");
    let waiting = tokio::spawn(setup.send("GET", &path, ""));
    settle().await;
    assert!(!waiting.is_finished());
    setup.drain.start();
    assert_eq!(waiting.await.unwrap().index(), index, "the node stops");
}

#[tokio::test]
async fn not_too_many_wait() {
    let setup = Setup::new().await;
    setup.put("/v1/kv/a", "1").await;
    let index = setup.get("/v1/kv/a").await.index();
    let waiting = setup.consul.0.waiting.clone();
    let _all = waiting
        .acquire_many(u32::try_from(WAITING).unwrap())
        .await
        .unwrap();
    let refused = setup.get(&format!("/v1/kv/a?index={index}")).await;
    assert_eq!(refused.status, 429);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(
        setup.get("/v1/kv/a?index=0").await.status,
        200,
        "who does not wait"
    );
}

#[tokio::test]
async fn keys_in_and_out() {
    let setup = Setup::new().await;
    let none = setup.get("/v1/kv/a%20b/c").await;
    assert_eq!((none.status, none.text()), (404, ""));
    assert!(none.index() >= 1);
    let put = setup
        .put("/v1/kv/a%20b/c?flags=18446744073709551615", "v")
        .await;
    assert_eq!(put.text(), "true");
    let item = setup.get("/v1/kv/a%20b/c").await.json()[0].clone();
    assert_eq!(
        (&item["Key"], &item["Value"]),
        (&json!("a b/c"), &json!("dg=="))
    );
    assert_eq!(item["Flags"], json!(u64::MAX));
    let raw = setup.get("/v1/kv/a%20b/c?raw").await;
    assert_eq!(
        (
            raw.text(),
            raw.headers["x-content-type-options"].to_str().unwrap()
        ),
        ("v", "nosniff")
    );
    assert_eq!(
        setup.get("/v1/kv/?keys&separator=/").await.json(),
        json!(["a b/"])
    );
    let deleted = setup.send("DELETE", "/v1/kv/a%20b/c?cas=7777", "").await;
    assert_eq!(deleted.text(), "false");
    let deleted = setup.send("DELETE", "/v1/kv/a%20b/?recurse", "").await;
    assert_eq!(deleted.text(), "true");
    assert_eq!(setup.get("/v1/kv/?recurse").await.status, 404);
    let large = setup.send("PUT", "/v1/kv/a", vec![0; 512 * 1024 + 1]).await;
    assert_eq!(large.status, 413);

    let session = setup
        .put("/v1/session/create", r#"{"ttl":"10s","lockdelay":"5s"}"#)
        .await
        .json();
    let session = session["ID"].as_str().unwrap().to_owned();
    let info = setup
        .get(&format!("/v1/session/info/{session}"))
        .await
        .json();
    assert_eq!(
        (&info[0]["LockDelay"], &info[0]["TTL"]),
        (&json!(5_000_000_000_u64), &json!("10s"))
    );
    assert_eq!(
        setup
            .put(&format!("/v1/kv/l?acquire={session}"), "")
            .await
            .text(),
        "true"
    );
    assert_eq!(setup.get("/v1/kv/l").await.json()[0]["Session"], *session);
    assert_eq!(setup.put("/v1/kv/l?acquire=none", "").await.status, 400);
    assert_eq!(setup.put("/v1/session/renew/none", "").await.status, 404);
    assert_eq!(setup.get("/v1/session/info/none").await.json(), json!([]));

    let steps = json!([
        {"KV": {"Verb": "set", "Key": "t", "Value": "dg=="}},
        {"KV": {"Verb": "get", "Key": "t"}},
    ]);
    let done = setup.put("/v1/txn", &steps.to_string()).await.json();
    let values = [
        &done["Results"][0]["KV"]["Value"],
        &done["Results"][1]["KV"]["Value"],
    ];
    assert_eq!(values, [&Value::Null, &json!("dg==")]);
    let check = json!([{"KV": {"Verb": "check-not-exists", "Key": "t"}}]).to_string();
    let refused = setup.put("/v1/txn", &check).await;
    assert_eq!(refused.status, 409);
    assert!(refused.text().contains("\"OpIndex\":0"));
}

/// Whatever is sent, it is refused for what it is, and never an error of the server's.
#[tokio::test]
async fn nonsense_is_refused() {
    let setup = Setup::new().await;
    setup.register(web(80)).await;
    let bodies = [
        "",
        "x",
        "[]",
        "null",
        "{}",
        "[{}]",
        "[null]",
        r#"{"Name":"","ID":7}"#,
        r#"{"name":"a\u0000b"}"#,
        r#"{"Name":"a","Port":-1}"#,
        r#"{"Name":"a","Check":{}}"#,
        r#"{"Name":"a","Check":{"TTL":"1000h"}}"#,
        r#"{"Name":"a","Address":"not an address"}"#,
        r#"{"Name":"a","Kind":"connect-proxy"}"#,
        r#"{"Name":"a","Weights":{"Passing":65535}}"#,
        r#"{"TTL":"1s"}"#,
        r#"{"Behavior":"x"}"#,
        r#"[{"KV":{"Verb":"x"}}]"#,
        r#"[{"KV":{"Verb":"set","Key":"","Value":"?"}}]"#,
        r#"{"Checks":["disk"]}"#,
    ];
    let long = format!("/v1/kv/{}", "k".repeat(2000));
    let paths = [
        "/v1/agent/service/register",
        "/v1/agent/check/register",
        "/v1/agent/check/update/service:web-1",
        "/v1/agent/check/pass/nobody",
        "/v1/agent/check/what/service:web-1",
        "/v1/agent/service/maintenance/web-1",
        "/v1/agent/service/deregister/%00",
        "/v1/session/create",
        "/v1/session/renew/%2f",
        "/v1/txn",
        "/v1/kv/",
        "/v1/kv/a?cas=x",
        "/v1/kv/a?flags=-1",
        "/v1/kv/a?cas=1&acquire=s",
        &long,
        "/v1/kv/%ff",
        "/v1/nothing",
    ];
    for path in paths {
        for body in bodies {
            let status = setup.put(path, body).await.status;
            assert!(status < 500, "PUT {path} {body}: {status}");
        }
    }
    let queries = [
        "",
        "?index=x",
        "?wait=10&index=1",
        "?filter=(",
        "?filter=a%20==",
        "?passing&tag=%ff",
        "?ns=%00",
        "?node-meta=a:b",
        "?cas=x",
        "?index=99999999999999999999999999999999999999999999",
        "?recurse&keys&separator=",
        "?dc=other",
    ];
    let paths = [
        "/v1/health/service/web",
        "/v1/health/service/%00",
        "/v1/health/checks/web",
        "/v1/health/state/odd",
        "/v1/health/node/x",
        "/v1/catalog/services",
        "/v1/catalog/service/web",
        "/v1/catalog/nodes",
        "/v1/catalog/node/x",
        "/v1/kv/a",
        "/v1/kv/",
        "/v1/session/info/x",
        "/v1/session/node/x",
        "/v1/agent/services",
        "/v1/agent/service/web-1",
        "/v1/agent/service/none",
        "/v1/acl/tokens",
        "/v1/event/list",
        "/",
    ];
    for path in paths {
        for query in queries {
            let status = setup.get(&format!("{path}{query}")).await.status;
            assert!(status < 500, "GET {path}{query}: {status}");
            let status = setup
                .send("DELETE", &format!("{path}{query}"), "")
                .await
                .status;
            assert!(status < 500, "DELETE {path}{query}: {status}");
        }
    }
    let unknown = setup.get("/v1/acl/tokens").await;
    assert_eq!(unknown.status, 404);
    assert!(
        unknown
            .text()
            .contains("not a part of Consul's API that Sinew has")
    );
    let mut text = String::new();
    setup.consul.metrics(&mut text);
    assert!(text.contains("sinew_consul_responses_total{class=\"5xx\"} 0"));
}
