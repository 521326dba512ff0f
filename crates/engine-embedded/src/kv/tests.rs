//! What the conformance suite cannot ask for: broken disks, full queues, other versions.

use std::{
    process::Command as Process,
    sync::{Mutex, atomic::Ordering},
};

use sinew_core::{ManualClock, Timestamp};
use sinew_engine::kv::Event;
use tempfile::TempDir;

use super::*;
use faults::{Faults, FaultyStorage};

mod faults;
mod upgrade;

struct Stand {
    kv: Arc<EmbeddedKv>,
    clock: ManualClock,
    options: Options,
    faults: Arc<Faults>,
    dir: TempDir,
}

fn stand(mut options: Options) -> Stand {
    let faults = Arc::new(Faults::default());
    options.storage = Arc::new(FaultyStorage(Arc::clone(&faults)));
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(Timestamp(0));
    let kv = EmbeddedKv::open(dir.path(), clock.clock(), options.clone()).unwrap();
    Stand {
        kv: Arc::new(kv),
        clock,
        options,
        faults,
        dir,
    }
}

impl Stand {
    async fn put(&self, key: &'static str, value: impl Into<bytes::Bytes>) -> Result<Revision> {
        put(&self.kv, key, value).await
    }

    async fn value(&self, key: &str) -> Result<Option<bytes::Bytes>> {
        Ok(self.kv.get(key.as_bytes()).await?.map(|entry| entry.value))
    }

    fn open_again(&self) -> Result<EmbeddedKv> {
        EmbeddedKv::open(self.dir.path(), self.clock.clock(), self.options.clone())
    }
}

async fn put(
    kv: &EmbeddedKv,
    key: &'static str,
    value: impl Into<bytes::Bytes>,
) -> Result<Revision> {
    let put = Write::Put {
        key: key.into(),
        value: value.into(),
        lease: None,
    };
    match kv.commit(vec![], vec![put]).await? {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Conflict(_) => unreachable!("there were no conditions"),
    }
}

#[track_caller]
fn fails<T>(result: Result<T>, kind: Kind, code: &str) {
    let error = result.err().expect("it should have failed");
    assert_eq!((error.kind(), error.code()), (kind, code), "{error:?}");
}

