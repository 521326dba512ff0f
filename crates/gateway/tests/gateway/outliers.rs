//! One instance that fails where the others do not, a rollout, and who is told of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::*;
use sinew_core::InstanceId;
use sinew_gateway::{Endpoint, EndpointStatus, Upstream};

const EJECTED: &str = "sinew_gateway_upstream_instances_ejected{service=\"app\"}";
const EJECTIONS: &str = "sinew_gateway_upstream_ejections_total{service=\"app\"}";

/// Three that say `well`, and one that is told when to be ill, and does then what `ill` does.
struct Ward {
    ill: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    world: World,
    _services: Vec<Service>,
}

impl Ward {
    fn new(ill: impl Fn(&mut Wire) + Send + Sync + 'static) -> Self {
        let (is_ill, asked) = (
            Arc::new(AtomicBool::new(true)),
            Arc::new(AtomicUsize::new(0)),
        );
        let patient = Service::start({
            let (is_ill, asked) = (is_ill.clone(), asked.clone());
            move |wire| {
                while wire.message(false).is_some() {
                    asked.fetch_add(1, Ordering::SeqCst);
                    if is_ill.load(Ordering::SeqCst) {
                        return ill(wire);
                    }
                    wire.send(&ok("back"));
                }
            }
        });
        let mut services: Vec<_> = (0..3).map(|_| Service::saying("well")).collect();
        services.push(patient);
        let mut upstream = Upstream::new(name("app"));
        // Long enough that none of them is over before what happens meanwhile was looked at.
        upstream.ejection.time = Duration::from_secs(1);
        let mut impatient = route("/**", "app");
        impatient.timeout = Duration::from_millis(150);
        impatient.retries = 0;
        let all: Vec<_> = services.iter().collect();
        let world = World::with(config_with(vec![impatient], upstream), &all, None);
        Self {
            ill: is_ill,
            asked,
            world,
            _services: services,
        }
    }

    /// The patient is ejected by its failures, gets no requests then, and gets some when it is well.
    fn is_treated(&self, failure: u16) {
        let mut failed = 0;
        while self.world.metric(EJECTIONS) == 0.0 {
            let status = self.world.get("/").status();
            assert!(status == 200 || status == failure, "{status}");
            failed += usize::from(status != 200);
            assert!(failed < 10, "it should have been ejected");
        }
        assert!((1..=5).contains(&failed), "{failed}");
        assert_eq!(self.world.metric(EJECTED), 1.0);
        let asked = self.asked.load(Ordering::SeqCst);
        let answers = (0..50).map(|_| self.world.get("/").text());
        let well = answers.filter(|text| text == "well").count();
        // A machine that took seconds for these may have had the time for one probe.
        assert!(well == 50 || self.asked.load(Ordering::SeqCst) <= asked + 1);
        self.ill.store(false, Ordering::SeqCst);
        self.world.eventually("it is back", |world| {
            world.get("/").status() == 200 && world.metric(EJECTED) == 0.0
        });
        self.world
            .eventually("it gets requests", |world| world.get("/").text() == "back");
    }
}

#[test]
fn an_instance_that_hangs_is_ejected_and_comes_back() {
    Ward::new(|wire| while wire.fill() {}).is_treated(504);
}

#[test]
fn an_instance_that_takes_connections_and_hangs_up_is_ejected_and_comes_back() {
    Ward::new(|_| {}).is_treated(502);
}

#[test]
fn an_instance_that_answers_503_is_ejected_and_comes_back() {
    let busy = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
    Ward::new(move |wire| wire.send(busy)).is_treated(503);
}

#[test]
fn a_rolling_restart_under_load_loses_no_request() {
    let world = World::of(&[]);
    let start = || Service::saying("up");
    let endpoint = |service: &Service, status| Endpoint {
        id: InstanceId::new(&format!("app-{}", service.address.port())).unwrap(),
        address: service.address,
        status,
        metadata: Arc::default(),
    };
    let mut services: Vec<_> = (0..4).map(|_| start()).collect();
    let publish = |services: &[Service], draining: Option<usize>| {
        let status = |index| match draining {
            Some(at) if at == index => EndpointStatus::Draining,
            _ => EndpointStatus::Up,
        };
        let list = services.iter().enumerate();
        let endpoints = list.map(|(index, service)| endpoint(service, status(index)));
        world.discovery.set(&name("app"), endpoints.collect());
    };
    publish(&services, None);
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for index in 0..4 {
            let (world, stop, answered) = (&world, &stop, &answered);
            scope.spawn(move || {
                let mut client = world.client();
                while !stop.load(Ordering::SeqCst) {
                    // Not repeatable, so that nothing is hidden by a retry.
                    let method = if index % 2 == 0 { "GET" } else { "POST" };
                    client.send(&format!(
                        "{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
                    ));
                    let response = client.response();
                    assert_eq!(response.status(), 200, "{response:?}");
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let some_more = || {
            let before = answered.load(Ordering::SeqCst);
            world.eventually("requests are answered", |_| {
                answered.load(Ordering::SeqCst) > before + 50
            });
        };
        for index in 0..4 {
            publish(&services, Some(index));
            some_more();
            // What it had is finished; now it goes, and another one comes.
            services[index] = start();
            publish(&services, None);
            some_more();
        }
        stop.store(true, Ordering::SeqCst);
    });
}
