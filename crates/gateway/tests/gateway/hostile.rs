//! The attack list: every bad input gets a clear 4xx or a closed connection, and nothing passes.

use std::time::Duration;

use crate::support::*;

/// Sends raw bytes, and behind them a request that must never be taken for one of its own.
fn attack(world: &World, service: &Service, bytes: &str) -> Response {
    let before = service.requests().len();
    let mut client = world.client();
    client.send(bytes);
    let response = client.response();
    assert!(client.0.closed(), "the connection goes on after {bytes:?}");
    assert_eq!(
        service.requests().len(),
        before,
        "something passed: {bytes:?}"
    );
    response
}

#[test]
fn ambiguous_framing_is_refused_and_the_connection_closed() {
    let service = Service::saying("passed");
    let world = World::of(&[&service]);
    let next = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for headers in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length:\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer_Encoding: chunked\r\n",
        "Content_Length: 5\r\n",
        "X: a\r\n\tfolded\r\n",
        " X: a\r\n",
        "X: a\0b\r\n",
        "X: a\rb\r\n",
        "X: a\nY: b\r\n",
        "X: a\n\r\n",
        "X a: b\r\n",
        "X\r\n",
        ": b\r\n",
        "Host: a\r\n",
        "Host: b\r\n",
    ] {
        let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\nhello{next}");
        let response = attack(&world, &service, &bytes);
        assert_eq!(
            (response.status(), response.code().as_str()),
            (400, "gateway.request_malformed"),
            "{headers:?}"
        );
    }
}

#[test]
fn malformed_request_lines_are_refused() {
    let service = Service::saying("passed");
    let world = World::of(&[&service]);
    for line in [
        "GET / HTTP/1.1\nHost: a\n\n",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "G[T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "PRI / HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(attack(&world, &service, line).status(), 400, "{line:?}");
    }
    for method in ["CONNECT a:80", "TRACE /"] {
        let response = attack(
            &world,
            &service,
            &format!("{method} HTTP/1.1\r\nHost: a\r\n\r\n"),
        );
        assert!([400, 405].contains(&response.status()), "{method}");
    }
    let response = attack(
        &world,
        &service,
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: gold\r\n\r\n",
    );
    assert_eq!(response.status(), 417);
}

#[test]
fn malformed_chunks_are_refused() {
    let service = Service::saying("passed");
    let world = World::of(&[&service]);
    let next = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for body in [
        "5;x=y\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: y\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
    ] {
        let bytes =
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}{next}");
        let response = attack(&world, &service, &bytes);
        assert_eq!(
            (response.status(), response.code().as_str()),
            (400, "gateway.request_malformed"),
            "{body:?}"
        );
    }
}

#[test]
fn paths_with_two_readings_are_refused() {
    let service = Service::saying("passed");
    let world = World::with(
        config(vec![route("/public/**", "app"), route("/**", "app")]),
        &[&service],
        None,
    );
    let mut client = world.client();
    for path in [
        "//admin",
        "/public//admin",
        "/public/../admin",
        "/public/./admin",
        "/public/..",
        "/public/%2e%2e/admin",
        "/public/%2E%2E/admin",
        "/public/.%2e/admin",
        "/public%2f..%2fadmin",
        "/public/%5c..%5cadmin",
        "/public/..%5cadmin",
        "/public\\..\\admin",
        "/public/%252e%252e/admin",
        "/public/%252fadmin",
        "/public/%25252fadmin",
        "/public/..;/admin",
        "/admin;x",
        "/admin%3bx",
        "/public/%00",
        "/public/%0d%0aX:%20y",
        "/public#/../admin",
        "/public/%",
        "/public/%zz",
        "/public/%c0%ae%c0%ae/admin",
        "/public?a#b",
    ] {
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = client.response();
        assert_eq!(
            (response.status(), response.code().as_str()),
            (400, "gateway.path_refused"),
            "{path}"
        );
    }
    assert!(service.requests().is_empty());
}

