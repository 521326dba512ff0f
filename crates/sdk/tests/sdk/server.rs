use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sinew_sdk::{Client, Json, Path, Query, Service, client::Response};
use tokio::sync::Notify;

use crate::{alone, eventually, to_running};

#[derive(Serialize, Deserialize)]
struct Item {
    name: String,
    count: u32,
}

#[derive(Deserialize)]
struct Page {
    limit: u32,
}

fn service() -> Service {
    let router = Router::new()
        .route(
            "/items",
            post(|Json(item): Json<Item>| async { Json(item) }),
        )
        .route(
            "/items",
            get(|Query(page): Query<Page>| async move { page.limit.to_string() }),
        )
        .route(
            "/items/{id}",
            get(|Path(id): Path<u32>| async move { id.to_string() }),
        )
        .route(
            "/slow",
            get(|| async { tokio::time::sleep(Duration::from_secs(60)).await }),
        )
        .route("/panic", get(|| async { panic!("a defect") as () }))
        .route(
            "/read",
            post(|request: Request| async { read(request).await.to_string() }),
        )
        .route("/bare", get(|| async { http::StatusCode::NOT_FOUND }));
    alone("it").routes(router).max_body(1000)
}

async fn read(request: Request) -> bool {
    axum::body::to_bytes(request.into_body(), usize::MAX)
        .await
        .is_ok()
}

async fn code(request: sinew_sdk::client::Request) -> (u16, String) {
    let response = request.send().await.unwrap();
    let code = response
        .problem()
        .map(|problem| problem.code)
        .unwrap_or_default();
    (response.status().as_u16(), code)
}

#[tokio::test]
async fn what_cannot_be_served_is_told_as_a_problem() {
    let running = service().start().await.unwrap();
    let client = to_running(&running);
    let item = Item {
        name: "a".into(),
        count: 2,
    };
    let reply = client
        .post("it", "/items")
        .json(&item)
        .send()
        .await
        .unwrap();
    assert_eq!(reply.json::<Item>().unwrap().count, 2);

    let json = |text: &'static str| {
        client
            .post("it", "/items")
            .header("content-type", "application/json")
            .body(text)
    };
    let large = format!("{{\"name\":\"{}\",\"count\":1}}", "x".repeat(1000));
    for (request, expected) in [
        (client.get("it", "/nothing"), (404, "sdk.route_unknown")),
        (
            client.delete("it", "/items"),
            (405, "sdk.method_not_allowed"),
        ),
        (json("{\"name\":"), (400, "sdk.body_invalid")),
        (
            json("{\"name\":\"a\",\"count\":-1}"),
            (400, "sdk.body_invalid"),
        ),
        (
            client.post("it", "/items").body("{}"),
            (415, "sdk.body_not_json"),
        ),
        (json("{}").body(large), (413, "sdk.body_too_large")),
        (client.get("it", "/items/x"), (400, "sdk.path_invalid")),
        (
            client.get("it", "/items").query("limit", "x"),
            (400, "sdk.query_invalid"),
        ),
        (client.get("it", "/items"), (400, "sdk.query_invalid")),
        (client.get("it", "/panic"), (500, "sdk.handler_panicked")),
        // The handler's own choice is left as it is.
        (client.get("it", "/bare"), (404, "")),
    ] {
        let (status, code) = code(request).await;
        assert_eq!((status, code.as_str()), expected);
    }
    // After all that it still serves.
    let reply = client
        .get("it", "/items")
        .query("limit", 7)
        .send()
        .await
        .unwrap();
    assert_eq!(reply.text(), "7");
}

/// Sends raw bytes and reads until the other side closes.
async fn raw(running: &sinew_sdk::Running, text: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(running.address())
        .await
        .unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    let read = stream.read_to_end(&mut reply);
    let _ = tokio::time::timeout(Duration::from_secs(15), read)
        .await
        .expect("it closes");
    String::from_utf8_lossy(&reply).into_owned()
}

#[tokio::test]
async fn bodies_without_a_length_are_bounded_too() {
    let running = service().start().await.unwrap();
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    let head = "Host: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n";
    let json = "Content-Type: application/json\r\n";
    let reply = raw(
        &running,
        &format!("POST /items HTTP/1.1\r\n{head}{json}\r\n{chunk}0\r\n\r\n"),
    )
    .await;
    assert!(
        reply.starts_with("HTTP/1.1 413") && reply.contains("sdk.body_too_large"),
        "{reply}"
    );
    // A handler that reads the body by itself meets the bound as well.
    let reply = raw(
        &running,
        &format!("POST /read HTTP/1.1\r\n{head}\r\n{chunk}0\r\n\r\n"),
    )
    .await;
    assert!(reply.ends_with("false"), "{reply}");
}

#[tokio::test]
async fn slow_handlers_are_given_up() {
    let running = service()
        .handler_timeout(Duration::from_millis(50))
        .start()
        .await
        .unwrap();
    let (status, code) = code(to_running(&running).get("it", "/slow").idempotent(false)).await;
    assert_eq!((status, code.as_str()), (504, "sdk.handler_timeout"));
}

