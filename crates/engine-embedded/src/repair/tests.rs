use std::collections::BTreeMap;

use sinew_core::Name;
use sinew_engine::{
    bus::{Bus, Message, Position, Subscription, TopicConfig},
    kv::{Kv, Retention, Span, Write},
};
use tempfile::TempDir;

use super::*;
use crate::kv::Options;

/// Small files, so that there are many.
fn options() -> StoreOptions {
    let mut options = StoreOptions {
        kv: Options {
            layer_bytes: 24 << 10,
            ..Options::default()
        },
        ..StoreOptions::default()
    };
    options.kv.log.record_bytes = 64 << 10;
    options.kv.log.segment_bytes = 256 << 10;
    options.kv.log.reserve_bytes = 4096;
    options
}

fn put(key: &str, value: &str) -> Write {
    Write::Put {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        lease: None,
    }
}

fn topic() -> Name {
    Name::new("orders").unwrap()
}

fn value(nth: u32) -> String {
    format!("{nth}-{}", "v".repeat(60))
}

struct Stand {
    dir: TempDir,
    options: StoreOptions,
}

impl Stand {
    fn new(options: StoreOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        Self { dir, options }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn folder(&self) -> PathBuf {
        self.data().join("kv")
    }

    /// Writes `count` keys, one a commit.
    async fn fill(&self, from: u32, count: u32) {
        let kv = self.kv().unwrap();
        for nth in from..from + count {
            let written = kv.commit(vec![], vec![put(&key(nth), &value(nth))]).await;
            let _ = written.unwrap();
            // So that layers become files rather than wait.
            if nth % 50 == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
        kv.close().await.unwrap();
    }

    fn kv(&self) -> Result<EmbeddedKv> {
        EmbeddedKv::open(self.folder(), Clock::system(), self.options.kv.clone())
    }

    fn store(&self) -> Result<Store> {
        Store::open(self.folder(), Clock::system(), self.options.clone())
    }

    fn repair(&self) -> Result<StoreRepaired> {
        repair_with(&self.data(), &self.options)
    }

    /// The keys and values, after opening it.
    async fn contents(&self) -> (BTreeMap<String, String>, u64) {
        let kv = self.kv().unwrap();
        let mut contents = BTreeMap::new();
        let mut span = Span::all();
        loop {
            let page = kv.range(span.clone(), 1000, None).await.unwrap();
            for entry in page.entries {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                contents.insert(text(&entry.key), text(&entry.value));
            }
            let Some(next) = page.next else { break };
            span.start = next;
        }
        let revision = kv.revision().await.unwrap();
        kv.close().await.unwrap();
        (contents, revision)
    }

    /// Files of a kind, in order.
    fn files(&self, folder: &str, suffix: &str) -> Vec<PathBuf> {
        let listed = fs::read_dir(self.folder().join(folder)).unwrap();
        let mut files: Vec<_> = listed.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.to_string_lossy().ends_with(suffix));
        files.sort();
        files
    }

    /// All files with their contents.
    fn everything(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = BTreeMap::new();
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    all.insert(path.clone(), fs::read(&path).unwrap());
                }
            }
        }
        all
    }
}

fn key(nth: u32) -> String {
    format!("key/{:05}", nth * 7919 % 10_007)
}

fn expected(count: u32) -> BTreeMap<String, String> {
    (0..count).map(|nth| (key(nth), value(nth))).collect()
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x20;
    fs::write(file, bytes).unwrap();
}

/// It says where it is damaged, and what to do.
#[track_caller]
fn names(error: &sinew_core::Error, file: &Path) {
    let text = error.detail();
    assert_eq!(error.kind(), sinew_core::Kind::DataLoss, "{text}");
    assert!(text.contains(&file.display().to_string()), "{text}");
    assert!(
        text.contains("at byte") && text.contains("`sinew repair`"),
        "{text}"
    );
}

/// Where the frame of a record begins, by what its payload holds.
fn find(file: &Path, text: &str) -> usize {
    let bytes = fs::read(file).unwrap();
    let at = bytes
        .windows(text.len())
        .position(|window| window == text.as_bytes());
    at.expect("it is in the file")
}

