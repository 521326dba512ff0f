//! How often somebody may try to log in to one account.

use std::{collections::HashMap, time::Duration};

/// This many wrong passwords in a row cost nothing.
const FREE: u32 = 5;
/// Each wrong one after them locks the account for twice as long, from one second up to this.
const LONGEST: Duration = Duration::from_secs(60);
/// A series is forgotten this long after its last attempt.
const FORGOTTEN: Duration = Duration::from_secs(15 * 60);

/// Failed logins per account, known or not, so that a lock does not tell which addresses exist.
/// An attempt counts from its start, so that many at once do not pass between check and failure.
/// Kept in memory: each replica counts for itself, and a restart forgets. Bounded: when `capacity`
/// accounts have a series, the one that was quiet for longest is forgotten.
#[derive(Debug)]
pub(crate) struct Attempts {
    capacity: usize,
    series: HashMap<String, Series>,
}

#[derive(Debug)]
struct Series {
    count: u32,
    last: Duration,
    locked_until: Duration,
}

impl Attempts {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            series: HashMap::new(),
        }
    }

    /// Begins an attempt at monotonic time `now`. `Err` is how long the account is still locked.
    pub(crate) fn begin(&mut self, account: &str, now: Duration) -> Result<(), Duration> {
        self.series
            .retain(|_, series| series.last + FORGOTTEN > now);
        if let Some(series) = self.series.get_mut(account) {
            if series.locked_until > now {
                return Err(series.locked_until - now);
            }
            series.count += 1;
            series.last = now;
            if series.count > FREE {
                let exponent = (series.count - FREE - 1).min(6);
                let lock = Duration::from_secs(1 << exponent).min(LONGEST);
                series.locked_until = now + lock;
            }
            return Ok(());
        }
        if self.series.len() >= self.capacity {
            let quietest = self.series.iter().min_by_key(|(_, series)| series.last);
            if let Some(account) = quietest.map(|(account, _)| account.clone()) {
                self.series.remove(&account);
            }
        }
        let series = Series {
            count: 1,
            last: now,
            locked_until: Duration::ZERO,
        };
        self.series.insert(account.to_owned(), series);
        Ok(())
    }

    /// The attempt was right: the series ends.
    pub(crate) fn succeeded(&mut self, account: &str) {
        self.series.remove(account);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_grows_and_a_success_ends_it() {
        let mut attempts = Attempts::new(10);
        let mut now = Duration::from_secs(100);
        for _ in 0..FREE {
            assert_eq!(attempts.begin("ada", now), Ok(()));
        }
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(attempts.begin("ada", now), Ok(()));
            let lock = Duration::from_secs(seconds);
            assert_eq!(attempts.begin("ada", now), Err(lock));
            assert_eq!(attempts.begin("bob", now), Ok(()), "others are not locked");
            attempts.succeeded("bob");
            now += lock;
        }
        attempts.begin("ada", now).unwrap();
        attempts.succeeded("ada");
        assert_eq!(attempts.begin("ada", now), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_old_series_are_forgotten() {
        let mut attempts = Attempts::new(3);
        for n in 0..100 {
            attempts
                .begin(&format!("{n}"), Duration::from_secs(n))
                .unwrap();
            assert!(attempts.series.len() <= 3);
        }
        attempts
            .begin("late", Duration::from_secs(100) + FORGOTTEN)
            .unwrap();
        assert_eq!(attempts.series.len(), 1);
    }
}
