use std::time::Duration;

use axum::{Router, routing::get};
use sinew_sdk::{Error, Kind, Service};

use crate::{eventually, fake_node::FakeNode, to_running};

fn service(node: &FakeNode) -> Service {
    let environment = node.environment().with("SINEW_INSTANCE", "orders-1");
    let router = Router::new().route("/", get(|| async { "hello" }));
    Service::with_environment("orders", environment)
        .unwrap()
        .routes(router)
}

#[tokio::test]
async fn a_service_registers_where_it_listens_and_deregisters_at_its_end() {
    let node = FakeNode::start().await;
    let running = service(&node).metadata("zone", "a").start().await.unwrap();
    assert_eq!(node.wait_for("orders", "orders-1").await, running.address());
    let metadata = &node.find("orders", "orders-1").unwrap()["metadata"];
    assert_eq!(metadata["zone"], "a");
    assert_eq!(metadata["pid"], std::process::id().to_string());
    running.stop().await;
    assert!(!node.has("orders", "orders-1"));
}

#[tokio::test]
async fn it_serves_while_the_node_is_not_up_and_registers_when_it_is() {
    let mut node = FakeNode::not_started().await;
    let running = service(&node).start().await.unwrap();
    let reply = to_running(&running).get("it", "/").send().await.unwrap();
    assert_eq!(reply.text(), "hello");
    node.restart().await;
    node.wait_for("orders", "orders-1").await;
}

#[tokio::test]
async fn a_node_that_came_back_without_its_data_knows_it_again() {
    let mut node = FakeNode::start().await;
    let _running = service(&node).start().await.unwrap();
    node.wait_for("orders", "orders-1").await;
    node.wait_for_watch("orders").await;
    node.kill().await;
    node.forget();
    node.restart().await;
    // The lease is ten minutes: no heartbeat is due, so it is the broken watch that tells.
    node.wait_for("orders", "orders-1").await;
}

#[tokio::test]
async fn a_node_that_came_back_with_its_data_is_not_registered_at_again() {
    let mut node = FakeNode::start().await;
    let _running = service(&node).start().await.unwrap();
    node.wait_for("orders", "orders-1").await;
    node.wait_for_watch("orders").await;
    node.kill().await;
    node.restart().await;
    let beats = |node: &FakeNode| {
        node.log()
            .iter()
            .filter(|l| l.ends_with("/heartbeat"))
            .count()
    };
    let before = beats(&node);
    eventually("asked whether it is known", || beats(&node) > before).await;
    let registrations = node
        .log()
        .iter()
        .filter(|line| line.starts_with("PUT"))
        .count();
    assert_eq!(registrations, 1, "{:?}", node.log());
}

#[tokio::test]
async fn an_instance_missing_from_the_list_registers_again() {
    let node = FakeNode::start().await;
    let _running = service(&node).start().await.unwrap();
    node.wait_for("orders", "orders-1").await;
    node.wait_for_watch("orders").await;
    // The node is up all the time, but the lease ended.
    node.remove("orders", "orders-1");
    node.wait_for("orders", "orders-1").await;
}

#[tokio::test]
async fn a_node_that_answers_nonsense_is_asked_again() {
    let node = FakeNode::start().await;
    node.refuse_all(true);
    let _running = service(&node).start().await.unwrap();
    let tried = || {
        node.log()
            .iter()
            .filter(|line| line.starts_with("PUT"))
            .count()
            >= 3
    };
    eventually("tried again", tried).await;
    node.refuse_all(false);
    node.wait_for("orders", "orders-1").await;
}

#[tokio::test]
async fn it_registers_only_once_it_is_ready() {
    let node = FakeNode::start().await;
    let (ready, is_ready) = tokio::sync::watch::channel(false);
    let running = service(&node)
        .ready_check("database", move || {
            let ready = *is_ready.borrow();
            async move {
                match ready {
                    true => Ok(()),
                    false => Err(Error::new(Kind::Unavailable, "test.closed", "it is closed")),
                }
            }
        })
        .start()
        .await
        .unwrap();
    let client = to_running(&running);
    let reply = client.post("it", "/health/ready").send().await.unwrap();
    assert_eq!(reply.status(), 405);
    let health = || async {
        let reply = client.get("it", "/health/ready").send().await.unwrap();
        (
            reply.status().as_u16(),
            reply.json::<serde_json::Value>().unwrap(),
        )
    };
    let (status, body) = health().await;
    assert_eq!(
        (status, &body["checks"]["database"]),
        (503, &"it is closed".into())
    );
    assert!(!node.has("orders", "orders-1"));
    ready.send_replace(true);
    node.wait_for("orders", "orders-1").await;
    let (status, body) = health().await;
    assert_eq!((status, &body["status"]), (200, &"up".into()));
}

#[tokio::test]
async fn a_drain_is_announced_before_it_happens() {
    let node = FakeNode::start().await;
    let running = service(&node)
        .drain_times(Duration::from_millis(50), Duration::from_secs(5))
        .start()
        .await
        .unwrap();
    node.wait_for("orders", "orders-1").await;
    running.stop().await;
    let log = node.log();
    let at = |what: &str| log.iter().position(|line| line.contains(what));
    let (draining, gone) = (at("orders-1/status"), at("DELETE"));
    assert!(draining.is_some() && draining < gone, "{log:?}");
}
