//! Two nodes over one real server of each kind that this build can talk to.

use serde_json::json;
use sinew_node::Config;
use sinew_testbed::Server;

use crate::{config, routes::Running};

/// Longer than what one commit of any engine takes.
fn many_routes() -> serde_json::Value {
    let route = |number: usize| {
        let path = format!("/{}/{number}", "long".repeat(60));
        json!({"name": format!("r{number}"), "path": path, "service": "hello"})
    };
    json!({ "routes": (0..10_000).map(route).collect::<Vec<_>>() })
}

async fn share(url: String) {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let over = |data: &std::path::Path| Config {
        kv: url.clone(),
        ..config(data)
    };
    let one = Running::start(over(here.path())).await;
    let other = Running::start(over(there.path())).await;
    let small = json!({"routes": [{"name": "a", "path": "/a", "service": "hello"}]});
    one.until(|routes| routes["is_stale"] == false).await;
    let put = one.put(Some(0), small).await;
    assert_eq!(put.status, 200, "{put:?}");
    other.until(|routes| routes["version"] == 1).await;
    assert_eq!(other.status_of("/a").await, 503, "the route is there");

    let put = other.put(Some(1), many_routes()).await;
    assert_eq!(put.status, 200, "{}", put.body.len());
    one.until(|routes| routes["version"] == 2).await;
    assert_eq!(
        one.get("/v1/routes/versions/2").await["document"],
        many_routes()
    );
    assert_eq!(one.status_of("/a").await, 404);
    other.stop().await;

    let other = Running::start(over(there.path())).await;
    assert_eq!(other.get("/v1/routes").await["version"], 2);
    let back = json!({"version": 1});
    let back = other
        .send("POST", "/v1/routes/rollback", Some(2), back)
        .await;
    assert_eq!(back.status, 200, "{back:?}");
    one.until(|routes| routes["version"] == 3).await;
    assert_eq!(one.status_of("/a").await, 503);
    one.stop().await;
    other.stop().await;
}

#[cfg(feature = "etcd")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_share_their_routes_over_etcd() {
    let start = || Server::start(sinew_testbed::Etcd::default());
    let server = tokio::task::block_in_place(start).unwrap();
    share(format!("etcd://{}", server.address())).await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_share_their_routes_over_postgresql() {
    let start = || Server::start(sinew_testbed::Postgres::default());
    let server = tokio::task::block_in_place(start).unwrap();
    share(format!("postgres://sinew@{}/postgres", server.address())).await;
}
