//! Power is lost at every changing call of random workloads, again and again in the same log, also
//! while it is being recovered.

use super::{model::Model, *};
use crate::storage::Fault;

const STEPS: u64 = 24;

/// Opens and checks, as often as power is lost meanwhile.
fn recover(storage: &mut SimulatedStorage, model: &mut Model) -> Opened {
    loop {
        match open(storage) {
            Ok(opened) => {
                model.check(&opened);
                return opened;
            }
            Err(error) => {
                assert!(
                    error.detail().contains("loss of power"),
                    "{}",
                    error.detail()
                );
                *storage = storage.crash();
            }
        }
    }
}

/// Runs the workload of `seed` and loses power at the call `at`, then some times more. Answers how
/// many calls the workload makes when nothing happens, and how often power was lost.
fn run(seed: u64, at: Option<u64>) -> (u64, u64) {
    let mut random = Seeded::new(seed);
    let mut storage = disk(seed ^ at.unwrap_or_default());
    let mut crashes = Seeded::new(seed.wrapping_mul(31) ^ at.unwrap_or_default());
    let mut lost = 0;
    let mut model = Model::new();
    if let Some(at) = at {
        storage.fail_at(at, Fault::PowerLoss);
    }
    for round in 0..3 {
        let mut opened = recover(&mut storage, &mut model);
        for _ in 0..STEPS {
            if let Err(error) = model.step(&mut opened, &mut random) {
                assert!(
                    error.detail().contains("loss of power"),
                    "{}",
                    error.detail()
                );
                lost += 1;
                break;
            }
        }
        if at.is_none() {
            break;
        }
        // The next loss may come while the log is opened, and in a few calls of that once more.
        storage = if crashes.below(4) == 0 {
            storage.kill()
        } else {
            storage.crash()
        };
        if round < 2 {
            let next = storage.operations() + 1 + crashes.below(40);
            storage.fail_at(next, Fault::PowerLoss);
            if crashes.below(3) == 0 {
                storage.fail_at(next + 1 + crashes.below(10), Fault::PowerLoss);
            }
        }
    }
    if at.is_some() {
        recover(&mut storage, &mut model);
    }
    (storage.operations(), lost)
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_torn_is_seen() {
    let wanted = from_environment("SINEW_POWER_LOSSES", 2_000);
    let first = from_environment("SINEW_SEED", 1);
    let mut lost = 0;
    for seed in first.. {
        let (calls, _) = run(seed, None);
        for at in 3..=calls {
            let outcome = std::panic::catch_unwind(|| run(seed, Some(at)));
            match outcome {
                Ok((_, times)) => lost += times,
                Err(panic) => {
                    eprintln!("power lost at call {at} of {calls}; repeat with SINEW_SEED={seed}");
                    std::panic::resume_unwind(panic);
                }
            }
        }
        if lost >= wanted {
            break;
        }
    }
}
