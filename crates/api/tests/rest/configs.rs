//! The config centre over HTTP: who may do what, what comes back, and how changes are told.

use serde_json::{Value, json};

use crate::{
    client::{Client, Events},
    start, start_where,
};

const ITEM: &str = "/v1/config/items/default/orders/default/main";
const EFFECTIVE: &str = "/v1/config/effective/default/orders";

fn body(value: &Value) -> Option<(&'static str, String)> {
    Some(("application/json", value.to_string()))
}

async fn put(client: &Client, path: &str, content: &str) -> Value {
    let change = json!({"content": content, "format": "yaml"});
    let answer = client.put(path, change).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

#[tokio::test]
async fn administrators_write_and_services_read() {
    let node = start().await;
    let (admin, service) = (&node.admin, &node.service);
    let change = json!({"content": "a: 1", "format": "yaml"});
    service
        .put(ITEM, change.clone())
        .await
        .is_problem(403, "api.scope");
    node.anonymous
        .get(ITEM)
        .await
        .is_problem(401, "api.unauthenticated");
    for (method, path) in [
        ("GET", format!("{ITEM}/versions")),
        ("GET", "/v1/config/export".into()),
        ("GET", "/v1/config/audit".into()),
        ("POST", "/v1/config/keys/rotate".into()),
        ("POST", format!("{ITEM}/promote")),
        ("DELETE", ITEM.into()),
    ] {
        let refused = service.send(method, &path, None).await;
        refused.is_problem(403, "api.scope");
    }
    service
        .get(ITEM)
        .await
        .is_problem(404, "configs.item_unknown");
    let path = format!("{ITEM}?author=ann&note=first%20one");
    let written = admin
        .send_if_match("PUT", &path, body(&change), "\"0\"")
        .await;
    assert_eq!(written.status, 200, "{}", written.text);
    assert_eq!(written.headers["etag"], "\"1\"");
    let read = service.get(ITEM).await;
    assert_eq!(read.headers["etag"], "\"1\"");
    assert_eq!(read.headers["cache-control"], "no-store");
    let json = &read.json;
    assert_eq!(
        (&json["content"], &json["format"]),
        (&json!("a: 1"), &json!("yaml"))
    );
    assert_eq!(json["current"]["note"], "first one");
    assert_eq!(
        (&json["data_id"], &json["group"]),
        (&json!("orders"), &json!("DEFAULT_GROUP"))
    );
    let late = admin
        .send_if_match("PUT", ITEM, body(&change), "\"0\"")
        .await;
    late.is_problem(412, "configs.changed_meanwhile");
    let broken = json!({"content": "a: [", "format": "yaml"});
    admin
        .put(ITEM, broken)
        .await
        .is_problem(400, "configs.content_invalid");
    let misspelt = json!({"content": "a: 1", "fromat": "yaml"});
    admin
        .put(ITEM, misspelt)
        .await
        .is_problem(400, "api.body_invalid");
    let nowhere = "/v1/config/items/default/or%20ders/default/main";
    service
        .get(nowhere)
        .await
        .is_problem(400, "configs.item_invalid");
    let branch = "/v1/config/items/default/orders/default/feature%2Fx";
    put(admin, branch, "a: 2").await;
    assert_eq!(
        service.get(branch).await.json["item"],
        "default/orders/default/feature/x"
    );
    let listed = service
        .get("/v1/config/items?application=orders")
        .await
        .json;
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    assert!(listed["items"][0].get("content").is_none());
    let gone = admin.send("DELETE", ITEM, None).await;
    assert_eq!(gone.status, 204);
    service
        .get(ITEM)
        .await
        .is_problem(404, "configs.item_unknown");
    let purged = admin
        .send("DELETE", &format!("{ITEM}?purge=true"), None)
        .await;
    assert_eq!(purged.status, 204);
}

#[tokio::test]
async fn drafts_history_and_gray_releases() {
    let node = start().await;
    let (admin, service) = (&node.admin, &node.service);
    let below = |rest: &str| format!("{ITEM}{rest}");
    put(admin, ITEM, "a: 1\n").await;
    let draft = json!({"content": "a: 2\n", "schema": {"type": "object"}});
    assert_eq!(admin.put(&below("/draft"), draft).await.json["based_on"], 1);
    assert_eq!(
        admin.get("/v1/config/drafts").await.json["drafts"][0]["content"],
        "a: 2\n"
    );
    let publish = json!({"rule": {"labels": {"zone": "a"}}});
    let published = admin.send("POST", &below("/publish"), body(&publish)).await;
    assert_eq!(
        (&published.json["version"], &published.json["is_gray"]),
        (&json!(2), &json!(true))
    );
    let seen =
        async |query: &str| service.get(&format!("{ITEM}?{query}")).await.json["version"].clone();
    assert_eq!(
        (seen("labels=zone=a").await, seen("labels=zone=b").await),
        (json!(2), json!(1))
    );
    let widened = json!({"rule": {"instances": ["i-1"], "addresses": ["10.0.0.0/8"]}});
    assert_eq!(admin.put(&below("/gray"), widened).await.status, 200);
    assert_eq!(
        (seen("labels=zone=a").await, seen("instance=i-1").await),
        (json!(1), json!(2))
    );
    let local = json!({"rule": {"addresses": ["127.0.0.1"]}});
    admin.put(&below("/gray"), local).await;
    assert_eq!(seen("").await, json!(2), "the address is the peer's own");
    let nobody = json!({"rule": {}});
    admin
        .put(&below("/gray"), nobody)
        .await
        .is_problem(400, "configs.rule_invalid");
    let change = json!({"content": "a: 3"});
    admin
        .put(ITEM, change)
        .await
        .is_problem(412, "configs.gray_running");
    assert_eq!(
        admin.send("POST", &below("/promote"), None).await.json["version"],
        2
    );
    admin
        .send("POST", &below("/abort"), None)
        .await
        .is_problem(412, "configs.gray_absent");
    let diff = admin.get(&below("/diff?from=1&to=2")).await.json;
    assert_eq!(diff["lines"], "-a: 1\n+a: 2\n");
    assert_eq!(
        diff["changes"][0],
        json!({"difference": "changed", "name": "a", "from": 1, "to": 2})
    );
    let back = admin
        .send("POST", &below("/rollback"), body(&json!({"version": 1})))
        .await;
    assert_eq!(
        (&back.json["version"], &back.json["restores"]),
        (&json!(3), &json!(1))
    );
    let versions = admin.get(&below("/versions")).await.json;
    assert_eq!(versions["versions"].as_array().unwrap().len(), 3);
    assert_eq!(versions["versions"][1]["schema"], json!({"type": "object"}));
    assert_eq!(
        admin.get(&below("/versions/2")).await.json["content"],
        "a: 2\n"
    );
    admin
        .get(&below("/versions/9"))
        .await
        .is_problem(404, "configs.version_unknown");
    let audit = admin
        .get("/v1/config/audit?limit=2&item=default/orders/default/main")
        .await
        .json;
    let actions: Vec<_> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["action"].clone())
        .collect();
    assert_eq!(actions, ["roll_back", "promote"]);
    let export = admin.get("/v1/config/export").await.json;
    let imported = admin
        .send("POST", "/v1/config/import?dry_run=true", body(&export))
        .await;
    assert_eq!(
        imported.json,
        json!({"created": [], "changed": [], "same": 1})
    );
}

