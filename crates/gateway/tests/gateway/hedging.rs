//! A second instance is asked when the first is slow.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::*;
use sinew_gateway::{Hedge, Upstream};

fn hanging() -> (Service, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let service = Service::start(move |wire| {
        wire.message(false);
        count.fetch_add(1, Ordering::SeqCst);
        while wire.fill() {}
    });
    (service, asked)
}

fn world(instances: &[&Service], eject: bool) -> World {
    let mut hedged = route("/**", "app");
    hedged.retries = 0;
    hedged.timeout = Duration::from_secs(3);
    hedged.hedge = Some(Hedge {
        after: Duration::from_millis(20),
    });
    let mut upstream = Upstream::new(name("app"));
    if !eject {
        upstream.ejection.consecutive = 0;
        upstream.ejection.failure_percent = 0;
    }
    World::with(config_with(vec![hedged], upstream), instances, None)
}

fn metric(world: &World, series: &str) -> f64 {
    world.metric(&format!(
        "sinew_gateway_upstream_{series}{{service=\"app\"}}"
    ))
}

#[test]
fn a_slow_instance_is_outrun_and_ejected_in_the_end() {
    let (slow, asked) = hanging();
    let (well, other) = (Service::saying("well"), Service::saying("well"));
    let world = world(&[&slow, &well, &other], true);
    let mut client = world.client();
    world.eventually("it is ejected", |world| {
        client_get(&mut world.client());
        metric(world, "instances_ejected") == 1.0
    });
    // It may have been the second for one that was slow for once.
    assert!(asked.load(Ordering::SeqCst) >= 5);
    assert!(metric(&world, "hedges_won_total") >= 5.0);
    assert_eq!(metric(&world, "timeouts_total"), 0.0);
    world.eventually("nobody is asked any more", |world| {
        metric(world, "requests_active") == 0.0
    });
    client_get(&mut client);
}

fn client_get(client: &mut Client) {
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().text(), "well");
}

#[test]
fn the_first_may_still_win_and_the_connection_goes_on() {
    let answer = |_: &Message| {
        std::thread::sleep(Duration::from_millis(60));
        ok("slow")
    };
    let (one, two) = (Service::answering(answer), Service::answering(answer));
    let world = world(&[&one, &two], false);
    let mut client = world.client();
    for _ in 0..10 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response().text(), "slow");
    }
    assert!(metric(&world, "hedges_total") > 0.0);
    world.eventually("nobody is asked any more", |world| {
        metric(world, "requests_active") == 0.0
    });
}

#[test]
fn a_second_that_fails_changes_nothing_and_a_first_that_fails_leaves_the_second() {
    let slow = Service::answering(|_| {
        std::thread::sleep(Duration::from_millis(150));
        ok("late")
    });
    let dying = Service::start(|wire| {
        wire.message(false);
        std::thread::sleep(Duration::from_millis(60));
    });
    let world = world(&[&slow, &dying], false);
    for _ in 0..10 {
        assert_eq!(world.get("/").text(), "late");
    }
}

#[test]
fn what_has_a_body_or_may_not_be_repeated_is_asked_once() {
    let slow = |asked: Arc<AtomicUsize>| {
        Service::answering(move |_| {
            asked.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(60));
            ok("slow")
        })
    };
    let asked = Arc::new(AtomicUsize::new(0));
    let (one, two) = (slow(asked.clone()), slow(asked.clone()));
    let world = world(&[&one, &two], false);
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab",
    ] {
        assert_eq!(world.ask(request).text(), "slow");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(metric(&world, "hedges_total"), 0.0);
}
