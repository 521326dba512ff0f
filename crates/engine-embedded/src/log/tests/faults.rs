//! Calls that fail while the power stays on.

use super::{model::Model, *};
use crate::storage::Fault;

/// Runs the workload of `seed` with a fault at one call, goes on as the process would, and loses
/// power in the end.
fn run(seed: u64, fault: Option<(u64, Fault)>) -> u64 {
    let mut random = Seeded::new(seed);
    let mut storage = disk(seed);
    let mut model = Model::new();
    if let Some((at, fault)) = fault {
        storage.fail_at(at, fault);
    }
    for round in 0..2 {
        let opened = &mut open_again(&mut storage);
        model.check(opened);
        for _ in 0..20 {
            match model.step(opened, &mut random) {
                Ok(()) => {}
                Err(error) if error.code() == "log.failed" => break,
                Err(error) => {
                    assert!(matches!(error.code(), "log.io" | "log.full"), "{error:?}");
                    // What was staged before the one that was refused can still be written.
                    if model.is_staged() {
                        let _ = model.commit(opened);
                    }
                }
            }
        }
        // As after an abort, then as after a loss of power.
        storage = if round == 0 {
            storage.kill()
        } else {
            storage.crash()
        };
    }
    model.check(&open_again(&mut storage));
    storage.operations()
}

/// The call that fails may be one of the opening: nothing is lost by trying again, as a new process.
fn open_again(storage: &mut SimulatedStorage) -> Opened {
    open(storage).unwrap_or_else(|error| {
        assert!(
            matches!(error.code(), "log.io" | "log.full" | "log.failed"),
            "{error:?}"
        );
        *storage = storage.kill();
        open(storage).unwrap()
    })
}

fn at_every_call(fault: Fault) {
    let seeds = from_environment("SINEW_FAULT_SEEDS", 4);
    let first = from_environment("SINEW_SEED", 1);
    for seed in first..first + seeds {
        for at in 3..=run(seed, None) {
            let outcome = std::panic::catch_unwind(|| run(seed, Some((at, fault))));
            if let Err(panic) = outcome {
                eprintln!("{fault:?} at call {at}; repeat with SINEW_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[test]
fn an_input_output_error_at_every_call_loses_nothing() {
    at_every_call(Fault::InputOutput);
}

#[test]
fn no_space_at_every_call_loses_nothing() {
    at_every_call(Fault::NoSpace);
}

#[test]
fn a_failed_sync_stops_the_log_and_tells_why() {
    let storage = disk(1);
    let told = Arc::new(Mutex::new(String::new()));
    let failed_sync = FailedSync::call({
        let told = Arc::clone(&told);
        move |message| message.clone_into(&mut told.lock())
    });
    let options = Options {
        failed_sync,
        ..small()
    };
    let mut opened = recovery::open(&shared(&storage), Path::new(FOLDER), &options).unwrap();
    append(&mut opened, b"kept");
    opened.writer.stage(b"in doubt", false).unwrap();
    // The write, then the sync.
    storage.fail_at(storage.operations() + 2, Fault::InputOutput);
    assert_eq!(opened.writer.commit().unwrap_err().code(), "log.failed");
    assert!(told.lock().contains("0000000001.log"), "{}", told.lock());
    assert_eq!(
        opened.writer.stage(b"more", false).unwrap_err().code(),
        "log.failed"
    );
    assert_eq!(
        entries(&opened.segments).unwrap().len(),
        1,
        "readers go on with what is durable"
    );
}

#[test]
fn what_a_failed_sync_left_in_the_kernel_is_made_durable_before_it_is_served() {
    for seed in 0..50 {
        let storage = disk(seed);
        let mut opened = open(&storage).unwrap();
        opened.writer.stage(&[1; 2000], false).unwrap();
        storage.fail_at(storage.operations() + 2, Fault::InputOutput);
        opened.writer.commit().unwrap_err();
        // The process starts again, and reads the record from the kernel's cache.
        let storage = storage.kill();
        let seen = entries(&open(&storage).unwrap().segments).unwrap();
        assert_eq!(seen.len(), 1, "seed {seed}");
        // What was served must be there after a loss of power, too.
        let after = entries(&open(&storage.crash()).unwrap().segments).unwrap();
        assert!(after == seen, "seed {seed}");
    }
}

#[test]
fn a_checkpoint_that_a_killed_process_left_in_the_kernel_is_made_durable() {
    for seed in 0..50 {
        let storage = disk(seed);
        let opened = open(&storage).unwrap();
        let checkpoint = |next| Checkpoint {
            next,
            note: Bytes::from_static(b"state"),
        };
        opened
            .slots
            .set(checkpoint(1), &opened.segments.fatal)
            .unwrap();
        storage.fail_at(storage.operations() + 2, Fault::InputOutput);
        opened
            .slots
            .set(checkpoint(2), &opened.segments.fatal)
            .unwrap_err();
        let storage = storage.kill();
        // Its owner now relies on it, and may release what lies before.
        assert_eq!(
            open(&storage).unwrap().slots.newest(),
            Some(checkpoint(2)),
            "seed {seed}"
        );
        let storage = storage.crash();
        assert_eq!(
            open(&storage).unwrap().slots.newest(),
            Some(checkpoint(2)),
            "seed {seed}"
        );
    }
}

#[test]
fn what_is_left_of_a_torn_batch_never_comes_back() {
    // Frames of one sector: of a torn batch of five, any may be whole.
    let mut survivors = 0;
    for seed in 0..200 {
        let storage = disk(seed);
        let mut opened = open(&storage).unwrap();
        for number in 0..5 {
            opened.writer.stage(&[number; 488], false).unwrap();
        }
        storage.fail_at(storage.operations() + 2, Fault::PowerLoss);
        opened.writer.commit().unwrap_err();
        let storage = storage.crash();
        let mut opened = open(&storage).unwrap();
        let held = opened.recovery.next;
        survivors += opened.recovery.cut_bytes;
        append(&mut opened, &[9; 488]);
        let storage = storage.kill();
        assert_eq!(
            open(&storage).unwrap().recovery.next,
            held + 1,
            "seed {seed}"
        );
    }
    assert!(survivors > 0, "no batch was torn");
}

#[test]
fn a_full_disk_refuses_appends_keeps_the_reserve_and_recovers() {
    let storage = disk(3);
    let mut opened = open(&storage).unwrap();
    append(&mut opened, b"first");
    storage.set_capacity(Some(storage.used()));
    let refused = loop {
        match opened.writer.stage(&[1; 100], false) {
            Ok(_) => opened.writer.commit().unwrap(),
            Err(error) => break error,
        }
    };
    assert_eq!(
        (refused.kind(), refused.code()),
        (sinew_core::Kind::ResourceExhausted, "log.full")
    );
    assert_ne!(refused.retry(), sinew_core::Retry::No);
    // Reads go on, and there is still room for what makes room.
    let held = entries(&opened.segments).unwrap().len();
    assert!(held > 10);
    opened.writer.stage(&[2; 500], true).unwrap();
    opened.writer.commit().unwrap();
    opened
        .slots
        .set(
            Checkpoint {
                next: 3,
                note: Bytes::new(),
            },
            &opened.segments.fatal,
        )
        .unwrap();
    // It is still refused, and accepted as soon as there is room.
    assert_eq!(
        opened.writer.stage(&[1; 100], false).unwrap_err().code(),
        "log.full"
    );
    storage.set_capacity(None);
    append(&mut opened, b"again");
    assert_eq!(entries(&opened.segments).unwrap().len(), held + 2);
}