#[tokio::test]
async fn secrets_open_only_for_those_who_may_see_them() {
    for services_decrypt in [true, false] {
        let node = start_where(services_decrypt).await;
        let secret = json!({"value": "sekret"});
        let token = node
            .admin
            .send("POST", "/v1/config/encrypt", body(&secret))
            .await
            .json;
        let token = token["value"].as_str().unwrap().to_owned();
        node.service
            .send("POST", "/v1/config/encrypt", body(&secret))
            .await
            .is_problem(403, "api.scope");
        put(&node.admin, ITEM, &format!("password: '{token}'")).await;
        assert_eq!(
            node.service.get(EFFECTIVE).await.json["document"]["password"],
            token.as_str()
        );
        for path in [ITEM, EFFECTIVE] {
            let revealed = node.service.get(&format!("{path}?reveal=true")).await;
            match services_decrypt {
                true => assert!(revealed.text.contains("sekret"), "{}", revealed.text),
                false => revealed.is_problem(403, "configs.reveal_forbidden"),
            }
            let revealed = node.admin.get(&format!("{path}?reveal=true")).await;
            assert!(revealed.text.contains("sekret"));
        }
        let watched = node
            .service
            .get("/v1/watch/config/default/orders?reveal=true&wait=1s")
            .await;
        watched.is_problem(400, "api.query_invalid");
        let audit = node.admin.get("/v1/config/audit").await.json;
        assert_eq!(audit["entries"][0]["action"], "reveal");
        for path in [
            "/v1/config/export",
            "/v1/config/audit",
            &format!("{ITEM}/versions/1"),
            "/metrics",
        ] {
            assert!(
                !node.admin.get(path).await.text.contains("sekret"),
                "{path}"
            );
        }
        let rotated = node
            .admin
            .send("POST", "/v1/config/keys/rotate?values=true", None)
            .await;
        assert_eq!(
            (&rotated.json["key"], &rotated.json["items"]),
            (&json!(2), &json!(1))
        );
        let foreign = json!({"content": "a={cipher}0011", "format": "properties"});
        node.admin
            .put(ITEM, foreign)
            .await
            .is_problem(400, "configs.secret_invalid");
    }
}

