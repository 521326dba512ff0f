//! Which failures are tried again, how often, and how long all of it may take.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::*;
use sinew_gateway::{Conditions, Route};

/// Answers its first `bad` requests with this, and 200 then; and counts them.
fn at_first(bad: usize, answer: &'static str) -> (Service, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let service = Service::answering(move |_| {
        if count.fetch_add(1, Ordering::SeqCst) < bad {
            answer.to_owned()
        } else {
            ok("well")
        }
    });
    (service, asked)
}

const BUSY: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";

fn retrying(retries: u8, on: Conditions) -> Route {
    let mut route = route("/**", "app");
    route.retries = retries;
    route.retry_on = on;
    route.retry_backoff = Duration::from_millis(1);
    route
}

#[test]
fn stated_statuses_are_tried_again_and_the_last_answer_passes() {
    let (service, asked) = at_first(2, BUSY);
    let on = Conditions::NONE.with_status(503);
    let world = World::with(config(vec![retrying(1, on)]), &[&service], None);
    let response = world.get("/");
    assert_eq!((response.status(), response.text().as_str()), (503, "busy"));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(world.get("/").text(), "well");

    let (service, asked) = at_first(2, BUSY);
    let world = World::with(config(vec![retrying(2, on)]), &[&service], None);
    assert_eq!(world.get("/").text(), "well");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[test]
fn other_statuses_and_methods_pass_as_they_are() {
    let (service, asked) = at_first(usize::MAX, BUSY);
    let on = Conditions::NONE.with_status(502);
    let world = World::with(config(vec![retrying(3, on)]), &[&service], None);
    assert_eq!(world.get("/").status(), 503);
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab";
    let (service, asked) = at_first(1, BUSY);
    let on = Conditions::NONE.with_status(503);
    let world = World::with(config(vec![retrying(3, on)]), &[&service], None);
    assert_eq!(world.ask(post).status(), 503);
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    let (service, asked) = at_first(1, BUSY);
    let mut any = retrying(3, on);
    any.retry_any_method = true;
    let world = World::with(config(vec![any]), &[&service], None);
    assert_eq!(world.ask(post).text(), "well");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[test]
fn retry_after_is_kept_or_left_to_the_client() {
    let later = "HTTP/1.1 503 Busy\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n";
    let (service, asked) = at_first(1, later);
    let on = Conditions::NONE.with_status(503);
    let world = World::with(config(vec![retrying(3, on)]), &[&service], None);
    let response = world.get("/");
    assert_eq!(response.header("retry-after").as_deref(), Some("3600"));
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    let soon = "HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
    let (service, _) = at_first(1, soon);
    let world = World::with(config(vec![retrying(3, on)]), &[&service], None);
    let (clock, at_least) = (sinew_core::Clock::system(), Duration::from_millis(900));
    let begun = clock.monotonic();
    assert_eq!(world.get("/").text(), "well");
    assert!(clock.monotonic() - begun >= at_least);
}

#[test]
fn a_try_that_takes_too_long_goes_to_another_instance_if_the_route_says_so() {
    let hanging = Service::start(|wire| {
        wire.message(false);
        while wire.fill() {}
    });
    let well = Service::saying("well");
    let with = |on| {
        let mut route = retrying(1, on);
        route.try_timeout = Some(Duration::from_millis(100));
        World::with(config(vec![route]), &[&hanging, &well], None)
    };
    let world = with(Conditions::no_answer().with_timeout());
    world.eventually("the hanging one is asked", |world| {
        assert_eq!(world.get("/").text(), "well");
        world.metric("sinew_gateway_upstream_timeouts_total{service=\"app\"}") > 0.0
    });
    let world = with(Conditions::no_answer());
    world.eventually("the hanging one is asked", |world| {
        let response = world.get("/");
        response.status() != 200 && response.code() == "gateway.upstream_timeout"
    });
}

#[test]
fn the_whole_request_has_its_time() {
    let hanging = Service::start(|wire| {
        wire.message(false);
        while wire.fill() {}
    });
    let mut bounded = route("/**", "app");
    bounded.total_timeout = Some(Duration::from_millis(100));
    let world = World::with(config(vec![bounded.clone()]), &[&hanging], None);
    let response = world.get("/");
    assert_eq!(
        (response.status(), response.code().as_str()),
        (504, "gateway.total_timeout")
    );
    // A client that is slow itself is told so, and no instance is blamed.
    let world = World::with(config(vec![bounded.clone()]), &[&hanging], None);
    let late = world.ask("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
    assert_eq!(late.code(), "gateway.total_timeout");
    let timeouts = "sinew_gateway_upstream_timeouts_total{service=\"app\"}";
    assert_eq!(world.metric(timeouts), 0.0);
    // An answer that trickles is cut, and cannot be taken for whole.
    let trickling = Service::start(|wire| {
        wire.message(false);
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while std::io::Write::write_all(&mut wire.stream, b"1\r\nx\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let world = World::with(config(vec![bounded]), &[&trickling], None);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.0.message(false).is_none());
}

#[test]
fn a_response_that_stands_still_is_cut() {
    let stalling = Service::start(|wire| {
        wire.message(false);
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        while wire.fill() {}
    });
    let mut bounded = route("/**", "app");
    bounded.idle_timeout = Some(Duration::from_millis(100));
    let world = World::with(config(vec![bounded]), &[&stalling], None);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.0.message(false).is_none());
}
