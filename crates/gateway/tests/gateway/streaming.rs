//! Bodies on their way: nothing is held back, nothing is buffered without bound, and an end in the
//! middle is seen as one.

use std::{sync::mpsc, time::Duration};

use crate::support::*;

#[test]
fn a_response_passes_piece_by_piece() {
    let (next, pieces) = mpsc::channel::<&str>();
    let pieces = std::sync::Mutex::new(pieces);
    let service = Service::start(move |wire| {
        wire.message(false);
        wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in pieces.lock().unwrap().iter() {
            wire.send(piece);
        }
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.0.head().unwrap().status(), 200);
    for text in ["one", "two"] {
        next.send(if text == "one" {
            "3\r\none\r\n"
        } else {
            "3;x=y\r\ntwo\r\n"
        })
        .unwrap();
        // The next piece is only sent once this one has arrived.
        assert_eq!(client.0.chunk().unwrap(), text.as_bytes());
    }
    next.send("0\r\nTrailer: x\r\n\r\n").unwrap();
    assert_eq!(client.0.chunk().unwrap(), b"");
}

#[test]
fn a_request_passes_piece_by_piece() {
    let (arrived, pieces) = mpsc::channel();
    let service = Service::start(move |wire| {
        wire.head();
        for _ in 0..3 {
            arrived.send(wire.chunk().unwrap()).unwrap();
        }
        wire.send(&ok("done"));
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for text in ["one", "two"] {
        client.send(&format!("3\r\n{text}\r\n"));
        assert_eq!(pieces.recv_timeout(PATIENCE).unwrap(), text.as_bytes());
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.response().text(), "done");
}

#[test]
fn both_directions_at_once() {
    let service = Service::start(|wire| {
        wire.head();
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while let Some(chunk) = wire.chunk() {
            wire.send(&format!(
                "{:x}\r\n{}\r\n",
                chunk.len(),
                String::from_utf8_lossy(&chunk)
            ));
            if chunk.is_empty() {
                return;
            }
        }
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.0.head().unwrap().status(), 200);
    for text in ["ping", "pong"] {
        client.send(&format!("4\r\n{text}\r\n"));
        assert_eq!(client.0.chunk().unwrap(), text.as_bytes());
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.0.chunk().unwrap(), b"");
}

#[test]
fn an_early_answer_reaches_a_client_that_still_sends() {
    let service = Service::start(|wire| {
        wire.head();
        wire.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
    });
    let mut large = route("/**", "app");
    large.max_body = 1 << 30;
    let world = World::with(config(vec![large]), &[&service], None);
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000000\r\n\r\nsome");
    let response = client.response();
    assert_eq!((response.status(), response.text().as_str()), (403, "no"));
    assert_eq!(response.header("connection").as_deref(), Some("close"));
    assert!(client.0.closed());
}

#[test]
fn a_response_that_breaks_off_is_seen_to() {
    for (head, frames) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            "length",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "chunks",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nnonsense\r\n\r\n",
            "nonsense",
        ),
    ] {
        let service = Service::start(move |wire| {
            wire.message(false);
            wire.send(head);
        });
        let world = World::of(&[&service]);
        let mut client = world.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(client.0.message(false).is_none(), "{frames}");
        world.eventually("the failure is counted", |world| {
            world.metric("sinew_gateway_upstream_failures_total{service=\"app\"}") == 1.0
        });
    }
}

#[test]
fn bytes_after_a_response_are_never_another_clients_response() {
    let service = Service::start(|wire| {
        wire.message(false);
        wire.send(&format!("{}{}", ok("first"), ok("smuggled")));
        wire.fill();
    });
    let world = World::of(&[&service]);
    for _ in 0..5 {
        assert_eq!(world.get("/").text(), "first");
    }
}

#[test]
fn a_client_that_leaves_ends_the_request() {
    let (left, gone) = mpsc::channel();
    let service = Service::start(move |wire| {
        wire.message(false);
        left.send(wire.closed()).unwrap();
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    world.eventually("the service is asked", |world| {
        world.gateway.stats().in_flight == 1
    });
    drop(client);
    assert!(gone.recv_timeout(PATIENCE).unwrap());
    world.eventually("nothing is in flight", |world| {
        world.gateway.stats().in_flight == 0
    });
}

#[test]
fn a_slow_reader_holds_the_service_back() {
    let (sent, progress) = mpsc::channel();
    let service = Service::start(move |wire| {
        wire.message(false);
        wire.stream
            .set_write_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let block = [b'x'; 64 << 10];
        let mut total = 0u64;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1u64 << 30);
        wire.send(&head);
        while total < 1 << 30 && std::io::Write::write_all(&mut wire.stream, &block).is_ok() {
            total += block.len() as u64;
        }
        sent.send(total).unwrap();
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    // Nothing is read, so the sockets' buffers are all that fits between the two.
    let total = progress.recv_timeout(PATIENCE).unwrap();
    assert!(
        total < 64 << 20,
        "{total} bytes were taken from the service"
    );
}

#[test]
fn a_client_may_send_everything_before_it_reads_anything() {
    let service = Service::start(|wire| {
        wire.head();
        wire.send(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            8 << 20
        ));
        let mut writer = wire.stream.try_clone().unwrap();
        let answer = std::thread::spawn(move || {
            std::io::Write::write_all(&mut writer, &vec![b'a'; 8 << 20]).unwrap();
        });
        while wire.chunk().is_some_and(|chunk| !chunk.is_empty()) {}
        answer.join().unwrap();
    });
    let mut large = route("/**", "app");
    large.max_body = 64 << 20;
    let world = World::with(config(vec![large]), &[&service], None);
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let piece = format!("{:x}\r\n{}\r\n", 1 << 20, "b".repeat(1 << 20));
    for _ in 0..32 {
        client.send(&piece);
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.response().body.len(), 8 << 20);
}
