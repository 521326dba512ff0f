//! HTTP/2 as attackers speak it: every frame made by hand.

use std::io::Write;

use crate::{
    h2_support::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frames, GOAWAY, HEADERS,
        PING, PRIORITY, PROTOCOL_ERROR, RST_STREAM, SETTINGS, WINDOW_UPDATE, fields, frame,
        request,
    },
    support::{Service, World, config, ok, route},
};

/// What a malformed request meets.
#[derive(Debug, PartialEq)]
enum Met {
    Reset(u32),
    GoAway(u32),
    Answer(String),
}

fn meets(world: &World, frames: &[Vec<u8>]) -> Met {
    let mut client = Frames::connect(world.gateway.address());
    client.0.write_all(&frames.concat()).unwrap();
    loop {
        let frame = client.next().expect("another frame");
        match frame.kind {
            RST_STREAM => return Met::Reset(frame.code()),
            GOAWAY => return Met::GoAway(frame.code()),
            DATA if frame.stream == 1 => {
                return Met::Answer(String::from_utf8_lossy(&frame.payload).into_owned());
            }
            _ => {}
        }
    }
}

#[test]
fn malformed_requests_never_pass() {
    let service = Service::saying("should not be asked");
    let world = World::of(&[&service]);
    let whole = END_HEADERS | END_STREAM;
    let head = |more: &[(&str, &str)]| vec![frame(HEADERS, whole, 1, &request("GET", "/", more))];
    let raw = |list: &[(&str, &str)]| vec![frame(HEADERS, whole, 1, &fields(list))];
    let with_body = |more: &[(&str, &str)], body: &[u8]| {
        vec![
            frame(HEADERS, END_HEADERS, 1, &request("POST", "/", more)),
            frame(DATA, END_STREAM, 1, body),
        ]
    };
    let (method, scheme, path, authority) = (
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
    );
    for (what, frames) in [
        ("upper case", head(&[("X-Upper", "1")])),
        ("a line feed in a value", head(&[("x", "a\r\nhost: b")])),
        ("NUL in a value", head(&[("x", "a\0b")])),
        ("a space in a name", head(&[("x y", "1")])),
        ("a colon in a name", head(&[("x:y", "1")])),
        ("an empty name", head(&[("", "1")])),
        ("connection", head(&[("connection", "close")])),
        ("keep-alive", head(&[("keep-alive", "1")])),
        (
            "transfer-encoding",
            head(&[("transfer-encoding", "chunked")]),
        ),
        ("upgrade", head(&[("upgrade", "websocket")])),
        ("proxy-connection", head(&[("proxy-connection", "close")])),
        ("te other than trailers", head(&[("te", "gzip")])),
        ("two paths", head(&[(":path", "/b")])),
        (
            "an unknown pseudo-field",
            raw(&[method, scheme, path, authority, (":x", "1")]),
        ),
        (
            "a status",
            raw(&[method, scheme, path, authority, (":status", "200")]),
        ),
        (
            "a pseudo-field behind a field",
            raw(&[method, scheme, path, ("x", "1"), authority]),
        ),
        ("no method", raw(&[scheme, path, authority])),
        ("no scheme", raw(&[method, path, authority])),
        ("no path", raw(&[method, scheme, authority])),
        (
            "an empty path",
            raw(&[method, scheme, (":path", ""), authority]),
        ),
        (
            "a line feed in the path",
            raw(&[method, scheme, (":path", "/ HTTP/1.1\r\nx: y"), authority]),
        ),
        (
            "a line feed in the authority",
            raw(&[method, scheme, path, (":authority", "a\r\nx: y")]),
        ),
        (
            "a line feed in the method",
            raw(&[
                (":method", "GET /x HTTP/1.1\r\nx: y"),
                scheme,
                path,
                authority,
            ]),
        ),
        (
            "a space in the method",
            raw(&[(":method", "GET /x"), scheme, path, authority]),
        ),
        (
            "a body shorter than declared",
            with_body(&[("content-length", "5")], b"abc"),
        ),
        (
            "a body longer than declared",
            with_body(&[("content-length", "2")], b"abc"),
        ),
        (
            "a length declared for no body",
            head(&[("content-length", "2")]),
        ),
        (
            "a signed length",
            with_body(&[("content-length", "+3")], b"abc"),
        ),
    ] {
        let met = meets(&world, &frames);
        let ended = [Met::Reset(PROTOCOL_ERROR), Met::GoAway(PROTOCOL_ERROR)];
        assert!(ended.contains(&met), "{what}: {met:?}");
    }
    for (what, code, frames) in [
        (
            "another host",
            "gateway.request_malformed",
            head(&[("host", "b")]),
        ),
        (
            "no host at all",
            "gateway.request_malformed",
            raw(&[method, scheme, path]),
        ),
        (
            "two hosts",
            "gateway.request_malformed",
            head(&[("host", "a"), ("host", "a")]),
        ),
        (
            "a user in the authority",
            "gateway.request_malformed",
            raw(&[method, scheme, path, (":authority", "u@a")]),
        ),
        (
            "another scheme",
            "gateway.request_malformed",
            raw(&[method, (":scheme", "ftp"), path, authority]),
        ),
        (
            "two lengths",
            "gateway.request_malformed",
            with_body(&[("content-length", "3"), ("content-length", "3")], b"abc"),
        ),
        (
            "a twin of a length",
            "gateway.request_malformed",
            with_body(&[("content_length", "1")], b"abc"),
        ),
        (
            "an absolute path",
            "gateway.path_refused",
            raw(&[method, scheme, (":path", "//b/x"), authority]),
        ),
        (
            "dots",
            "gateway.path_refused",
            raw(&[method, scheme, (":path", "/a/../b"), authority]),
        ),
        (
            "an encoded slash",
            "gateway.path_refused",
            raw(&[method, scheme, (":path", "/a%2fb"), authority]),
        ),
        (
            "CONNECT",
            "gateway.method_refused",
            raw(&[(":method", "CONNECT"), authority]),
        ),
        (
            "TRACE",
            "gateway.method_refused",
            raw(&[(":method", "TRACE"), scheme, path, authority]),
        ),
        (
            "an expectation",
            "gateway.expectation_failed",
            head(&[("expect", "x")]),
        ),
    ] {
        match meets(&world, &frames) {
            Met::Answer(text) => assert!(text.contains(code), "{what}: {text}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    assert_eq!(service.requests().len(), 0);
}

#[test]
fn floods_are_told_to_calm_down() {
    let service = Service::start(|wire| while wire.fill() {});
    let world = World::of(&[&service]);
    let whole = END_HEADERS | END_STREAM;
    let get = request("GET", "/", &[]);
    let post = request("POST", "/", &[]);
    let many = |frame: Vec<u8>| vec![frame; 3_000];
    let open = |then: Vec<Vec<u8>>| [vec![frame(HEADERS, END_HEADERS, 1, &post)], then].concat();
    let streams = |made: &dyn Fn(u32) -> Vec<Vec<u8>>| -> Vec<Vec<u8>> {
        (0..1_000).flat_map(|index| made(index * 2 + 1)).collect()
    };
    for (what, frames) in [
        ("PING", many(frame(PING, 0, 0, b"12345678"))),
        ("SETTINGS", many(frame(SETTINGS, 0, 0, b""))),
        ("PRIORITY", many(frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]))),
        ("unknown frames", many(frame(0x77, 0, 0, b"x"))),
        ("empty DATA", open(many(frame(DATA, 0, 1, b"")))),
        (
            "WINDOW_UPDATE",
            open(many(frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]))),
        ),
        (
            "CONTINUATION",
            [
                vec![frame(HEADERS, END_STREAM, 1, &get)],
                many(frame(CONTINUATION, 0, 1, b"")),
            ]
            .concat(),
        ),
        (
            "long CONTINUATION",
            [
                vec![frame(HEADERS, END_STREAM, 1, &get)],
                vec![frame(CONTINUATION, 0, 1, &fields(&[("x", "y"); 1_000])); 1_000],
            ]
            .concat(),
        ),
        (
            "rapid reset",
            streams(&|id| {
                vec![
                    frame(HEADERS, whole, id, &get),
                    frame(RST_STREAM, 0, id, &[0, 0, 0, 8]),
                ]
            }),
        ),
        (
            "streams made to be reset",
            streams(&|id| {
                vec![
                    frame(HEADERS, END_HEADERS, id, &post),
                    frame(WINDOW_UPDATE, 0, id, &[0x7f, 0xff, 0xff, 0xff]),
                ]
            }),
        ),
    ] {
        let mut client = Frames::connect(world.gateway.address());
        // The gateway may have closed before all of it is written.
        let _ = client.0.write_all(&frames.concat());
        assert_eq!(client.until(GOAWAY).code(), ENHANCE_YOUR_CALM, "{what}");
    }
    world.eventually("all are gone", |world| {
        let stats = world.gateway.stats();
        (stats.connections, stats.in_flight) == (0, 0)
    });
}

