use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
    routing::{any, get},
};
use serde_json::{Value, json};
use sinew_sdk::{Client, Json, Path, Problem, Retry, Running, Service, client::segment};

use crate::{alone, eventually, fake_node::FakeNode, refusing_address, to, to_running};

/// A service that answers `status` with its own name to everything, and counts.
async fn answering(name: &'static str, status: StatusCode) -> (Running, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let handler = move || {
        counted.fetch_add(1, SeqCst);
        async move { (status, name) }
    };
    let router = Router::new().route("/", any(handler));
    (alone(name).routes(router).start().await.unwrap(), count)
}

/// Accepts connections and never answers.
async fn hanging() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    address
}

/// Reads a request and closes without an answer.
async fn breaking() -> (SocketAddr, Arc<AtomicUsize>) {
    use tokio::io::AsyncReadExt;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, SeqCst);
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    (address, count)
}

fn client(addresses: &[SocketAddr]) -> Client {
    Client::fixed(addresses.iter().map(|address| ("it", *address)), None).unwrap()
}

#[tokio::test]
async fn an_instance_that_is_gone_costs_nobody_anything() {
    let (good, count) = answering("good", StatusCode::OK).await;
    let client = client(&[refusing_address().await, good.address()]);
    for _ in 0..20 {
        // Not idempotent: but nothing was sent to the one that is gone.
        let reply = client.post("it", "/").send().await.unwrap();
        assert_eq!(reply.text(), "good");
    }
    assert_eq!(count.load(SeqCst), 20);
}

