use std::cell::RefCell;

use rand::{Rng, SeedableRng, rngs::SmallRng};

/// A thread's own random numbers: fast, and not for secrets.
#[derive(Debug)]
pub(crate) struct Random(RefCell<SmallRng>);

impl Random {
    pub(crate) fn new() -> Self {
        Self(RefCell::new(SmallRng::from_rng(&mut rand::rng())))
    }

    pub(crate) fn next(&self) -> u64 {
        self.0.borrow_mut().next_u64()
    }

    /// The same numbers for the same seed.
    #[cfg(test)]
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(RefCell::new(SmallRng::seed_from_u64(seed)))
    }

    /// One of `0..bound`; `None` when that is empty.
    pub(crate) fn below(&self, bound: usize) -> Option<usize> {
        // A product's upper half is uniform enough and needs no division.
        (bound > 0).then(|| ((u128::from(self.next()) * bound as u128) >> 64) as usize)
    }

    /// Appends 16 hexadecimal digits for each of `words`, not all zero.
    pub(crate) fn push_hex(&self, words: usize, to: &mut Vec<u8>) {
        for _ in 0..words {
            let word = self.next().max(1);
            for shift in (0..16).rev() {
                to.push(b"0123456789abcdef"[(word >> (shift * 4)) as usize & 15]);
            }
        }
    }
}
