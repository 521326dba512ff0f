use std::{collections::BTreeSet, path::Path};

use super::*;

const FOLDER: &str = "/data";

fn with_synced_file(seed: u64) -> (SimulatedStorage, Arc<dyn File>) {
    let storage = SimulatedStorage::new(seed);
    storage.create_dir(Path::new(FOLDER)).unwrap();
    storage.sync_dir(Path::new("/")).unwrap();
    let file = storage.create(Path::new("/data/a")).unwrap();
    storage.sync_dir(Path::new(FOLDER)).unwrap();
    file.write_at(&[1; 4 * SECTOR], 0).unwrap();
    file.sync_data().unwrap();
    (storage, file)
}

fn contents(storage: &SimulatedStorage, path: &str) -> Vec<u8> {
    let file = storage.open(Path::new(path)).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn what_was_synced_survives_and_sectors_stay_whole() {
    for seed in 0..200 {
        let (storage, file) = with_synced_file(seed);
        file.write_at(&[2; 2 * SECTOR], SECTOR as u64).unwrap();
        let after = contents(&storage.crash(), "/data/a");
        assert_eq!(after.len(), 4 * SECTOR);
        for (index, sector) in after.chunks(SECTOR).enumerate() {
            let expected: &[u8] = if index == 1 || index == 2 {
                &[1, 2]
            } else {
                &[1]
            };
            assert!(expected.contains(&sector[0]), "seed {seed}, sector {index}");
            assert!(
                sector.iter().all(|byte| *byte == sector[0]),
                "seed {seed}, sector {index}"
            );
        }
    }
}

#[test]
fn every_mix_of_unsynced_sectors_comes_up() {
    let mixes: BTreeSet<_> = (0..200)
        .map(|seed| {
            let (storage, file) = with_synced_file(seed);
            file.write_at(&[2; 2 * SECTOR], 0).unwrap();
            let after = contents(&storage.crash(), "/data/a");
            (after[0], after[SECTOR])
        })
        .collect();
    assert_eq!(mixes, BTreeSet::from([(1, 1), (1, 2), (2, 1), (2, 2)]));
}

#[test]
fn unsynced_names_may_be_lost_and_synced_ones_not() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let (storage, _) = with_synced_file(seed);
        storage.create(Path::new("/data/b")).unwrap();
        storage.sync_dir(Path::new(FOLDER)).unwrap();
        storage
            .rename(Path::new("/data/b"), Path::new("/data/c"))
            .unwrap();
        storage.remove(Path::new("/data/a")).unwrap();
        let mut names = storage.crash().list(Path::new(FOLDER)).unwrap();
        names.sort();
        outcomes.insert(names.join(" "));
    }
    assert_eq!(outcomes, ["a b", "a c", "b", "c"].map(str::to_owned).into());
}

#[test]
fn a_failed_sync_loses_what_everyone_still_sees() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..100 {
        let (storage, file) = with_synced_file(seed);
        file.write_at(&[2; SECTOR], 0).unwrap();
        storage.fail_at(storage.operations() + 1, Fault::InputOutput);
        file.sync_data().unwrap_err();
        file.sync_data()
            .expect("the kernel has forgotten that it failed");
        assert_eq!(contents(&storage, "/data/a")[0], 2);
        outcomes.insert(contents(&storage.crash(), "/data/a")[0]);
    }
    assert_eq!(outcomes, BTreeSet::from([1, 2]));
}

#[test]
fn dead_handles_stay_dead() {
    let (storage, file) = with_synced_file(1);
    storage.fail_at(storage.operations() + 1, Fault::PowerLoss);
    file.write_at(&[3], 0).unwrap_err();
    file.read_at(&mut [0], 0).unwrap_err();
    let after = storage.crash();
    storage.list(Path::new(FOLDER)).unwrap_err();
    file.write_at(&[3], 0).unwrap_err();
    assert_eq!(after.list(Path::new(FOLDER)).unwrap(), ["a"]);
}

#[test]
fn a_full_disk_refuses_growth_and_nothing_else() {
    let (storage, file) = with_synced_file(1);
    storage.set_capacity(Some(4 * SECTOR as u64));
    file.write_at(&[5; SECTOR], 0).unwrap();
    let error = file.write_at(&[5], 4 * SECTOR as u64).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    storage.remove(Path::new("/data/a")).unwrap();
    assert_eq!(storage.used(), 0);
}