#[tokio::test]
async fn a_whole_store_is_left_alone() {
    let stand = Stand::new(options());
    stand.fill(0, 600).await;
    let before = stand.everything();
    let repaired = stand.repair().unwrap();
    assert_eq!(
        (repaired.damage, repaired.lost),
        (vec![], Vec::<String>::new())
    );
    assert_eq!(
        (repaired.keys, repaired.revision, repaired.kept),
        (600, 600, None)
    );
    assert!(stand.everything() == before);
    let error = repair_store(&stand.dir.path().join("nowhere")).unwrap_err();
    assert_eq!(error.code(), "repair.unknown");
}

#[tokio::test]
async fn an_open_store_is_refused() {
    let stand = Stand::new(options());
    let kv = stand.kv().unwrap();
    assert_eq!(stand.repair().unwrap_err().code(), "kv.locked");
    kv.close().await.unwrap();
}

#[tokio::test]
async fn a_torn_tail_is_no_damage() {
    let stand = Stand::new(StoreOptions {
        kv: Options {
            layer_bytes: 1 << 20,
            ..options().kv
        },
        ..options()
    });
    stand.fill(0, 20).await;
    let log = stand.files("log", ".log").remove(0);
    let at = find(&log, &value(19));
    flip(&log, at);
    let repaired = stand.repair().unwrap();
    assert_eq!((repaired.damage, repaired.revision), (vec![], 19));
    assert_eq!(stand.contents().await.0, expected(19));
}

#[tokio::test]
async fn the_log_counts_up_to_the_first_broken_record() {
    let stand = Stand::new(StoreOptions {
        kv: Options {
            layer_bytes: 1 << 20,
            ..options().kv
        },
        ..options()
    });
    stand.fill(0, 100).await;
    let log = stand.files("log", ".log").remove(0);
    let at = find(&log, &value(60));
    flip(&log, at);
    names(&stand.kv().err().unwrap(), &log);
    let damaged = fs::read(&log).unwrap();
    let repaired = stand.repair().unwrap();
    assert_eq!(repaired.damage.len(), 1, "{:?}", repaired.damage);
    assert_eq!(repaired.damage[0].file, log);
    assert!(
        repaired.lost[0].contains("record 61"),
        "{:?}",
        repaired.lost
    );
    let kept = repaired.kept.unwrap();
    assert_eq!(
        fs::read(kept.join("log").join(log.file_name().unwrap())).unwrap(),
        damaged
    );
    let (contents, revision) = stand.contents().await;
    assert_eq!(contents, expected(60));
    // Nobody meets a revision of before again.
    assert!(revision > 100 && revision == repaired.revision);
    // It is as good as any other.
    stand.fill(100, 5).await;
    assert_eq!(stand.repair().unwrap().damage, []);
    let (contents, newer) = stand.contents().await;
    assert_eq!((contents.len(), newer), (65, revision + 5));
}

#[tokio::test]
async fn what_files_hold_is_not_lost_with_the_log() {
    let mut options = options();
    options.kv.log.segment_bytes = 4 << 20;
    let stand = Stand::new(options);
    stand.fill(0, 600).await;
    assert!(!stand.files("kv", ".run").is_empty());
    let log = stand.files("log", ".log").remove(0);
    // The segment holds what the files have, too.
    let at = find(&log, &value(5));
    flip(&log, at);
    let error = stand.kv().err();
    names(&error.unwrap(), &log);
    let repaired = stand.repair().unwrap();
    assert_eq!(repaired.lost, Vec::<String>::new());
    assert_eq!(repaired.revision, 600);
    let (contents, revision) = stand.contents().await;
    assert_eq!((contents, revision), (expected(600), 600));
}

