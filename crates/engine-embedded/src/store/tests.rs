use std::{collections::BTreeSet, path::PathBuf};

use sinew_core::{ManualClock, Timestamp};
use sinew_engine::bus::{Bus, Position, TopicConfig};

use super::*;
use crate::storage::{Fault, SimulatedStorage, Storage};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn put(key: &str, value: &str) -> Write {
    Write::Put {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        lease: None,
    }
}

fn message(text: &str) -> Message {
    Message::new(text.to_owned())
}

fn unit(key: &str) -> Unit {
    Unit {
        conditions: vec![Condition::Absent(key.to_owned().into())],
        writes: vec![put(key, "1")],
        publishes: vec![(name("orders"), vec![message(key)])],
        acknowledged: Vec::new(),
    }
}

fn open(folder: PathBuf, options: StoreOptions) -> Result<Store> {
    let clock = ManualClock::new(Timestamp(0)).clock();
    Store::open(folder, clock, options)
}

/// One partition, so that one read shows everything.
fn topic() -> TopicConfig {
    TopicConfig {
        partitions: 1,
        ..TopicConfig::default()
    }
}

/// The payloads of the topic.
async fn published(store: &Store) -> Vec<String> {
    let begin = Position {
        partition: 0,
        offset: 0,
    };
    let records = store
        .bus()
        .read(&name("orders"), begin, 1000)
        .await
        .unwrap();
    let texts = records
        .into_iter()
        .map(|record| record.message.payload.clone());
    texts
        .map(|text| String::from_utf8(text.to_vec()).unwrap())
        .collect()
}

#[tokio::test]
async fn a_unit_happens_wholly_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path().to_owned(), StoreOptions::default()).unwrap();
    store
        .bus()
        .create_topic(&name("orders"), topic())
        .await
        .unwrap();
    let committed = store.commit_unit(unit("a")).await.unwrap();
    let Committed::Everything {
        revision,
        published: ids,
    } = committed
    else {
        panic!("{committed:?}");
    };
    assert_eq!((revision, ids.len()), (1, 1));
    assert_eq!(published(&store).await, ["a"]);
    // The condition does not hold any more.
    let again = store.commit_unit(unit("a")).await.unwrap();
    assert_eq!(again, Committed::Conflict(0));
    // One side that cannot keeps the other from happening.
    let mut lost = unit("b");
    lost.publishes[0].0 = name("nowhere");
    let error = store.commit_unit(lost).await.unwrap_err();
    assert_eq!(error.code(), "bus.topic_unknown");
    assert_eq!(store.kv().get(b"b").await.unwrap(), None);
    assert_eq!(published(&store).await, ["a"]);
    store.close().await;
    assert!(store.commit_unit(unit("c")).await.is_err());
    drop(store);
    let store = open(dir.path().to_owned(), StoreOptions::default()).unwrap();
    assert_eq!(store.kv().revision().await.unwrap(), 1);
    assert_eq!(published(&store).await, ["a"]);
    store.close().await;
}

#[tokio::test]
async fn a_folder_of_kv_alone_becomes_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(Timestamp(0)).clock();
    let kv = EmbeddedKv::open(dir.path(), clock, Options::default()).unwrap();
    let _ = kv.commit(vec![], vec![put("a", "1")]).await.unwrap();
    let taken = open(dir.path().to_owned(), StoreOptions::default());
    assert_eq!(taken.err().unwrap().code(), "kv.locked");
    kv.close().await.unwrap();
    let store = open(dir.path().to_owned(), StoreOptions::default()).unwrap();
    assert_eq!(store.kv().get(b"a").await.unwrap().unwrap().value, "1");
    store
        .bus()
        .create_topic(&name("orders"), topic())
        .await
        .unwrap();
    let _ = store.commit_unit(unit("b")).await.unwrap();
    store.close().await;
}

/// Power is lost while units are committed: the keys and the messages must be the same ones.
#[tokio::test]
async fn power_lost_under_units_leaves_both_faces_of_one_mind() {
    let options = |disk: &SimulatedStorage| {
        let mut options = StoreOptions::default();
        options.kv.storage = Arc::new(disk.clone());
        options.kv.sync_failure = kv::SyncFailure::call(|_| {});
        options.kv.reserve_bytes = 0;
        options.kv.layer_bytes = 2000;
        options.kv.log.segment_bytes = 64 << 10;
        options.kv.log.record_bytes = 32 << 10;
        options.kv.log.reserve_bytes = 4096;
        options.bus.failed_sync = crate::log::FailedSync::call(|_| {});
        options
    };
    for seed in 0..40 {
        let disk = SimulatedStorage::new(seed);
        disk.create_dir("/store".as_ref()).unwrap();
        disk.sync_dir("/".as_ref()).unwrap();
        let store = open("/store".into(), options(&disk)).unwrap();
        store
            .bus()
            .create_topic(&name("orders"), topic())
            .await
            .unwrap();
        disk.fail_at(disk.operations() + 5 + seed * 7, Fault::PowerLoss);
        let mut acknowledged = 0;
        while store
            .commit_unit(unit(&format!("{acknowledged:04}")))
            .await
            .is_ok()
        {
            acknowledged += 1;
        }
        store.close().await;
        drop(store);
        let disk = disk.crash();
        let store = open("/store".into(), options(&disk)).unwrap();
        let page = store
            .kv()
            .range(sinew_engine::kv::Span::all(), 1024, None)
            .await
            .unwrap();
        let keys = page
            .entries
            .iter()
            .map(|entry| String::from_utf8(entry.key.to_vec()).unwrap());
        let keys: BTreeSet<String> = keys.collect();
        let messages: BTreeSet<String> = published(&store).await.into_iter().collect();
        assert_eq!(keys, messages, "seed {seed}");
        assert!(
            keys.len() >= acknowledged,
            "seed {seed}: {} of {acknowledged}",
            keys.len()
        );
        store.close().await;
    }
}
