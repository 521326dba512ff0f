//! Which instance a request goes to, over the whole way from its head.

use std::{collections::BTreeMap, sync::Arc};

use crate::support::*;
use sinew_core::InstanceId;
use sinew_gateway::{Balance, Endpoint, EndpointStatus, HashBy, Upstream};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn world(balance: Balance) -> (World, Vec<Service>) {
    let services: Vec<_> = NAMES.into_iter().map(Service::saying).collect();
    let upstream = Upstream {
        balance,
        ..Upstream::new(name("app"))
    };
    let all: Vec<_> = services.iter().collect();
    let world = World::with(config_with(vec![route("/**", "app")], upstream), &all, None);
    (world, services)
}

#[test]
fn round_robin_takes_turns_by_weight() {
    let (world, services) = world(Balance::RoundRobin);
    for _ in 0..3 {
        let mut round: Vec<_> = (0..4).map(|_| world.get("/").text()).collect();
        round.sort();
        assert_eq!(round, NAMES);
    }
    let weighted = services
        .iter()
        .zip(["1", "1", "2", "4"])
        .map(|(service, weight)| Endpoint {
            id: InstanceId::new(&format!("w-{}", service.address.port())).unwrap(),
            address: service.address,
            status: EndpointStatus::Up,
            metadata: Arc::new(BTreeMap::from([("weight".to_owned(), weight.to_owned())])),
        });
    world.discovery.set(&name("app"), weighted.collect());
    // In an eighth of the requests a turn may be on either side of the edge.
    let said: Vec<_> = (0..80).map(|_| world.get("/").text()).collect();
    for (name, expected) in NAMES.into_iter().zip([10usize, 10, 20, 40]) {
        let turns = said.iter().filter(|text| *text == name).count();
        assert!(turns.abs_diff(expected) <= 2, "{name}: {turns}");
    }
}

#[test]
fn the_same_user_session_address_or_path_goes_to_the_same_instance() {
    let header = |value: &str| format!("X-User: {value}\r\n");
    let cookie = |value: &str| format!("Cookie: a=b; sid={value}; c=d\r\n");
    type Line<'a> = &'a dyn Fn(&str) -> String;
    let cases: [(HashBy, Line<'_>); 2] = [
        (HashBy::Header("x-user".into()), &header),
        (HashBy::Cookie("sid".into()), &cookie),
    ];
    for (by, line) in cases {
        let (world, _services) = world(Balance::Hash(by.clone()));
        let ask = |value: &str| {
            let line = line(value);
            let response = world.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n"));
            response.text()
        };
        let mut homes = Vec::new();
        for user in 0..100 {
            let home = ask(&user.to_string());
            for _ in 0..2 {
                assert_eq!(ask(&user.to_string()), home, "{by:?}");
            }
            homes.push(home);
        }
        homes.sort();
        homes.dedup();
        assert_eq!(homes, NAMES, "{by:?}");
        // Without it, anybody.
        let mut anybody: Vec<_> = (0..80).map(|_| world.get("/").text()).collect();
        anybody.sort();
        anybody.dedup();
        assert_eq!(anybody, NAMES, "{by:?}");
    }
    for (by, path) in [(HashBy::Source, "/"), (HashBy::Path, "/a?b=1")] {
        let (world, _services) = world(Balance::Hash(by));
        let home = world.get(path).text();
        for _ in 0..10 {
            assert_eq!(world.get(path).text(), home);
        }
    }
}

#[test]
fn every_way_answers_and_survives_a_change() {
    for balance in [
        Balance::TwoChoices,
        Balance::RoundRobin,
        Balance::LeastRequests,
        Balance::PeakEwma,
        Balance::Hash(HashBy::Path),
    ] {
        let (world, services) = world(balance);
        let addresses: Vec<_> = services.iter().map(|service| service.address).collect();
        for part in [&addresses[..], &addresses[1..3], &[nowhere(), addresses[3]]] {
            world.discovery.set_addresses(&name("app"), part);
            for path in 0..20 {
                assert_eq!(world.get(&format!("/{path}")).status(), 200);
            }
        }
        world.discovery.set_addresses(&name("app"), &[]);
        assert_eq!(world.get("/").code(), "gateway.no_instance");
    }
}