#[tokio::test]
async fn the_history_brings_back_what_a_run_has_lost() {
    let stand = Stand::new(options());
    stand.fill(0, 600).await;
    for run in stand.files("kv", ".run") {
        flip(&run, 100);
    }
    let repaired = stand.repair().unwrap();
    assert!(!repaired.damage.is_empty());
    assert_eq!(repaired.lost, Vec::<String>::new());
    let (contents, _) = stand.contents().await;
    assert_eq!(contents, expected(600));
}

#[tokio::test]
async fn what_only_a_run_had_is_named() {
    let mut options = options();
    options.kv.retention = Retention {
        commits: 16,
        bytes: 1 << 20,
    };
    let stand = Stand::new(options);
    stand.fill(0, 600).await;
    let run = stand.files("kv", ".run").remove(0);
    flip(&run, 100);
    let repaired = stand.repair().unwrap();
    assert_eq!(repaired.damage[0].file, run);
    assert_eq!(repaired.damage[0].offset, 0);
    assert!(
        repaired.damage[0].what.contains("key/"),
        "{:?}",
        repaired.damage
    );
    assert!(repaired.lost[0].contains(&run.display().to_string()));
    let (contents, _) = stand.contents().await;
    assert_eq!(contents.len() as u64, repaired.keys);
    assert!((400..600).contains(&contents.len()), "{}", contents.len());
    let all = expected(600);
    assert!(contents.iter().all(|(key, value)| all[key] == *value));
}

#[tokio::test]
async fn files_that_say_what_belongs_are_made_anew() {
    for broken in ["kv/manifest", "format"] {
        for is_gone in [false, true] {
            let stand = Stand::new(options());
            stand.fill(0, 600).await;
            let file = stand.folder().join(broken);
            if is_gone {
                fs::remove_file(&file).unwrap();
            } else {
                fs::write(&file, "nonsense").unwrap();
            }
            names(&stand.kv().err().unwrap(), &file);
            let repaired = stand.repair().unwrap();
            assert_eq!(repaired.lost, Vec::<String>::new());
            assert_eq!(stand.contents().await.0, expected(600), "{broken}");
        }
    }
}

