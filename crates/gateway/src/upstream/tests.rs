use std::collections::BTreeMap;

use super::*;
use crate::metrics::Metrics;

/// A service with instances on these ports, and the sender that changes them.
fn service(ports: &[u16]) -> (Rc<Service>, watch::Sender<Arc<[Endpoint]>>) {
    let name = Name::new("app").unwrap();
    let (sender, receiver) = watch::channel(endpoints(ports));
    let counters = Metrics::new(1).service(&name);
    let service = Rc::new(Service::new(name, 0, counters, receiver));
    service.refresh();
    (service, sender)
}

fn endpoints(ports: &[u16]) -> Arc<[Endpoint]> {
    let endpoint = |port: &u16| Endpoint {
        id: InstanceId::new(&format!("app-{port}")).unwrap(),
        address: SocketAddr::from(([127, 0, 0, 1], *port)),
        status: EndpointStatus::Up,
        metadata: Arc::new(BTreeMap::new()),
    };
    ports.iter().map(endpoint).collect()
}

/// The ports that many picks at `now` choose, all given back.
fn picked(service: &Rc<Service>, tried: &[Rc<Instance>], now: Millis) -> Vec<u16> {
    let random = Random::new();
    let mut ports: Vec<_> = (0..200)
        .filter_map(|_| Some(service.pick(tried, now, &random)?.instance.address.port()))
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn pick_port(service: &Rc<Service>, port: u16, now: Millis) -> Lease {
    let random = Random::new();
    (0..1_000)
        .filter_map(|_| service.pick(&[], now, &random))
        .find(|lease| lease.instance.address.port() == port)
        .expect("a thousand picks find it")
}

#[test]
fn an_instance_that_takes_no_connection_is_set_aside_and_probed_by_one() {
    let (service, _sender) = service(&[1, 2]);
    assert_eq!(picked(&service, &[], 1_000), [1, 2]);
    pick_port(&service, 1, 1_000).connect_failed(1_000);
    assert_eq!(picked(&service, &[], 1_000), [2]);

    let back = 1_000 + millis(ASIDE.0);
    let probe = pick_port(&service, 1, back);
    assert_eq!(
        picked(&service, &[], back),
        [2],
        "the others wait for the probe"
    );
    probe.connect_failed(back);
    drop(probe);
    let again = 1_000 + 3 * millis(ASIDE.1);
    pick_port(&service, 1, again).connected();
    assert_eq!(picked(&service, &[], again), [1, 2]);
}

#[test]
fn a_second_try_avoids_all_that_failed_lately_unless_there_is_no_other() {
    let (service, _sender) = service(&[1, 2, 3]);
    for port in [1, 2] {
        pick_port(&service, port, 1_000).connect_failed(1_000);
    }
    let (later, random) = (100_000, Random::new());
    let tried = vec![pick_port(&service, 1, later).instance.clone()];
    assert_eq!(picked(&service, &tried, later), [3]);
    let both = vec![
        tried[0].clone(),
        service
            .pick(&tried, later, &random)
            .unwrap()
            .instance
            .clone(),
    ];
    assert_eq!(picked(&service, &both, later), [2]);
}

#[test]
fn when_all_are_set_aside_they_are_tried_anyway() {
    let (service, _sender) = service(&[1]);
    pick_port(&service, 1, 1_000).connect_failed(1_000);
    assert_eq!(picked(&service, &[], 1_000), [1]);
    let tried = vec![service.up.borrow()[0].clone()];
    assert_eq!(picked(&service, &tried, 1_000), [] as [u16; 0]);
}

#[test]
fn changes_keep_those_that_stay_and_survive_the_end_of_discovery() {
    let (service, sender) = service(&[1, 2]);
    let kept = pick_port(&service, 1, 0).instance.clone();
    sender.send_replace(endpoints(&[1, 3]));
    service.refresh();
    assert!(Rc::ptr_eq(&service.up.borrow()[0], &kept));
    assert_eq!(picked(&service, &[], 0), [1, 3]);
    drop(sender);
    service.refresh();
    assert_eq!(picked(&service, &[], 0), [1, 3]);
}
