//! HTTP/2 as attackers speak it, where that takes a conversation; the rest is in `corpus`.

use std::io::Write;

use crate::{
    h2_support::{
        DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frames, GOAWAY, HEADERS, PING,
        RST_STREAM, frame, request,
    },
    support::{Service, World, config, ok, route},
};

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
