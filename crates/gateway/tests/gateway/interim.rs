//! What is said before the response: `100 Continue`, early hints, and early responses.

use std::{io::Write, sync::mpsc};

use crate::support::*;

const EXPECTING: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";

#[test]
fn continue_is_the_services_word() {
    let (go, wait) = mpsc::channel::<&str>();
    let wait = std::sync::Mutex::new(wait);
    let service = Service::start(move |wire| {
        while let Some(request) = wire.head() {
            assert_eq!(request.header("expect").as_deref(), Some("100-continue"));
            wire.send(wait.lock().unwrap().recv().unwrap());
            let body = wire.exactly(4).unwrap();
            wire.send(&ok(&String::from_utf8_lossy(&body)));
        }
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    for _ in 0..2 {
        client.send(EXPECTING);
        go.send(
            "HTTP/1.1 100 Go on\r\nX-Why: yes\r\nContent-Length: 3\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
        let interim = client.0.head().unwrap();
        assert_eq!(interim.first, "HTTP/1.1 100 Go on");
        assert_eq!(interim.headers, [("X-Why".to_owned(), "yes".to_owned())]);
        client.send("body");
        assert_eq!(client.response().text(), "body");
    }
}

#[test]
fn a_service_that_refuses_is_heard_before_the_body_is_sent() {
    let service = Service::start(|wire| {
        assert!(wire.head().is_some());
        wire.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno");
        // The body never comes, nor anything else.
        assert!(wire.closed());
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    client.send(EXPECTING);
    let response = client.response();
    assert_eq!((response.status(), response.text().as_str()), (401, "no"));
    // The client may or may not send the body now, so what comes could be either.
    assert_eq!(response.header("connection").as_deref(), Some("close"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.0.closed());
}

#[test]
fn a_service_that_says_nothing_is_spoken_for() {
    let service = Service::answering(|request| ok(&request.text()));
    let world = World::of(&[&service]);
    let mut client = world.client();
    client.send(EXPECTING);
    assert_eq!(client.0.head().unwrap().first, "HTTP/1.1 100 Continue");
    client.send("body");
    assert_eq!(client.response().text(), "body");
    // Who does not wait hears nothing of it.
    client.send(&format!("{EXPECTING}body"));
    assert_eq!(client.response().text(), "body");
}

#[test]
fn a_client_that_does_not_wait_is_not_held_up() {
    let service = Service::answering(|request| {
        assert_eq!(request.header("expect"), None);
        ok(&request.text())
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    // Nothing follows, so there is nothing to wait for; and HTTP/1.0 has no such thing.
    client.send("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    client.send(
        "POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
    );
    client.send("body");
    assert_eq!(client.response().text(), "body");
}

#[test]
fn hints_pass_before_the_response() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let service = Service::start(move |wire| {
        while wire.message(false).is_some() {
            // One that nobody waits for; it goes nowhere.
            wire.send("HTTP/1.1 100 Continue\r\n\r\n");
            wire.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nX-Hop: 1\r\nConnection: X-Hop\r\n\r\n");
            let _ = wait.lock().unwrap().recv();
            wire.send(&ok("final"));
        }
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.0.head().unwrap().first, "HTTP/1.1 102 Processing");
        let hints = client.0.head().unwrap();
        assert_eq!(hints.first, "HTTP/1.1 103 Early Hints");
        assert_eq!(
            hints.headers,
            [("Link".to_owned(), "</a>; rel=preload".to_owned())]
        );
        // They were not held back for the response.
        go.send(()).unwrap();
        assert_eq!(client.response().text(), "final");
    }
    go.send(()).unwrap();
    let old = world.ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((old.status(), old.text().as_str()), (200, "final"));
}

#[test]
fn interim_responses_without_end_are_502() {
    for (interim, count) in [
        ("HTTP/1.1 103 Early Hints\r\n\r\n".to_owned(), 1_000),
        (
            format!(
                "HTTP/1.1 102 Processing\r\nX: {}\r\n\r\n",
                "x".repeat(20 << 10)
            ),
            3,
        ),
    ] {
        let service = Service::start(move |wire| {
            wire.message(false);
            for _ in 0..count {
                if wire.stream.write_all(interim.as_bytes()).is_err() {
                    return;
                }
            }
            wire.fill();
        });
        let world = World::of(&[&service]);
        let mut client = world.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut interims = 0;
        let status = loop {
            let status = client.0.head().unwrap().status();
            if status >= 200 {
                break status;
            }
            interims += 1;
        };
        assert_eq!(status, 502);
        assert!(interims <= 32, "{interims}");
    }
}

#[test]
fn a_service_that_hinted_and_died_is_not_asked_again() {
    let (asked, count) = mpsc::channel();
    let service = Service::start(move |wire| {
        wire.message(false);
        asked.send(()).unwrap();
        wire.send("HTTP/1.1 103 Early Hints\r\n\r\n");
    });
    let other = Service::saying("other");
    let world = World::of(&[&service, &other]);
    for _ in 0..20 {
        let mut client = world.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        if client.0.head().unwrap().status() == 103 {
            assert_eq!(client.response().status(), 502);
        }
    }
    assert!(count.try_iter().count() > 0);
}

#[test]
fn an_early_answer_reaches_a_client_that_reads_only_when_it_has_sent_all() {
    for keeps_reading in [false, true] {
        let service = Service::start(move |wire| {
            wire.head();
            wire.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig");
            while keeps_reading && wire.fill() {
                wire.read.clear();
            }
        });
        let mut large = route("/**", "app");
        large.max_body = 1 << 30;
        let world = World::with(config(vec![large]), &[&service], None);
        let mut client = world.client();
        let body = "x".repeat(16 << 20);
        client.send(&format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let response = client.response();
        assert_eq!((response.status(), response.text().as_str()), (413, "big"));
        if !keeps_reading {
            assert_eq!(response.header("connection").as_deref(), Some("close"));
            assert!(client.0.closed());
        }
    }
}

#[test]
fn the_rest_of_a_body_that_was_answered_early_is_never_a_request() {
    let (saw, seen) = mpsc::channel();
    let service = Service::start(move |wire| {
        while let Some(request) = wire.head() {
            saw.send(request.first).unwrap();
            wire.send(&ok("early"));
        }
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n");
    assert_eq!(client.response().text(), "early");
    client.send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.0.closed());
    // Neither is the connection to the service used again: it waits for that body.
    assert_eq!(world.get("/next").text(), "early");
    let seen: Vec<_> = seen.try_iter().collect();
    assert_eq!(seen, ["POST / HTTP/1.1", "GET /next HTTP/1.1"]);
    assert_eq!(
        world.metric("sinew_gateway_upstream_connects_total{service=\"app\"}"),
        2.0
    );
}
