//! Folders of format 1, a redb database, are brought to today's.

use std::{fs, path::Path};

use super::*;
use crate::storage::{Fault, SimulatedStorage};

/// A store as version 0.1 of format 1 wrote it: 300 keys, of which every third was deleted, large
/// values, a lease of a minute on two keys.
const FIXTURE: &str = "tests/fixtures/kv-1";

fn copy_fixture(to: &Path) {
    for name in ["format", "store.redb"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(FIXTURE)
            .join(name);
        fs::copy(from, to.join(name)).unwrap();
    }
}

/// What the fixture holds.
async fn check(kv: &EmbeddedKv) {
    assert_eq!(kv.revision().await.unwrap(), 402);
    let page = kv.range(Span::all(), 1000, None).await.unwrap();
    assert_eq!(page.entries.len(), 202);
    let get = async |key: String| kv.get(key.as_bytes()).await.unwrap();
    for n in 0..300_u64 {
        let entry = get(format!("key/{n:03}")).await;
        let expected =
            (n % 3 != 0).then(|| n.to_string().repeat(if n % 10 == 0 { 3000 } else { 5 }));
        assert_eq!(
            entry.as_ref().map(|entry| &entry.value[..]),
            expected.as_ref().map(String::as_bytes)
        );
        assert!(entry.is_none_or(|entry| entry.revision == n + 1 && entry.lease.is_none()));
    }
    let lease = get("leased/a".to_owned()).await.unwrap().lease.unwrap();
    assert_eq!(get("leased/b".to_owned()).await.unwrap().lease, Some(lease));
    let ttl = kv.keep_alive(lease).await.unwrap();
    assert_eq!(ttl, Duration::from_secs(60));
    // The history stayed behind.
    fails(
        kv.watch(Span::all(), 401).await.map(drop),
        Kind::OutOfRange,
        "kv.compacted",
    );
    assert!(kv.watch(Span::all(), 402).await.is_ok());
}

#[tokio::test]
async fn a_stored_folder_of_format_1_is_upgraded() {
    let dir = tempfile::tempdir().unwrap();
    copy_fixture(dir.path());
    let clock = ManualClock::new(Timestamp(0));
    let open = || EmbeddedKv::open(dir.path(), clock.clock(), Options::default()).unwrap();
    let kv = open();
    check(&kv).await;
    assert!(!dir.path().join("store.redb").exists());
    kv.close().await.unwrap();
    let kv = open();
    check(&kv).await;
    // Its leases end as they would have.
    let mut watch = kv.watch(Span::prefix("leased/"), 402).await.unwrap();
    clock.advance(Duration::from_secs(61));
    assert_eq!(watch.next().await.unwrap().events.len(), 2);
    assert_eq!(put(&kv, "new", "1").await.unwrap(), 404);
    kv.close().await.unwrap();
}

#[tokio::test]
async fn a_damaged_folder_of_format_1_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    copy_fixture(dir.path());
    let file = dir.path().join("store.redb");
    fs::write(&file, vec![0xa5; 1 << 20]).unwrap();
    let clock = ManualClock::new(Timestamp(0));
    let opened = EmbeddedKv::open(dir.path(), clock.clock(), Options::default());
    fails(opened, Kind::DataLoss, "kv.corrupt");
    assert_eq!(fs::read(&file).unwrap(), vec![0xa5; 1 << 20]);
    assert_eq!(
        fs::read_to_string(dir.path().join("format")).unwrap(),
        "1\n"
    );
}

/// Puts the fixture on a disk that loses power.
fn simulated(seed: u64) -> SimulatedStorage {
    let disk = SimulatedStorage::new(seed);
    let dir = Path::new("/kv");
    disk.create_dir(dir).unwrap();
    for name in ["format", "store.redb"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(FIXTURE)
            .join(name);
        let file = disk.create(&dir.join(name)).unwrap();
        file.write_at(&fs::read(from).unwrap(), 0).unwrap();
        file.sync_data().unwrap();
    }
    disk.sync_dir(Path::new("/")).unwrap();
    disk.sync_dir(dir).unwrap();
    disk
}

#[tokio::test]
async fn power_lost_at_any_call_of_the_upgrade_loses_nothing() {
    let mut operation = 1;
    loop {
        let mut disk = simulated(operation);
        let begin = disk.operations();
        let clock = ManualClock::new(Timestamp(0));
        let options = |disk: &SimulatedStorage| Options {
            storage: Arc::new(disk.clone()),
            reserve_bytes: 0,
            ..super::power_loss::options(disk)
        };
        disk.fail_at(begin + operation, Fault::PowerLoss);
        let opened = EmbeddedKv::open(Path::new("/kv"), clock.clock(), options(&disk));
        let is_over = opened.is_ok();
        if let Ok(kv) = opened {
            let _ = kv.close().await;
        }
        disk = disk.crash();
        disk.forget_faults();
        let kv = EmbeddedKv::open(Path::new("/kv"), clock.clock(), options(&disk)).unwrap();
        check(&kv).await;
        kv.close().await.unwrap();
        if is_over {
            break;
        }
        operation += 1;
    }
    assert!(operation > 10, "{operation}");
}
