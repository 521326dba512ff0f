//! What only this engine does: crashes at every write, bit rot, full disks, leftovers.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use sinew_core::{Clock, Kind, ManualClock, Result, Timestamp};
use sinew_engine::blob::{Blob, Expect, Key, List, OnlyIf, Put, Range, body, collect};

use super::{EmbeddedBlob, Options, SyncFailure};
use crate::storage::{Fault, SimulatedStorage, Storage};

const FOLDER: &str = "/data/blob";

type Contents = BTreeMap<String, Bytes>;

fn open(storage: &SimulatedStorage) -> Result<EmbeddedBlob> {
    let options = Options {
        sync_failure: SyncFailure::Fail,
        ..Options::default()
    };
    EmbeddedBlob::open(Arc::new(storage.clone()), FOLDER, clock(), options)
}

fn clock() -> Clock {
    ManualClock::new(Timestamp(1_000)).clock()
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn noise(len: usize, seed: usize) -> Bytes {
    (0..len)
        .map(|at| u8::try_from((at * 31 + at / 251 + seed * 7) % 256).unwrap())
        .collect()
}

/// A disk with the folder that the store's own folder is made in.
fn disk(seed: u64) -> SimulatedStorage {
    let storage = SimulatedStorage::new(seed);
    storage.create_dir(Path::new("/data")).unwrap();
    storage.sync_dir(Path::new("/")).unwrap();
    storage
}

/// Waits until so many content files are left: they are removed aside.
async fn left(storage: &SimulatedStorage, count: usize, what: &str) {
    let waiting = async {
        while files(storage) != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    assert!(
        waited.is_ok(),
        "{what}: {} content files, not {count}",
        files(storage)
    );
}

/// Everything that a store has.
async fn contents(blob: &EmbeddedBlob) -> Result<Contents> {
    let mut found = Contents::new();
    for entry in blob.list(List::prefix("")).await?.entries {
        let content = collect(blob.get(&key(entry.name()), None).await?.body, u64::MAX).await?;
        found.insert(entry.name().to_owned(), content);
    }
    Ok(found)
}

/// The content files that there are.
fn files(storage: &SimulatedStorage) -> usize {
    let in_folder = |folder: String| {
        storage
            .list(Path::new(&folder))
            .map_or(0, |names| names.len())
    };
    (0..16)
        .map(|number| in_folder(format!("{FOLDER}/objects/{number:x}")))
        .sum::<usize>()
        + in_folder(format!("{FOLDER}/staging"))
}

/// Does one thing after the other, and keeps account of what the store must hold: as far as it was
/// acknowledged, and with what was under way when it failed.
struct Account {
    acknowledged: Contents,
    possible: Contents,
}

impl Account {
    fn intend(&mut self, change: impl FnOnce(&mut Contents)) {
        self.possible = self.acknowledged.clone();
        change(&mut self.possible);
    }

    fn acknowledge(&mut self) {
        self.acknowledged = self.possible.clone();
    }

    async fn put(&mut self, blob: &EmbeddedBlob, name: &str, content: Bytes) -> Result<()> {
        self.intend(|all| drop(all.insert(name.to_owned(), content.clone())));
        blob.put(&key(name), body(content), Put::default()).await?;
        self.acknowledge();
        Ok(())
    }

    async fn run(&mut self, blob: &EmbeddedBlob) -> Result<()> {
        self.put(blob, "a", noise(1000, 1)).await?;
        self.put(blob, "b", noise(100_000, 2)).await?;
        self.put(blob, "a", noise(2000, 3)).await?;
        self.put(blob, "empty", Bytes::new()).await?;
        self.intend(|all| drop(all.insert("copy".to_owned(), all["b"].clone())));
        blob.copy(&key("b"), &key("copy"), None, OnlyIf::Any)
            .await?;
        self.acknowledge();
        self.intend(|all| drop(all.remove("b")));
        blob.delete(&key("b")).await?;
        self.acknowledge();
        self.intend(|_| ());
        let upload = blob.begin(&key("parts"), Default::default()).await?;
        let mut parts = Vec::new();
        for number in [2, 1, 2] {
            let content = body(noise(3000, number as usize));
            let part = blob
                .part(&upload, number, content, Expect::default())
                .await?;
            parts.push((part.number, part.tag));
        }
        let named = vec![parts[1].clone(), parts[2].clone()];
        let whole = [noise(3000, 1), noise(3000, 2)].concat();
        self.intend(|all| drop(all.insert("parts".to_owned(), whole.into())));
        blob.complete(&upload, named, OnlyIf::Absent).await?;
        self.acknowledge();
        self.intend(|all| drop(all.remove("copy")));
        blob.delete(&key("copy")).await?;
        self.acknowledge();
        self.intend(|_| ());
        blob.close().await
    }
}

async fn account(storage: &SimulatedStorage) -> (Account, Result<()>) {
    let mut account = Account {
        acknowledged: Contents::new(),
        possible: Contents::new(),
    };
    let result = match open(storage) {
        Ok(blob) => account.run(&blob).await,
        Err(error) => Err(error),
    };
    (account, result)
}

/// The store as it is found next: what was acknowledged, whole, and nothing left over.
async fn check(storage: &SimulatedStorage, account: &Account, what: &str) {
    let blob = open(storage).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let found = contents(&blob)
        .await
        .unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert!(
        found == account.acknowledged || found == account.possible,
        "{what}: {:?}",
        found.keys().collect::<Vec<_>>()
    );
    let scrubbed = blob.scrub(None, u64::MAX).await.unwrap();
    assert_eq!(scrubbed.damaged, [], "{what}");
    for pending in blob.uploads(None, 100).await.unwrap() {
        blob.abort(&pending.upload).await.unwrap();
    }
    for name in found.keys() {
        blob.delete(&key(name)).await.unwrap();
    }
    left(storage, 0, what).await;
    blob.put(&key("after"), body("all"), Put::default())
        .await
        .unwrap();
    assert_eq!(contents(&blob).await.unwrap().len(), 1);
}

#[tokio::test]
async fn without_a_fault_all_is_there() {
    let storage = disk(0);
    let (account, result) = account(&storage).await;
    result.unwrap();
    assert_eq!(
        account.acknowledged.keys().collect::<Vec<_>>(),
        ["a", "empty", "parts"]
    );
    check(&storage.crash(), &account, "after a clean close").await;
}

/// One run for each changing call of the file system, at which the power goes.
#[tokio::test]
async fn power_lost_at_every_write() {
    let storage = disk(0);
    account(&storage).await.1.unwrap();
    let operations = storage.operations();
    assert!(operations > 100, "{operations}");
    let mut failed = 0;
    for operation in 3..=operations {
        let storage = disk(operation);
        storage.fail_at(operation, Fault::PowerLoss);
        let (account, result) = account(&storage).await;
        failed += u64::from(result.is_err());
        check(
            &storage.crash(),
            &account,
            &format!("power lost at {operation}"),
        )
        .await;
    }
    // The rest is what redb writes when it is closed.
    assert!(failed > operations / 2, "{failed} of {operations}");
}

#[tokio::test]
async fn a_failing_call_fails_no_more_than_its_own() {
    let storage = disk(0);
    account(&storage).await.1.unwrap();
    for operation in (3..=storage.operations()).step_by(3) {
        for fault in [Fault::NoSpace, Fault::InputOutput] {
            let storage = disk(operation);
            storage.fail_at(operation, fault);
            let (account, result) = account(&storage).await;
            let what = format!("{fault:?} at {operation}");
            if let Err(error) = result {
                let kinds = [Kind::Unavailable, Kind::ResourceExhausted];
                assert!(kinds.contains(&error.kind()), "{what}: {error:?}");
            }
            check(&storage.kill(), &account, &what).await;
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_room() {
    let storage = disk(7);
    let blob = open(&storage).unwrap();
    blob.put(&key("kept"), body(noise(50_000, 1)), Put::default())
        .await
        .unwrap();
    for slack in [0, 100, 20_000, 60_000, 200_000] {
        storage.set_capacity(Some(storage.used() + slack));
        let refused = blob
            .put(&key("large"), body(noise(400_000, 2)), Put::default())
            .await;
        let error = refused.unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (Kind::ResourceExhausted, "blob.full"),
            "{error:?}"
        );
        // Reads go on.
        assert_eq!(contents(&blob).await.unwrap()["kept"], noise(50_000, 1));
        assert_eq!(blob.head(&key("large")).await.unwrap(), None);
    }
    storage.set_capacity(None);
    blob.put(&key("large"), body(noise(400_000, 2)), Put::default())
        .await
        .unwrap();
    assert_eq!(contents(&blob).await.unwrap().len(), 2);
    left(&storage, 2, "one was refused").await;
}

#[tokio::test]
async fn bit_rot_is_found_and_never_handed_out() {
    let storage = disk(1);
    let blob = open(&storage).unwrap();
    for name in ["good", "rotten", "short", "gone"] {
        blob.put(&key(name), body(noise(200_000, name.len())), Put::default())
            .await
            .unwrap();
    }
    let path = |name: &str| {
        let record = blob.index.object(&key(name)).unwrap().unwrap();
        blob.files.layout.object(record.segments[0].file)
    };
    // One bit, in the second block.
    storage
        .damage(&path("rotten"), |bytes| bytes[65_536 + 100] ^= 4)
        .unwrap();
    storage
        .damage(&path("short"), |bytes| bytes.truncate(150_000))
        .unwrap();
    storage.remove(&path("gone")).unwrap();
    let scrubbed = blob.scrub(None, u64::MAX).await.unwrap();
    let mut damaged: Vec<(&str, u64)> = scrubbed
        .damaged
        .iter()
        .map(|damage| (damage.key.as_str(), damage.offset))
        .collect();
    damaged.sort_unstable();
    assert_eq!(
        damaged,
        [("gone", 0), ("rotten", 65_536), ("short", 150_000)]
    );
    assert_eq!((scrubbed.objects, scrubbed.next), (4, None));
    for name in ["rotten", "short", "gone"] {
        let download = blob.get(&key(name), None).await.unwrap();
        let error = collect(download.body, u64::MAX).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (Kind::DataLoss, "blob.damaged")
        );
    }
    // A range that does not touch the damage can still be read.
    let download = blob
        .get(&key("short"), Some(Range::Between(0, 65_000)))
        .await
        .unwrap();
    assert_eq!(
        collect(download.body, u64::MAX).await.unwrap().len(),
        65_000
    );
    // Another block of the same file in its place has a good checksum, of another place.
    let good = path("good");
    storage
        .damage(&good, |bytes| bytes.copy_within(0..65_536, 65_536))
        .unwrap();
    let scrubbed = blob.scrub(Some(key("gone")), 1).await.unwrap();
    assert_eq!(scrubbed.damaged.len(), 1);
    assert_eq!(scrubbed.next, Some(key("good")));
    let last = blob.scrub(scrubbed.next, u64::MAX).await.unwrap();
    assert_eq!(last.objects, 2);
}

#[tokio::test]
async fn a_download_keeps_its_file_and_gives_it_back() {
    let storage = disk(1);
    let blob = open(&storage).unwrap();
    blob.put(&key("a"), body(noise(900_000, 1)), Put::default())
        .await
        .unwrap();
    let download = blob.get(&key("a"), None).await.unwrap();
    let dropped = blob.get(&key("a"), None).await.unwrap();
    blob.delete(&key("a")).await.unwrap();
    assert_eq!(files(&storage), 1);
    drop(dropped);
    assert_eq!(
        collect(download.body, u64::MAX).await.unwrap(),
        noise(900_000, 1)
    );
    left(&storage, 0, "nobody reads it").await;
}

#[tokio::test]
async fn a_lost_index_is_not_taken_for_an_empty_store() {
    let storage = disk(1);
    let blob = open(&storage).unwrap();
    blob.put(&key("a"), body("x"), Put::default())
        .await
        .unwrap();
    blob.close().await.unwrap();
    let index = Path::new(FOLDER).join("index.redb");
    storage.remove(&index).unwrap();
    let error = open(&storage).err().unwrap();
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::DataLoss, "blob.index_damaged")
    );
    assert_eq!(files(&storage), 1);
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let storage = disk(1);
    let blob = open(&storage).unwrap();
    blob.close().await.unwrap();
    let put = blob
        .put(&key("a"), body("x"), Put::default())
        .await
        .unwrap_err();
    let head = blob.head(&key("a")).await.unwrap_err();
    let again = blob.close().await.unwrap_err();
    for error in [put, head, again] {
        assert_eq!(
            (error.kind(), error.code()),
            (Kind::Unavailable, "blob.unavailable")
        );
    }
}

#[tokio::test]
async fn only_one_may_have_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let storage = Arc::new(crate::storage::RealStorage);
        EmbeddedBlob::open(storage, dir.path(), clock(), Options::default())
    };
    let first = open().unwrap();
    let second = open().err().unwrap();
    assert_eq!(
        (second.kind(), second.code()),
        (Kind::FailedPrecondition, "blob.locked")
    );
    first.close().await.unwrap();
    // Whoever still holds the closed one is in nobody's way.
    open().unwrap();
    drop(first);
}
