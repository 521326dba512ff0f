use std::time::Duration;

/// Delays between attempts: exponential, capped, with full jitter, as in "Exponential Backoff And
/// Jitter" (AWS Architecture Blog, 2015). The n-th delay is uniform in `[floor, min(cap, base·2ⁿ)]`
/// with `floor` a quarter of the upper bound, so that a retry is never immediate.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
}

impl Backoff {
    /// Delays that begin around `base` and never exceed `cap`.
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap: cap.max(base),
            attempt: 0,
        }
    }

    /// The next delay. Each call counts as one more failed attempt.
    pub fn next_delay(&mut self) -> Duration {
        let bound = self
            .base
            .saturating_mul(1 << self.attempt.min(20))
            .min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        bound.mul_f64(rand::random_range(0.25..=1.0))
    }

    /// How many delays were asked for since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempt
    }

    /// Says that an attempt succeeded: the next delay is short again.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_stay_within_it() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        for n in 0..64u32 {
            let bound = Duration::from_millis(100 * (1 << n.min(5))).min(Duration::from_secs(2));
            let delay = backoff.next_delay();
            assert!(
                delay <= bound && delay >= bound / 4 - Duration::from_nanos(1),
                "{n}: {delay:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