#[test]
fn a_body_that_was_not_wanted_is_never_a_request() {
    let service = Service::saying("passed");
    let world = World::with(config(vec![route("/api/**", "app")]), &[&service], None);
    let smuggled = "GET /api/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = world.client();
    let length = smuggled.len();
    // All of it is here: it is skipped, and the connection goes on in step.
    client.send(&format!(
        "POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{smuggled}"
    ));
    assert_eq!(client.response().status(), 404);
    client.send("GET /api/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().text(), "passed");
    assert_eq!(service.requests().len(), 1);
    // Not all of it is here: the connection ends.
    client.send(&format!(
        "POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{smuggled}",
        length + 1
    ));
    let response = client.response();
    assert_eq!(response.header("connection").as_deref(), Some("close"));
    assert!(client.0.closed());
    assert_eq!(service.requests().len(), 1);
}

#[test]
fn long_heads_are_431() {
    let service = Service::saying("passed");
    let mut config = config(vec![route("/**", "app")]);
    config.limits.head_bytes = 4 << 10;
    config.limits.headers = 20;
    let world = World::with(config, &[&service], None);
    let line = "X: y\r\n";
    for (head, what) in [
        (
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
                "y".repeat(100 << 10)
            ),
            "long value",
        ),
        (
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(5 << 10)),
            "long path",
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", line.repeat(20)),
            "many",
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", line.repeat(10_000)),
            "very many",
        ),
        (
            format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(5 << 10)),
            "unfinished",
        ),
    ] {
        let response = attack(&world, &service, &head);
        assert_eq!(
            (response.status(), response.code().as_str()),
            (431, "gateway.head_too_large"),
            "{what}"
        );
    }
    let fits = world.ask(&format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        line.repeat(19)
    ));
    assert_eq!(fits.status(), 200);
}

#[test]
fn long_bodies_are_413() {
    let service = Service::start(|wire| while wire.fill() {});
    let mut small = route("/**", "app");
    small.max_body = 10;
    let world = World::with(config(vec![small]), &[&service], None);
    let chunks = "6\r\n123456\r\n";
    for (request, what) in [
        (
            "Content-Length: 11\r\n\r\n12345678901".to_owned(),
            "declared",
        ),
        (
            "Content-Length: 999999999999\r\n\r\n".to_owned(),
            "declared and not sent",
        ),
        (
            format!("Transfer-Encoding: chunked\r\n\r\n{chunks}{chunks}0\r\n\r\n"),
            "in chunks",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\nffffffffffff\r\n12345678901".to_owned(),
            "in one chunk",
        ),
        (
            "Expect: 100-continue\r\nContent-Length: 11\r\n\r\n".to_owned(),
            "announced",
        ),
    ] {
        let mut client = world.client();
        client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\n{request}"));
        let response = client.response();
        assert_eq!(
            (response.status(), response.code().as_str()),
            (413, "gateway.body_too_large"),
            "{what}"
        );
        assert!(client.0.closed(), "{what}");
    }
}

#[test]
fn slow_clients_are_shown_the_door() {
    let service = Service::saying("passed");
    let mut config = config(vec![route("/**", "app")]);
    config.limits.head_timeout = Duration::from_millis(150);
    config.limits.idle_timeout = Duration::from_millis(300);
    config.limits.body_timeout = Duration::from_millis(150);
    let world = World::with(config, &[&service], None);

    let mut nothing = world.client();
    assert!(nothing.0.closed());

    let mut head = world.client();
    head.send("GET / HTTP/1.1\r\nHost: a\r\n");
    let response = head.response();
    assert_eq!(
        (response.status(), response.code().as_str()),
        (408, "gateway.request_timeout")
    );
    assert!(head.0.closed());

    let mut body = world.client();
    body.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
    assert_eq!(body.response().status(), 408);
    assert!(body.0.closed());

    let mut idle = world.client();
    idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(idle.response().status(), 200);
    assert!(idle.0.closed());
    world.eventually("no connection is left", |world| {
        world.gateway.stats().connections == 0
    });
}

