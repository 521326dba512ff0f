//! Copies of requests: who gets which, and that the original never notices.

use crate::{routing::routes, support::*};

const MIRRORED: &str = "sinew_gateway_upstream_mirrored_total{service=\"next\"}";
const FAILED: &str = "sinew_gateway_upstream_mirror_failures_total{service=\"next\"}";
const DROPPED: &str = "sinew_gateway_upstream_mirrors_dropped_total{service=\"next\"}";

fn world(app: &Service, more: &str) -> World {
    let toml = format!(
        "[[routes]]\npath = \"/a/**\"\nservice = \"app\"\nstrip_prefix = \"/a\"\n\
         mirror = {{ service = \"next\"{more} }}"
    );
    World::with(config(routes(&toml)), &[app], None)
}

#[test]
fn whole_requests_are_copied_and_marked() {
    let (app, next) = (Service::saying("app"), Service::saying("next"));
    let world = world(&app, "");
    world
        .discovery
        .set_addresses(&name("next"), &[next.address]);
    let mut client = world.client();
    client.send(
        "POST /a/x?y HTTP/1.1\r\nHost: a\r\nX-Sinew-Mirror: forged\r\nContent-Length: 4\r\n\r\nbody",
    );
    assert_eq!(client.response().text(), "app");
    world.eventually("the copy is there", |_| next.requests().len() == 1);
    let (copy, original) = (&next.requests()[0], &app.requests()[0]);
    assert_eq!(
        (copy.first.as_str(), copy.text().as_str()),
        ("POST /x?y HTTP/1.1", "body")
    );
    assert_eq!(copy.header("x-sinew-mirror").as_deref(), Some("1"));
    assert_eq!(original.header("x-sinew-mirror"), None);
    assert_eq!(copy.header("x-request-id"), original.header("x-request-id"));

    // A body that is still on its way is not waited for.
    client.send("POST /a/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send("4\r\nbody\r\n0\r\n\r\n");
    assert_eq!(client.response().text(), "app");
    client.send("GET /a/last HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().text(), "app");
    world.eventually("the next copy is there", |_| next.requests().len() == 2);
    assert_eq!(next.requests()[1].first, "GET /last HTTP/1.1");
    assert_eq!((world.metric(MIRRORED), world.metric(FAILED)), (2.0, 0.0));
}

#[test]
fn a_mirror_that_fails_or_hangs_is_not_noticed() {
    let app = Service::saying("app");
    let world = world(&app, ", timeout = \"60s\"");
    assert_eq!(world.get("/a/nobody").text(), "app");
    assert_eq!(world.metric(FAILED), 1.0);

    world.discovery.set_addresses(&name("next"), &[nowhere()]);
    assert_eq!(world.get("/a/nowhere").text(), "app");
    world.eventually("it is counted", |world| world.metric(FAILED) == 2.0);

    let error = Service::answering(|_| "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n".to_owned());
    let ends = Service::start(|wire| drop(wire.head()));
    for (count, service) in [(3.0, &error), (4.0, &ends)] {
        world
            .discovery
            .set_addresses(&name("next"), &[service.address]);
        assert_eq!(world.get("/a/x").text(), "app");
        world.eventually("it is counted", |world| world.metric(FAILED) == count);
    }

    // Nobody answers: as many as may wait do, and the others are not sent.
    let hangs = Service::start(|_| std::thread::sleep(PATIENCE * 10));
    world
        .discovery
        .set_addresses(&name("next"), &[hangs.address]);
    let before = world.metric(MIRRORED);
    let mut client = world.client();
    for _ in 0..70 {
        client.send("GET /a/x HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response().text(), "app");
    }
    world.eventually("64 are on their way", |world| {
        world.metric(MIRRORED) == before + 64.0
    });
    assert_eq!(world.metric(DROPPED), 6.0);
}

#[test]
fn a_copy_has_a_time_of_its_own() {
    let app = Service::saying("app");
    let world = world(&app, ", timeout = \"100ms\"");
    let hangs = Service::start(|_| std::thread::sleep(PATIENCE * 10));
    world
        .discovery
        .set_addresses(&name("next"), &[hangs.address]);
    assert_eq!(world.get("/a/x").text(), "app");
    world.eventually("it is given up", |world| world.metric(FAILED) == 1.0);
    assert_eq!(
        world.metric("sinew_gateway_upstream_requests_active{service=\"next\"}"),
        0.0
    );
}
