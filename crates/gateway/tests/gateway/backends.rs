//! Weights, subsets, sticky splits, fixed addresses and zones.

use std::{collections::BTreeMap, sync::Arc};

use sinew_core::InstanceId;
use sinew_gateway::{Endpoint, EndpointStatus};

use crate::{routing::routes, support::*};

fn instance(service: &Service, id: &str, metadata: &[(&str, &str)]) -> Endpoint {
    let pairs = metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Endpoint {
        id: InstanceId::new(id).unwrap(),
        address: service.address,
        status: EndpointStatus::Up,
        metadata: Arc::new(pairs.collect()),
    }
}

/// How often each text was answered to so many requests.
fn answers(world: &World, requests: usize) -> BTreeMap<String, usize> {
    let mut client = world.client();
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        *counts.entry(client.response().text()).or_default() += 1;
    }
    counts
}

#[test]
fn a_canary_gets_its_share_and_is_seen_apart() {
    let (old, new, fixed) = (
        Service::saying("old"),
        Service::saying("new"),
        Service::saying("fixed"),
    );
    let toml = r#"
        [[routes]]
        path = "/**"
        [[routes.backends]]
        service = "app"
        subset = { version = "1" }
        weight = 6
        [[routes.backends]]
        service = "app"
        subset = { version = "2" }
        weight = 2
        [[routes.backends]]
        addresses = ["ADDRESS"]
        name = "legacy"
        weight = 2
    "#;
    let toml = toml.replace("ADDRESS", &fixed.address.to_string());
    let world = World::with(config(routes(&toml)), &[], None);
    let instances = vec![
        instance(&old, "old", &[("version", "1")]),
        instance(&new, "new", &[("version", "2")]),
        instance(&new, "neither", &[]),
    ];
    world.discovery.set(&name("app"), instances.clone());
    let counts = answers(&world, 400);
    // Sixty, twenty, twenty per cent; further off than this is a chance of one in many millions.
    for (text, least, most) in [("old", 170, 310), ("new", 30, 140), ("fixed", 30, 140)] {
        let count = counts[text];
        assert!((least..=most).contains(&count), "{counts:?}");
    }
    let series = "sinew_gateway_requests_total{route=\"/**\",service=\"app\",subset=\"version=2\",status=\"2xx\"}";
    let new_count = counts["new"] as f64;
    world.eventually("counted", |world| world.metric(series) == new_count);
    assert!(
        world.metric("sinew_gateway_upstream_connects_total{service=\"app\",subset=\"version=1\"}")
            >= 1.0
    );
    assert!(world.metric("sinew_gateway_upstream_connects_total{service=\"legacy\"}") >= 1.0);

    // Nobody of the canary is left: its share is refused.
    world.discovery.set(&name("app"), instances[..1].to_vec());
    let mut client = world.client();
    let refused = (0..400).find_map(|_| {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.response();
        (answer.status() == 503).then_some(answer)
    });
    assert_eq!(refused.expect("one in five").code(), "gateway.no_instance");
}

#[test]
fn an_empty_subset_may_fall_back_to_all() {
    let (old, new) = (Service::saying("old"), Service::saying("new"));
    let toml = r#"
        [[routes]]
        path = "/**"
        backends = [{ service = "app", subset = { version = "2" }, fallback = "any" }]
    "#;
    let world = World::with(config(routes(toml)), &[], None);
    let list = vec![instance(&old, "old", &[("version", "1")])];
    world.discovery.set(&name("app"), list.clone());
    assert_eq!(world.get("/").text(), "old");
    let both = [list, vec![instance(&new, "new", &[("version", "2")])]].concat();
    world.discovery.set(&name("app"), both);
    assert_eq!(
        answers(&world, 20),
        BTreeMap::from([("new".to_owned(), 20)])
    );
}

#[test]
fn a_client_stays_with_its_backend() {
    let (one, two) = (Service::saying("one"), Service::saying("two"));
    let toml = |weight: u32| {
        format!(
            r#"
        [[routes]]
        path = "/**"
        backends = [{{ service = "one" }}, {{ service = "two", weight = {weight} }}]
        sticky = {{ cookie = "split", max_age = "1h" }}
    "#
        )
    };
    let world = World::with(config(routes(&toml(1))), &[], None);
    world.discovery.set_addresses(&name("one"), &[one.address]);
    world.discovery.set_addresses(&name("two"), &[two.address]);
    let ask = |cookie: &str| world.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{cookie}\r\n"));
    let (mut of_two, mut tries) = (None, 0);
    while of_two.is_none() && tries < 200 {
        tries += 1;
        let answer = ask("");
        let cookie = answer.header("set-cookie").expect("a new client is marked");
        assert!(
            cookie.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"),
            "{cookie}"
        );
        let value = cookie.split(';').next().unwrap().to_owned();
        of_two = (answer.text() == "two").then_some(value);
    }
    let cookie = format!("Cookie: a=b; {}\r\n", of_two.expect("half of the clients"));
    for _ in 0..20 {
        let answer = ask(&cookie);
        assert_eq!(
            (answer.text().as_str(), answer.header("set-cookie")),
            ("two", None)
        );
    }
    // A backend that is taken out keeps nobody.
    let routes = routes(&toml(0));
    world
        .gateway
        .set_routing(sinew_gateway::Routing {
            routes,
            ..Default::default()
        })
        .unwrap();
    let answer = ask(&cookie);
    assert!(answer.text() == "one" && answer.header("set-cookie").is_some());
}

#[test]
fn the_own_zone_goes_first() {
    let (here, there) = (Service::saying("here"), Service::saying("there"));
    let mut config = config(vec![route("/**", "app")]);
    config.zone = Some("a".to_owned());
    let world = World::with(config, &[], None);
    let list = vec![
        instance(&here, "here", &[("zone", "a")]),
        instance(&there, "there", &[("zone", "b")]),
    ];
    world.discovery.set(&name("app"), list.clone());
    assert_eq!(
        answers(&world, 20),
        BTreeMap::from([("here".to_owned(), 20)])
    );
    world.discovery.set(&name("app"), list[1..].to_vec());
    assert_eq!(
        answers(&world, 1),
        BTreeMap::from([("there".to_owned(), 1)])
    );
}