#[tokio::test]
async fn a_503_is_asked_of_another_instance_when_the_request_may_be_repeated() {
    let (busy, asked) = answering("busy", StatusCode::SERVICE_UNAVAILABLE).await;
    let (good, _) = answering("good", StatusCode::OK).await;
    let client = client(&[busy.address(), good.address()]);
    for n in 0..10 {
        let request = if n % 2 == 0 {
            client.get("it", "/")
        } else {
            client.post("it", "/")
        };
        let reply = request.idempotent(true).send().await.unwrap();
        assert_eq!(reply.text(), "good");
    }
    asked.store(0, SeqCst);
    let mut refused = 0;
    for _ in 0..10 {
        let reply = client.post("it", "/").send().await.unwrap();
        refused += usize::from(reply.status() == StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(
        refused,
        asked.load(SeqCst),
        "each POST that met the busy one was refused once"
    );
}

#[tokio::test]
async fn a_503_of_the_only_instance_is_the_answer() {
    let (busy, asked) = answering("busy", StatusCode::SERVICE_UNAVAILABLE).await;
    let reply = client(&[busy.address()])
        .get("it", "/")
        .send()
        .await
        .unwrap();
    assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(asked.load(SeqCst), 1);
}

#[tokio::test]
async fn broken_connections_are_retried_only_where_it_does_no_harm() {
    let (broken, asked) = breaking().await;
    let (good, _) = answering("good", StatusCode::OK).await;
    let both = client(&[broken, good.address()]);
    for _ in 0..10 {
        assert_eq!(both.put("it", "/").send().await.unwrap().text(), "good");
    }
    asked.store(0, SeqCst);
    let error = client(&[broken]).post("it", "/").send().await.unwrap_err();
    assert_eq!((error.code(), asked.load(SeqCst)), ("sdk.call_failed", 1));
}

#[tokio::test]
async fn a_hanging_instance_is_left_in_time() {
    let hanging = hanging().await;
    let (good, _) = answering("good", StatusCode::OK).await;
    let both = client(&[hanging, good.address()]);
    for _ in 0..6 {
        let request = both.get("it", "/").try_timeout(Duration::from_millis(100));
        assert_eq!(request.send().await.unwrap().text(), "good");
    }
    let only = client(&[hanging]);
    let request = only.post("it", "/").timeout(Duration::from_millis(100));
    assert_eq!(request.send().await.unwrap_err().code(), "sdk.call_timeout");
    let request = only.get("it", "/").timeout(Duration::from_millis(100));
    assert_eq!(request.send().await.unwrap_err().code(), "sdk.call_timeout");
}

#[tokio::test]
async fn no_instance_is_a_503_with_a_time_to_retry() {
    let gone = client(&[refusing_address().await]);
    for client in [gone, client(&[])] {
        let error = client.post("it", "/").send().await.unwrap_err();
        assert_eq!(error.code(), "sdk.service_unavailable");
        assert!(matches!(error.retry(), Retry::After(_)));
        // A handler passes it on by `?`.
        let response = Problem::from(error).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["retry-after"], "1");
    }
}

#[tokio::test]
async fn large_answers_are_refused() {
    let router = Router::new().route("/", get(|| async { "x".repeat(5000) }));
    let running = alone("it").routes(router).start().await.unwrap();
    let client = to_running(&running);
    let reply = client
        .get("it", "/")
        .max_response(5000)
        .send()
        .await
        .unwrap();
    assert_eq!(reply.bytes().len(), 5000);
    let error = client
        .get("it", "/")
        .max_response(4999)
        .send()
        .await
        .unwrap_err();
    assert_eq!(error.code(), "sdk.response_too_large");
}

#[tokio::test]
async fn calls_that_cannot_be_made_are_errors_and_not_panics() {
    let client = client(&[]);
    for request in [
        client.get("Not A Name", "/"),
        client.get("it", "no-slash"),
        client.get("it", ".evil.example/"),
        client.get("it", "/a b"),
        client.get("it", "/").header("x y", "1"),
        client.get("it", "/").header("x", "1\r\nInjected: 1"),
        client.get("it", "/").bearer("a\nb"),
        client.get("it", "/").internal(),
    ] {
        let code = request.send().await.unwrap_err().code().to_owned();
        let expected = [
            "core.name_invalid",
            "sdk.request_invalid",
            "sdk.service_key_missing",
        ];
        assert!(expected.contains(&code.as_str()), "{code}");
    }
}

#[tokio::test]
async fn alone_a_service_finds_itself() {
    let router = Router::new().route("/{name}", get(|Path(name): Path<String>| async { name }));
    let running = alone("it").routes(router).start().await.unwrap();
    let path = format!("/{}", segment("a/../b ä?"));
    let reply = running.client().get("it", path).send().await.unwrap();
    assert_eq!(reply.text(), "a/../b ä?");
}

#[tokio::test]
async fn query_values_are_escaped() {
    let echo = |axum::extract::RawQuery(query): axum::extract::RawQuery| async move {
        query.unwrap_or_default()
    };
    let running = alone("it")
        .routes(Router::new().route("/", get(echo)))
        .start()
        .await
        .unwrap();
    let request = to_running(&running)
        .get("it", "/")
        .query("a", "1&b=2#ä")
        .query("c", 3);
    assert_eq!(
        request.send().await.unwrap().text(),
        "a=1%26b%3D2%23%C3%A4&c=3"
    );
}

/// Trace, request id and time left go along a chain of calls.
#[tokio::test]
async fn a_call_carries_on_what_the_request_came_with() {
    let headers = |headers: HeaderMap| async move {
        let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());
        Json(json!({
            "traceparent": text("traceparent"), "tracestate": text("tracestate"),
            "id": text("x-request-id"), "timeout": text("x-timeout-ms"),
        }))
    };
    let last = alone("last")
        .routes(Router::new().route("/", get(headers)))
        .start()
        .await
        .unwrap();
    let pass_on = |State(client): State<Client>| async move {
        let reply = client.get("last", "/").send().await?;
        Ok::<_, Problem>(Json(reply.json::<Value>()?))
    };
    let router = Router::new()
        .route("/", get(pass_on))
        .with_state(to("last", last.address()));
    let first = alone("first").routes(router).start().await.unwrap();

    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(first.address())
        .await
        .unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: me\r\n\
         traceparent: {trace}\r\ntracestate: a=b\r\nX-Timeout-Ms: 1500\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let body: Value = serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(
        (&body["id"], &body["tracestate"]),
        (&"me".into(), &"a=b".into())
    );
    let passed = body["traceparent"].as_str().unwrap();
    assert_eq!(passed[..36], trace[..36]);
    assert_ne!(passed[36..52], trace[36..52]);
    let left: u64 = body["timeout"].as_str().unwrap().parse().unwrap();
    assert!(left <= 1500, "{left}");
}

