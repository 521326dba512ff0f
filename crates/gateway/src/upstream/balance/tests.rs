use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use proptest::prelude::*;
use sinew_core::{InstanceId, Name};
use tokio::sync::watch;

use super::*;
use crate::{
    discovery::{Endpoint, EndpointStatus},
    metrics::Metrics,
    policy::{Balance, Cause, Upstream},
    upstream::Lease,
};

/// Instances on the ports from 0, with these weights.
struct World {
    service: Rc<Service>,
    sender: watch::Sender<Arc<[Endpoint]>>,
    random: Random,
}

fn endpoints(weights: &[(u16, u32)]) -> Arc<[Endpoint]> {
    let endpoint = |(port, weight): &(u16, u32)| Endpoint {
        id: InstanceId::new(&format!("app-{port}")).unwrap(),
        address: SocketAddr::from(([127, 0, 0, 1], *port)),
        status: EndpointStatus::Up,
        metadata: Arc::new(BTreeMap::from([("weight".into(), weight.to_string())])),
    };
    weights.iter().map(endpoint).collect()
}

impl World {
    fn new(weights: &[u32], balance: Balance) -> Self {
        let name = Name::new("app").unwrap();
        let list: Vec<_> = (0..).zip(weights.iter().copied()).collect();
        let (sender, receiver) = watch::channel(endpoints(&list));
        let counters = Metrics::new(1).service(&name, "");
        let service = Rc::new(Service::new(name.clone(), 0, counters, receiver, None));
        let policy = Upstream {
            balance,
            slow_start: Duration::from_secs(10),
            ..Upstream::new(name)
        };
        service.set_policy(Some(&Arc::new(policy)), None);
        service.refresh(0);
        Self {
            service,
            sender,
            random: Random::seeded(11),
        }
    }

    fn pick(&self, key: Option<u64>, now: Millis) -> Lease {
        let random = &self.random;
        let lease = self.service.pick(&[], Draw { now, key, random });
        lease.expect("somebody is up")
    }

    /// How many of so many requests, one after the other, each gets.
    fn shares(&self, count: usize, requests: usize, now: Millis) -> Vec<usize> {
        let mut shares = vec![0; count];
        for _ in 0..requests {
            shares[port(&self.pick(None, now))] += 1;
        }
        shares
    }
}

fn port(lease: &Lease) -> usize {
    usize::from(lease.instance.address.port())
}

#[test]
fn shares_follow_the_weights() {
    let weights = [1, 2, 5, 1, 3];
    let total: u32 = weights.iter().sum();
    for balance in [Balance::TwoChoices, Balance::PeakEwma] {
        let world = World::new(&weights, balance.clone());
        // All answer as fast, so there is nothing but the weights to go by.
        for _ in 0..100 {
            world.pick(None, 1).took(1_000, 1);
        }
        let shares = world.shares(5, 24_000, 1);
        // Pearson's χ² with four degrees of freedom stays below 18.5 in 999 of 1000 cases.
        let expected = |weight: u32| 24_000.0 * f64::from(weight) / f64::from(total);
        let chi: f64 = shares
            .iter()
            .zip(weights)
            .map(|(share, weight)| (*share as f64 - expected(weight)).powi(2) / expected(weight))
            .sum();
        let fair = matches!(balance, Balance::PeakEwma) || chi < 18.5;
        assert!(fair, "{balance:?}: {shares:?}, {chi}");
    }
}

#[test]
fn weights_out_of_bounds_are_the_nearest_and_nonsense_is_one() {
    let weight = |text: &str| weight(Some(&text.to_owned()));
    assert_eq!(super::weight(None), 1);
    assert_eq!(
        ["7", "0", "1001", "-3", "x", ""].map(weight),
        [7, 1, 1_000, 1, 1, 1]
    );
}

#[test]
fn the_least_busy_of_all_is_chosen_by_load_per_weight() {
    let world = World::new(&[1, 1, 4], Balance::LeastRequests);
    let held: Vec<_> = (0..12).map(|_| world.pick(None, 1)).collect();
    let count = |at| held.iter().filter(|lease| port(lease) == at).count();
    assert_eq!([count(0), count(1), count(2)], [2, 2, 8]);
    drop(held);
    let world = World::new(&[1, 1, 1, 1], Balance::LeastRequests);
    let shares = world.shares(4, 4_000, 1);
    assert!(
        shares.iter().all(|share| (850..1_150).contains(share)),
        "{shares:?}"
    );
}

