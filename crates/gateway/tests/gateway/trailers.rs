//! Fields behind a body.

use crate::support::*;

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n";

#[test]
fn trailers_of_requests_pass() {
    let (saw, seen) = std::sync::mpsc::channel();
    let service = Service::start(move |wire| {
        while let Some(request) = wire.message(false) {
            saw.send((request, wire.trailers.clone())).unwrap();
            wire.send(&ok("done"));
        }
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    client.send(&format!(
        "{POST}TE: trailers\r\nConnection: TE, X-Hop\r\nTrailer: X-Sum, Host\r\n\r\n3\r\nabc\r\n0\r\n\
         X-Sum: 6\r\nX-Hop: 1\r\nHost: evil\r\nX-Auth-Subject: root\r\nContent-Length: 9\r\n\r\n"
    ));
    assert_eq!(client.response().text(), "done");
    let (request, trailers) = seen.recv_timeout(PATIENCE).unwrap();
    assert_eq!(request.text(), "abc");
    for (name, value) in [
        ("te", "trailers"),
        ("connection", "te"),
        ("trailer", "X-Sum"),
    ] {
        assert_eq!(request.header(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(trailers, ["X-Sum: 6"]);

    // Byte by byte, and on the same connection, in step.
    let bytes = format!("{POST}\r\n1\r\na\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n");
    for byte in bytes.chars() {
        client.send(&byte.to_string());
    }
    assert_eq!(client.response().text(), "done");
    let (request, trailers) = seen.recv_timeout(PATIENCE).unwrap();
    assert_eq!(
        (request.header("te"), request.header("trailer")),
        (None, None)
    );
    assert_eq!(trailers, ["X-A: 1", "X-B: 2"]);

    // Nothing announces what cannot come.
    client.send("GET / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\n\r\n");
    assert_eq!(client.response().text(), "done");
    assert_eq!(
        seen.recv_timeout(PATIENCE).unwrap().0.header("trailer"),
        None
    );
}

#[test]
fn trailers_of_responses_pass() {
    let service = Service::answering(|request| {
        match request.first.as_str() {
        "GET /plain HTTP/1.1" => ok("abc").replace("\r\n\r\n", "\r\nTrailer: X-Sum\r\n\r\n"),
        _ => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status, Set-Cookie\r\n\r\n\
              3\r\nabc\r\n0\r\ngrpc-status: 0\r\nSet-Cookie: a=b\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_owned(),
    }
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let response = client.response();
        assert_eq!(response.text(), "abc");
        assert_eq!(response.header("trailer").as_deref(), Some("grpc-status"));
        assert_eq!(client.0.trailers, ["grpc-status: 0"]);
    }
    assert_eq!(
        world.metric("sinew_gateway_upstream_connects_total{service=\"app\"}"),
        1.0
    );
    client.send("GET /plain HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response();
    assert_eq!(
        (response.text().as_str(), response.header("trailer")),
        ("abc", None)
    );
    // Nowhere to put them: the body is all there is.
    let old = world.ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((old.text().as_str(), old.header("trailer")), ("abc", None));
}

#[test]
fn malformed_and_endless_trailers_are_refused() {
    let service = Service::saying("passed");
    let world = World::of(&[&service]);
    for trailers in [
        "X: y\n\r\n".to_owned(),
        "X\r\n\r\n".to_owned(),
        "X : y\r\n\r\n".to_owned(),
        " X: y\r\n\r\n".to_owned(),
        "X: y\r\n folded\r\n\r\n".to_owned(),
        "X: \0\r\n\r\n".to_owned(),
        "X: a\rb\r\n\r\n".to_owned(),
        format!("{}\r\n", "X: y\r\n".repeat(65)),
        format!("X: {}\r\n\r\n", "y".repeat(8 << 10)),
        format!("X: {}", "y".repeat(9 << 10)),
    ] {
        let mut client = world.client();
        client.send(&format!(
            "{POST}\r\n3\r\nabc\r\n0\r\n{trailers}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        ));
        let response = client.response();
        assert_eq!(
            (response.status(), response.code().as_str()),
            (400, "gateway.request_malformed"),
            "{trailers:?}"
        );
        assert!(client.0.closed());
        assert!(service.requests().is_empty());
    }
    for trailers in ["X\r\n\r\n".to_owned(), "X: y\r\n".repeat(2_000)] {
        let service = Service::answering(move |_| {
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n{trailers}"
            )
        });
        let world = World::of(&[&service]);
        let mut client = world.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        // It breaks off, so that nobody takes it for whole.
        assert!(client.0.message(false).is_none());
    }
}
