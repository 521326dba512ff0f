//! The registry's reads, namespaces, checks and an operator's word.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::{ORDERS_1, client::Events, orders, start};

#[tokio::test]
async fn everything_that_is_said_comes_back() {
    let node = start().await;
    let said = json!({
        "address": "10.0.0.1", "port": 80, "weight": 0.5, "zone": "a", "version": "2",
        "ports": [{"name": "admin", "protocol": "http", "number": 81}],
        "persistent": true, "deregister_after_ms": 60_000, "metadata": {"team": "shop"},
        "checks": [
            {"id": "alive", "kind": {"http": {"target": "/health"}}, "interval_ms": 5000},
            {"id": "batch", "kind": {"reported": {}}},
        ],
    });
    let created = node.service.put(ORDERS_1, said).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);
    let expected = json!({
        "service": "orders", "id": "orders-1", "address": "10.0.0.1", "port": 80,
        "ports": [{"name": "admin", "protocol": "http", "number": 81}],
        "status": "up", "health": "unknown", "weight": 0.5, "zone": "a", "version": "2",
        "metadata": {"team": "shop"}, "persistent": true, "deregister_after_ms": 60_000,
        "checks": [
            {"id": "alive", "kind": {"http": {"target": "/health", "method": "GET", "from": 200, "to": 299}},
             "interval_ms": 5000, "timeout_ms": 3000, "failures": 3, "passes": 2, "health": "unknown"},
            {"id": "batch", "kind": {"reported": {}},
             "interval_ms": 10000, "timeout_ms": 3000, "failures": 3, "passes": 2, "health": "unknown"},
        ],
        "revision": created.json["revision"],
    });
    assert_eq!(created.json, expected);
    assert_eq!(node.service.get(ORDERS_1).await.json, expected);

    let report = json!({"health": "critical", "output": "no rows for an hour"});
    let path = format!("{ORDERS_1}/checks/batch");
    let reported = node.service.put(&path, report).await.json;
    assert_eq!(
        (&reported["status"], &reported["health"]),
        (&json!("down"), &json!("critical"))
    );
    assert_eq!(reported["own_status"], "up");
    assert_eq!(reported["checks"][1]["output"], "no rows for an hour");

    for (change, code) in [
        (json!({"weight": -1}), "registry.metadata_invalid"),
        (
            json!({"checks": [{"id": "a", "kind": {"tcp": {"target": "x"}}}]}),
            "registry.check_invalid",
        ),
        (
            json!({"checks": [{"id": "a", "kind": {"exec": {"run": "x"}}}]}),
            "api.body_invalid",
        ),
        (
            json!({"ports": [{"name": "", "protocol": "http", "number": 1}]}),
            "registry.address_invalid",
        ),
    ] {
        let mut wrong = orders();
        wrong
            .as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        node.service
            .put(ORDERS_1, wrong)
            .await
            .is_problem(400, code);
    }
    let unknown = node.service.get("/v1/services/orders/instances/x").await;
    unknown.is_problem(404, "registry.instance_unknown");
}

#[tokio::test]
async fn an_operators_word_counts_until_it_is_taken_back() {
    let node = start().await;
    node.service.put(ORDERS_1, orders()).await;
    let path = format!("{ORDERS_1}/override");
    let out = json!({"status": "out_of_service"});
    node.service
        .put(&path, out.clone())
        .await
        .is_problem(403, "api.scope");
    let set = node.admin.put(&path, out).await.json;
    assert_eq!(
        (&set["status"], &set["own_status"], &set["override_status"]),
        (
            &json!("out_of_service"),
            &json!("up"),
            &json!("out_of_service")
        )
    );
    let again = node.service.put(ORDERS_1, orders()).await.json;
    assert_eq!(again["status"], "out_of_service");
    let back = node.admin.delete(&path).await.json;
    assert_eq!(
        (&back["status"], &back["override_status"]),
        (&json!("up"), &Value::Null)
    );
}