#[test]
fn resets_one_by_one_are_a_flood_too() {
    let service = Service::start(|wire| while wire.fill() {});
    let world = World::of(&[&service]);
    let mut client = Frames::connect(world.gateway.address());
    let get = request("GET", "/", &[]);
    for index in 0..3_000 {
        let id = index * 2 + 1;
        let sent = client
            .0
            .write_all(&frame(HEADERS, END_HEADERS | END_STREAM, id, &get))
            .and_then(|()| client.0.write_all(&frame(PING, 0, 0, b"in order")));
        if sent.is_err() {
            break;
        }
        // Each is with an instance before it is taken back.
        loop {
            match client.next() {
                Some(frame) if frame.kind == GOAWAY => {
                    assert_eq!(frame.code(), ENHANCE_YOUR_CALM);
                    assert!(index > 100, "a page that is left takes back as many");
                    return;
                }
                Some(frame) if frame.kind == PING => break,
                Some(_) => {}
                None => panic!("closed without a word"),
            }
        }
        let _ = client.0.write_all(&frame(RST_STREAM, 0, id, &[0, 0, 0, 8]));
    }
    panic!("never told to calm down");
}

#[test]
fn a_head_that_is_too_long_is_refused_and_a_bomb_costs_nothing() {
    let service = Service::answering(|_| ok("fine"));
    let mut config = config(vec![route("/**", "app")]);
    config.limits.head_bytes = 4 << 10;
    config.limits.headers = 20;
    let world = World::with(config, &[&service], None);
    // One field into the table, and then a reference to it again and again: 1 byte, 4 kB each.
    let mut bomb = request("GET", "/", &[]);
    bomb.extend(b"\x40\x01x\x7e");
    bomb.extend([b'a'; 126]);
    bomb.extend([0x80 | 62; 8_000]);
    let mut client = Frames::connect(world.gateway.address());
    client.send(HEADERS, END_HEADERS | END_STREAM, 1, &bomb);
    let refused = std::iter::from_fn(|| client.next()).map(|frame| frame.kind);
    let refusals = [HEADERS, RST_STREAM, GOAWAY];
    assert!(refused.into_iter().any(|kind| refusals.contains(&kind)));
    // Few bytes, but many lines.
    let mut client = Frames::connect(world.gateway.address());
    let lines = vec![("x", "y"); 30];
    client.send(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &request("GET", "/", &lines),
    );
    let data = String::from_utf8_lossy(&client.until(DATA).payload).into_owned();
    assert!(data.contains("gateway.head_too_large"), "{data}");
    client.send(
        HEADERS,
        END_HEADERS | END_STREAM,
        3,
        &request("GET", "/", &[]),
    );
    assert_eq!(client.until(DATA).payload, b"fine");
    assert_eq!(service.requests().len(), 1);
}

#[test]
fn a_preface_that_is_none_and_one_that_never_ends() {
    let service = Service::saying("hello");
    let mut config = config(vec![route("/**", "app")]);
    config.limits.head_timeout = std::time::Duration::from_millis(300);
    let world = World::with(config, &[&service], None);
    for text in [
        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM",
    ] {
        let mut client = world.client();
        client.send(text);
        while client.0.fill() {}
    }
    // Only the very first bytes of a connection can be a preface.
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().text(), "hello");
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(client.response().status(), 400);
}