/// Wherever a byte is changed: either it is noticed, or it does not matter; and what is there
/// after the repair was once written.
#[tokio::test]
async fn any_byte_of_any_file() {
    let stand = Stand::new(options());
    stand.fill(0, 400).await;
    let whole = stand.everything();
    let all = expected(400);
    let mut noticed = 0;
    for (file, bytes) in &whole {
        if file.ends_with("lock") || bytes.is_empty() {
            continue;
        }
        // The front, the back and something of the middle.
        let places = [
            0,
            9,
            bytes.len() / 3,
            bytes.len() / 2,
            bytes.len().saturating_sub(30),
            bytes.len().saturating_sub(2),
        ];
        for at in places.into_iter().filter(|at| *at < bytes.len()) {
            for (path, bytes) in &whole {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            flip(file, at);
            let repaired = stand.repair().unwrap();
            if !repaired.damage.is_empty() {
                noticed += 1;
                assert!(
                    repaired.damage.iter().any(|damage| damage.file == *file),
                    "{file:?} {at}"
                );
            }
            let (contents, _) = stand.contents().await;
            assert!(contents.iter().all(|(key, value)| all[key] == *value));
            let is_all = contents.len() == all.len();
            assert!(
                is_all || !repaired.lost.is_empty(),
                "{file:?} {at}: {}",
                contents.len()
            );
            fs::remove_dir_all(stand.folder()).unwrap();
            if let Some(kept) = repaired.kept {
                fs::remove_dir_all(kept).unwrap();
            }
        }
    }
    assert!(noticed > 20, "{noticed}");
}

async fn published(store: &Store) -> Vec<(String, bool)> {
    let begin = Position {
        partition: 0,
        offset: 0,
    };
    let mut found = Vec::new();
    loop {
        let from = Position {
            offset: found.len() as u64,
            ..begin
        };
        let records = store.bus().read(&topic(), from, 1000).await.unwrap();
        if records.is_empty() {
            return found;
        }
        found.extend(records.into_iter().map(|record| {
            let text = String::from_utf8(record.message.payload.to_vec()).unwrap();
            let is_lost = record
                .message
                .headers
                .iter()
                .any(|(name, _)| name == "sinew-lost");
            (text, is_lost)
        }));
    }
}

/// A store whose messages are in files, but for the last one; the first two were acknowledged.
async fn bus(stand: &Stand) {
    let store = stand.store().unwrap();
    let config = TopicConfig {
        partitions: 1,
        ..TopicConfig::default()
    };
    store.bus().create_topic(&topic(), config).await.unwrap();
    for nth in 0..300 {
        let message = Message::new(format!("{nth} {}", "m".repeat(1000)));
        store.bus().publish(&topic(), vec![message]).await.unwrap();
    }
    let group = Name::new("billing").unwrap();
    let consumer = store
        .bus()
        .subscribe(&topic(), &group, Subscription::default())
        .await
        .unwrap();
    let delivery = consumer.next().await.unwrap();
    consumer.ack(&[delivery.receipt]).await.unwrap();
    let _ = store
        .kv()
        .commit(vec![], vec![put("a", "1")])
        .await
        .unwrap();
    store.bus().checkpoint().await.unwrap();
    store
        .bus()
        .publish(&topic(), vec![Message::new("last")])
        .await
        .unwrap();
    drop(consumer);
    store.close().await;
}

#[tokio::test]
async fn lost_messages_are_replaced_by_empty_ones() {
    let stand = Stand::new(options());
    bus(&stand).await;
    assert_eq!(stand.repair().unwrap().damage, []);
    let file = stand.files("bus", ".messages").remove(0);
    flip(&file, 100_000);
    let store = stand.store().unwrap();
    let read = store
        .bus()
        .read(
            &topic(),
            Position {
                partition: 0,
                offset: 80,
            },
            1,
        )
        .await;
    names(&read.unwrap_err(), &file);
    store.close().await;
    let repaired = stand.repair().unwrap();
    assert_eq!(repaired.damage.len(), 1, "{:?}", repaired.damage);
    assert_eq!(repaired.damage[0].file, file);
    assert!(repaired.lost[0].contains("orders"), "{:?}", repaired.lost);
    let store = stand.store().unwrap();
    let messages = published(&store).await;
    assert_eq!(messages.len(), 301);
    assert_eq!(messages[300].0, "last");
    let lost = messages.iter().filter(|(_, is_lost)| *is_lost).count();
    assert!((1..100).contains(&lost), "{lost}");
    let is_right = |(nth, (text, is_lost)): (usize, &(String, bool))| {
        *is_lost || text.starts_with(&format!("{nth} "))
    };
    assert!(messages[..300].iter().enumerate().all(is_right));
    // The group that was there does not get them.
    let group = store
        .bus()
        .group(&topic(), &Name::new("billing").unwrap())
        .await
        .unwrap();
    assert_eq!((group.lag, group.lost), (300 - lost as u64, lost as u64));
    assert!(store.kv().get(b"a").await.unwrap().is_some());
    store.close().await;
}

#[tokio::test]
async fn tables_are_made_from_the_files_of_topics() {
    let stand = Stand::new(options());
    bus(&stand).await;
    let tables = stand.folder().join("bus/bus.redb");
    fs::write(&tables, vec![0x5a; 20_000]).unwrap();
    names(&stand.store().err().unwrap(), &tables);
    let repaired = stand.repair().unwrap();
    assert_eq!(repaired.damage[0].file, tables);
    assert!(
        repaired.lost.iter().any(|lost| lost.contains("groups")),
        "{:?}",
        repaired.lost
    );
    let store = stand.store().unwrap();
    let topics = store.bus().topics().await.unwrap();
    assert_eq!(topics.len(), 1);
    let begin = Position {
        partition: 0,
        offset: 0,
    };
    let records = store.bus().read(&topics[0], begin, 1000).await.unwrap();
    assert!(records[0].message.payload.starts_with(b"0 "));
    assert!(store.kv().get(b"a").await.unwrap().is_some());
    store.close().await;
}
