//! Which of the instances that may get a request gets it.

use std::rc::Rc;

use super::{Instance, Service};
use crate::{
    policy::{self, HashBy},
    random::Random,
    timer::{Millis, millis},
};

mod ewma;
mod key;
mod ring;
mod rounds;

pub(super) use ewma::Ewma;
use ring::Ring;
use rounds::Rounds;

/// How it is chosen, with what that has to remember.
#[derive(Debug, Default)]
pub(super) enum Balancer {
    #[default]
    TwoChoices,
    RoundRobin(Rounds),
    LeastRequests,
    PeakEwma,
    Hash(HashBy, Ring),
}

/// The heaviest an instance can be.
const MOST_WEIGHT: u32 = 1_000;
/// How often an instance is drawn by weight before the last draw counts whatever it is.
const DRAWS: usize = 32;

/// The weight that an instance says it has: 1 to 1000 in its metadata, 1 when it says nothing else.
pub(super) fn weight(text: Option<&String>) -> u32 {
    let weight = text.and_then(|text| text.parse().ok()).unwrap_or(1);
    weight.clamp(1, MOST_WEIGHT)
}

impl Balancer {
    /// `up` are all instances, in the order in which [`Ring`] tells them, and whether they are others
    /// than before; `serving` those of them that get requests.
    pub(super) fn new(
        policy: &policy::Balance,
        (up, changed): (&[Rc<Instance>], bool),
        serving: &[Rc<Instance>],
        (previous, random): (Self, &Random),
    ) -> Self {
        match policy {
            policy::Balance::TwoChoices => Self::TwoChoices,
            policy::Balance::LeastRequests => Self::LeastRequests,
            policy::Balance::PeakEwma => Self::PeakEwma,
            policy::Balance::RoundRobin => Self::RoundRobin(match previous {
                Self::RoundRobin(rounds) => rounds.with(serving, random),
                _ => Rounds::default().with(serving, random),
            }),
            policy::Balance::Hash(by) => match previous {
                Self::Hash(_, ring) if !changed => Self::Hash(by.clone(), ring),
                _ => Self::Hash(by.clone(), Ring::new(up)),
            },
        }
    }
}

/// What a choice may depend on.
#[derive(Clone, Copy)]
pub(crate) struct Draw<'a> {
    pub(crate) now: Millis,
    /// What the same instance is chosen for, if the service wants that and the request has it.
    pub(crate) key: Option<u64>,
    pub(crate) random: &'a Random,
}

impl Service {
    /// One of `candidates`, which are those that get requests unless `some` is set: then they are
    /// what is left after a try.
    pub(super) fn balance(
        &self,
        candidates: &[Rc<Instance>],
        some: bool,
        draw: Draw<'_>,
    ) -> Option<Rc<Instance>> {
        let mut balancer = self.balancer.borrow_mut();
        let chosen = match &mut *balancer {
            Balancer::RoundRobin(rounds) if !some => {
                return rounds.next(|one| self.heft(one, draw.now));
            }
            Balancer::Hash(_, ring) if draw.key.is_some() => {
                return self.by_key(ring, candidates, some, draw);
            }
            Balancer::LeastRequests => self.least_of_all(candidates, draw),
            Balancer::PeakEwma => {
                let cost = |one: &Instance| one.latency.get().cost(one.outstanding.get(), draw.now);
                self.better_of_two(candidates, draw, |one, two| cost(one) <= cost(two))
            }
            _ => self.better_of_two(candidates, draw, |one, two| {
                let load = |one: &Instance| one.outstanding.get();
                // Compared as load per weight, without a division.
                load(one) * u64::from(two.weight.get()) <= load(two) * u64::from(one.weight.get())
            }),
        };
        chosen.map(|index| candidates[index].clone())
    }