/// Options whose failed fsyncs do not end the process.
fn lenient() -> Options {
    Options {
        sync_failure: SyncFailure::call(|_| {}),
        ..Options::default()
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_answers_reads() {
    let stand = stand(Options::default());
    stand.put("a", "1").await.unwrap();
    let lease = stand.kv.grant(Duration::from_secs(10)).await.unwrap();
    stand.faults.full.store(true, Ordering::Relaxed);
    // The file has some room left, then the disk has none.
    let mut written = 0;
    let refused = loop {
        match stand.put("large", vec![0; 1 << 20]).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "the disk never became full");
    };
    fails::<()>(Err(refused), Kind::ResourceExhausted, "kv.disk_full");
    for _ in 0..3 {
        assert_eq!(stand.value("a").await.unwrap().unwrap(), "1");
        assert_eq!(stand.kv.revision().await.unwrap(), 1 + written);
        stand.kv.keep_alive(lease).await.unwrap();
        let again = stand.kv.grant(Duration::from_secs(10)).await;
        let _small_ones_may_fit = again;
    }
    let mut watch = stand.kv.watch(Span::key("a"), 0).await.unwrap();
    stand.faults.full.store(false, Ordering::Relaxed);
    stand.put("a", "2").await.unwrap();
    let first = watch.next().await.unwrap();
    let second = watch.next().await.unwrap();
    assert_eq!((first.revision, second.revision), (1, 2 + written));
    assert!(matches!(&second.events[..], [Event::Put(entry)] if entry.value == "2"));
}

#[tokio::test]
async fn the_reserve_keeps_the_disk_from_filling_up() {
    let mut stand = stand(Options::default());
    stand.put("a", "1").await.unwrap();
    stand.kv.close().await.unwrap();
    stand.options.reserve_bytes = u64::MAX;
    let kv = stand.open_again().unwrap();
    fails(
        put(&kv, "a", "2").await,
        Kind::ResourceExhausted,
        "kv.disk_full",
    );
    assert_eq!(kv.get(b"a").await.unwrap().unwrap().value, "1");
}

#[tokio::test]
async fn a_broken_disk_is_unavailable_until_it_works_again() {
    let stand = stand(Options::default());
    stand.put("a", "1").await.unwrap();
    let lease = stand.kv.grant(Duration::from_secs(60)).await.unwrap();
    stand.faults.broken_writes.store(true, Ordering::Relaxed);
    fails(
        stand.put("a", "2").await,
        Kind::Unavailable,
        "kv.unavailable",
    );
    fails(
        stand.put("a", "3").await,
        Kind::Unavailable,
        "kv.unavailable",
    );
    stand.faults.broken_writes.store(false, Ordering::Relaxed);
    stand.clock.advance(Duration::from_secs(2));
    assert_eq!(stand.put("b", "1").await.unwrap(), 2);
    assert_eq!(stand.value("a").await.unwrap().unwrap(), "1");
    stand.kv.keep_alive(lease).await.unwrap();
}

/// Waits until everything that was written is in files.
async fn until_in_files(kv: &EmbeddedKv) {
    let waiting = tokio::time::timeout(Duration::from_secs(20), async {
        while !kv.shared.state.is_in_files() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waiting.await.unwrap();
}

/// Options with which every commit goes into files at once, and every read to them.
fn on_disk() -> Options {
    Options {
        cache_bytes: 0,
        layer_bytes: 1,
        ..Options::default()
    }
}

#[tokio::test]
async fn a_failed_read_heals_by_itself() {
    let stand = stand(on_disk());
    stand.put("a", "1").await.unwrap();
    until_in_files(&stand.kv).await;
    stand.faults.broken_reads.store(true, Ordering::Relaxed);
    fails(stand.value("a").await, Kind::Unavailable, "kv.unavailable");
    let checked = stand
        .kv
        .commit(vec![Condition::Present("a".into())], vec![]);
    fails(checked.await, Kind::Unavailable, "kv.unavailable");
    stand.faults.broken_reads.store(false, Ordering::Relaxed);
    assert_eq!(stand.value("a").await.unwrap().unwrap(), "1");
    assert_eq!(stand.put("a", "2").await.unwrap(), 2);
}

#[tokio::test]
async fn damage_in_a_file_is_named() {
    let stand = stand(on_disk());
    stand.put("a", "1").await.unwrap();
    until_in_files(&stand.kv).await;
    let files = std::fs::read_dir(stand.dir.path().join("kv")).unwrap();
    let mut runs = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "run"));
    let run = runs.next().unwrap();
    let mut bytes = std::fs::read(&run).unwrap();
    bytes[5] ^= 1;
    std::fs::write(&run, bytes).unwrap();
    let error = stand.value("a").await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::DataLoss, "kv.corrupt"));
    assert!(error.detail().contains(".run"), "{}", error.detail());
}

/// When the process goes on after a failed fsync, nothing more is written, and opening tells whether
/// the last transaction was.
#[tokio::test]
async fn after_a_failed_fsync_only_opening_tells() {
    let stand = stand(lenient());
    stand.put("a", "1").await.unwrap();
    stand.faults.broken_sync.store(1, Ordering::Relaxed);
    let in_doubt = stand.put("a", "2").await;
    fails(in_doubt, Kind::Unavailable, "kv.unavailable");
    assert_eq!(stand.value("a").await.unwrap().unwrap(), "1");
    let refused = stand.put("a", "3").await;
    fails(refused, Kind::Unavailable, "kv.unavailable");
    stand.kv.close().await.unwrap();
    let again = stand.open_again().unwrap();
    let value = again.get(b"a").await.unwrap().unwrap().value;
    assert!(value == "1" || value == "2", "{value:?}");
    put(&again, "a", "4").await.unwrap();
}

#[tokio::test]
async fn a_failed_fsync_is_reported_before_anybody_is_answered() {
    let reported = Arc::new(Mutex::new(Vec::new()));
    let report = reported.clone();
    let sync_failure = SyncFailure::call(move |error| report.lock().unwrap().push(error.kind()));
    let stand = stand(Options {
        sync_failure,
        ..Options::default()
    });
    stand.faults.broken_sync.store(1, Ordering::Relaxed);
    assert!(stand.put("a", "1").await.is_err());
    assert_eq!(reported.lock().unwrap().len(), 1);
}

