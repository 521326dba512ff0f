//! The dialect over a registry in memory, request by request; the clients themselves are in `tests/clients`.

use std::io::Read;

use axum::{
    body::Body,
    http::{HeaderValue, Method},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::read::GzDecoder;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use sinew_coordination::registry::{Config, Registration, Status as Kept, Weight};
use sinew_core::{ManualClock, Timestamp};
use sinew_engine::kv::MemoryKv;
use tower::ServiceExt;

use super::{request::BODY_BYTES, *};

struct World {
    eureka: Eureka,
    registry: Registry,
    clock: ManualClock,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl World {
    async fn new() -> Self {
        let clock = ManualClock::new(Timestamp(1_700_000_000_000));
        let kv = Arc::new(MemoryKv::new(clock.clock()));
        let registry = Registry::start(kv, clock.clock(), Config::default())
            .await
            .unwrap();
        let tokens = Tokens {
            admin: "admin".into(),
            service: "secret".into(),
        };
        let eureka = Eureka::new(registry.clone(), clock.clock(), tokens);
        Self {
            eureka,
            registry,
            clock,
        }
    }

    async fn send(&self, request: axum::http::Request<Body>) -> Answer {
        let response = self.eureka.alone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        }
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("accept", "application/json")
            .header(
                "authorization",
                format!("Basic {}", STANDARD.encode("x:secret")),
            )
            .body(Body::from(body.to_owned()))
            .unwrap();
        self.send(request).await
    }

    async fn get(&self, path: &str) -> Value {
        self.call("GET", path, "").await.json()
    }

    async fn announce(&self, app: &str, document: &Value) {
        let answer = self
            .call(
                "POST",
                &format!("/eureka/apps/{app}"),
                &document.to_string(),
            )
            .await;
        assert_eq!((answer.status, answer.text().as_str()), (204, ""));
    }

    /// Every application's instances by id: status, and what happened.
    async fn seen(&self, path: &str) -> Vec<String> {
        let document = self.get(path).await;
        let applications = document["applications"]["application"].as_array().unwrap();
        let mut seen = Vec::new();
        for application in applications {
            for instance in application["instance"].as_array().unwrap() {
                assert_eq!(instance["app"], application["name"]);
                let text = |name: &str| instance[name].as_str().unwrap_or_default().to_owned();
                seen.push(
                    [
                        text("app"),
                        text("instanceId"),
                        text("status"),
                        text("actionType"),
                    ]
                    .join(" "),
                );
            }
        }
        seen
    }

    async fn hash(&self, path: &str) -> String {
        self.get(path).await["applications"]["apps__hashcode"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

fn instance(id: &str, app: &str) -> Value {
    json!({"instance": {
        "instanceId": id, "app": app, "hostName": "box", "ipAddr": "10.0.0.1", "status": "UP",
        "port": {"$": 8080, "@enabled": "true"}, "securePort": {"$": 443, "@enabled": "false"},
        "dataCenterInfo": {"name": "MyOwn"}, "vipAddress": "orders,shop", "lastDirtyTimestamp": "1000",
        "leaseInfo": {"renewalIntervalInSecs": 3, "durationInSecs": 9}, "metadata": {"zone": "a"},
    }})
}

fn name(text: &str) -> ServiceId {
    Name::new(text).unwrap().into()
}

#[tokio::test]
async fn an_instance_is_shown_as_it_was_announced() {
    let world = World::new().await;
    world
        .announce("ORDERS", &instance("box:orders:8080", "orders"))
        .await;
    let shown = world.get("/eureka/apps/orders/box:orders:8080").await;
    assert_eq!(
        shown,
        json!({"instance": {
            "instanceId": "box:orders:8080", "hostName": "box", "app": "ORDERS", "ipAddr": "10.0.0.1",
            "status": "UP", "overriddenstatus": "UNKNOWN",
            "port": {"$": 8080, "@enabled": "true"}, "securePort": {"$": 443, "@enabled": "false"},
            "countryId": 1,
            "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
            "leaseInfo": {
                "renewalIntervalInSecs": 3, "durationInSecs": 9,
                "registrationTimestamp": 1_700_000_000_000_u64, "lastRenewalTimestamp": 1_700_000_000_000_u64,
                "evictionTimestamp": 0, "serviceUpTimestamp": 1_700_000_000_000_u64,
            },
            "metadata": {"zone": "a"}, "vipAddress": "orders,shop",
            "isCoordinatingDiscoveryServer": "false",
            "lastUpdatedTimestamp": "1700000000000", "lastDirtyTimestamp": "1000",
        }})
    );
    assert_eq!(
        world.get("/eureka/v2/instances/box:orders:8080/").await,
        shown
    );
    assert_eq!(
        world.get("/eureka/v2/apps/ORDERS").await["application"]["instance"][0],
        shown["instance"]
    );
    let all = world.get("/eureka/apps/").await;
    assert_eq!(all["applications"]["application"][0]["name"], "ORDERS");
    for (path, status) in [
        ("vips/SHOP", 200),
        ("vips/orders", 200),
        ("vips/order", 404),
        ("svips/orders", 404),
        ("apps/payments", 404),
        ("apps/orders/other", 404),
        ("instances/other", 404),
    ] {
        let answer = world.call("GET", &format!("/eureka/{path}"), "").await;
        assert_eq!(answer.status, status, "{path}");
    }
}

#[tokio::test]
async fn what_one_dialect_registers_the_others_find() {
    let world = World::new().await;
    let mut announced = instance("web-1", "ORDERS");
    announced["instance"]["port"]["@enabled"] = "false".into();
    announced["instance"]["securePort"]["@enabled"] = "true".into();
    world.announce("orders", &announced).await;
    let orders = world.registry.service(&name("orders"));
    let kept = &orders.instances[0];
    assert_eq!(
        (&*kept.address, kept.port, kept.zone()),
        ("10.0.0.1", 443, Some("a"))
    );
    assert_eq!((&*kept.ports[0].name, kept.ports.len()), ("https", 1));
    assert_eq!(kept.ttl, Some(Duration::from_secs(9)));

    let id = InstanceId::new("pay-1").unwrap();
    let mut foreign = Registration::new(Name::new("payments").unwrap(), id.clone(), "10.0.0.2", 81);
    foreign.zone = Some("b".into());
    foreign.weight = Weight::new(0.5).unwrap();
    foreign.metadata.insert("a key".into(), "<1>".into());
    world.registry.register(foreign).await.unwrap();
    world
        .registry
        .set_status(&name("payments"), &id, Kept::Draining)
        .await
        .unwrap();
    let shown = world.get("/eureka/apps/PAYMENTS/pay-1").await["instance"].take();
    assert_eq!(shown["port"], json!({"$": 81, "@enabled": "true"}));
    assert_eq!(
        (&shown["hostName"], &shown["status"]),
        (&json!("10.0.0.2"), &json!("OUT_OF_SERVICE"))
    );
    assert_eq!(
        shown["metadata"],
        json!({"a key": "<1>", "zone": "b", "weight": "0.5"})
    );
    assert_eq!(shown["vipAddress"], "payments");
    let secure = world.get("/eureka/apps/ORDERS/web-1").await["instance"].take();
    assert_eq!(secure["port"], json!({"$": 8080, "@enabled": "false"}));
    assert_eq!(secure["securePort"], json!({"$": 443, "@enabled": "true"}));
    assert_eq!(
        world.seen("/eureka/apps").await,
        ["ORDERS web-1 UP ", "PAYMENTS pay-1 OUT_OF_SERVICE "]
    );
    assert_eq!(world.hash("/eureka/apps").await, "OUT_OF_SERVICE_1_UP_1_");

    let request =
        Request::get("/eureka/apps/payments/pay-1").header("authorization", "Bearer admin");
    let xml = world.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(xml.headers["content-type"], "application/xml");
    assert_eq!(
        tree::read(&xml.body).unwrap()["instance"]["metadata"]["a key"],
        "<1>"
    );
}

#[tokio::test]
async fn leases_are_renewed_and_end() {
    let world = World::new().await;
    world.announce("ORDERS", &instance("a", "ORDERS")).await;
    let renew = async |query: &str| {
        world
            .call("PUT", &format!("/eureka/apps/ORDERS/a{query}"), "")
            .await
            .status
    };
    for (query, status) in [
        ("", 200),
        ("?status=UP&lastDirtyTimestamp=1000", 200),
        ("?lastDirtyTimestamp=999", 200),
        ("?lastDirtyTimestamp=1001", 404),
        ("?lastDirtyTimestamp=x", 400),
    ] {
        assert_eq!(renew(query).await, status, "{query}");
    }
    assert_eq!(
        world.call("PUT", "/eureka/apps/ORDERS/b", "").await.status,
        404
    );
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(6));
        assert_eq!(renew("").await, 200);
    }
    assert_eq!(world.seen("/eureka/apps").await, ["ORDERS a UP "]);
    world.clock.advance(Duration::from_secs(20));
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    while !world.seen("/eureka/apps").await.is_empty() {
        assert!(tokio::time::Instant::now() < until, "it does not expire");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(renew("").await, 404);
    world.announce("ORDERS", &instance("a", "ORDERS")).await;
    assert_eq!(
        world
            .call("DELETE", "/eureka/apps/ORDERS/a", "")
            .await
            .status,
        200
    );
    assert_eq!(
        world
            .call("DELETE", "/eureka/apps/ORDERS/a", "")
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn an_overtaken_registration_does_not_win() {
    let world = World::new().await;
    let mut newer = instance("a", "ORDERS");
    newer["instance"]["lastDirtyTimestamp"] = json!(2000);
    newer["instance"]["status"] = "DOWN".into();
    world.announce("ORDERS", &newer).await;
    world.announce("ORDERS", &instance("a", "ORDERS")).await;
    assert_eq!(world.seen("/eureka/apps").await, ["ORDERS a DOWN "]);
    newer["instance"]["lastDirtyTimestamp"] = json!(2001);
    newer["instance"]["status"] = "STARTING".into();
    world.clock.advance(Duration::from_secs(1));
    world.announce("ORDERS", &newer).await;
    assert_eq!(world.seen("/eureka/apps").await, ["ORDERS a STARTING "]);
    let lease = &world.get("/eureka/apps/ORDERS/a").await["instance"]["leaseInfo"];
    assert_eq!(
        lease["registrationTimestamp"], 1_700_000_000_000_u64,
        "since its first"
    );
    assert_eq!(lease["lastRenewalTimestamp"], 1_700_000_001_000_u64);
}

#[tokio::test]
async fn an_operator_overrides_until_he_ends_it() {
    let world = World::new().await;
    world.announce("ORDERS", &instance("a", "ORDERS")).await;
    let put = async |what: &str| {
        world
            .call("PUT", &format!("/eureka/apps/ORDERS/a/{what}"), "")
            .await
            .status
    };
    assert_eq!(
        put("status?value=OUT_OF_SERVICE&lastDirtyTimestamp=1").await,
        200
    );
    world.announce("ORDERS", &instance("a", "ORDERS")).await;
    let shown = world.get("/eureka/apps/ORDERS/a").await["instance"].take();
    assert_eq!(
        (&shown["status"], &shown["overriddenstatus"]),
        (&json!("OUT_OF_SERVICE"), &json!("OUT_OF_SERVICE"))
    );
    let ended = world
        .call(
            "DELETE",
            "/eureka/apps/ORDERS/a/status?lastDirtyTimestamp=1",
            "",
        )
        .await;
    assert_eq!(ended.status, 200);
    assert_eq!(world.seen("/eureka/apps").await, ["ORDERS a UP "]);
    assert_eq!(put("metadata?color=gr%C3%BCn&color=red&a%20b=").await, 200);
    let shown = world.get("/eureka/apps/ORDERS/a").await["instance"].take();
    assert_eq!(
        shown["metadata"],
        json!({"zone": "a", "color": "grün", "a b": ""})
    );
    for (what, status) in [
        ("status", 400),
        ("status?value=AWAY", 400),
        ("metadata?a=%ff", 200),
    ] {
        assert_eq!(put(what).await, status, "{what}");
    }
    for what in ["status?value=UP", "metadata?a=b"] {
        let answer = world
            .call("PUT", &format!("/eureka/apps/ORDERS/b/{what}"), "")
            .await;
        assert_eq!(answer.status, 404);
    }
}

#[tokio::test]
async fn the_delta_and_the_hash_agree_with_the_whole() {
    let world = World::new().await;
    world.announce("ORDERS", &instance("a", "ORDERS")).await;
    assert_eq!(
        world.seen("/eureka/apps/delta").await,
        ["ORDERS a UP MODIFIED"]
    );
    let version =
        async || world.get("/eureka/apps/delta").await["applications"]["versions__delta"].take();
    let before = version().await;
    assert_eq!(version().await, before);
    world.announce("ORDERS", &instance("b", "ORDERS")).await;
    world.announce("PAYMENTS", &instance("p", "PAYMENTS")).await;
    world.call("DELETE", "/eureka/apps/ORDERS/a", "").await;
    assert_ne!(
        version().await,
        before,
        "whoever compares versions must see a change"
    );
    let delta = [
        "ORDERS a UP DELETED",
        "ORDERS b UP ADDED",
        "PAYMENTS p UP ADDED",
    ];
    assert_eq!(world.seen("/eureka/apps/delta").await, delta);
    world.call("DELETE", "/eureka/apps/PAYMENTS/p", "").await;
    world
        .call("PUT", "/eureka/apps/ORDERS/b/status?value=DOWN", "")
        .await;
    let delta = [
        "ORDERS a UP DELETED",
        "ORDERS b DOWN MODIFIED",
        "PAYMENTS p UP DELETED",
    ];
    assert_eq!(world.seen("/eureka/apps/delta").await, delta);
    assert_eq!(world.hash("/eureka/apps/delta").await, "DOWN_1_");
    assert_eq!(world.hash("/eureka/apps").await, "DOWN_1_");
    world.clock.advance(Duration::from_secs(181));
    world.call("PUT", "/eureka/apps/ORDERS/b", "").await;
    assert!(
        world
            .seen("/eureka/apps/delta")
            .await
            .iter()
            .all(|seen| !seen.starts_with("PAYMENTS"))
    );
}

#[tokio::test]
async fn namespaces_do_not_see_one_another() {
    let world = World::new().await;
    world.announce("ORDERS", &instance("a", "ORDERS")).await;
    let body = instance("b/1", "ORDERS").to_string();
    assert_eq!(
        world
            .call("POST", "/ns/team-a/eureka/apps/ORDERS", &body)
            .await
            .status,
        204
    );
    assert_eq!(world.seen("/eureka/apps").await, ["ORDERS a UP "]);
    assert_eq!(
        world.seen("/ns/default/eureka/v2/apps").await,
        ["ORDERS a UP "]
    );
    assert_eq!(
        world.seen("/ns/team-a/eureka/v2/apps/").await,
        ["ORDERS b/1 UP "]
    );
    assert_eq!(world.hash("/ns/team-a/eureka/apps/delta").await, "UP_1_");
    assert_eq!(
        world
            .call("PUT", "/ns/team-a/eureka/apps/ORDERS/b%2F1", "")
            .await
            .status,
        200
    );
    assert_eq!(
        world
            .call("PUT", "/eureka/apps/ORDERS/b%2F1", "")
            .await
            .status,
        404
    );
    assert_eq!(
        world.call("GET", "/ns/team-b/eureka/apps", "").await.json()["applications"]["application"],
        json!([])
    );
}

#[tokio::test]
async fn names_that_are_none_elsewhere_are_kept() {
    let world = World::new().await;
    world
        .announce("Order_Service", &instance("10.0.0.1#1", "order_service"))
        .await;
    assert_eq!(
        world.seen("/eureka/apps").await,
        ["ORDER_SERVICE 10.0.0.1#1 UP "]
    );
    assert_eq!(
        world
            .call("PUT", "/eureka/apps/ORDER_SERVICE/10.0.0.1%231", "")
            .await
            .status,
        200
    );
    world.seen("/eureka/apps/delta").await;
    world
        .call("DELETE", "/eureka/apps/ORDER_SERVICE/10.0.0.1%231", "")
        .await;
    assert_eq!(
        world.seen("/eureka/apps/delta").await,
        ["ORDER_SERVICE 10.0.0.1#1 UP DELETED"]
    );
}

#[tokio::test]
async fn bodies_may_be_compressed_both_ways() {
    let world = World::new().await;
    let compress = |text: &[u8]| views::compressed(text.to_vec(), true).bytes;
    let post = async |body: Bytes| {
        let request = Request::post("/eureka/apps/ORDERS")
            .header("authorization", "Bearer secret")
            .header("content-encoding", "gzip");
        world
            .send(request.body(Body::from(body)).unwrap())
            .await
            .status
    };
    let text = instance("a", "ORDERS").to_string() + &" ".repeat(1024);
    assert_eq!(post(compress(text.as_bytes())).await, 204);
    assert_eq!(post(compress(&vec![b' '; BODY_BYTES + 1])).await, 413);
    assert_eq!(post(Bytes::from_static(b"no gzip")).await, 400);
    assert_eq!(post(vec![0; BODY_BYTES + 1].into()).await, 413);
    for (accepted, compressed) in [
        ("gzip, deflate", true),
        ("GZIP;q=0.5", true),
        ("gzip;q=0", false),
        ("br", false),
    ] {
        for path in ["/eureka/apps", "/eureka/apps/ORDERS", "/eureka/apps/delta"] {
            let request = Request::get(path)
                .header("authorization", "Bearer secret")
                .header("accept", "application/json")
                .header("accept-encoding", accepted);
            let answer = world.send(request.body(Body::empty()).unwrap()).await;
            let coding = answer
                .headers
                .get("content-encoding")
                .map(HeaderValue::as_bytes);
            assert_eq!(
                coding,
                compressed.then_some(&b"gzip"[..]),
                "{accepted} {path}"
            );
            let mut plain = Vec::new();
            match compressed {
                true => drop(
                    GzDecoder::new(&*answer.body)
                        .read_to_end(&mut plain)
                        .unwrap(),
                ),
                false => plain = answer.body,
            }
            assert!(serde_json::from_slice::<Value>(&plain).is_ok());
        }
    }
}

#[tokio::test]
async fn refusals_are_plain_text_that_says_why() {
    let world = World::new().await;
    let good = instance("a", "ORDERS").to_string();
    let cases = [
        ("POST", "/eureka/apps/ORDERS", "", 400, "api.body_invalid"),
        (
            "POST",
            "/eureka/apps/ORDERS",
            "<instance>",
            400,
            "api.body_invalid",
        ),
        (
            "POST",
            "/eureka/apps/ORDERS",
            "{\"instance\":{}}",
            400,
            "Missing hostName",
        ),
        (
            "POST",
            "/eureka/apps/PAYMENTS",
            &good,
            400,
            "Mismatched app",
        ),
        ("POST", "/eureka/apps", "", 405, "api.method_unknown"),
        ("GET", "/eureka/apps/%ff", "", 400, "api.path_invalid"),
        (
            "GET",
            "/eureka/peerreplication/batch",
            "",
            404,
            "api.path_unknown",
        ),
        ("GET", "/other", "", 404, "api.path_unknown"),
        ("GET", "/eureka/apps/%00", "", 400, "registry.name_invalid"),
        (
            "GET",
            "/eureka/apps/A/",
            "",
            404,
            "registry.instance_unknown",
        ),
    ];
    for (method, path, body, status, part) in cases {
        let answer = world.call(method, path, body).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(answer.text().contains(part), "{path}: {}", answer.text());
        assert!(
            answer.headers["content-type"]
                .to_str()
                .unwrap()
                .starts_with("text/plain")
        );
    }
    let mut bad = instance("a", "ORDERS");
    bad["instance"]["ipAddr"] = "0.0.0.0".into();
    let answer = world
        .call("POST", "/eureka/apps/ORDERS", &bad.to_string())
        .await;
    assert!(answer.status == 400 && answer.text().contains("registry.address_invalid"));
    let request = Request::builder()
        .method(Method::GET)
        .uri("/eureka/apps")
        .body(Body::empty());
    let answer = world.send(request.unwrap()).await;
    assert_eq!(
        (
            answer.status,
            answer.headers.contains_key("www-authenticate")
        ),
        (401, true)
    );
    let mut metrics = String::new();
    world.eureka.metrics(&mut metrics);
    for line in [
        "{operation=\"register\",outcome=\"refused\"} 5",
        "{operation=\"application\",outcome=\"not_found\"} 1",
        "{operation=\"applications\",outcome=\"refused\"} 1",
        "{operation=\"none\",outcome=\"not_found\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn many_who_ask_at_once_share_what_is_made() {
    let world = World::new().await;
    for n in 0..50 {
        world
            .announce("ORDERS", &instance(&format!("o-{n}"), "ORDERS"))
            .await;
    }
    let asked: Vec<_> = (0..64)
        .map(|_| {
            let eureka = world.eureka.clone();
            tokio::spawn(async move {
                let wanted = Wanted {
                    namespace: Name::new("default").unwrap(),
                    delta: false,
                    form: Form::Json,
                    gzip: true,
                };
                eureka.0.views.get(wanted).await.unwrap().bytes
            })
        })
        .collect();
    let mut documents = Vec::new();
    for asked in asked {
        documents.push(asked.await.unwrap());
    }
    assert!(
        documents
            .windows(2)
            .all(|pair| pair[0].as_ptr() == pair[1].as_ptr()),
        "made once"
    );
}