#[tokio::test]
async fn namespaces_and_conditions() {
    let node = start().await;
    let client = &node.service;
    client.put(ORDERS_1, orders()).await;
    let other = "/v1/services/orders/instances/orders-2";
    client
        .put(
            other,
            json!({"address": "10.0.0.1", "port": 80, "zone": "b"}),
        )
        .await;
    let theirs = format!("{other}?namespace=team-a");
    let created = client.put(&theirs, orders()).await;
    assert_eq!(
        (created.status, &created.json["namespace"]),
        (StatusCode::CREATED, &json!("team-a"))
    );
    let heartbeat = "/v1/services/orders/instances/orders-2/heartbeat?namespace=team-a";
    assert_eq!(client.post(heartbeat).await.status, StatusCode::OK);

    let ids = async |path: &str| -> Vec<String> {
        let list = client.get(path).await.json;
        let services = match list["services"].as_array() {
            Some(services) => services.clone(),
            None => vec![list],
        };
        let instances = services
            .iter()
            .flat_map(|service| service["instances"].as_array().unwrap());
        instances
            .map(|instance| instance["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids("/v1/services").await, ["orders-1", "orders-2"]);
    assert_eq!(ids("/v1/services?namespace=team-a").await, ["orders-2"]);
    assert_eq!(ids("/v1/services?namespace=*").await.len(), 3);
    assert_eq!(ids("/v1/services?zone=b").await, ["orders-2"]);
    assert_eq!(
        ids("/v1/services/orders?metadata=zone%3Da&consistent").await,
        ["orders-1"]
    );
    assert_eq!(ids("/v1/services/orders?health=critical").await.len(), 0);
    client
        .get("/v1/services/orders?namespace=*")
        .await
        .is_problem(400, "api.query_invalid");
    client
        .get("/v1/services?zones=a")
        .await
        .is_problem(400, "api.query_invalid");
    assert_eq!(client.delete(&theirs).await.status, StatusCode::NO_CONTENT);
    assert_eq!(ids("/v1/services?namespace=*").await.len(), 2);
}

#[tokio::test]
async fn a_read_waits_for_a_change() {
    let node = start().await;
    let client = &node.service;
    let first = client.put(ORDERS_1, orders()).await;
    let list = client.get("/v1/services/orders").await;
    let revision = first.json["revision"].to_string();
    assert_eq!(list.headers["x-sinew-revision"], *revision);
    assert!(!list.headers.contains_key("x-sinew-stale-ms"));

    let path = format!("/v1/services/orders?wait=60s&index={revision}");
    let waiting = client.get(&path);
    let change = async {
        // Nothing shows from outside that the other waits; if it does not yet, it answers at once.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let other = "/v1/services/carts/instances/carts-1";
        client.put(other, orders()).await;
        client
            .put("/v1/services/orders/instances/orders-2", orders())
            .await
    };
    let (changed, change) = tokio::join!(waiting, change);
    assert_eq!(changed.json["revision"], change.json["revision"]);
    assert_eq!(changed.json["instances"].as_array().unwrap().len(), 2);

    let newest = changed.json["revision"].as_u64().unwrap();
    let late = client
        .get(&format!("/v1/services?wait=10ms&index={newest}"))
        .await;
    assert_eq!(
        (late.status, &late.json["revision"]),
        (StatusCode::OK, &json!(newest))
    );
    let unchanged = client.get("/v1/services/unknown?wait=10ms&index=0").await;
    assert_eq!(unchanged.json["instances"], json!([]));
}

#[tokio::test]
async fn a_watch_goes_on_from_a_revision() {
    let node = start().await;
    let client = &node.service;
    client.put(ORDERS_1, orders()).await;
    client
        .put("/v1/services/carts/instances/carts-1", orders())
        .await;
    let mut watch = Events::open(client, "/v1/watch/services").await;
    let synced = loop {
        let event = watch.next().await;
        if event.event == "synced" {
            break event.id;
        }
        assert_eq!(event.id, "");
    };
    drop(watch);
    client
        .put("/v1/services/carts/instances/carts-2", orders())
        .await;
    client.delete(ORDERS_1).await;

    let mut watch = Events::open(client, &format!("/v1/watch/services?since={synced}")).await;
    let mut seen = [watch.next().await, watch.next().await];
    seen.sort_by_key(|event| event.data["name"].to_string());
    assert_eq!(seen[0].counted(), ("carts", 2));
    assert_eq!(seen[1].counted(), ("orders", 0), "its end is not forgotten");
    let synced = watch.next().await;
    assert_eq!(synced.event, "synced");
    client.put(ORDERS_1, orders()).await;
    let event = watch.next().await;
    assert_eq!(event.counted(), ("orders", 1));
    assert_eq!(event.id, event.data["revision"].to_string());

    let path = format!("/v1/watch/services?service=carts&since={}", event.id);
    let mut up_to_date = Events::open(client, &path).await;
    assert_eq!(up_to_date.next().await.event, "synced");
    // From a future that this node does not know it begins anew.
    let mut future = Events::open(client, "/v1/watch/services?since=99999").await;
    assert_eq!(future.next().await.event, "reset");
    assert_eq!(future.next().await.counted(), ("carts", 2));
}