#[tokio::test]
async fn a_caller_that_waits_less_long_shortens_the_time() {
    let running = service().start().await.unwrap();
    let reply = raw(
        &running,
        "GET /slow HTTP/1.1\r\nHost: x\r\nX-Timeout-Ms: 20\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(reply.starts_with("HTTP/1.1 504"), "{reply}");
}

/// Waits, but not for ever.
async fn within<F: Future>(wait: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(15), wait)
        .await
        .expect("it happens")
}

/// A handler that says when it has begun, and ends when it is told to.
fn gate() -> (Router, Arc<Notify>, Arc<Notify>) {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (begun, go) = (begun.clone(), go.clone());
        move || {
            let (begun, go) = (begun.clone(), go.clone());
            async move {
                begun.notify_one();
                go.notified().await;
                "done"
            }
        }
    };
    (Router::new().route("/gate", get(handler)), begun, go)
}

fn send(client: &Client, path: &str) -> tokio::task::JoinHandle<sinew_sdk::Result<Response>> {
    tokio::spawn(client.get("it", path).idempotent(false).send())
}

#[tokio::test]
async fn too_many_requests_at_once_are_refused_and_health_is_not() {
    let (router, begun, go) = gate();
    let running = alone("it")
        .routes(router)
        .max_requests(1)
        .start()
        .await
        .unwrap();
    let client = to_running(&running);
    let first = send(&client, "/gate");
    within(begun.notified()).await;
    let refused = send(&client, "/gate").await.unwrap().unwrap();
    assert_eq!(refused.problem().unwrap().code, "sdk.overloaded");
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(
        client
            .get("it", "/health/live")
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    go.notify_one();
    assert_eq!(first.await.unwrap().unwrap().text(), "done");
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight() {
    let (router, begun, go) = gate();
    let service = alone("it").routes(router);
    let service = service.drain_times(Duration::from_millis(100), Duration::from_secs(15));
    let background = service.drain();
    let running = service.start().await.unwrap();
    let (client, address) = (to_running(&running), running.address());
    let first = send(&client, "/gate");
    within(begun.notified()).await;
    let guard = background.guard();
    let stop = tokio::spawn(running.stop());
    // Background work hears of it at once; callers that have not noticed yet are still served.
    background.wait().await;
    let second = send(&client, "/gate");
    within(begun.notified()).await;
    let ready = client.get("it", "/health/ready").send().await.unwrap();
    assert_eq!(ready.json::<Value>().unwrap()["status"], "draining");
    eventually("new connections are refused", || {
        std::net::TcpStream::connect(address).is_err()
    })
    .await;
    go.notify_one();
    assert_eq!(first.await.unwrap().unwrap().text(), "done");
    go.notify_one();
    assert_eq!(second.await.unwrap().unwrap().text(), "done");
    assert!(!stop.is_finished(), "background work holds it up");
    drop(guard);
    stop.await.unwrap();
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let (router, begun, _go) = gate();
    let service = alone("it").routes(router);
    let service = service.drain_times(Duration::ZERO, Duration::from_millis(50));
    let running = service.start().await.unwrap();
    let client = to_running(&running);
    let stuck = send(&client, "/gate");
    within(begun.notified()).await;
    tokio::time::timeout(Duration::from_secs(15), running.stop())
        .await
        .expect("it ends");
    stuck.abort();
}

#[tokio::test]
async fn requests_are_counted_by_route() {
    let service = service();
    service
        .metrics()
        .counter("orders_paid_total", "Orders paid.", &[])
        .add(3);
    let running = service.start().await.unwrap();
    let client = to_running(&running);
    for path in ["/items/1", "/items/2", "/nothing/a", "/nothing/b"] {
        client.get("it", path).send().await.unwrap();
    }
    let reply = client.get("it", "/metrics").send().await.unwrap();
    let text = reply.text();
    for line in [
        "sinew_service_requests_total{method=\"GET\",route=\"/items/{id}\",status=\"200\"} 2",
        "sinew_service_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"} 2",
        "sinew_service_request_duration_seconds_count{method=\"GET\",route=\"/items/{id}\"} 2",
        "sinew_service_requests_in_flight 0",
        "orders_paid_total 3",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_request_id_is_kept_or_made() {
    let running = service().start().await.unwrap();
    let client = to_running(&running);
    let reply = client.get("it", "/items/1").send().await.unwrap();
    assert!(!reply.headers()["x-request-id"].is_empty());
    let reply = raw(
        &running,
        "GET /x HTTP/1.1\r\nHost: x\r\nX-Request-Id: me\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(reply.contains("x-request-id: me\r\n"), "{reply}");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let running = service().start().await.unwrap();
    let port = running.address().port().to_string();
    let environment = sinew_sdk::Environment::default().with("PORT", port.clone());
    let error = Service::with_environment("it", environment)
        .unwrap()
        .start()
        .await
        .unwrap_err();
    assert_eq!(error.code(), "sdk.port_taken");
    assert!(error.message().contains(&port));
}
