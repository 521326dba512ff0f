//! Every parser under seeded, structured mutation. With `cargo test` each target gets a few thousand
//! inputs from a fixed seed; `cargo xtask fuzz` gives them time and other seeds:
//!
//! | variable | what |
//! |---|---|
//! | `SINEW_FUZZ_SECONDS` | how long each target runs |
//! | `SINEW_FUZZ_SEED` | where its random numbers begin |
//!
//! A target states what holds for every input, beyond not panicking: that bytes mean the same however
//! they arrive, that what was read and written again reads the same, and that nothing grows beyond its
//! bounds. What fails is made smaller before it is shown.

mod config;
mod fields;
mod heads;
mod routing;
mod streams;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use crate::random::Random;

/// Whether a property holds; what does not, otherwise.
type Outcome = Result<(), String>;

/// Says what does not hold, and ends the check.
macro_rules! holds {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err(format!($($what)+));
        }
    };
}
use holds;

/// Inputs without a time given.
const FEW: usize = 2_000;
/// Inputs grow to this.
const LONGEST: usize = 16 << 10;

/// Draws one of `0..bound`, which is not empty.
fn below(random: &Random, bound: usize) -> usize {
    random.below(bound).unwrap_or_default()
}

fn one<'a, T: ?Sized>(random: &Random, of: &[&'a T]) -> &'a T {
    of[below(random, of.len())]
}

/// Runs `check` with mutations of `seeds`, made with `words`.
fn fuzz(seeds: &[&[u8]], words: &[&[u8]], check: impl Fn(&[u8]) -> Outcome) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("SINEW_FUZZ_SEED").unwrap_or(1);
    let seconds = number("SINEW_FUZZ_SECONDS").map(Duration::from_secs);
    #[expect(clippy::disallowed_methods, reason = "real time is what is given")]
    let now = Instant::now;
    let began = now();
    let random = Random::seeded(seed);
    let holds = |input: &[u8]| match catch_unwind(AssertUnwindSafe(|| check(input))) {
        Ok(outcome) => outcome,
        Err(_) => Err("it panics".to_owned()),
    };
    for input in seeds {
        assert_eq!(holds(input), Ok(()), "{}", input.escape_ascii());
    }
    let mut rounds = 0;
    loop {
        match seconds {
            None if rounds >= FEW => break,
            // The clock is dear beside most parsers.
            Some(given) if rounds % 64 == 0 && began.elapsed() >= given => break,
            _ => {}
        }
        rounds += 1;
        let input = mutated(&random, seeds, words);
        if let Err(what) = holds(&input) {
            let small = smaller(input, |input| holds(input).is_err());
            let shown = small.escape_ascii();
            panic!("seed {seed}, input {rounds}: {what}\nfor b\"{shown}\"");
        }
    }
    if seconds.is_some() {
        println!("{rounds} inputs");
    }
}

/// A seed, changed in a few places.
fn mutated(random: &Random, seeds: &[&[u8]], words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = one(random, seeds).to_vec();
    for _ in 0..=below(random, 6) {
        let at = below(random, bytes.len() + 1);
        let end = (at + 1 + below(random, 8)).min(bytes.len());
        let word = one(random, words);
        match below(random, 10) {
            0..=2 => drop(bytes.splice(at..at, word.iter().copied())),
            3 => drop(bytes.splice(at..end, word.iter().copied())),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let part = bytes[at..end].repeat(1 + below(random, 40));
                bytes.splice(at..at, part);
            }
            6 => bytes.truncate(at),
            7 => {
                let other = one(random, seeds);
                let from = below(random, other.len() + 1);
                let part = &other[from..(from + below(random, 64)).min(other.len())];
                bytes.splice(at..at, part.iter().copied());
            }
            8 if at < bytes.len() => bytes[at] ^= 1 << below(random, 8),
            _ if at < bytes.len() => bytes[at] = below(random, 256) as u8,
            _ => bytes.push(below(random, 256) as u8),
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

/// Takes away whatever is not needed for a failure, within bounds.
fn smaller(mut bytes: Vec<u8>, fails: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut tries = 2_000;
    let mut step = bytes.len() / 2;
    while step > 0 {
        let mut at = 0;
        while at < bytes.len() && tries > 0 {
            tries -= 1;
            let mut less = bytes.clone();
            less.drain(at..(at + step).min(less.len()));
            if fails(&less) {
                bytes = less;
            } else {
                at += step;
            }
        }
        step /= 2;
    }
    bytes
}

/// Where to cut an input, the same for the same input.
fn cuts(input: &[u8]) -> Random {
    let mix = |state: u64, byte: &u8| state.rotate_left(5).wrapping_mul(31) ^ u64::from(*byte);
    Random::seeded(input.iter().fold(input.len() as u64, mix))
}