    /// The better of two that are drawn at random ("The Power of Two Choices in Randomized Load
    /// Balancing", Mitzenmacher 2001).
    fn better_of_two(
        &self,
        candidates: &[Rc<Instance>],
        draw: Draw<'_>,
        is_better: impl Fn(&Instance, &Instance) -> bool,
    ) -> Option<usize> {
        let count = candidates.len();
        if count < 2 {
            return (count == 1).then_some(0);
        }
        let (first, second) = if self.is_uneven(draw.now) {
            let one = || self.draw_by_weight(candidates, draw);
            (one()?, one()?)
        } else {
            let first = draw.random.below(count)?;
            // From the others, so that the two differ.
            (first, (first + 1 + draw.random.below(count - 1)?) % count)
        };
        let better = is_better(&candidates[first], &candidates[second]);
        Some(if better { first } else { second })
    }

    /// Whether the instances do not all have the same share.
    fn is_uneven(&self, now: Millis) -> bool {
        self.heaviest.get() > 1 || now < self.growing_until.get()
    }

    /// The part of the requests that it should have, compared with others.
    fn heft(&self, one: &Instance, now: Millis) -> u64 {
        let share = if now < self.growing_until.get() {
            one.share(now, millis(self.policy.borrow().slow_start))
        } else {
            100
        };
        u64::from(one.weight.get()) * share
    }

    /// Whoever is drawn is taken as often as it is heavy compared with the heaviest.
    fn draw_by_weight(&self, candidates: &[Rc<Instance>], draw: Draw<'_>) -> Option<usize> {
        let most = u64::from(self.heaviest.get()) * 100;
        let mut index = None;
        for _ in 0..DRAWS {
            let one = draw.random.below(candidates.len())?;
            index = Some(one);
            if draw.random.next() % most < self.heft(&candidates[one], draw.now) {
                break;
            }
        }
        index
    }

    /// Costs a look at each of them. Among equals chance decides, or all threads would agree on one.
    fn least_of_all(&self, candidates: &[Rc<Instance>], draw: Draw<'_>) -> Option<usize> {
        let mut best: Option<(usize, u64, u64)> = None;
        let mut equals = 0;
        for (index, one) in candidates.iter().enumerate() {
            let (load, heft) = (one.outstanding.get() + 1, self.heft(one, draw.now));
            let order = best.map(|(_, least, of)| (load * of).cmp(&(least * heft)));
            match order {
                Some(std::cmp::Ordering::Greater) => continue,
                Some(std::cmp::Ordering::Equal) => {
                    equals += 1;
                    if draw.random.below(equals) != Some(0) {
                        continue;
                    }
                }
                Some(std::cmp::Ordering::Less) | None => equals = 1,
            }
            best = Some((index, load, heft));
        }
        best.map(|(index, ..)| index)
    }

    /// The instance that the key belongs to, unless it has more than its part of the requests
    /// ("Consistent Hashing with Bounded Loads", Mirrokni, Thorup, Zadimoghaddam 2016).
    fn by_key(
        &self,
        ring: &Ring,
        candidates: &[Rc<Instance>],
        some: bool,
        draw: Draw<'_>,
    ) -> Option<Rc<Instance>> {
        let up = self.up.borrow();
        let total = self.outstanding.get() + 1;
        // 1.25 times the average per weight.
        let part = |one: &Instance| total * 5 * u64::from(one.weight.get());
        let bound = |one: &Instance| part(one).div_ceil(4 * self.weights.get().max(1));
        let is_candidate = |one: &Rc<Instance>| {
            if some {
                candidates.iter().any(|other| Rc::ptr_eq(other, one))
            } else {
                one.serving.get()
            }
        };
        let index = ring.find(draw.key?, |index| {
            let one = &up[index];
            one.outstanding.get() < bound(one).max(LEAST_BOUND) && is_candidate(one)
        });
        index.map(|index| up[index].clone())
    }
}

/// With fewer requests than this an instance is never too busy for those that belong to it.
const LEAST_BOUND: u64 = 8;

#[cfg(test)]
mod tests;