#[tokio::test]
async fn a_wait_ends_with_the_change_or_without_one() {
    let node = start().await;
    let (admin, service) = (&node.admin, &node.service);
    put(admin, ITEM, "a: 1").await;
    let first = service.get(EFFECTIVE).await.json;
    let known = first["version"].as_str().unwrap();
    let nothing = service.get(&format!("{EFFECTIVE}?known={known}")).await;
    assert_eq!((nothing.status.as_u16(), nothing.text.as_str()), (304, ""));
    let nothing = service.get(&format!("{ITEM}?known=1&wait=10ms")).await;
    assert_eq!(nothing.status, 304);
    // Both wait longer than any other request may take; the change ends them.
    let waiting = [
        format!("{EFFECTIVE}?known={known}&wait=60s"),
        format!("{ITEM}?known=1&wait=60s"),
    ];
    let waiting = waiting.map(|path| {
        let client = service.clone();
        tokio::spawn(async move { client.get(&path).await })
    });
    put(admin, ITEM, "a: 2").await;
    let [effective, item] = waiting;
    assert_eq!(effective.await.unwrap().json["document"], json!({"a": 2}));
    assert_eq!(item.await.unwrap().json["content"], "a: 2");
    for bad in [
        "wait=61s",
        "wait=x",
        "labels=x",
        "profiles=a:b",
        "reveal=maybe",
    ] {
        let refused = service.get(&format!("{EFFECTIVE}?{bad}")).await;
        assert_eq!(refused.status, 400, "{bad}");
    }
    let now = service
        .get(&format!("{EFFECTIVE}?consistent=true"))
        .await
        .json;
    assert_eq!(now["document"], json!({"a": 2}));
}

#[tokio::test]
async fn a_watch_goes_on_where_it_ended() {
    let node = start().await;
    let admin = &node.admin;
    put(admin, ITEM, "a: 1").await;
    let path = "/v1/watch/config/default/orders?profiles=prod&instance=i-1";
    let mut events = Events::open(&node.service, path).await;
    let first = events.next().await;
    assert_eq!(
        (first.event.as_str(), &first.data["document"]),
        ("config", &json!({"a": 1}))
    );
    assert_eq!(events.next().await.event, "synced");
    put(admin, "/v1/config/items/default/other/default/main", "b: 1").await;
    put(admin, "/v1/config/items/default/orders/prod/main", "a: 2").await;
    let second = events.next().await;
    assert_eq!(second.data["document"], json!({"a": 2}));
    assert_eq!(
        second.data["sources"][0]["item"],
        "default/orders/prod/main"
    );
    drop(events);
    let mut resumed = Events::open_after(&node.service, path, &second.id).await;
    assert_eq!(
        resumed.next().await.event,
        "synced",
        "what is known does not come again"
    );
    put(
        admin,
        "/v1/config/items/default/application/default/main",
        "c: 1",
    )
    .await;
    assert_eq!(
        resumed.next().await.data["document"],
        json!({"a": 2, "c": 1})
    );
    let mut behind = Events::open_after(&node.service, path, &first.id).await;
    assert_eq!(
        behind.next().await.data["document"],
        json!({"a": 2, "c": 1})
    );
    let metrics = admin.get("/metrics").await.text;
    assert!(metrics.contains("\nsinew_configs_items 4\n"), "{metrics}");
    node.drain.start();
    assert!(behind.ended().await);
}
