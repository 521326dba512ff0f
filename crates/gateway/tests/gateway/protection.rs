//! What stands before a service: circuit breaker, bulkhead, load shedding, and the fallback behind all.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::*;
use sinew_gateway::{Breaker, Bulkhead, Fallback, Routing, Shedding, Upstream};

fn world(instances: &[&Service], change: impl FnOnce(&mut Upstream)) -> World {
    let mut upstream = Upstream::new(name("app"));
    // What is to be seen here is not to be hidden by it.
    upstream.ejection.consecutive = 0;
    upstream.ejection.failure_percent = 0;
    change(&mut upstream);
    let config = config_with(vec![route("/**", "app")], upstream);
    World::with(config, instances, None)
}

const STATE: &str = "sinew_gateway_upstream_breaker_state{service=\"app\"}";

#[test]
fn a_breaker_opens_half_opens_and_closes() {
    let (ill, asked) = (
        Arc::new(AtomicBool::new(true)),
        Arc::new(AtomicUsize::new(0)),
    );
    let service = Service::answering({
        let (ill, asked) = (ill.clone(), asked.clone());
        move |_| {
            asked.fetch_add(1, Ordering::SeqCst);
            if ill.load(Ordering::SeqCst) {
                "HTTP/1.1 500 Ill\r\nContent-Length: 0\r\n\r\n".to_owned()
            } else {
                ok("well")
            }
        }
    });
    let world = world(&[&service], |upstream| {
        upstream.breaker = Some(Breaker {
            minimum_requests: 5,
            open: Duration::from_secs(2),
            probes: 2,
            ..Breaker::default()
        });
    });
    for _ in 0..5 {
        assert_eq!(world.metric(STATE), 0.0);
        assert_eq!(world.get("/").status(), 500);
    }
    assert_eq!(world.metric(STATE), 2.0);
    // On a machine that is slow beyond measure it may be half open by now.
    let refused = world.get("/");
    if refused.status() == 503 {
        assert_eq!(refused.code(), "gateway.breaker_open");
        assert!(refused.header("retry-after").is_some());
        assert!(asked.load(Ordering::SeqCst) <= 6);
    }
    // It stays ill: somebody asks, and it opens again.
    world.eventually("it opens again", |world| {
        world.get("/");
        world.metric("sinew_gateway_upstream_breaker_opened_total{service=\"app\"}") >= 2.0
    });
    assert!(asked.load(Ordering::SeqCst) < 30, "open, it asks nothing");
    ill.store(false, Ordering::SeqCst);
    world.eventually("it closes", |world| {
        world.get("/").status() == 200 && world.metric(STATE) == 0.0
    });
}

#[test]
fn where_nobody_is_up_no_breaker_opens() {
    let world = world(&[], |upstream| {
        upstream.breaker = Some(Breaker {
            minimum_requests: 1,
            ..Breaker::default()
        });
    });
    for _ in 0..5 {
        assert_eq!(world.get("/").code(), "gateway.no_instance");
    }
    let service = Service::saying("up");
    world
        .discovery
        .set_addresses(&name("app"), &[service.address]);
    assert_eq!(world.get("/").text(), "up");
}

#[test]
fn a_changed_policy_is_in_force_at_once_and_can_be_taken_back() {
    let (service, gate) = Gate::service();
    let world = world(&[&service], |_| {});
    let mut first = ask(&world);
    world.eventually("it is there", |world| {
        world.metric("sinew_gateway_upstream_requests_active{service=\"app\"}") == 1.0
    });
    let mut upstream = Upstream::new(name("app"));
    upstream.bulkhead = Some(Bulkhead {
        per_instance: Some(1),
        ..Bulkhead::default()
    });
    let routes = vec![route("/**", "app")];
    let set = |upstreams| {
        let routes = routes.clone();
        world.gateway.set_routing(Routing { routes, upstreams })
    };
    set(vec![upstream.clone()]).unwrap();
    assert_eq!(world.get("/").code(), "gateway.bulkhead_full");
    upstream.bulkhead = Some(Bulkhead::default());
    let error = set(vec![upstream]).unwrap_err();
    assert_eq!(error.code(), "gateway.upstreams_invalid");
    assert_eq!(world.get("/").code(), "gateway.bulkhead_full");
    set(Vec::new()).unwrap();
    gate.open(2);
    assert_eq!(world.get("/").text(), "through");
    assert_eq!(first.response().text(), "through");
}

/// A service whose answers wait until as many as asked are let through.
struct Gate(Arc<(Mutex<usize>, Condvar)>);

impl Gate {
    fn service() -> (Service, Self) {
        let gate = Arc::new((Mutex::new(0), Condvar::new()));
        let at = gate.clone();
        let service = Service::answering(move |_| {
            let mut open = at.0.lock().unwrap();
            while *open == 0 {
                open = at.1.wait(open).unwrap();
            }
            *open -= 1;
            ok("through")
        });
        (service, Self(gate))
    }

    fn open(&self, count: usize) {
        *self.0.0.lock().unwrap() += count;
        self.0.1.notify_all();
    }
}

fn ask(world: &World) -> Client {
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client
}

