//! Killed at any call that changes the file, again and again, the tables open as their last
//! checkpoint or the one that was on its way.

use sinew_engine::bus::TopicConfig;

use super::*;
use crate::storage::{Fault, Seeded, SimulatedStorage};

const FOLDER: &str = "/data";

fn open(disk: &SimulatedStorage) -> Result<(Tables, Found)> {
    let storage = Arc::new(disk.clone());
    let tables = Tables::open(
        storage,
        Path::new(FOLDER),
        1 << 20,
        FailedSync::call(|_| ()),
    )?;
    let found = tables.load()?;
    Ok((tables, found))
}

/// Topics with ids enough that the file grows every now and then.
fn changes(step: u64) -> Changes {
    let name = Name::new(&format!("topic-{step}")).unwrap();
    let config = TopicConfig::default();
    let edges = vec![Edges::default(); config.partitions as usize];
    let row = TopicRow {
        name,
        config,
        counts: Counts::default(),
        edges,
    };
    let ids = (0..step % 7 * 40).map(|id| {
        let id = format!("{step}-{id}-{}", "x".repeat(60)).into_boxed_str();
        (id, Timestamp(step))
    });
    Changes {
        next: step + 2,
        topics: vec![(step, row)],
        ids: vec![(step, Arc::new(ids.collect()), Timestamp(0))],
        ..Changes::default()
    }
}

fn disk() -> SimulatedStorage {
    let disk = SimulatedStorage::new(1);
    disk.create_dir(Path::new(FOLDER)).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

#[test]
fn killed_again_and_again() {
    for seed in 0..100 {
        let mut random = Seeded::new(seed);
        let mut disk = disk();
        let mut steps = 0;
        for round in 0..10 {
            disk.fail_at(disk.operations() + 1 + random.below(40), Fault::PowerLoss);
            // It ends where the disk does.
            let _ = work(&disk, random.below(6), &mut steps);
            disk = disk.kill();
            disk.forget_faults();
            let (_, found) = open(&disk).unwrap();
            assert!(
                (steps + 1..=steps + 2).contains(&found.next),
                "seed {seed}, round {round}: {} after {steps} steps",
                found.next
            );
        }
    }
}

fn work(disk: &SimulatedStorage, times: u64, steps: &mut u64) -> Result<()> {
    let (tables, found) = open(disk)?;
    *steps = found.next - 1;
    for _ in 0..times {
        tables.apply(&changes(*steps), &[])?;
        *steps += 1;
    }
    Ok(())
}
