//! The dialects of other registries, on their own listeners and under the control API.

use serde_json::json;
use sinew_node::{ConsulConfig, DialectConfig, Node};

use super::{config, http};

#[tokio::test]
async fn eureka_clients_have_a_listener_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.eureka = Some(DialectConfig {
        address: "127.0.0.1:0".parse().unwrap(),
        cleartext: false,
    });
    let node = Node::start(config.clone()).await.unwrap();
    let token = node.service_token().to_owned();
    let own = node.endpoints().dialects["eureka"].clone();
    let own = own.strip_prefix("http://").unwrap().parse().unwrap();
    let announced = json!({"instance": {
        "app": "ORDERS", "instanceId": "o-1", "hostName": "box", "ipAddr": "127.0.0.1",
        "port": {"$": 8080, "@enabled": "true"}, "dataCenterInfo": {"name": "MyOwn"},
    }});
    let path = "/eureka/apps/ORDERS";
    let answer = http::send(own, "POST", path, Some(&token), None, &announced).await;
    assert_eq!(answer.status, 204, "{}", answer.body);
    let control = node.control_address();
    for address in [own, control] {
        let answer = http::get(address, path, Some(&token)).await;
        assert_eq!(answer.status, 200);
        assert!(
            answer.body.contains("<instanceId>o-1</instanceId>"),
            "{}",
            answer.body
        );
        assert_eq!(http::get(address, path, None).await.status, 401);
    }
    // Only the control API has the rest.
    let rest = "/v1/services/orders";
    assert_eq!(http::get(own, rest, Some(&token)).await.status, 404);
    let known = http::get(control, rest, Some(&token)).await.json();
    assert_eq!(known["instances"][0]["id"], "o-1");
    let metrics = http::get(control, "/metrics", None).await.body;
    let line = "sinew_registry_eureka_requests_total{operation=\"register\",outcome=\"ok\"} 1\n";
    assert!(metrics.contains(line), "{metrics}");

    let other = tempfile::tempdir().unwrap();
    config.data = other.path().to_owned();
    config.eureka = Some(DialectConfig {
        address: own,
        cleartext: false,
    });
    let error = Node::start(config).await.err().unwrap();
    assert_eq!(error.code(), "node.port_taken");
    assert!(
        error.message().contains("[registry.eureka] address"),
        "{}",
        error.message()
    );
}

#[tokio::test]
async fn consul_clients_have_a_listener_when_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.consul = Some(ConsulConfig {
        listener: DialectConfig {
            address: "127.0.0.1:0".parse().unwrap(),
            cleartext: false,
        },
        datacenter: "here".to_owned(),
        node: "one".to_owned(),
    });
    let node = Node::start(config).await.unwrap();
    let token = node.service_token().to_owned();
    let own = node.endpoints().dialects["consul"].clone();
    let own = own.strip_prefix("http://").unwrap().parse().unwrap();
    let body = json!({"Name": "orders", "Port": 8080});
    let path = "/v1/agent/service/register";
    let answer = http::send(own, "PUT", path, Some(&token), None, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let found = http::get(own, "/v1/health/service/orders?passing", Some(&token)).await;
    assert_eq!(found.json()[0]["Node"]["Datacenter"], "here");
    assert_eq!(http::get(own, "/v1/kv/a", None).await.status, 403);
    let control = node.control_address();
    let known = http::get(control, "/v1/services/orders", Some(&token)).await;
    assert_eq!(known.json()["instances"][0]["address"], "127.0.0.1");
    assert_eq!(
        http::get(control, "/v1/kv/a", Some(&token)).await.status,
        404
    );
    let metrics = http::get(control, "/metrics", None).await.body;
    assert!(metrics.contains("sinew_consul_responses_total{class=\"2xx\"} 2\n"));
    assert!(metrics.contains("sinew_keyspace_sessions 0\n"));
}
