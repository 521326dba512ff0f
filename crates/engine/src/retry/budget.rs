use std::sync::atomic::{AtomicU32, Ordering};

/// What a success saves and what a repetition costs.
const SAVED: u32 = 1;
const COST: u32 = 5;

/// Repetitions that may still be made, in the way of gRPC's retry throttling (gRFC A6).
#[derive(Debug)]
pub(super) struct Budget {
    most: u32,
    saved: AtomicU32,
}

impl Budget {
    pub(super) fn new(repetitions: u32) -> Self {
        let most = repetitions.saturating_mul(COST);
        Self {
            most,
            saved: AtomicU32::new(most),
        }
    }

    pub(super) fn succeeded(&self) {
        // Nothing to count while it is full, which is nearly always.
        if self.saved.load(Ordering::Relaxed) < self.most {
            self.change(|saved| Some((saved + SAVED).min(self.most)));
        }
    }

    /// Takes one repetition, if there is one.
    pub(super) fn take(&self) -> bool {
        self.change(|saved| saved.checked_sub(COST))
    }

    fn change(&self, change: impl FnMut(u32) -> Option<u32>) -> bool {
        let (to, read) = (Ordering::Relaxed, Ordering::Relaxed);
        self.saved.fetch_update(to, read, change).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_successes_pay_for_one_repetition() {
        let budget = Budget::new(2);
        assert!(budget.take() && budget.take() && !budget.take());
        (0..4).for_each(|_| budget.succeeded());
        assert!(!budget.take());
        budget.succeeded();
        assert!(budget.take() && !budget.take());
        (0..1000).for_each(|_| budget.succeeded());
        assert!(budget.take() && budget.take() && !budget.take());
    }
}
