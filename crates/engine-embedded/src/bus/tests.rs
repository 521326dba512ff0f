mod disk;
mod power_loss;
mod suite;

use std::{path::Path, sync::Arc, time::Duration};

use sinew_core::{Clock, Name};

use super::{opening::BusOpening, *};
use crate::{
    journal::Opening,
    log::{self, FailedSync, OwnedLog},
    storage::{RealStorage, SimulatedStorage, Storage},
};

/// A bus alone on its log.
struct Alone {
    bus: EmbeddedBus,
    journal: Journal,
}

/// What tests of many segments and checkpoints need: little of everything.
fn small() -> BusOptions {
    BusOptions {
        segment_bytes: 8192,
        failed_sync: FailedSync::call(|_| ()),
        ..BusOptions::default()
    }
}

fn log_options() -> log::Options {
    log::Options {
        segment_bytes: 24 << 20,
        record_bytes: 20 << 20,
        reserve_bytes: 64 << 10,
        full_retry: Duration::from_millis(5),
        failed_sync: FailedSync::call(|_| ()),
        ..log::Options::default()
    }
}

fn open_on(
    storage: Arc<dyn Storage>,
    folder: &Path,
    clock: Clock,
    options: BusOptions,
    log: &log::Options,
) -> Result<Alone> {
    let log = OwnedLog::open(Arc::clone(&storage), &folder.join("log"), log)?;
    let opening = Opening::new(log);
    let hold = opening.hold();
    let BusOpening { bus, slot } = opening::open(storage, folder, clock.clone(), options, hold)?;
    let journal = opening.start(slot, clock, ())?;
    Ok(Alone { bus, journal })
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

const FOLDER: &str = "/data";

/// A disk on which the folder is safe.
fn disk(seed: u64) -> SimulatedStorage {
    let storage = SimulatedStorage::new(seed);
    storage.create_dir(Path::new(FOLDER)).unwrap();
    storage.sync_dir(Path::new("/")).unwrap();
    storage
}

fn real() -> Arc<dyn Storage> {
    Arc::new(RealStorage)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_bus_leaves_its_files_to_the_next() {
    let disk = disk(1);
    let clock = Clock::system();
    let storage = Arc::new(disk.clone());
    let folder = Path::new(FOLDER);
    let first = open_on(
        storage.clone(),
        folder,
        clock.clone(),
        small(),
        &log_options(),
    )
    .unwrap();
    first.journal.close().await;
    let after_closing = disk.operations();
    drop(first.bus);
    assert_eq!(disk.operations(), after_closing);
    let second = open_on(storage, folder, clock, small(), &log_options()).unwrap();
    second.journal.close().await;
}
