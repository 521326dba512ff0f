use std::time::Duration;

use sinew_core::Clock;

/// A death is noticed a moment after it happened.
const LEAD: Duration = Duration::from_millis(500);

/// When which instance was known to be down. Failures within these times were to be expected; all
/// others were not.
pub struct Outages {
    clock: Clock,
    grace: Duration,
    windows: parking_lot::Mutex<Vec<Window>>,
}

struct Window {
    who: String,
    from: Duration,
    /// `None` while it lasts.
    to: Option<Duration>,
}

impl Outages {
    /// No outage so far. Each counts for `grace` longer than it lasts: what it left behind, such as
    /// work under a lease, is taken over only then.
    pub fn new(clock: Clock, grace: Duration) -> Self {
        Self {
            clock,
            grace,
            windows: parking_lot::Mutex::default(),
        }
    }

    /// `who` is down from now on. Said again while it is down, nothing changes.
    pub fn begin(&self, who: &str) {
        let from = self.clock.monotonic().saturating_sub(LEAD);
        let mut windows = self.windows.lock();
        if !windows
            .iter()
            .any(|window| window.who == who && window.to.is_none())
        {
            windows.push(Window {
                who: who.to_owned(),
                from,
                to: None,
            });
        }
    }

    /// `who` serves again.
    pub fn end(&self, who: &str) {
        let now = self.clock.monotonic();
        for window in self.windows.lock().iter_mut() {
            if window.who == who && window.to.is_none() {
                window.to = Some(now);
            }
        }
    }

    /// Whether an outage lay anywhere within `from ..= to` on this clock's monotonic time.
    pub fn cover(&self, from: Duration, to: Duration) -> bool {
        self.windows.lock().iter().any(|window| {
            let end = window
                .to
                .map_or(Duration::MAX, |end| end.saturating_add(self.grace));
            from <= end && to >= window.from
        })
    }

    /// How many there were, and how many still last.
    pub fn count(&self) -> (usize, usize) {
        let windows = self.windows.lock();
        (
            windows.len(),
            windows.iter().filter(|window| window.to.is_none()).count(),
        )
    }
}

#[cfg(test)]
mod tests {
    use sinew_core::{ManualClock, Timestamp};

    use super::*;

    #[test]
    fn only_what_overlaps_a_known_outage_is_covered() {
        let secs = Duration::from_secs;
        let manual = ManualClock::new(Timestamp(0));
        let outages = Outages::new(manual.clock(), secs(2));
        manual.advance(secs(10));
        outages.begin("orders-1");
        manual.advance(secs(5));
        assert!(outages.cover(secs(14), secs(14)), "it still lasts");
        outages.begin("orders-1");
        outages.end("orders-1");
        outages.end("orders-1");
        assert_eq!(outages.count(), (1, 0));
        assert!(!outages.cover(secs(1), secs(9)));
        assert!(outages.cover(secs(1), secs(10)), "it ended in the outage");
        assert!(outages.cover(secs(16), secs(20)), "it began in the grace");
        assert!(!outages.cover(secs(18), secs(20)));
    }
}
