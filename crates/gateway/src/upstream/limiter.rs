//! How many requests may be with a service at once, learnt from how long they take.
//!
//! The gradient of Netflix's concurrency-limits and of Envoy's adaptive concurrency: `limit` becomes
//! `limit · tolerance · base / now + √limit`, where `base` is how long requests take without a queue
//! and `now` how long they take now. As long as they take less than `tolerance` times the base the
//! limit grows by its root; beyond, it shrinks, at most by half at once. Requests that were not
//! answered in time shrink it by a tenth (the multiplicative decrease of AIMD).
//!
//! The base grows old: every `remeasure` the limit is halved for a moment and the base is what is
//! measured then, as BBR probes for its round-trip time. Half the limit is enough: with a tolerance
//! of two, about half of what is in flight waits in a queue.

use crate::{
    policy::Shedding,
    timer::{Millis, millis},
};

#[derive(Clone, Debug)]
pub(crate) struct Limiter {
    policy: Shedding,
    limit: f64,
    in_flight: u32,
    /// Microseconds, once known.
    base: Option<f64>,
    measured: Millis,
    /// For how many windows more the limit is halved, to measure the base in the last.
    probing: u8,
    window: Window,
}

#[derive(Clone, Debug, Default)]
struct Window {
    begun: Millis,
    /// Microseconds that its requests took.
    sum: f64,
    samples: u32,
    late: u32,
    most_in_flight: u32,
}

/// A window ends after this time, when it has enough samples, and after ten times this in any case.
const WINDOW: Millis = 100;
const SAMPLES: u32 = 10;
/// How much of the way to a new limit is gone at once.
const STEP: f64 = 0.5;

impl Limiter {
    pub(crate) fn new(policy: &Shedding) -> Self {
        Self {
            limit: f64::from(policy.initial),
            policy: policy.clone(),
            in_flight: 0,
            base: None,
            measured: 0,
            probing: 0,
            window: Window::default(),
        }
    }

    pub(crate) fn policy(&self) -> &Shedding {
        &self.policy
    }

    /// How many requests may be with the service now.
    pub(crate) fn limit(&self) -> u32 {
        let limit = if self.probing > 0 {
            (self.limit / 2.0).max(f64::from(self.policy.least))
        } else {
            self.limit
        };
        limit as u32
    }

    /// Whether one more may be; it counts then until it is [`done`](Self::done).
    pub(crate) fn admit(&mut self) -> bool {
        if self.in_flight >= self.limit() {
            self.window.most_in_flight = self.window.most_in_flight.max(self.in_flight);
            return false;
        }
        self.in_flight += 1;
        self.window.most_in_flight = self.window.most_in_flight.max(self.in_flight);
        true
    }

    /// One was answered after so many microseconds.
    pub(crate) fn answered(&mut self, now: Millis, micros: u64) {
        self.window.sum += micros as f64;
        self.window.samples += 1;
        self.turn(now);
    }

    /// One was not answered in time.
    pub(crate) fn late(&mut self, now: Millis) {
        self.window.late += 1;
        self.turn(now);
    }

    /// One is no longer with the service.
    pub(crate) fn done(&mut self) {
        // Those that were admitted by another limiter, before the policy changed, do not count.
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    fn turn(&mut self, now: Millis) {
        let lasted = now.saturating_sub(self.window.begun);
        let enough = self.window.samples + self.window.late >= SAMPLES;
        if lasted < WINDOW || (!enough && lasted < 10 * WINDOW) {
            return;
        }
        let window = std::mem::take(&mut self.window);
        self.window.begun = now;
        if window.late > 0 {
            self.limit *= 0.9;
        }
        if window.samples > 0 {
            self.learn(now, &window);
        }
        let (least, most) = (f64::from(self.policy.least), f64::from(self.policy.most));
        self.limit = self.limit.clamp(least, most);
    }

    fn learn(&mut self, now: Millis, window: &Window) {
        let took = window.sum / f64::from(window.samples);
        if self.probing > 0 {
            // The first window of a probe still sees what went out before it.
            self.probing -= 1;
            if self.probing == 0 {
                self.base = Some(took);
                self.measured = now;
            }
            return;
        }
        let base = self.base.map_or(took, |base| base.min(took));
        self.base = Some(base);
        let busy = f64::from(window.most_in_flight) >= self.limit / 2.0;
        if now.saturating_sub(self.measured) >= millis(self.policy.remeasure) {
            if busy {
                self.probing = 2;
                return;
            }
            self.base = Some(took);
            self.measured = now;
        }
        let tolerance = f64::from(self.policy.tolerance_percent) / 100.0;
        let gradient = (tolerance * base / took.max(1.0)).clamp(0.5, 1.0);
        let next = self.limit * gradient + self.limit.sqrt();
        // What was not asked for was not tried, so nothing was learnt about more of it.
        if next < self.limit || busy {
            self.limit += (next - self.limit) * STEP;
        }
    }
}

#[cfg(test)]
mod tests;
