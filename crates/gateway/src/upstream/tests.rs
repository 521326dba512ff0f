use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use proptest::prelude::*;
use tokio::sync::watch;

use super::{health::ASIDE, *};
use crate::{discovery::Endpoint, metrics::Metrics, policy::Cause};

/// A service with instances on these ports, and the sender that changes them.
fn service(ports: &[u16]) -> (Rc<Service>, watch::Sender<Arc<[Endpoint]>>) {
    with_policy(ports, |_| {})
}

fn with_policy(
    ports: &[u16],
    change: impl FnOnce(&mut Upstream),
) -> (Rc<Service>, watch::Sender<Arc<[Endpoint]>>) {
    let name = Name::new("app").unwrap();
    let (sender, receiver) = watch::channel(endpoints(ports));
    let counters = Metrics::new(1).service(&name, "");
    let mut policy = Upstream::new(name.clone());
    change(&mut policy);
    let service = Rc::new(Service::new(name, 0, counters, receiver, None));
    service.set_policy(Some(&Arc::new(policy)), None);
    service.refresh(0);
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

impl Service {
    fn pick_at(
        self: &Rc<Self>,
        tried: &[Rc<Instance>],
        now: Millis,
        random: &Random,
    ) -> Option<Lease> {
        let key = None;
        self.pick(tried, Draw { now, key, random })
    }
}

/// The ports that many picks at `now` choose, all given back.
fn picked(service: &Rc<Service>, tried: &[Rc<Instance>], now: Millis) -> Vec<u16> {
    let random = Random::new();
    let mut ports: Vec<_> = (0..200)
        .filter_map(|_| {
            Some(
                service
                    .pick_at(tried, now, &random)?
                    .instance
                    .address
                    .port(),
            )
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn pick_port(service: &Rc<Service>, port: u16, now: Millis) -> Lease {
    let random = Random::new();
    (0..1_000)
        .filter_map(|_| service.pick_at(&[], now, &random))
        .find(|lease| lease.instance.address.port() == port)
        .expect("a thousand picks find it")
}

#[test]
fn an_instance_that_takes_no_connection_is_set_aside_and_probed_by_one() {
    let (service, _sender) = service(&[1, 2]);
    assert_eq!(picked(&service, &[], 1_000), [1, 2]);
    pick_port(&service, 1, 1_000).connect_failed(1_000, 7);
    assert_eq!(picked(&service, &[], 1_000), [2]);

    let back = 1_000 + ASIDE.0;
    let probe = pick_port(&service, 1, back);
    assert_eq!(
        picked(&service, &[], back),
        [2],
        "the others wait for the probe"
    );
    probe.connect_failed(back, u64::MAX);
    drop(probe);
    let again = 1_000 + 3 * ASIDE.1;
    pick_port(&service, 1, again).connected(again);
    assert_eq!(picked(&service, &[], again), [1, 2]);
}

#[test]
fn a_second_try_avoids_all_that_failed_lately_unless_there_is_no_other() {
    let (service, _sender) = service(&[1, 2, 3]);
    for port in [1, 2] {
        pick_port(&service, port, 1_000).connect_failed(1_000, 7);
    }
    let (later, random) = (100_000, Random::new());
    let tried = vec![pick_port(&service, 1, later).instance.clone()];
    assert_eq!(picked(&service, &tried, later), [3]);
    let both = vec![
        tried[0].clone(),
        service
            .pick_at(&tried, later, &random)
            .unwrap()
            .instance
            .clone(),
    ];
    assert_eq!(picked(&service, &both, later), [2]);
}

#[test]
fn when_all_are_set_aside_they_are_tried_anyway() {
    let (service, _sender) = service(&[1]);
    pick_port(&service, 1, 1_000).connect_failed(1_000, 7);
    assert_eq!(picked(&service, &[], 1_000), [1]);
    let tried = vec![service.up.borrow()[0].clone()];
    assert_eq!(picked(&service, &tried, 1_000), [] as [u16; 0]);
}

#[test]
fn changes_keep_those_that_stay_and_survive_the_end_of_discovery() {
    let (service, sender) = service(&[1, 2]);
    let kept = pick_port(&service, 1, 0).instance.clone();
    sender.send_replace(endpoints(&[1, 3]));
    service.refresh(0);
    assert!(Rc::ptr_eq(&service.up.borrow()[0], &kept));
    assert_eq!(picked(&service, &[], 0), [1, 3]);
    drop(sender);
    service.refresh(0);
    assert_eq!(picked(&service, &[], 0), [1, 3]);
}

/// The instance on this port fails this often in a row.
fn fail(service: &Rc<Service>, port: u16, times: u32, now: Millis) {
    for _ in 0..times {
        pick_port(service, port, now).failed(Cause::Timeout, now);
    }
}

#[test]
fn an_outlier_is_ejected_probed_by_one_request_and_let_in() {
    let (service, _sender) = service(&[1, 2, 3]);
    fail(&service, 1, 4, 1_000);
    pick_port(&service, 1, 1_000).answered(204, 1_000);
    fail(&service, 1, 4, 1_000);
    assert_eq!(picked(&service, &[], 1_000), [1, 2, 3], "four in a row");
    fail(&service, 1, 1, 1_000);
    assert_eq!(picked(&service, &[], 10_999), [2, 3]);
    assert_eq!(service.counters().resilience.ejected.get(), 1);

    let probe = service.pick_at(&[], 11_000, &Random::seeded(1)).unwrap();
    assert_eq!(probe.instance.address.port(), 1);
    assert_eq!(picked(&service, &[], 11_000), [2, 3], "one finds out");
    probe.failed(Cause::Timeout, 11_000);
    drop(probe);
    assert_eq!(picked(&service, &[], 30_999), [2, 3], "twice as long");
    let probe = service.pick_at(&[], 31_000, &Random::seeded(1)).unwrap();
    drop(probe);
    let probe = service.pick_at(&[], 31_000, &Random::seeded(1)).unwrap();
    assert_eq!(probe.instance.address.port(), 1, "the last told nothing");
    probe.answered(200, 31_000);
    drop(probe);
    assert_eq!(picked(&service, &[], 31_000), [1, 2, 3]);
    assert_eq!(service.counters().resilience.ejected.get(), 0);
}

#[test]
fn when_too_many_fail_all_get_requests() {
    let (service, _sender) = service(&[1, 2, 3, 4]);
    fail(&service, 1, 5, 1_000);
    fail(&service, 2, 5, 1_000);
    assert_eq!(picked(&service, &[], 2_000), [3, 4], "half may be out");
    fail(&service, 3, 5, 2_000);
    assert_eq!(picked(&service, &[], 2_000), [1, 2, 3, 4]);
    assert_eq!(service.counters().resilience.panicking.get(), 1);
    // Two have their time over; the first request for each finds out.
    for _ in 0..2 {
        service
            .pick_at(&[], 11_000, &Random::seeded(1))
            .unwrap()
            .answered(200, 11_000);
    }
    assert_eq!(picked(&service, &[], 11_000), [1, 2, 4]);
    assert_eq!(service.counters().resilience.panicking.get(), 0);
}

#[test]
fn a_lone_instance_is_never_left_alone() {
    let (service, _sender) = service(&[1]);
    fail(&service, 1, 100, 1_000);
    assert_eq!(picked(&service, &[], 1_000), [1]);
}

#[test]
fn a_new_instance_gets_its_share_little_by_little() {
    let (service, sender) = with_policy(&[1, 2, 3], |policy| {
        policy.slow_start = Duration::from_secs(10);
    });
    let random = Random::seeded(7);
    let share = |port: u16, now| {
        let of_port = |lease: &Lease| lease.instance.address.port() == port;
        let picks = (0..4_000).filter_map(|_| service.pick_at(&[], now, &random));
        picks.filter(of_port).count()
    };
    let first = share(1, 0);
    assert!(
        (1_150..1_500).contains(&first),
        "at the start nobody is new: {first}"
    );
    sender.send_replace(endpoints(&[1, 2, 3, 4]));
    service.refresh(20_000);
    let shares = [20_000, 25_000, 30_000].map(|now| share(4, now));
    assert!(shares[0] < 250, "{shares:?}");
    assert!((400..750).contains(&shares[1]), "{shares:?}");
    assert!((850..1_150).contains(&shares[2]), "{shares:?}");
}

#[test]
fn a_changed_policy_keeps_what_was_learnt() {
    let (service, _sender) = service(&[1, 2, 3]);
    fail(&service, 1, 5, 1_000);
    let mut policy = Upstream::new(service.name.clone());
    policy.ejection.most_percent = 0;
    service.set_policy(Some(&Arc::new(policy.clone())), None);
    assert_eq!(picked(&service, &[], 1_000), [1, 2, 3]);
    policy.ejection.most_percent = 40;
    service.set_policy(Some(&Arc::new(policy)), None);
    assert_eq!(picked(&service, &[], 1_000), [2, 3]);
}

proptest! {
    /// Whatever is reported in whatever order: somebody is always picked while somebody is up, nobody
    /// who was tried, and all gauges are back at zero in the end.
    #[test]
    fn somebody_is_always_picked(
        count in 1u16..6,
        seed: u64,
        steps in prop::collection::vec((0u8..6, 0u64..5_000), 1..200),
    ) {
        let ports: Vec<u16> = (1..=count).collect();
        let (service, _sender) = service(&ports);
        let random = Random::seeded(seed);
        let mut now = 0;
        let mut held = Vec::new();
        for (what, passes) in steps {
            now += passes;
            let lease = service.pick_at(&[], now, &random).expect("somebody is up");
            match what {
                0 => lease.failed(Cause::Timeout, now),
                1 => lease.connect_failed(now, seed),
                2 => lease.answered(503, now),
                3 => lease.answered(200, now),
                4 => lease.connected(now),
                _ => {
                    let other = service.pick_at(std::slice::from_ref(&lease.instance), now, &random);
                    prop_assert_eq!(other.is_some(), count > 1);
                    if let Some(other) = other {
                        prop_assert!(!Rc::ptr_eq(&other.instance, &lease.instance));
                        held.push(other);
                    }
                }
            }
            let ejected = service.up.borrow().iter().filter(|one| one.health().is_ejected()).count();
            prop_assert_eq!(service.counters().resilience.ejected.get(), ejected as u64);
        }
        drop(held);
        prop_assert_eq!(service.counters().active.get(), 0);
    }
}
