mod behaviour;
mod damage;
mod faults;
mod format;
mod kill;
mod model;
mod power_loss;
mod repair;

use std::{path::Path, sync::Arc, time::Duration};

use super::*;
use crate::storage::{Seeded, SimulatedStorage, Storage};

const FOLDER: &str = "/data/log";

/// Segments of a few records, so that every run crosses many of them.
fn small() -> Options {
    Options {
        segment_bytes: 8192,
        record_bytes: 3000,
        batch_bytes: 4096,
        queue_bytes: 1 << 20,
        reserve_bytes: 1024,
        full_retry: Duration::from_millis(1),
        failed_sync: FailedSync::call(|_| ()),
        identity: Some([7; 16]),
        ..Options::default()
    }
}

/// A disk on which the folder of the log's folder is safe.
fn disk(seed: u64) -> SimulatedStorage {
    let storage = SimulatedStorage::new(seed);
    storage.create_dir(Path::new("/data")).unwrap();
    storage.sync_dir(Path::new("/")).unwrap();
    storage
}

fn shared(storage: &SimulatedStorage) -> Arc<dyn Storage> {
    Arc::new(storage.clone())
}

fn open(storage: &SimulatedStorage) -> Result<Opened> {
    recovery::open(&shared(storage), Path::new(FOLDER), &small())
}

fn entries(segments: &Arc<Segments>) -> Result<Vec<Entry>> {
    let mut reader = Reader::new(Arc::clone(segments), segments.oldest())?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        entries.push(entry);
    }
    Ok(entries)
}

fn append(opened: &mut Opened, payload: &[u8]) -> Appended {
    match opened.writer.stage(payload, false).unwrap() {
        writer::Staged::Yes(appended) => {
            opened.writer.commit().unwrap();
            appended
        }
        writer::Staged::CommitFirst => panic!("the batch is empty"),
    }
}

/// A number from the environment, for longer runs by hand and in CI.
fn from_environment(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}
