use std::{cmp::Reverse, collections::BinaryHeap, rc::Rc};

use crate::{random::Random, upstream::Instance};

/// Weighted rounds, evenly spread: stride scheduling ("Lottery and Stride Scheduling", Waldspurger
/// 1995). Each instance has a moment at which it is next, and goes on by a stride that is the shorter
/// the heavier it is. A turn costs the logarithm of the number of instances.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// By their next moments; among equals the first.
    next: BinaryHeap<Reverse<(u64, u32)>>,
    instances: Vec<Rc<Instance>>,
    /// The moment of the last turn.
    now: u64,
}

/// That of the lightest. A heft is at most 100 × 1000.
const STRIDE: u64 = 1 << 32;

impl Rounds {
    /// Goes on with these. Those that were here keep their moments; new ones begin at a random one
    /// within a round, so that threads do not go round in step.
    pub(crate) fn with(&self, serving: &[Rc<Instance>], random: &Random) -> Self {
        let mut moments = std::collections::HashMap::new();
        for Reverse((moment, index)) in &self.next {
            moments.insert(Rc::as_ptr(&self.instances[*index as usize]), *moment);
        }
        let moment = |one: &Rc<Instance>| {
            let stride = STRIDE / (u64::from(one.weight.get()) * 100);
            let first = || self.now + random.next() % stride;
            moments.get(&Rc::as_ptr(one)).copied().unwrap_or_else(first)
        };
        Self {
            next: serving
                .iter()
                .zip(0..)
                .map(|(one, index)| Reverse((moment(one), index)))
                .collect(),
            instances: serving.to_vec(),
            now: self.now,
        }
    }

    pub(crate) fn next(&mut self, heft: impl Fn(&Instance) -> u64) -> Option<Rc<Instance>> {
        let Reverse((moment, index)) = self.next.pop()?;
        self.now = moment;
        let instance = self.instances[index as usize].clone();
        let stride = STRIDE / heft(&instance).max(1);
        self.next.push(Reverse((moment + stride, index)));
        Some(instance)
    }
}