#[test]
fn a_dripping_head_ends_in_time_however_it_drips() {
    let service = Service::saying("passed");
    let mut config = config(vec![route("/**", "app")]);
    config.limits.head_timeout = Duration::from_millis(300);
    let world = World::with(config, &[&service], None);
    let mut client = world.client();
    let mut stream = client.0.stream.try_clone().unwrap();
    std::thread::spawn(move || {
        while std::io::Write::write_all(&mut stream, b"X").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    assert_eq!(client.response().status(), 408);
}

#[test]
fn more_connections_than_allowed_are_told_so() {
    let service = Service::saying("passed");
    let mut config = config(vec![route("/**", "app")]);
    config.limits.connections = 2;
    let world = World::with(config, &[&service], None);
    let kept: Vec<_> = (0..2)
        .map(|_| {
            let mut client = world.client();
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.response().status(), 200);
            client
        })
        .collect();
    let mut third = world.client();
    let response = third.response();
    assert_eq!(
        (response.status(), response.code().as_str()),
        (503, "gateway.too_many_connections")
    );
    assert!(third.0.closed());
    drop(kept);
    world.eventually("room again", |world| world.gateway.stats().connections == 0);
    assert_eq!(world.get("/").status(), 200);
}

#[test]
fn nothing_of_another_clients_request_is_in_an_answer() {
    let service = Service::saying("");
    let world = World::of(&[&service]);
    let mut first = world.client();
    first.send(
        "HEAD /secret HTTP/1.1\r\nHost: a\r\nX-Request-Id: theirs\r\nConnection: close\r\n\r\n",
    );
    assert!(first.0.message(true).is_some() && first.0.closed());
    let response = world.ask("nonsense\n");
    assert_eq!(
        (response.status(), response.header("x-request-id")),
        (400, None)
    );
    assert_eq!(response.code(), "gateway.request_malformed");
}

/// A conversation with requests inside bodies, so that losing step by a few bytes makes one of them.
const CONVERSATION: &str = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\nX-A: b\r\n\r\n\
    GET /inner HTTP/1.1\r\nHost: a\r\nX: yyy\r\n\r\nGET /b?q=1 HTTP/1.1\r\nHost: a\r\n\r\n\
    PUT /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
    28\r\nGET /inner HTTP/1.1\r\nHost: a\r\nX: yyy\r\n\r\n\r\n0\r\n\r\nGET /d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Changes a few bytes of the conversation, with the kinds of bytes that attacks are made of.
fn mutated(random: &mut impl FnMut(usize) -> usize) -> Vec<u8> {
    const PIECES: [&str; 16] = [
        "\r\n",
        "\n",
        "\r",
        "\0",
        " ",
        "\t",
        ":",
        "0",
        "1",
        "5",
        ",",
        ";",
        "/",
        "..",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
    ];
    let mut bytes = CONVERSATION.as_bytes().to_vec();
    for _ in 0..1 + random(3) {
        let at = random(bytes.len());
        let piece = PIECES[random(PIECES.len())].as_bytes();
        match random(4) {
            0 => drop(bytes.splice(at..at, piece.iter().copied())),
            1 => drop(bytes.splice(at..=at, piece.iter().copied())),
            2 => drop(bytes.remove(at)),
            _ => bytes[at] = bytes[at].wrapping_add(1 + random(255) as u8),
        }
    }
    bytes
}

#[test]
fn mangled_conversations_never_put_gateway_and_service_out_of_step() {
    let service = Service::saying("seen");
    let mut config = config(vec![route("/**", "app")]);
    config.limits.head_timeout = Duration::from_millis(300);
    config.limits.idle_timeout = Duration::from_millis(300);
    config.limits.body_timeout = Duration::from_millis(300);
    let world = World::with(config, &[&service], None);
    // A fixed sequence (Knuth's MMIX generator): a failure comes back on the next run.
    let mut state = 7u64;
    let mut random = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut honest = world.client();
    honest.send(CONVERSATION);
    while honest.0.fill() {}
    let targets: Vec<_> = service
        .requests()
        .iter()
        .map(|request| request.first.clone())
        .collect();
    assert_eq!(
        targets,
        [
            "POST /a HTTP/1.1",
            "GET /b?q=1 HTTP/1.1",
            "PUT /c HTTP/1.1",
            "GET /d HTTP/1.1"
        ]
    );
    for _ in 0..8 {
        let mut clients: Vec<_> = (0..100).map(|_| world.client()).collect();
        for client in &mut clients {
            // A gateway that has heard enough may close before it has heard all.
            let _ = std::io::Write::write_all(&mut client.0.stream, &mutated(&mut random));
        }
        for mut client in clients {
            while client.0.fill() {}
        }
    }
    world.eventually("all connections have ended", |world| {
        world.gateway.stats().connections == 0
    });
    let answered =
        world.metric("sinew_gateway_requests_total{route=\"/**\",service=\"app\",status=\"2xx\"}");
    let seen = service.requests();
    assert_eq!(seen.len(), answered as usize);
    assert!(seen.len() > 800, "the mutations leave too little to see");
    for request in seen {
        let (target, fields) = (request.first.split(' ').nth(1).unwrap(), &request.headers);
        assert!(
            target.starts_with('/') && !target.contains("//") && !target.contains("/.."),
            "{target}"
        );
        let framing = |name: &String| {
            ["content-length", "transfer-encoding"].contains(&name.to_ascii_lowercase().as_str())
        };
        assert!(
            fields.iter().filter(|(name, _)| framing(name)).count() <= 1,
            "{request:?}"
        );
    }
}
