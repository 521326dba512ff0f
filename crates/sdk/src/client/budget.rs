use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

const RETRY: i64 = 1000;
/// Each request earns a fifth of a retry.
const EARNED: i64 = RETRY / 5;
const CAP: i64 = 10 * RETRY;

/// Bounds the retries to a service: 10 at once, and in the long run one for five requests, so that
/// retries cannot multiply the load of a service that is in trouble (the retry budget of Finagle).
pub(crate) struct Budget(AtomicI64);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicI64::new(CAP))
    }
}

impl Budget {
    /// Counts a request.
    pub(crate) fn earn(&self) {
        let _ = self
            .0
            .fetch_update(Relaxed, Relaxed, |tokens| Some((tokens + EARNED).min(CAP)));
    }

    /// Takes one retry, if there is one.
    pub(crate) fn take(&self) -> bool {
        self.0
            .fetch_update(Relaxed, Relaxed, |tokens| {
                (tokens >= RETRY).then_some(tokens - RETRY)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_fifth_of_the_requests() {
        let budget = Budget::default();
        assert_eq!((0..100).filter(|_| budget.take()).count(), 10);
        for _ in 0..20 {
            budget.earn();
        }
        assert_eq!((0..100).filter(|_| budget.take()).count(), 4);
    }
}