/// Two at once and one that waits; whoever comes then is refused.
fn holds_two_and_queues_one(bulkhead: Bulkhead) {
    let (service, gate) = Gate::service();
    let world = world(&[&service], |upstream| upstream.bulkhead = Some(bulkhead));
    let metric = |series: &str| {
        world.metric(&format!(
            "sinew_gateway_upstream_{series}{{service=\"app\"}}"
        ))
    };
    let mut first = [ask(&world), ask(&world)];
    world.eventually("two are with it", |_| metric("requests_active") == 2.0);
    let mut waiting = ask(&world);
    world.eventually("one waits", |_| metric("requests_queued") == 1.0);
    let refused = world.get("/");
    assert_eq!(
        (refused.status(), refused.code().as_str()),
        (503, "gateway.bulkhead_full")
    );
    assert_eq!(refused.header("retry-after").as_deref(), Some("1"));
    assert_eq!(metric("requests_active"), 2.0);
    gate.open(3);
    for client in first.iter_mut().chain([&mut waiting]) {
        assert_eq!(client.response().text(), "through");
    }
    assert_eq!(metric("requests_queued"), 0.0);
    gate.open(1);
    assert_eq!(world.get("/").text(), "through");
    assert_eq!(metric("bulkhead_refused_total"), 1.0);
}

#[test]
fn a_bulkhead_bounds_a_service_and_queues() {
    holds_two_and_queues_one(Bulkhead {
        requests: Some(2),
        queue: 1,
        queue_wait: PATIENCE,
        ..Bulkhead::default()
    });
}

#[test]
fn a_bulkhead_bounds_each_instance_and_queues() {
    holds_two_and_queues_one(Bulkhead {
        per_instance: Some(2),
        queue: 1,
        queue_wait: PATIENCE,
        ..Bulkhead::default()
    });
}

#[test]
fn a_wait_in_the_queue_ends() {
    let (service, gate) = Gate::service();
    let world = world(&[&service], |upstream| {
        upstream.bulkhead = Some(Bulkhead {
            requests: Some(1),
            queue: 9,
            queue_wait: Duration::from_millis(50),
            ..Bulkhead::default()
        });
    });
    let mut first = ask(&world);
    world.eventually("it is full", |world| {
        world.metric("sinew_gateway_upstream_requests_active{service=\"app\"}") == 1.0
    });
    assert_eq!(world.get("/").code(), "gateway.bulkhead_full");
    gate.open(1);
    assert_eq!(first.response().text(), "through");
}

#[test]
fn under_overload_some_are_refused_at_once_and_the_others_answered() {
    // One at a time, whoever asks.
    let busy = Arc::new(Mutex::new(()));
    let service = Service::answering(move |_| {
        let _one = busy.lock().unwrap();
        std::thread::sleep(Duration::from_millis(5));
        ok("done")
    });
    let world = world(&[&service], |upstream| {
        upstream.shedding = Some(Shedding {
            initial: 4,
            ..Shedding::default()
        });
    });
    let (good, shed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut client = world.client();
                while good.load(Ordering::SeqCst) < 200 || shed.load(Ordering::SeqCst) < 10 {
                    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                    let response = client.response();
                    if response.status() == 200 {
                        good.fetch_add(1, Ordering::SeqCst);
                        continue;
                    }
                    assert_eq!(
                        (response.status(), response.code().as_str()),
                        (503, "gateway.overloaded")
                    );
                    assert_eq!(response.header("retry-after").as_deref(), Some("1"));
                    shed.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
        }
    });
    let limit = world.metric("sinew_gateway_upstream_concurrency_limit{service=\"app\"}");
    assert!((2.0..16.0).contains(&limit), "{limit}");
    assert!(world.metric("sinew_gateway_upstream_shed_total{service=\"app\"}") >= 10.0);
}

#[test]
fn a_fallback_is_answered_when_the_service_cannot() {
    let mut with = route("/**", "app");
    with.fallback = Some(Fallback::new(200, "application/json", "[]").unwrap());
    with.timeout = Duration::from_millis(100);
    let world = World::with(config(vec![with]), &[], None);
    let response = world.get("/");
    assert_eq!((response.status(), response.text().as_str()), (200, "[]"));
    assert_eq!(
        response.header("content-type").as_deref(),
        Some("application/json")
    );
    assert_eq!(response.header("retry-after"), None);
    let mut client = world.client();
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.0.message(true).unwrap();
    assert_eq!(head.header("content-length").as_deref(), Some("2"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().text(), "[]", "the connection goes on");

    let service = Service::start(|wire| match wire.message(false).unwrap().first.as_str() {
        "GET /hang HTTP/1.1" => while wire.fill() {},
        "GET /error HTTP/1.1" => wire.send("HTTP/1.1 503 Own\r\nContent-Length: 3\r\n\r\nown"),
        _ => {}
    });
    world
        .discovery
        .set_addresses(&name("app"), &[service.address]);
    assert_eq!(world.get("/hang").text(), "[]");
    assert_eq!(world.get("/dies").text(), "[]");
    assert_eq!(world.get("/error").text(), "own", "an answer is an answer");
    let bad = world.ask("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(bad.status(), 400, "the client's own fault stays one");
}
