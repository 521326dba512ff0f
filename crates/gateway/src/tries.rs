//! Whether a request that failed is tried once more, where, and when.

use std::{rc::Rc, time::Duration};

use crate::{
    fault::Fault,
    policy::{Cause, Conditions},
    prepare::Plan,
    random::Random,
    stream::Stream,
    timer::{Millis, millis},
    upstream::{Instance, Lease, Service},
};

/// The tries of one request.
#[derive(Debug)]
pub(crate) struct Tries {
    left: u8,
    /// Tries after which there was a pause.
    paused: u32,
    on: Conditions,
    backoff: Duration,
    /// The request may be sent twice, as long as all of it is still there.
    pub(crate) repeatable: bool,
    /// After a kept connection failed the next is a new one, or every kept one might be tried. One
    /// that is going to speak another protocol is of no use to the pool afterwards anyway.
    pub(crate) only_new: bool,
    /// After how long a second instance is asked at the same time, if it may be.
    pub(crate) hedge: Option<Duration>,
    tried: Vec<Rc<Instance>>,
    last: Option<Fault>,
}

/// A try that brought no answer, or one that may be worth another try.
pub(crate) struct Failed {
    pub(crate) cause: Cause,
    pub(crate) fault: Fault,
    /// Nothing happens twice if the request is sent again.
    pub(crate) safe: bool,
    /// The answer that there is nevertheless, with its head read.
    pub(crate) answer: Option<Stream>,
    /// For how long the instance wants to be left alone.
    pub(crate) retry_after: Option<Duration>,
}

/// An instance that wants to be left alone for longer is not asked again: its answer goes on, with
/// the `Retry-After`, to a client that can wait for as long.
const MOST_RETRY_AFTER: Duration = Duration::from_secs(2);
/// The longest pause, in multiples of the first.
const MOST_BACKOFF: u32 = 10;

impl Tries {
    pub(crate) fn new(plan: &Plan) -> Self {
        let route = plan.route();
        let repeatable = plan.idempotent || (route.retry_any_method && !plan.upgrade);
        // Only what has no body: what is sent to two is kept in memory for both.
        let hedge = route
            .hedge
            .as_ref()
            .filter(|_| repeatable && !plan.request_left());
        Self {
            left: route.retries,
            paused: 0,
            on: route.retry_on,
            backoff: route.retry_backoff,
            repeatable,
            hedge: hedge.map(|hedge| hedge.after),
            only_new: plan.upgrade,
            tried: Vec::new(),
            last: None,
        }
    }

    /// Instances that failed this request.
    pub(crate) fn tried(&self) -> &[Rc<Instance>] {
        &self.tried
    }

    /// Whether a response with this status may be worth another try.
    pub(crate) fn minds(&self, status: u16) -> bool {
        status >= 400 && self.left > 0 && self.on.has(Cause::Status(status))
    }

    /// Pays for another try and says how long to wait before it; `None` when there is none. It must
    /// begin before `due`.
    pub(crate) fn again(
        &mut self,
        service: &Service,
        lease: &Lease,
        failed: &Failed,
        (now, due): (Millis, Millis),
        random: &Random,
    ) -> Option<Duration> {
        let wanted = failed.retry_after.unwrap_or_default();
        if self.left == 0 || !failed.safe || !self.on.has(failed.cause) || wanted > MOST_RETRY_AFTER
        {
            return None;
        }
        let nobody_else = service.nobody_else(&self.tried, lease);
        // Who answered is there, and may be asked again; who did not will not be by being asked twice.
        if nobody_else && failed.answer.is_none() {
            return None;
        }
        let wait = self.pause(failed.cause, random.next()).max(wanted);
        if !wait.is_zero() && now + millis(wait) >= due {
            return None;
        }
        if !service.budget.withdraw(now) {
            lease.counters().retries_refused.add(1);
            return None;
        }
        lease.counters().retries.add(1);
        self.left -= 1;
        if nobody_else {
            self.tried.clear();
        } else {
            self.tried.push(lease.instance.clone());
        }
        self.last = Some(failed.fault.clone());
        Some(wait)
    }

    /// Grows, with jitter, so that many requests that failed together do not come back together. A
    /// refused connection cost the service nothing, so the next instance is tried at once.
    fn pause(&mut self, cause: Cause, random: u64) -> Duration {
        if cause == Cause::Connect || self.backoff.is_zero() {
            return Duration::ZERO;
        }
        let factor = 1u32 << self.paused.min(10);
        self.paused += 1;
        let bound = self.backoff.saturating_mul(factor.min(MOST_BACKOFF));
        let part = (random >> 32) as u32;
        bound / 4 + (bound - bound / 4).mul_f64(f64::from(part) / f64::from(u32::MAX))
    }

    /// What the client is told when there is no instance to try.
    pub(crate) fn nobody_left(&mut self, service: &Service) -> Fault {
        let name = service.name.as_str();
        self.last.take().unwrap_or_else(|| {
            if service.nobody_up() {
                Fault::no_instance(name)
            } else {
                Fault::unreachable(name)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries(backoff: u64) -> Tries {
        Tries {
            left: 9,
            paused: 0,
            on: Conditions::all_failures(),
            backoff: Duration::from_millis(backoff),
            repeatable: true,
            hedge: None,
            only_new: false,
            tried: Vec::new(),
            last: None,
        }
    }

    #[test]
    fn pauses_grow_with_jitter_to_a_bound() {
        for random in [0, 1 << 63, u64::MAX] {
            let mut tries = tries(20);
            for bound in [20, 40, 80, 160, 200, 200] {
                let pause = tries.pause(Cause::Reset, random);
                let bound = Duration::from_millis(bound);
                assert!(pause >= bound / 4 && pause <= bound, "{bound:?}: {pause:?}");
                assert_eq!(pause == bound, random == u64::MAX);
            }
            assert_eq!(tries.pause(Cause::Connect, random), Duration::ZERO);
        }
        assert_eq!(tries(0).pause(Cause::Timeout, u64::MAX), Duration::ZERO);
    }
}
