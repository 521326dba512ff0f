//! A circuit breaker ("Release It!", Nygard 2007; states and windows as in Resilience4j): closed, it
//! counts; open, it refuses; half-open, a few requests find out whether the service answers again.

use std::collections::VecDeque;

use crate::{
    policy,
    timer::{Millis, millis},
};

#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    policy: policy::Breaker,
    state: State,
    window: Window,
    /// Grows with each change of the state, so that what was asked before says nothing afterwards.
    generation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Closed,
    Open { until: Millis },
    HalfOpen { asked: u32, answered: u32 },
}

/// A request may pass. To be reported or forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permit(u64);

/// What became of a request that passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) failed: bool,
    pub(crate) slow: bool,
}

impl Breaker {
    pub(crate) fn new(policy: &policy::Breaker) -> Self {
        Self {
            policy: policy.clone(),
            state: State::Closed,
            window: Window::new(policy),
            generation: 0,
        }
    }

    pub(crate) fn policy(&self) -> &policy::Breaker {
        &self.policy
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Whether a request may pass; how long not, otherwise.
    pub(crate) fn admit(&mut self, now: Millis) -> Result<Permit, Millis> {
        if let State::Open { until } = self.state {
            if now < until {
                return Err(until - now);
            }
            self.turn(State::HalfOpen {
                asked: 0,
                answered: 0,
            });
        }
        if let State::HalfOpen { asked, answered } = self.state {
            if asked >= self.policy.probes {
                // Their answers will tell, soon or not.
                return Err(millis(self.policy.open));
            }
            self.state = State::HalfOpen {
                asked: asked + 1,
                answered,
            };
        }
        Ok(Permit(self.generation))
    }

    /// What became of a request. Whether that changed the state.
    pub(crate) fn report(&mut self, now: Millis, permit: Permit, outcome: Outcome) -> bool {
        if permit.0 != self.generation {
            return false;
        }
        let before = self.generation;
        match self.state {
            State::Closed => {
                self.window.count(now, outcome);
                if self.window.is_bad(&self.policy) {
                    self.open(now);
                }
            }
            State::HalfOpen { .. } if outcome.failed || outcome.slow => self.open(now),
            State::HalfOpen { asked, answered } => {
                let answered = answered + 1;
                if answered >= self.policy.probes {
                    self.turn(State::Closed);
                } else {
                    self.state = State::HalfOpen { asked, answered };
                }
            }
            State::Open { .. } => {}
        }
        self.generation != before
    }

    /// A request that passed says nothing: its client left, for one.
    pub(crate) fn forget(&mut self, permit: Permit) {
        if let State::HalfOpen { asked, answered } = self.state
            && permit.0 == self.generation
        {
            self.state = State::HalfOpen {
                asked: asked.saturating_sub(1),
                answered,
            };
        }
    }

    fn open(&mut self, now: Millis) {
        let until = now + millis(self.policy.open);
        self.turn(State::Open { until });
    }

    fn turn(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
        self.window = Window::new(&self.policy);
    }
}

/// Requests, failures and slow ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    requests: u64,
    failed: u64,
    slow: u64,
}

impl Counts {
    fn add(&mut self, outcome: Outcome) {
        self.requests += 1;
        self.failed += u64::from(outcome.failed);
        self.slow += u64::from(outcome.slow);
    }
}

#[derive(Clone, Debug)]
enum Window {
    /// By tenths of the time; the newest is last.
    Time {
        tenth: Millis,
        counts: VecDeque<(Millis, Counts)>,
    },
    /// The last requests, however old.
    Requests {
        most: usize,
        last: VecDeque<Outcome>,
        counts: Counts,
    },
}

const PARTS: u64 = 10;

impl Window {
    fn new(policy: &policy::Breaker) -> Self {
        match policy.window_requests {
            Some(most) => Self::Requests {
                most: most as usize,
                last: VecDeque::new(),
                counts: Counts::default(),
            },
            None => Self::Time {
                tenth: (millis(policy.window) / PARTS).max(1),
                counts: VecDeque::new(),
            },
        }
    }

    fn count(&mut self, now: Millis, outcome: Outcome) {
        match self {
            Self::Time { tenth, counts } => {
                let part = now / *tenth;
                while counts.front().is_some_and(|(old, _)| old + PARTS <= part) {
                    counts.pop_front();
                }
                match counts.back_mut() {
                    Some((newest, there)) if *newest == part => there.add(outcome),
                    _ => {
                        let mut there = Counts::default();
                        there.add(outcome);
                        counts.push_back((part, there));
                    }
                }
            }
            Self::Requests { most, last, counts } => {
                if last.len() == *most
                    && let Some(oldest) = last.pop_front()
                {
                    counts.requests -= 1;
                    counts.failed -= u64::from(oldest.failed);
                    counts.slow -= u64::from(oldest.slow);
                }
                last.push_back(outcome);
                counts.add(outcome);
            }
        }
    }

    fn is_bad(&self, policy: &policy::Breaker) -> bool {
        let sum = match self {
            Self::Requests { counts, .. } => *counts,
            Self::Time { counts, .. } => {
                let mut sum = Counts::default();
                for (_, part) in counts {
                    sum.requests += part.requests;
                    sum.failed += part.failed;
                    sum.slow += part.slow;
                }
                sum
            }
        };
        let part = |count: u64, percent: u8| count * 100 >= sum.requests * u64::from(percent);
        sum.requests >= u64::from(policy.minimum_requests.max(1))
            && (part(sum.failed, policy.failure_percent) || part(sum.slow, policy.slow_percent))
    }
}

#[cfg(test)]
mod tests;