/// The process that the next test starts.
#[tokio::test]
#[ignore = "ends its process"]
async fn a_failed_fsync_ends_this_process() {
    let stand = stand(Options::default());
    stand.faults.broken_sync.store(1, Ordering::Relaxed);
    let _ = stand.put("a", "1").await;
    println!("acknowledged");
}

#[test]
fn a_failed_fsync_ends_the_process() {
    let output = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "kv::tests::a_failed_fsync_ends_this_process"])
        .args(["--include-ignored", "--nocapture"])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains("running 1 test"), "{printed}");
    assert!(
        !output.status.success() && !printed.contains("acknowledged"),
        "{printed}"
    );
}

#[tokio::test]
async fn a_stuck_disk_has_deadlines() {
    let (enter, entered) = std::sync::mpsc::channel();
    let (leave, left) = std::sync::mpsc::channel::<()>();
    let left = Mutex::new(left);
    let sync_failure = SyncFailure::call(move |_| {
        let _ = enter.send(());
        let _ = left.lock().unwrap().recv_timeout(Duration::from_secs(20));
    });
    let stand = stand(Options {
        sync_failure,
        queue_transactions: 2,
        ..Options::default()
    });
    stand.faults.broken_sync.store(1, Ordering::Relaxed);
    let ask = || {
        tokio::spawn({
            let kv = stand.kv.clone();
            async move { put(&kv, "a", "1").await }
        })
    };
    let stuck = ask();
    tokio::task::spawn_blocking(move || entered.recv_timeout(Duration::from_secs(20)))
        .await
        .unwrap()
        .unwrap();
    let queued = [ask(), ask()];
    while stand.kv.commands.capacity() > 0 {
        tokio::task::yield_now().await;
    }
    let waiting = ask();
    // Wait until it sleeps on the clock.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    stand.clock.advance(stand.options.queue_timeout);
    fails(
        waiting.await.unwrap(),
        Kind::ResourceExhausted,
        "kv.overloaded",
    );
    stand.clock.advance(stand.options.answer_timeout);
    fails(stuck.await.unwrap(), Kind::DeadlineExceeded, "kv.deadline");
    for queued in queued {
        fails(queued.await.unwrap(), Kind::DeadlineExceeded, "kv.deadline");
    }
    // Reads went on all the time.
    assert_eq!(stand.value("a").await.unwrap(), None);
    leave.send(()).unwrap();
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let stand = stand(Options::default());
    stand.put("a", "1").await.unwrap();
    let lease = stand.kv.grant(Duration::from_secs(10)).await.unwrap();
    let mut watch = stand.kv.watch(Span::all(), 1).await.unwrap();
    let waiting = tokio::spawn(async move { watch.next().await });
    stand.kv.close().await.unwrap();
    let closed = |result: Result<()>| fails(result, Kind::Unavailable, "kv.closed");
    closed(stand.put("a", "2").await.map(drop));
    closed(stand.value("a").await.map(drop));
    closed(stand.kv.range(Span::all(), 1000, None).await.map(drop));
    closed(stand.kv.keep_alive(lease).await.map(drop));
    closed(stand.kv.watch(Span::all(), 1).await.map(drop));
    closed(stand.kv.close().await);
    closed(waiting.await.unwrap().map(drop));
    assert!(stand.open_again().is_ok());
}

