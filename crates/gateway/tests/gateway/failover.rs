//! Instances that are gone, hang, or die, and what the client sees of it.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::*;
use sinew_core::InstanceId;
use sinew_gateway::{Endpoint, EndpointStatus, Upstream};

#[test]
fn nobody_up_is_503_with_retry_after() {
    let world = World::of(&[]);
    let response = world.get("/");
    assert_eq!(
        (response.status(), response.code().as_str()),
        (503, "gateway.no_instance")
    );
    assert_eq!(response.header("retry-after").as_deref(), Some("1"));
    let service = Service::saying("here");
    world.set_addresses(&[service.address]);
    assert_eq!(world.get("/").text(), "here");
}

#[test]
fn a_refused_connection_goes_to_another_instance_whatever_the_method() {
    let service = Service::answering(|request| ok(&String::from_utf8_lossy(&request.body)));
    let world = World::of(&[&service]);
    world.set_addresses(&[nowhere(), nowhere_else(), service.address]);
    let mut client = world.client();
    let mut post = || {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab");
        client.response()
    };
    let failures =
        || world.metric("sinew_gateway_upstream_connect_failures_total{service=\"app\"}");
    // Two are gone and one retry is allowed: until both are known, a request may fail.
    while failures() < 2.0 {
        post();
    }
    for _ in 0..50 {
        assert_eq!(post().text(), "ab");
    }
    // The dead ones are set aside and not asked for every request: that would be some 50 failures.
    assert!(failures() <= 25.0, "{}", failures());
}

fn nowhere_else() -> std::net::SocketAddr {
    nowhere()
}

#[test]
fn all_gone_is_503_and_they_are_tried_again() {
    let world = World::of(&[]);
    let address = nowhere();
    world.set_addresses(&[address]);
    for _ in 0..3 {
        let response = world.get("/");
        assert_eq!(
            (response.status(), response.code().as_str()),
            (503, "gateway.unreachable")
        );
    }
    // It comes back where it was: at once, though it is set aside, because there is no other.
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut client = Client(Wire {
            stream,
            read: Vec::new(),
            trailers: Vec::new(),
        });
        client.0.message(false);
        client.send(&ok("back"));
    });
    assert_eq!(world.get("/").text(), "back");
}

/// Hangs up on the first `deaths` requests, having read them whole.
fn dying(deaths: usize, then: &'static str) -> (Service, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let service = Service::start(move |wire| {
        while wire.message(false).is_some() {
            if count.fetch_add(1, Ordering::SeqCst) < deaths {
                return;
            }
            wire.send(&ok(then));
        }
    });
    (service, asked)
}

#[test]
fn idempotent_requests_are_retried_elsewhere_and_others_are_not() {
    let (dead, asked) = dying(usize::MAX, "");
    let alive = Service::saying("alive");
    // It stays, however often it dies.
    let mut upstream = Upstream::new(name("app"));
    upstream.ejection.consecutive = 0;
    upstream.ejection.failure_percent = 0;
    let config = config_with(vec![route("/**", "app")], upstream);
    let world = World::with(config, &[&dead, &alive], None);
    // Few enough for the part of the retry budget that is free.
    for _ in 0..3 {
        assert_eq!(world.get("/").text(), "alive");
        let put = world.ask("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab");
        assert_eq!(put.text(), "alive");
        let keyed =
            "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: 1\r\nContent-Length: 2\r\n\r\nab";
        assert_eq!(world.ask(keyed).text(), "alive");
    }
    let post = || world.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab");
    let failed = (0..1_000)
        .map(|_| post())
        .find(|response| response.status() != 200)
        .unwrap();
    assert_eq!(
        (failed.status(), failed.code().as_str()),
        (502, "gateway.upstream_failed")
    );
    assert!(asked.load(Ordering::SeqCst) > 0);
}

#[test]
fn retries_are_bounded_by_the_route() {
    let (a, asked_a) = dying(usize::MAX, "");
    let (b, asked_b) = dying(usize::MAX, "");
    let (c, asked_c) = dying(usize::MAX, "");
    let count = || {
        [&asked_a, &asked_b, &asked_c]
            .map(|n| n.load(Ordering::SeqCst))
            .iter()
            .sum::<usize>()
    };
    for retries in [0, 1, 2] {
        let mut bounded = route("/**", "app");
        bounded.retries = retries;
        let world = World::with(config(vec![bounded]), &[&a, &b, &c], None);
        let before = count();
        assert_eq!(world.get("/").status(), 502);
        assert_eq!(count() - before, usize::from(retries) + 1);
    }
}

#[test]
fn retries_are_bounded_by_the_budget() {
    let (a, _) = dying(usize::MAX, "");
    let (b, _) = dying(usize::MAX, "");
    let world = World::of(&[&a, &b]);
    for _ in 0..200 {
        assert_eq!(world.get("/").status(), 502);
    }
    world.eventually("all are counted", |world| {
        world.gateway.stats().requests == 200
    });
    assert!(world.metric("sinew_gateway_upstream_retries_refused_total{service=\"app\"}") > 0.0);
}