#[test]
fn the_faster_one_gets_more() {
    let world = World::new(&[1, 1, 1], Balance::PeakEwma);
    for _ in 0..300 {
        let lease = world.pick(None, 1);
        let slow = port(&lease) == 0;
        lease.took(if slow { 90_000 } else { 1_000 }, 1);
    }
    let shares = world.shares(3, 3_000, 2);
    assert!(
        shares[0] < 10 && shares[1] > 1_000 && shares[2] > 1_000,
        "{shares:?}"
    );
    let later = world.shares(3, 3_000, 120_000);
    assert!(later[0] > 500, "it is asked again: {later:?}");
}

#[test]
fn the_same_key_goes_to_the_same_instance_unless_that_is_too_busy() {
    let balance = Balance::Hash(HashBy::Source);
    let world = World::new(&[1; 8], balance);
    let home = port(&world.pick(Some(7), 1));
    for _ in 0..100 {
        assert_eq!(port(&world.pick(Some(7), 1)), home);
    }
    let other = World::new(&[1; 8], Balance::Hash(HashBy::Path));
    assert_eq!(port(&other.pick(Some(7), 1)), home, "every thread agrees");
    // One key alone: at most a quarter over the average, once there is anything to speak of.
    let held: Vec<_> = (0..800).map(|_| world.pick(Some(7), 1)).collect();
    let most = (0..8)
        .map(|at| held.iter().filter(|lease| port(lease) == at).count())
        .max();
    assert!(most <= Some(126), "{most:?}");
    drop(held);
    assert_eq!(port(&world.pick(Some(7), 1)), home);
    // Without a key it is anybody.
    let shares = world.shares(8, 800, 1);
    assert!(shares.iter().all(|share| *share > 40), "{shares:?}");
}

#[test]
fn keys_of_an_ejected_instance_go_elsewhere_and_come_back() {
    let world = World::new(&[1; 8], Balance::Hash(HashBy::Source));
    let homes = |now| -> Vec<_> {
        (0..400)
            .map(|key| port(&world.pick(Some(key), now)))
            .collect()
    };
    let before = homes(1);
    let ill = before[0];
    for _ in 0..5 {
        world.pick(Some(0), 1).failed(Cause::Timeout, 1);
    }
    let during = homes(2);
    for (was, is) in before.iter().zip(&during) {
        assert!(*is != ill && (*was == ill || was == is));
    }
    let mut elsewhere: Vec<_> = (0..400)
        .filter(|at| before[*at] == ill)
        .map(|at| during[at])
        .collect();
    elsewhere.sort_unstable();
    elsewhere.dedup();
    assert!(
        elsewhere.len() >= 5,
        "spread over the others: {elsewhere:?}"
    );
    world.pick(Some(0), 10_001).answered(200, 10_001);
    assert_eq!(homes(10_002), before);
}

proptest! {
    /// In any stretch of rounds everybody has its part to within one turn of each other.
    #[test]
    fn rounds_are_fair(
        weights in prop::collection::vec(1u32..10, 1..8),
        rounds in 1usize..20,
        before in 0usize..50,
    ) {
        let world = World::new(&weights, Balance::RoundRobin);
        let total: usize = weights.iter().map(|weight| *weight as usize).sum();
        world.shares(weights.len(), before, 1);
        let shares = world.shares(weights.len(), total * rounds, 1);
        for (share, weight) in shares.iter().zip(&weights) {
            let expected = *weight as usize * rounds;
            prop_assert!(share.abs_diff(expected) <= 2, "{shares:?} of {weights:?}");
        }
    }

    /// Whoever goes or comes, the rounds go on, and a new one gets its small part at first.
    #[test]
    fn rounds_go_on_over_changes(count in 2usize..8, gone in 0usize..8) {
        let world = World::new(&vec![1; count], Balance::RoundRobin);
        world.shares(count, 37, 1);
        let mut list: Vec<(u16, u32)> = (0..count as u16).map(|port| (port, 1)).collect();
        list.remove(gone % count);
        list.push((count as u16, 1));
        world.sender.send_replace(endpoints(&list));
        world.service.refresh(1_000);
        let shares = world.shares(count + 1, 200 * count, 1_000);
        prop_assert_eq!(shares[gone % count], 0);
        prop_assert!(shares[count] <= 40, "{:?}", shares);
        let later = world.shares(count + 1, 200 * count, 60_000);
        // Its last turn while it was new lasted ten times as long.
        prop_assert!(later[count].abs_diff(200) <= 12, "{:?}", later);
    }
}
