use std::{cmp::Reverse, collections::BinaryHeap};

use proptest::prelude::*;

use super::*;

/// A service that answers `workers` requests at once, each in `takes` microseconds, and keeps the
/// others waiting in order; behind a limiter, asked every `every` microseconds.
struct Simulation {
    workers: usize,
    takes: u64,
    /// When each worker is free.
    free: BinaryHeap<Reverse<u64>>,
    /// When requests end, and when they began.
    ends: BinaryHeap<Reverse<(u64, u64)>>,
    limiter: Option<Limiter>,
    now: u64,
    slowest: u64,
}

impl Simulation {
    fn new(workers: usize, takes: u64, limiter: Option<Limiter>) -> Self {
        Self {
            workers,
            takes,
            free: (0..workers).map(|_| Reverse(0)).collect(),
            ends: BinaryHeap::new(),
            limiter,
            now: 0,
            slowest: 0,
        }
    }

    /// How many requests per second it can answer.
    fn capacity(&self) -> f64 {
        self.workers as f64 * 1e6 / self.takes as f64
    }

    /// Asks at this rate for so long. How many per second were answered within `patience`.
    fn run(&mut self, seconds: u64, per_second: f64, patience: u64) -> f64 {
        let (begun, until) = (self.now, self.now + seconds * 1_000_000);
        let (mut asked, mut good) = (0u64, 0u64);
        self.slowest = 0;
        while self.now < until {
            asked += 1;
            self.now = begun + (asked as f64 * 1e6 / per_second) as u64;
            while let Some(Reverse((end, start))) = self.ends.peek().copied()
                && end <= self.now
            {
                self.ends.pop();
                let took = end - start;
                self.slowest = self.slowest.max(took);
                good += u64::from(took <= patience);
                if let Some(limiter) = &mut self.limiter {
                    limiter.answered(end / 1_000, took);
                    limiter.done();
                }
            }
            if self.limiter.as_mut().is_none_or(Limiter::admit) {
                let Reverse(free) = self.free.pop().unwrap();
                let end = free.max(self.now) + self.takes;
                self.free.push(Reverse(end));
                self.ends.push(Reverse((end, self.now)));
            }
        }
        good as f64 / seconds as f64
    }
}

#[test]
fn at_three_times_the_capacity_the_goodput_stays() {
    let patience = 250_000;
    for (workers, takes) in [(1, 5_000), (4, 20_000), (32, 10_000), (100, 50_000)] {
        let limiter = Limiter::new(&Shedding::default());
        let mut with = Simulation::new(workers, takes, Some(limiter));
        let capacity = with.capacity();
        with.run(5, capacity * 0.5, patience);
        with.run(10, capacity * 3.0, patience);
        let goodput = with.run(60, capacity * 3.0, patience);
        let case = format!("{workers} × {takes} µs: {goodput} of {capacity}");
        assert!(goodput >= capacity * 0.8, "{case}");
        let slowest = with.slowest;
        assert!(slowest <= patience, "{case}: {slowest} µs");

        let mut without = Simulation::new(workers, takes, None);
        without.run(10, capacity * 3.0, patience);
        let collapsed = without.run(10, capacity * 3.0, patience);
        assert!(
            collapsed < capacity * 0.1,
            "{collapsed}: nothing to protect from"
        );
    }
}

#[test]
fn without_overload_nothing_is_refused() {
    for load in [0.1, 0.5, 0.9] {
        let mut simulation = Simulation::new(32, 10_000, Some(Limiter::new(&Shedding::default())));
        let capacity = simulation.capacity();
        // It may take a while until it has learnt that more than at the beginning is fine.
        simulation.run(10, capacity * load, u64::MAX);
        let goodput = simulation.run(40, capacity * load, u64::MAX);
        assert!(
            goodput >= capacity * load * 0.99,
            "{load}: {goodput} of {capacity}"
        );
    }
}

#[test]
fn a_service_that_becomes_faster_gets_more() {
    let mut simulation = Simulation::new(4, 20_000, Some(Limiter::new(&Shedding::default())));
    simulation.run(20, 600.0, 1_000_000);
    simulation.free = (0..16).map(|_| Reverse(simulation.now)).collect();
    simulation.workers = 16;
    simulation.run(30, 2_400.0, 1_000_000);
    let goodput = simulation.run(20, 2_400.0, 1_000_000);
    assert!(goodput >= 640.0, "{goodput} of 800");
}

proptest! {
    /// Whatever happens, the limit stays within its bounds and counts nobody twice.
    #[test]
    fn the_limit_keeps_its_bounds(
        steps in prop::collection::vec((0u8..4, 0u64..300, 1u64..5_000_000), 1..500),
    ) {
        let policy = Shedding { initial: 5, least: 3, most: 40, ..Shedding::default() };
        let mut limiter = Limiter::new(&policy);
        let (mut now, mut held) = (0, 0u32);
        for (what, passes, took) in steps {
            now += passes;
            if what < 2 {
                let limit = limiter.limit();
                prop_assert_eq!(limiter.admit(), held < limit);
                held += u32::from(held < limit);
            } else if held > 0 {
                if what == 2 { limiter.answered(now, took) } else { limiter.late(now) }
                limiter.done();
                held -= 1;
            }
            prop_assert!((3..=40).contains(&limiter.limit()), "{}", limiter.limit());
            prop_assert_eq!(limiter.in_flight, held);
        }
    }
}
