//! Whether one instance gets requests, as one thread has learnt it: a state machine that is told what
//! became of each try. An instance is out because it took no connection (for a moment that grows), or
//! because it failed as an outlier (for longer). When its time is over, one request finds out
//! whether it is back, and the others go on avoiding it meanwhile.

use crate::{
    policy::{Cause, Ejection},
    timer::{Millis, millis},
};

/// How long an instance that could not be connected to is set aside: at first, and at most.
pub(super) const ASIDE: (Millis, Millis) = (200, 3_000);

/// What one thread knows of one instance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    out: Option<Out>,
    /// Failures since the last success.
    consecutive: u32,
    window: Window,
    /// Connections refused since one was taken.
    refusals: u32,
    /// Ejections lately.
    ejections: u32,
    /// When it was last let in again.
    returned: Millis,
}

#[derive(Clone, Copy, Debug)]
struct Out {
    until: Millis,
    ejected: bool,
    /// A request is finding out whether it is back.
    probed: bool,
}

/// What a report changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    /// It took no connection, and gets no request for a moment.
    SetAside,
    /// It failed too much, and gets no request for so long.
    Ejected(Millis),
    /// It gets requests again; it was ejected, or only set aside.
    Returned {
        ejected: bool,
    },
}

impl Health {
    /// Whether it gets requests like any other.
    pub(crate) fn is_in(&self) -> bool {
        self.out.is_none()
    }

    /// Whether it is out because it failed, not because it takes no connections.
    pub(crate) fn is_ejected(&self) -> bool {
        self.out.is_some_and(|out| out.ejected)
    }

    /// Whether one request should find out whether it is back.
    pub(crate) fn is_due(&self, now: Millis) -> bool {
        self.out.is_some_and(|out| out.until <= now && !out.probed)
    }

    pub(crate) fn begin_probe(&mut self) {
        if let Some(out) = &mut self.out {
            out.probed = true;
        }
    }

    /// The probe is over. If it told nothing, the next request is one.
    pub(crate) fn end_probe(&mut self) {
        if let Some(out) = &mut self.out {
            out.probed = false;
        }
    }

    /// It took a connection.
    pub(crate) fn connected(&mut self, now: Millis) -> Change {
        self.refusals = 0;
        match self.out {
            Some(Out { ejected: false, .. }) => self.let_in(now),
            _ => Change::Nothing,
        }
    }

    /// It took none. `random` spreads the next attempts of many threads and gateways.
    pub(crate) fn refused(&mut self, now: Millis, probe: bool, random: u64) -> Change {
        // Requests that were on their way together failed once, not many times.
        if self.out.is_some() && !probe {
            return Change::Nothing;
        }
        let bound = (ASIDE.0 << self.refusals.min(10)).min(ASIDE.1);
        self.refusals = self.refusals.saturating_add(1);
        // Between a quarter of the bound and the bound, so that nothing is tried again at once.
        let least = bound / 4;
        let until = now + least + random % (bound - least + 1);
        let ejected = self.is_ejected();
        self.out = Some(Out {
            until,
            ejected,
            probed: false,
        });
        Change::SetAside
    }

    /// It answered, and well.
    pub(crate) fn succeeded(&mut self, now: Millis, probe: bool, policy: &Ejection) -> Change {
        self.consecutive = 0;
        if policy.failure_percent > 0 {
            self.window.count(now, millis(policy.window), false);
        }
        if probe {
            self.let_in(now)
        } else {
            Change::Nothing
        }
    }

    /// It failed in a way that may be one of those that count.
    pub(crate) fn failed(
        &mut self,
        now: Millis,
        cause: Cause,
        probe: bool,
        policy: &Ejection,
    ) -> Change {
        if !policy.on.has(cause) {
            return self.succeeded(now, probe, policy);
        }
        self.consecutive = self.consecutive.saturating_add(1);
        if policy.failure_percent > 0 {
            self.window.count(now, millis(policy.window), true);
        }
        if self.out.is_some() {
            // Those that were on their way when it was ejected say nothing new.
            return if probe {
                self.eject(now, policy)
            } else {
                Change::Nothing
            };
        }
        let in_a_row = policy.consecutive > 0 && self.consecutive >= policy.consecutive;
        if in_a_row || self.window.fails(policy) {
            self.eject(now, policy)
        } else {
            Change::Nothing
        }
    }

    fn let_in(&mut self, now: Millis) -> Change {
        let Some(Out { ejected, .. }) = self.out.take() else {
            return Change::Nothing;
        };
        self.returned = now;
        self.consecutive = 0;
        self.window = Window::default();
        Change::Returned { ejected }
    }

    /// Each ejection lasts longer than the one before by `time`; each such time that it did well in
    /// between takes one back (Envoy's outlier detection).
    fn eject(&mut self, now: Millis, policy: &Ejection) -> Change {
        let time = millis(policy.time);
        if self.out.is_none() {
            let well = now.saturating_sub(self.returned) / time;
            self.ejections = self
                .ejections
                .saturating_sub(u32::try_from(well).unwrap_or(u32::MAX));
        }
        self.ejections = self.ejections.saturating_add(1);
        let lasts = time
            .saturating_mul(u64::from(self.ejections))
            .min(millis(policy.longest));
        self.out = Some(Out {
            until: now + lasts,
            ejected: true,
            probed: false,
        });
        Change::Ejected(lasts)
    }
}

/// Requests and failures of the last one to two halves of a window.
#[derive(Clone, Debug, Default)]
struct Window {
    half: Millis,
    /// This half and the one before: requests and failures.
    counts: [(u32, u32); 2],
}

impl Window {
    fn count(&mut self, now: Millis, window: Millis, failed: bool) {
        let half = now / (window / 2).max(1);
        match half.saturating_sub(self.half) {
            0 => {}
            1 => self.counts = [(0, 0), self.counts[0]],
            _ => self.counts = Default::default(),
        }
        self.half = half;
        let (requests, failures) = &mut self.counts[0];
        *requests = requests.saturating_add(1);
        *failures = failures.saturating_add(u32::from(failed));
    }

    fn fails(&self, policy: &Ejection) -> bool {
        let sum = |pick: fn(&(u32, u32)) -> u32| {
            self.counts
                .iter()
                .map(|half| u64::from(pick(half)))
                .sum::<u64>()
        };
        let (requests, failures) = (sum(|half| half.0), sum(|half| half.1));
        policy.failure_percent > 0
            && requests >= u64::from(policy.minimum_requests)
            && failures * 100 >= requests * u64::from(policy.failure_percent)
    }
}

#[cfg(test)]
mod tests;