#[test]
fn a_kept_connection_that_closes_is_no_failure() {
    // Answers one request per connection, says it would keep the connection, and closes it as the
    // next request comes in.
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let service = Service::start(move |wire| {
        count.fetch_add(1, Ordering::SeqCst);
        wire.message(false);
        wire.send(&ok("once"));
        wire.head();
    });
    let mut never = route("/**", "app");
    never.retries = 0;
    let world = World::with(config(vec![never]), &[&service], None);
    let mut client = world.client();
    for _ in 0..10 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response().text(), "once");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 10);
}

#[test]
fn a_body_that_has_not_come_yet_is_sent_on_a_new_connection() {
    let service = Service::start(move |wire| {
        let first = wire.message(false).unwrap();
        wire.send(&ok(&String::from_utf8_lossy(&first.body)));
        wire.head();
    });
    let mut never = route("/**", "app");
    never.retries = 0;
    let world = World::with(config(vec![never]), &[&service], None);
    let mut client = world.client();
    for _ in 0..3 {
        client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n");
        // The kept connection, if there was one, is found dead meanwhile.
        std::thread::sleep(Duration::from_millis(30));
        client.send("body");
        assert_eq!(client.response().text(), "body");
    }
}

#[test]
fn a_connection_closed_while_kept_is_not_used_for_a_post() {
    let service = Service::start(|wire| {
        let request = wire.message(false).unwrap();
        wire.send(&ok(&request.first));
        // Closed now, though the response did not say so.
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    for _ in 0..20 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
        assert_eq!(client.response().status(), 200);
        // The end of the kept connection has reached this machine's network stack for sure.
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_answer_that_never_comes_is_504() {
    let service = Service::start(|wire| {
        wire.message(false);
        wire.fill();
    });
    let mut impatient = route("/**", "app");
    impatient.timeout = Duration::from_millis(100);
    let world = World::with(config(vec![impatient]), &[&service], None);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response();
    assert_eq!(
        (response.status(), response.code().as_str()),
        (504, "gateway.upstream_timeout")
    );
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status(), 504);
    assert_eq!(
        world.metric("sinew_gateway_upstream_timeouts_total{service=\"app\"}"),
        2.0
    );
}

#[test]
fn answers_that_are_no_http_are_502() {
    for nonsense in [
        "",
        "hello\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
        "HTTP/1.1 099 Low\r\n\r\n",
    ] {
        let service = Service::start(move |wire| {
            wire.message(false);
            wire.send(nonsense);
        });
        let response = World::of(&[&service]).get("/");
        assert_eq!(
            (response.status(), response.code().as_str()),
            (502, "gateway.upstream_failed"),
            "{nonsense:?}"
        );
    }
}

#[test]
fn only_instances_that_are_up_get_requests() {
    let (up, other) = (Service::saying("up"), Service::saying("other"));
    let world = World::of(&[]);
    let endpoint = |service: &Service, status| Endpoint {
        id: InstanceId::new(&service.address.to_string()).unwrap(),
        address: reachable(service.address),
        status,
        metadata: Arc::default(),
    };
    for status in [EndpointStatus::Draining, EndpointStatus::Down] {
        world.discovery.set(
            &name("app"),
            vec![endpoint(&up, EndpointStatus::Up), endpoint(&other, status)],
        );
        for _ in 0..10 {
            assert_eq!(world.get("/").text(), "up");
        }
    }
    world
        .discovery
        .set(&name("app"), vec![endpoint(&other, EndpointStatus::Up)]);
    assert_eq!(world.get("/").text(), "other");
}

#[test]
fn requests_spread_over_the_instances() {
    let services = [
        Service::saying("a"),
        Service::saying("b"),
        Service::saying("c"),
    ];
    let world = World::of(&[&services[0], &services[1], &services[2]]);
    for _ in 0..300 {
        assert_eq!(world.get("/").status(), 200);
    }
    for service in &services {
        assert!(
            service.requests().len() > 40,
            "{}",
            service.requests().len()
        );
    }
}

#[test]
fn a_busy_instance_is_left_alone() {
    let (slow_done, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let slow = Service::start(move |wire| {
        wire.message(false);
        let _ = wait.lock().unwrap().recv();
        wire.send(&ok("slow"));
    });
    let world = World::of(&[&slow]);
    let mut waiting = world.client();
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    world.eventually("the slow one is asked", |world| {
        world.metric("sinew_gateway_upstream_requests_active{service=\"app\"}") == 1.0
    });
    let fast = Service::saying("fast");
    world.set_addresses(&[slow.address, fast.address]);
    for _ in 0..20 {
        assert_eq!(world.get("/").text(), "fast");
    }
    slow_done.send(()).unwrap();
    assert_eq!(waiting.response().text(), "slow");
}