#[tokio::test]
async fn only_one_may_have_it_open() {
    let stand = stand(Options::default());
    fails(stand.open_again(), Kind::FailedPrecondition, "kv.locked");
    // Dropping it closes it too, in the background.
    let Stand {
        kv,
        clock,
        dir,
        options,
        faults: _,
    } = stand;
    drop(kv);
    let opened = tokio::time::timeout(Duration::from_secs(20), async {
        while EmbeddedKv::open(dir.path(), clock.clock(), options.clone()).is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    opened.await.unwrap();
}

#[tokio::test]
async fn other_formats_are_refused() {
    let stand = stand(Options::default());
    stand.kv.close().await.unwrap();
    let format = stand.dir.path().join("format");
    assert_eq!(std::fs::read_to_string(&format).unwrap(), "2\n");
    std::fs::write(&format, "3\n").unwrap();
    fails(
        stand.open_again(),
        Kind::FailedPrecondition,
        "kv.format_newer",
    );
    std::fs::write(&format, "one\n").unwrap();
    fails(stand.open_again(), Kind::DataLoss, "kv.corrupt");
    std::fs::write(&format, "2\n").unwrap();
    assert!(stand.open_again().is_ok());
}

#[tokio::test]
async fn garbage_is_refused() {
    let stand = stand(Options::default());
    stand.kv.close().await.unwrap();
    let manifest = stand.dir.path().join("kv/manifest");
    let whole = std::fs::read(&manifest).unwrap();
    for garbage in [&[0xa5; 100][..], &whole[..50], &[]] {
        std::fs::write(&manifest, garbage).unwrap();
        fails(stand.open_again(), Kind::DataLoss, "kv.corrupt");
    }
    std::fs::write(&manifest, &whole).unwrap();
    assert!(stand.open_again().is_ok());
}

#[tokio::test]
async fn what_a_crash_has_left_is_removed() {
    let stand = stand(Options::default());
    stand.put("key", "value").await.unwrap();
    stand.kv.close().await.unwrap();
    let left = ["0000000007.run", "0000000008.history", "manifest.new"];
    let file = |name: &str| stand.dir.path().join("kv").join(name);
    for name in left {
        std::fs::write(file(name), vec![0xa5; 5_000]).unwrap();
    }
    let kv = stand.open_again().unwrap();
    assert_eq!(kv.get(b"key").await.unwrap().unwrap().value, "value");
    assert!(left.iter().all(|name| !file(name).exists()));
}

#[tokio::test]
async fn the_history_stays_within_its_bounds() {
    let retention = sinew_engine::kv::Retention {
        commits: 64,
        bytes: 64 << 10,
    };
    let stand = stand(Options {
        retention,
        ..Options::default()
    });
    for n in 0..300 {
        stand
            .put("a", vec![0; if n < 150 { 10 } else { 2000 }])
            .await
            .unwrap();
        let (commits, bytes) = history(&stand).await;
        assert!(commits <= 64 + 4 + 1, "{commits}");
        assert!(bytes <= (64 + 4) * 1024 + 2 * 4100, "{bytes}");
    }
    assert!(history(&stand).await.0 >= 10);
}

/// The commits of the history, and their bytes.
async fn history(stand: &Stand) -> (usize, usize) {
    let snapshot = stand.kv.shared.snapshot().unwrap();
    let (mut commits, mut after) = (Vec::new(), snapshot.floor);
    while after < snapshot.revision {
        let some = snapshot.history(after, 10_000).unwrap();
        after = some.last().unwrap().revision;
        commits.extend(some);
    }
    let bytes = commits.iter().map(|commit| commit.changes.len()).sum();
    (commits.len(), bytes)
}

/// Whatever is written, and however far a watcher lags, memory stays within its budget.
#[tokio::test]
async fn memory_stays_within_its_budget() {
    let stand = stand(Options::default().with_memory(Options::LEAST_MEMORY));
    let mut watch = stand.kv.watch(Span::all(), 0).await.unwrap();
    let budget = stand.kv.memory().budget;
    let mut most = 0;
    for nth in 0..60 {
        let writes = (0..8).map(|key| {
            let key = bytes::Bytes::from(format!("{key}/{}", nth % 7));
            Write::Put {
                key,
                value: vec![nth; 120_000].into(),
                lease: None,
            }
        });
        // Layers are full now and then: the disk is waited for.
        let _ = stand.kv.commit(vec![], writes.collect()).await.unwrap();
        let memory = stand.kv.memory();
        assert!(memory.used() <= budget, "{memory:?}");
        most = most.max(memory.used());
    }
    assert!(most > budget / 10, "{most}");
    // One that reads what is only in files still sees each commit.
    for revision in 1..=60 {
        assert_eq!(watch.next().await.unwrap().revision, revision);
    }
    stand.kv.close().await.unwrap();
    assert_eq!(stand.kv.memory().queued, 0);
}
