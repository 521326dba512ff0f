//! Clients who are slow, many or random. What is refused for what it says is in `corpus`.

use std::time::Duration;

use crate::support::*;

#[test]
fn what_speaks_something_else_is_hung_up_on() {
    let service = Service::saying("passed");
    let world = World::of(&[&service]);
    for line in [
        "INVALID CONNECTION PREFACE\r\n\r\n",
        "OPTIONS sip:a SIP/2.0\r\nHost: a\r\n\r\n",
    ] {
        let mut client = world.client();
        client.send(&format!("{line}GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(client.0.closed(), "{line:?}");
    }
    assert_eq!(world.metric("sinew_gateway_requests_malformed_total"), 2.0);
    // Behind a request it is one that is malformed.
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nINVALID CONNECTION PREFACE\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    assert_eq!(client.response().status(), 400);
    assert_eq!(service.requests().len(), 1);
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
