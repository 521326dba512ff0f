//! Plain requests: where they go and what comes back.

use crate::support::*;

#[test]
fn requests_reach_the_service_and_responses_the_client() {
    let service = Service::answering(|request| {
        ok(&format!(
            "{} {}",
            request.first,
            String::from_utf8_lossy(&request.body)
        ))
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    client.send("GET /a%7Eb?x=1 HTTP/1.1\r\nHost: shop\r\n\r\n");
    assert_eq!(client.response().text(), "GET /a~b?x=1 HTTP/1.1 ");
    client.send("POST /x HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.response().text(), "POST /x HTTP/1.1 hello");
    client.send(
        "POST /x HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    assert_eq!(client.response().text(), "POST /x HTTP/1.1 hello");
    world.eventually("three requests are counted", |world| {
        world.gateway.stats().requests == 3
    });
    assert_eq!(
        world.metric("sinew_gateway_upstream_connects_total{service=\"app\"}"),
        1.0
    );
}

#[test]
fn routes_choose_by_host_and_path() {
    let (orders, users) = (Service::saying("orders"), Service::saying("users"));
    let mut strip = route("/v1/orders/**", "orders");
    strip.strip_prefix = Some("/v1".into());
    let mut hosted = route("/**", "users");
    hosted.host = Some("users.example".into());
    let world = World::with(config(vec![strip, hosted]), &[], None);
    world
        .discovery
        .set_addresses(&name("orders"), &[orders.address]);
    world
        .discovery
        .set_addresses(&name("users"), &[users.address]);

    assert_eq!(world.get("/v1/orders/7").text(), "orders");
    assert_eq!(orders.requests()[0].first, "GET /orders/7 HTTP/1.1");
    assert_eq!(
        orders.requests()[0].header("x-forwarded-prefix").as_deref(),
        Some("/v1")
    );
    for host in ["users.example", "USERS.example:8080", "users.example."] {
        let response = world.ask(&format!("GET /v1/orders HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(response.text(), "users", "{host}");
    }
    let absolute = world.ask("GET http://users.example/x HTTP/1.1\r\nHost: Users.Example\r\n\r\n");
    assert_eq!(absolute.text(), "users");
    assert_eq!(users.requests()[3].first, "GET /x HTTP/1.1");
    let none = world.get("/v1/orderss");
    assert_eq!(
        (none.status(), none.code().as_str()),
        (404, "gateway.no_route")
    );
}

#[test]
fn a_stripped_path_is_never_empty() {
    let service = Service::saying("");
    let mut strip = route("/api/**", "app");
    strip.strip_prefix = Some("/api".into());
    let world = World::with(config(vec![strip]), &[&service], None);
    world.get("/api?a=b");
    world.get("/api/");
    let seen: Vec<_> = service
        .requests()
        .iter()
        .map(|request| request.first.clone())
        .collect();
    assert_eq!(seen, ["GET /?a=b HTTP/1.1", "GET / HTTP/1.1"]);
}

#[test]
fn responses_without_a_body_keep_the_connection_in_step() {
    let service = Service::answering(|request| {
        match request.first.as_str() {
            "HEAD / HTTP/1.1" => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
            "GET /204 HTTP/1.1" => "HTTP/1.1 204 No Content\r\n\r\n",
            "GET /304 HTTP/1.1" => {
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 50\r\nETag: \"x\"\r\n\r\n"
            }
            _ => "HTTP/1.1 200 Fine\r\nContent-Length: 3\r\n\r\nend",
        }
        .to_owned()
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.0.message(true).unwrap();
    assert_eq!(
        (head.status(), head.header("content-length").as_deref()),
        (200, Some("1000"))
    );
    client.send("GET /204 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status(), 204);
    client.send("GET /304 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        client.response().header("content-length").as_deref(),
        Some("50")
    );
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let last = client.response();
    assert_eq!(
        (last.first.as_str(), last.text().as_str()),
        ("HTTP/1.1 200 Fine", "end")
    );
    assert_eq!(
        world.metric("sinew_gateway_upstream_connects_total{service=\"app\"}"),
        1.0
    );
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let service = Service::answering(|request| ok(&request.first));
    let world = World::of(&[&service]);
    let mut client = world.client();
    let request = |n: u32| format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab");
    client.send(&(0..20).map(request).collect::<String>());
    for n in 0..20 {
        assert_eq!(client.response().text(), format!("POST /{n} HTTP/1.1"));
    }
}

#[test]
fn old_clients_are_served() {
    let service = Service::answering(|_| {
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_owned()
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    client.send("GET / HTTP/1.0\r\n\r\n");
    let response = client.response();
    assert_eq!(
        (
            response.text().as_str(),
            response.header("transfer-encoding")
        ),
        ("abc", None)
    );
    assert!(client.0.closed());
    assert_eq!(service.requests()[0].header("host").as_deref(), Some("app"));

    let sized = Service::saying("abc");
    let world = World::of(&[&sized]);
    let mut client = world.client();
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let response = client.response();
        assert_eq!(response.header("connection").as_deref(), Some("keep-alive"));
        assert_eq!(response.text(), "abc");
    }
}

#[test]
fn old_clients_keep_a_connection_only_if_they_ask() {
    let service = Service::saying("abc");
    let world = World::with(config(vec![route("/x/**", "app")]), &[&service], None);
    let mut client = world.client();
    client.send("GET /x HTTP/1.0\r\n\r\nGET /x HTTP/1.0\r\n\r\n");
    let response = client.response();
    assert_eq!(response.text(), "abc");
    assert_eq!(response.header("connection").as_deref(), Some("close"));
    assert!(client.0.closed());
    assert_eq!(service.requests().len(), 1);

    // What the gateway answers itself says so, too.
    let mut client = world.client();
    for (path, status) in [("/none", 404), ("/x", 200), ("/a//b", 400), ("/x", 200)] {
        client.send(&format!(
            "GET {path} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        ));
        let response = client.response();
        assert_eq!(response.status(), status);
        assert_eq!(response.header("connection").as_deref(), Some("keep-alive"));
    }
    client.send("GET /none HTTP/1.0\r\n\r\n");
    assert_eq!(
        client.response().header("connection").as_deref(),
        Some("close")
    );
    assert!(client.0.closed());
}

#[test]
fn a_response_that_ends_with_its_connection_is_chunked_for_the_client() {
    let service = Service::start(|wire| {
        wire.message(false);
        wire.send("HTTP/1.0 200 OK\r\n\r\nuntil the end");
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let response = client.response();
        assert_eq!(
            response.header("transfer-encoding").as_deref(),
            Some("chunked")
        );
        assert_eq!(response.text(), "until the end");
    }
}

#[test]
fn large_bodies_pass_in_both_directions() {
    let service = Service::answering(|request| ok(&String::from_utf8_lossy(&request.body)));
    let mut large = route("/**", "app");
    large.max_body = 64 << 20;
    let world = World::with(config(vec![large]), &[&service], None);
    let body: String = (0..3_000_000u32)
        .map(|n| char::from(b'a' + (n % 23) as u8))
        .collect();
    let mut client = world.client();
    client.send(&format!(
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    client.send(&body);
    assert!(client.response().text() == body);
    let chunked: String = body
        .as_bytes()
        .chunks(70_000)
        .map(|c| format!("{:x}\r\n{}\r\n", c.len(), String::from_utf8_lossy(c)))
        .collect();
    client.send(&format!(
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}0\r\n\r\n"
    ));
    assert!(client.response().text() == body);
}