async fn caller(node: &FakeNode) -> Running {
    let environment = node.environment().with("SINEW_INSTANCE", "caller-1");
    Service::with_environment("caller", environment)
        .unwrap()
        .start()
        .await
        .unwrap()
}

#[tokio::test]
async fn instances_are_found_by_name_as_they_come_and_go() {
    let node = FakeNode::start().await;
    let (a, _) = answering("a", StatusCode::OK).await;
    let (b, _) = answering("b", StatusCode::OK).await;
    node.put("it", "a", a.address(), "up");
    let running = caller(&node).await;
    let client = running.client();
    assert_eq!(client.get("it", "/").send().await.unwrap().text(), "a");

    node.put("it", "b", b.address(), "up");
    node.put("it", "a", a.address(), "draining");
    for wanted in ["b", "a"] {
        for _ in 0..1000 {
            if client.get("it", "/").send().await.unwrap().text() == wanted {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for _ in 0..10 {
            assert_eq!(client.get("it", "/").send().await.unwrap().text(), wanted);
        }
        node.put("it", "a", a.address(), "up");
        node.remove("it", "b");
    }
    node.remove("it", "a");
    let mut error = None;
    for _ in 0..1000 {
        error = client.get("it", "/").send().await.err();
        if error.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(error.unwrap().code(), "sdk.service_unavailable");
}

#[tokio::test]
async fn a_service_that_nobody_registered_is_unavailable() {
    let node = FakeNode::start().await;
    let running = caller(&node).await;
    let error = running
        .client()
        .get("nobody", "/")
        .send()
        .await
        .unwrap_err();
    assert_eq!(error.code(), "sdk.service_unavailable");
}

#[tokio::test]
async fn calls_go_on_while_the_node_is_away_and_after_it_lost_its_data() {
    let mut node = FakeNode::start().await;
    let (a, _) = answering("a", StatusCode::OK).await;
    node.put("it", "a", a.address(), "up");
    let running = caller(&node).await;
    let client = running.client();
    assert_eq!(client.get("it", "/").send().await.unwrap().text(), "a");
    node.wait_for_watch("it").await;

    node.kill().await;
    for _ in 0..5 {
        assert_eq!(client.get("it", "/").send().await.unwrap().text(), "a");
    }
    node.forget();
    let watches = |node: &FakeNode| node.log().iter().filter(|l| l.contains("/watch/")).count();
    let before = watches(&node);
    node.restart().await;
    eventually("watched again", || watches(&node) > before).await;
    node.wait_for("caller", "caller-1").await;
    // The node knows of no instance yet, which is not believed at once.
    assert_eq!(client.get("it", "/").send().await.unwrap().text(), "a");
    // The instance registers again, and a later removal counts as one.
    node.put("it", "a", a.address(), "up");
    assert_eq!(client.get("it", "/").send().await.unwrap().text(), "a");
}

#[tokio::test]
async fn a_service_called_while_the_node_was_never_there_is_unavailable() {
    let node = FakeNode::not_started().await;
    let running = caller(&node).await;
    let request = running
        .client()
        .get("it", "/")
        .timeout(Duration::from_millis(300));
    let code = request.send().await.unwrap_err().code().to_owned();
    assert!(
        ["sdk.service_unavailable", "sdk.call_timeout"].contains(&code.as_str()),
        "{code}"
    );
}

#[tokio::test]
async fn calls_are_counted() {
    let (good, _) = answering("good", StatusCode::OK).await;
    let service = alone("caller");
    let metrics = service.metrics();
    let node = FakeNode::start().await;
    node.put("it", "a", good.address(), "up");
    drop(service);
    let environment = node.environment();
    let service = Service::with_environment("caller", environment).unwrap();
    let shown = service.metrics();
    let running = service.start().await.unwrap();
    running.client().get("it", "/").send().await.unwrap();
    let line = "sinew_client_requests_total{service=\"it\",outcome=\"ok\"} 1";
    assert!(
        shown.render().lines().any(|l| l == line),
        "{}",
        shown.render()
    );
    assert!(metrics.render().is_empty() || !metrics.render().contains(line));
}
