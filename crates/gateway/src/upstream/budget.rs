use std::cell::Cell;

use crate::timer::Millis;

/// Limits retries to a fifth of the requests, and some per second when there are few requests, so
/// that retries cannot multiply the load on services that are failing because of load (the retry
/// budget of Finagle).
#[derive(Debug, Default)]
pub(crate) struct Budget {
    /// In thousandths of a retry.
    balance: Cell<u64>,
    second: Cell<u64>,
    /// Retries of this second that were not paid for.
    free: Cell<u32>,
}

const PER_REQUEST: u64 = 200;
const PRICE: u64 = 1_000;
const MOST: u64 = 50 * PRICE;
const FREE_PER_SECOND: u32 = 10;

impl Budget {
    /// A first attempt is being made.
    pub(crate) fn deposit(&self) {
        self.balance
            .set((self.balance.get() + PER_REQUEST).min(MOST));
    }

    /// Pays for a retry. `false` when it is not affordable.
    pub(crate) fn withdraw(&self, now: Millis) -> bool {
        if let Some(rest) = self.balance.get().checked_sub(PRICE) {
            self.balance.set(rest);
            return true;
        }
        if self.second.replace(now / 1_000) != now / 1_000 {
            self.free.set(0);
        }
        let free = self.free.get();
        self.free.set((free + 1).min(FREE_PER_SECOND));
        free < FREE_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_requests_and_a_floor() {
        let budget = Budget::default();
        let withdraw = |now| (0..1_000).take_while(|_| budget.withdraw(now)).count();
        assert_eq!(withdraw(5_000), 10);
        assert_eq!(withdraw(5_999), 0);
        assert_eq!(withdraw(6_000), 10);
        (0..100).for_each(|_| budget.deposit());
        assert_eq!(withdraw(6_500), 20);
        (0..10_000).for_each(|_| budget.deposit());
        assert_eq!(withdraw(6_500), 50);
    }
}
