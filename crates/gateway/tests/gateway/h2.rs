//! Clients that speak HTTP/2.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request};
use sinew_gateway::AccessLog;

use crate::{
    h2_support::{ask, connect, connect_with, get, post, read, run},
    support::{PATIENCE, Service, World, config, nowhere, ok, route},
};

#[test]
fn requests_take_the_same_walk_as_those_of_http_1() {
    let service = Service::saying("hello");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let mut config = config(vec![route("/shop/**", "app")]);
    config.access_log = AccessLog::File(file.clone());
    let world = World::with(config, &[&service], None);
    run(async {
        let sender = connect(world.gateway.address()).await;
        let request = Request::get("http://A.example:80/shop/%61?q=%7e")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("x-forwarded-for", "6.6.6.6")
            .header("x-auth-subject", "root")
            .header("x-request-id", "mine")
            .header("te", "trailers");
        let answer = ask(&sender, request.body(()).unwrap(), None).await.unwrap();
        assert_eq!((answer.status, answer.text()), (200, "hello"));
        assert_eq!(answer.header("x-request-id"), Some("mine"));
        assert_eq!(answer.header("content-length"), Some("5"));
        let missing = ask(&sender, get("/x"), None).await.unwrap();
        assert_eq!(
            (missing.status, missing.code().as_str()),
            (404, "gateway.no_route")
        );
        let refused = ask(&sender, get("/shop/%2e%2e/x"), None).await.unwrap();
        assert_eq!(refused.code(), "gateway.path_refused");
    });
    let request = &service.requests()[0];
    assert_eq!(request.first, "GET /shop/a?q=%7e HTTP/1.1");
    for (name, value) in [
        ("host", "A.example:80"),
        ("cookie", "a=1; b=2"),
        ("x-forwarded-for", "127.0.0.1"),
        ("te", "trailers"),
    ] {
        assert_eq!(request.header(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(request.header("x-auth-subject"), None);
    assert_eq!(service.requests().len(), 1);
    assert_eq!(
        world.metric(
            "sinew_gateway_requests_total{route=\"/shop/**\",service=\"app\",status=\"2xx\"}"
        ),
        1.0
    );
    world.eventually("the log has it", |_| {
        let log = std::fs::read_to_string(&file).unwrap();
        log.lines().count() == 3 && log.contains("\"protocol\":\"h2\",\"method\":\"GET\",\"host\":\"a.example\",\"path\":\"/shop/a\"")
    });
}

#[test]
fn bodies_and_trailers_pass_both_ways() {
    let service = Service::start(|wire| {
        while let Some(request) = wire.message(false) {
            let framing = request
                .header("transfer-encoding")
                .or(request.header("content-length"));
            let said = format!(
                "{} {} {:?}",
                framing.unwrap_or_default(),
                request.body.len(),
                wire.trailers
            );
            wire.send(&format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{said}\r\n0\r\nx-sum: 7\r\n\r\n",
                said.len()
            ));
        }
    });
    let world = World::of(&[&service]);
    run(async {
        let sender = connect(world.gateway.address()).await;
        let body = vec![b'x'; 300_000];
        let answer = ask(&sender, post("/"), Some(&body)).await.unwrap();
        assert_eq!(answer.text(), "chunked 300000 []");
        assert_eq!(answer.trailers.unwrap()["x-sum"], "7");
        let declared = Request::post("http://a/").header("content-length", "5");
        let answer = ask(&sender, declared.body(()).unwrap(), Some(b"hello"))
            .await
            .unwrap();
        assert_eq!(answer.text(), "5 5 []");

        let (response, mut send) = sender.clone().send_request(post("/"), false).unwrap();
        send.send_data(Bytes::from_static(b"abc"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-check", "9".parse().unwrap());
        trailers.insert("x-forwarded-for", "evil".parse().unwrap());
        send.send_trailers(trailers).unwrap();
        let answer = read(response.await.unwrap()).await.unwrap();
        assert_eq!(answer.text(), "chunked 3 [\"x-check: 9\"]");
    });
}

#[test]
fn responses_without_a_body_have_none() {
    let service = Service::answering(|request| {
        let status = request.first.split(['/', ' ']).nth(2).unwrap();
        match status {
            "204" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
            "304" => "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n".to_owned(),
            _ => "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n".to_owned(),
        }
    });
    let world = World::of(&[&service]);
    run(async {
        let sender = connect(world.gateway.address()).await;
        let head = Request::head("http://a/200").body(()).unwrap();
        for (request, status, length) in [
            (get("/204"), 204, None),
            (get("/304"), 304, Some("9")),
            (head, 200, Some("9")),
        ] {
            let answer = ask(&sender, request, None).await.unwrap();
            assert_eq!(
                (answer.status, answer.header("content-length")),
                (status, length)
            );
            assert!(answer.body.is_empty());
        }
    });
}

#[test]
fn streams_run_at_once_and_a_slow_reader_stops_no_other() {
    let barrier = Arc::new(std::sync::Barrier::new(20));
    let service = Service::start(move |wire| {
        while let Some(request) = wire.message(false) {
            if request.first.contains("/together") {
                barrier.wait();
            }
            let length = if request.first.contains("/big") {
                5_000_000
            } else {
                3
            };
            wire.send(&ok(&"x".repeat(length)));
        }
    });
    let world = World::of(&[&service]);
    run(async {
        // So much that the window of the connection is never what stops anyone.
        let mut builder = h2::client::Builder::new();
        builder.initial_connection_window_size(100 << 20);
        let (sender, _) = connect_with(&mut builder, world.gateway.address()).await;
        let (big, _) = sender.clone().send_request(get("/big"), true).unwrap();
        let mut unread = big.await.unwrap();
        let together: Vec<_> = (0..20)
            .map(|_| {
                let sender = sender.clone();
                tokio::task::spawn_local(async move { ask(&sender, get("/together"), None).await })
            })
            .collect();
        for one in together {
            assert_eq!(one.await.unwrap().unwrap().text(), "xxx");
        }
        let mut length = 0;
        while let Some(data) = unread.body_mut().data().await {
            let data = data.unwrap();
            length += data.len();
            unread
                .body_mut()
                .flow_control()
                .release_capacity(data.len())
                .unwrap();
        }
        assert_eq!(length, 5_000_000);
    });
    assert_eq!(world.metric("sinew_gateway_connections_total"), 1.0);
}

#[test]
fn interim_responses_come_before_the_response() {
    let service = Service::start(|wire| {
        while let Some(head) = wire.head() {
            wire.send("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n");
            if head.header("expect").is_some() {
                wire.send("HTTP/1.1 100 Continue\r\n\r\n");
                wire.exactly(4).unwrap();
            }
            wire.send(&ok("done"));
        }
    });
    let world = World::of(&[&service]);
    run(async {
        let sender = connect(world.gateway.address()).await;
        let request = Request::post("http://a/")
            .header("expect", "100-continue")
            .header("content-length", "4");
        let (mut response, mut send) = sender
            .clone()
            .send_request(request.body(()).unwrap(), false)
            .unwrap();
        let mut heard = Vec::new();
        while heard.len() < 2 {
            let interim = std::future::poll_fn(|cx| response.poll_informational(cx)).await;
            let interim = interim.unwrap().unwrap();
            heard.push((
                interim.status().as_u16(),
                interim.headers().contains_key("link"),
            ));
        }
        assert_eq!(heard, [(103, true), (100, false)]);
        send.send_data(Bytes::from_static(b"body"), true).unwrap();
        assert_eq!(read(response.await.unwrap()).await.unwrap().text(), "done");
    });
}

#[test]
fn an_early_response_is_whole_and_the_rest_of_the_request_unwanted() {
    let service = Service::start(|wire| {
        while wire.head().is_some() {
            wire.send("HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno");
            while wire.fill() {}
        }
    });
    let world = World::of(&[&service]);
    run(async {
        let sender = connect(world.gateway.address()).await;
        let (response, mut send) = sender.clone().send_request(post("/"), false).unwrap();
        send.send_data(Bytes::from_static(b"begun"), false).unwrap();
        let answer = read(response.await.unwrap()).await.unwrap();
        assert_eq!((answer.status, answer.text()), (413, "no"));
        let reset = std::future::poll_fn(|cx| send.poll_reset(cx))
            .await
            .unwrap();
        assert_eq!(reset, Reason::NO_ERROR);
    });
}

#[test]
fn a_request_taken_back_is_taken_back_from_the_instance() {
    let (told, heard) = std::sync::mpsc::channel();
    let service = Service::start(move |wire| {
        if let Some(head) = wire.head() {
            told.send(format!("asked {}", head.first)).unwrap();
            while wire.fill() {}
            told.send("cut".to_owned()).unwrap();
        }
    });
    let world = World::of(&[&service]);
    run(async {
        let sender = connect(world.gateway.address()).await;
        for (request, end) in [(get("/whole"), true), (post("/half"), false)] {
            let (_response, mut send) = sender.clone().send_request(request, end).unwrap();
            let wait = async {
                while heard.try_recv().is_err() {
                    tokio::time::sleep(Duration::from_millis(5)).await
                }
            };
            wait.await;
            send.send_reset(Reason::CANCEL);
            while heard.try_recv().is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    world.eventually("nothing is in flight", |world| {
        world.gateway.stats().in_flight == 0
    });
}

#[test]
fn failures_end_a_stream_and_not_the_connection() {
    let service = Service::answering(|request| {
        if request.first.contains("/half") {
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\nhalf".to_owned()
        } else if request.first.contains("/nonsense") {
            "what?\r\n\r\n".to_owned()
        } else {
            ok("fine")
        }
    });
    let closing = Service::start(move |wire| {
        if wire.message(false).is_some() {
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
        }
    });
    let routes = vec![
        route("/**", "app"),
        route("/cut", "cut"),
        route("/gone", "gone"),
    ];
    let world = World::with(config(routes), &[&service], None);
    world
        .discovery
        .set_addresses(&crate::support::name("cut"), &[closing.address]);
    world
        .discovery
        .set_addresses(&crate::support::name("gone"), &[nowhere()]);
    run(async {
        let sender = connect(world.gateway.address()).await;
        let cut = ask(&sender, get("/cut"), None).await.unwrap_err();
        assert_eq!(cut.reason(), Some(Reason::INTERNAL_ERROR));
        let nonsense = ask(&sender, get("/nonsense"), None).await.unwrap();
        assert_eq!(
            (nonsense.status, nonsense.code().as_str()),
            (502, "gateway.upstream_failed")
        );
        let gone = ask(&sender, get("/gone"), None).await.unwrap();
        assert_eq!((gone.status, gone.header("connection")), (503, None));
        let big = ask(&sender, post("/"), Some(&vec![0; 2 << 20])).await;
        assert!(big.map_or(true, |answer| answer.status == 413));
        assert_eq!(ask(&sender, get("/"), None).await.unwrap().text(), "fine");
    });
    assert_eq!(world.metric("sinew_gateway_connections_total"), 1.0);
}

#[test]
fn another_instance_is_tried_with_the_body_again() {
    let service = Service::answering(|request| ok(&request.text()));
    let closing = Service::start(|wire| drop(wire.head()));
    let world = World::of(&[&service, &closing]);
    run(async {
        let sender = connect(world.gateway.address()).await;
        for _ in 0..4 {
            let request = || Request::put("http://a/");
            let declared = request().header("content-length", "5");
            for request in [request(), declared] {
                let answer = ask(&sender, request.body(()).unwrap(), Some(b"again")).await;
                assert_eq!(answer.unwrap().text(), "again");
            }
        }
    });
}

#[test]
fn draining_lets_streams_finish_and_takes_no_more() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let service = Service::start(move |wire| {
        while wire.message(false).is_some() {
            released.lock().unwrap().recv().unwrap();
            wire.send(&ok("late"));
        }
    });
    let world = World::of(&[&service]);
    run(async {
        let (sender, connection) =
            connect_with(&mut h2::client::Builder::new(), world.gateway.address()).await;
        let (response, _) = sender.clone().send_request(get("/"), true).unwrap();
        while world.gateway.stats().in_flight == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let drain = world.gateway.drain(PATIENCE);
        let client = async {
            // Told to go, and finished nevertheless.
            while sender.clone().ready().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            release.send(()).unwrap();
            let answer = read(response.await.unwrap()).await.unwrap();
            assert_eq!(answer.text(), "late");
            assert!(connection.await.unwrap().is_ok());
        };
        let (cut_off, ()) = tokio::join!(drain, client);
        assert_eq!(cut_off, 0);
    });
}

#[test]
fn an_idle_connection_is_told_to_go() {
    let service = Service::saying("hello");
    let mut config = config(vec![route("/**", "app")]);
    config.limits.idle_timeout = Duration::from_millis(200);
    let world = World::with(config, &[&service], None);
    run(async {
        let (sender, connection) =
            connect_with(&mut h2::client::Builder::new(), world.gateway.address()).await;
        assert_eq!(ask(&sender, get("/"), None).await.unwrap().text(), "hello");
        assert!(connection.await.unwrap().is_ok());
    });
    world.eventually("it is gone", |world| world.gateway.stats().connections == 0);
}
