//! The server stopped, killed, cut off and with its connections broken, in the middle of a workload over two
//! instances. Nothing acknowledged is lost, watches are whole and in order, and everything goes on by itself.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sinew_core::{Clock, Kind};
use sinew_engine::kv::{Event, Kv, LeaseId, Outcome, Revision, Span, Write};
use sinew_engine_external::postgres::PostgresKv;
use sinew_testbed::{Postgres, Proxy, Server};
use tokio::task::JoinHandle;

use super::{commit, namespace, put, soon};

/// How long the server is away.
fn outage() -> Duration {
    let seconds = std::env::var("SINEW_TEST_OUTAGE").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(3))
}

const WRITERS: usize = 6;
/// Shorter than the server is away, so that it is no accident when it lives.
const TTL: Duration = Duration::from_secs(2);

/// Two instances with writers, a watcher on each, and a lease that is kept alive.
struct Workload {
    stores: [Arc<PostgresKv>; 2],
    ended: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    writers: Vec<JoinHandle<Written>>,
    watchers: Vec<JoinHandle<BTreeMap<Revision, String>>>,
    keeper: JoinHandle<()>,
    lease: LeaseId,
}

#[derive(Default)]
struct Written {
    /// What was answered, with its revision.
    acknowledged: Vec<(Revision, String)>,
    /// What may have happened or not.
    unknown: Vec<String>,
}

impl Workload {
    async fn begin(address: &str) -> Self {
        let namespace = namespace();
        let url = format!("postgres://sinew@{address}/postgres?namespace={namespace}&timeout=2s");
        let open = || {
            let address = PostgresKv::address(&url).expect("an address");
            Arc::new(PostgresKv::open(address, Clock::system()).expect("a store"))
        };
        let stores = [open(), open()];
        let lease = stores[0].grant(TTL).await.expect("a lease");
        let held = Write::Put {
            key: "held".into(),
            value: "by a lease".into(),
            lease: Some(lease),
        };
        let outcome = stores[0]
            .commit(vec![], vec![held])
            .await
            .expect("a commit");
        assert_eq!(outcome, Outcome::Committed(1));
        let ended = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let mut watchers = Vec::new();
        for kv in &stores {
            let watch = kv.watch(Span::all(), 0).await.expect("a watch");
            watchers.push(tokio::spawn(collect(watch)));
        }
        let writers = (0..WRITERS).map(|writer| {
            let kv = stores[writer % 2].clone();
            tokio::spawn(write(kv, writer, ended.clone(), acknowledged.clone()))
        });
        let keeper = tokio::spawn({
            let (kv, ended) = (stores[1].clone(), ended.clone());
            async move {
                while !ended.load(Ordering::Relaxed) {
                    match kv.keep_alive(lease).await {
                        Ok(ttl) => assert_eq!(ttl, TTL),
                        Err(error) => assert_unknown(&error),
                    }
                    tokio::time::sleep(TTL / 8).await;
                }
            }
        });
        Self {
            writers: writers.collect(),
            stores,
            ended,
            acknowledged,
            watchers,
            keeper,
            lease,
        }
    }

    /// Waits until this many more commits were acknowledged.
    async fn goes_on(&self, more: usize) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        soon(async {
            while self.acknowledged.load(Ordering::Relaxed) < before + more {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    /// Ends the workload and checks everything; answers how many commits had an unknown fate.
    async fn check(self) -> usize {
        self.ended.store(true, Ordering::Relaxed);
        let (mut acknowledged, mut unknown) = (BTreeMap::new(), Vec::new());
        for writer in self.writers {
            let written = soon(writer).await.expect("the writer did not panic");
            for (revision, value) in written.acknowledged {
                let twice = acknowledged.insert(revision, value);
                assert_eq!(twice, None, "revision {revision} was answered twice");
            }
            unknown.extend(written.unknown);
        }
        soon(self.keeper).await.expect("the lease was kept");
        // The lease was kept alive all the time that the server could be told.
        let held = self.stores[0].get(b"held").await.expect("a read");
        assert_eq!(held.expect("it lives").lease, Some(self.lease));
        let last = commit(&*self.stores[1], "last", "last")
            .await
            .expect("a commit");
        let mut seen = Vec::new();
        for watcher in self.watchers {
            seen.push(soon(watcher).await.expect("the watcher did not panic"));
        }
        assert_eq!(seen[0], seen[1], "both instances saw the same");
        // Every revision once and in order; what was answered is where it was said to be.
        let revisions: Vec<Revision> = seen[0].keys().copied().collect();
        assert_eq!(revisions, (1..=last).collect::<Vec<_>>());
        for (revision, value) in &acknowledged {
            assert_eq!(seen[0].get(revision), Some(value), "at {revision}");
        }
        // What nobody acknowledged is one of those whose fate was unknown, and happened once.
        let others: Vec<&String> = seen[0]
            .iter()
            .filter(|(revision, _)| !acknowledged.contains_key(revision))
            .map(|(_, value)| value)
            .filter(|value| !["held=by a lease", "last=last"].contains(&value.as_str()))
            .collect();
        for other in &others {
            assert!(unknown.contains(other), "nobody wrote {other}");
        }
        let mut once: Vec<&String> = seen[0].values().collect();
        once.sort_unstable();
        assert!(
            once.windows(2).all(|pair| pair[0] != pair[1]),
            "something happened twice"
        );
        println!(
            "{} acknowledged, {} of {} with an unknown fate happened",
            acknowledged.len(),
            others.len(),
            unknown.len()
        );
        unknown.len()
    }
}

fn assert_unknown(error: &sinew_core::Error) {
    assert!(
        matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded),
        "{error:?}"
    );
}

/// Writes one value after another until it is told to end.
async fn write(
    kv: Arc<PostgresKv>,
    writer: usize,
    ended: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
) -> Written {
    let mut written = Written::default();
    let key = format!("writer{writer}");
    for n in 0.. {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let value = format!("{key}={n}");
        let writes = vec![put(&key, &n.to_string())];
        match kv.commit(vec![], writes).await {
            Ok(Outcome::Committed(revision)) => {
                written.acknowledged.push((revision, value));
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Outcome::Conflict(index)) => panic!("condition {index} of none"),
            Err(error) => {
                assert_unknown(&error);
                written.unknown.push(value);
            }
        }
    }
    written
}

/// Everything that a watch brings, until the last key.
async fn collect(mut watch: Box<dyn sinew_engine::kv::Watch>) -> BTreeMap<Revision, String> {
    let mut seen = BTreeMap::new();
    let mut newest = 0;
    loop {
        let batch = watch.next().await.expect("a batch");
        assert!(batch.revision > newest, "out of order");
        newest = batch.revision;
        let [Event::Put(entry)] = &batch.events[..] else {
            panic!("one put in each commit, not {batch:?}")
        };
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (key, value) = (text(&entry.key), text(&entry.value));
        seen.insert(batch.revision, format!("{key}={value}"));
        if key == "last" {
            return seen;
        }
    }
}

fn start() -> Server {
    Server::start(Postgres::default()).expect("PostgreSQL starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stopped() {
    let mut server = start();
    let workload = Workload::begin(&server.address()).await;
    workload.goes_on(300).await;
    tokio::task::block_in_place(|| server.stop());
    tokio::time::sleep(outage()).await;
    server.start_again().expect("it starts again");
    workload.goes_on(300).await;
    workload.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed() {
    let mut server = start();
    let workload = Workload::begin(&server.address()).await;
    for _ in 0..2 {
        workload.goes_on(300).await;
        tokio::task::block_in_place(|| server.kill());
        tokio::time::sleep(outage()).await;
        server.start_again().expect("it starts again");
    }
    workload.goes_on(300).await;
    workload.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_cut_off() {
    let server = start();
    let proxy = Proxy::to(server.address()).expect("a proxy");
    let workload = Workload::begin(&proxy.address()).await;
    workload.goes_on(300).await;
    proxy.cut();
    tokio::time::sleep(outage()).await;
    proxy.mend();
    workload.goes_on(300).await;
    workload.check().await;
}

/// Every batch whose answer was lost is found out: nobody is left in doubt.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_again_and_again() {
    let server = start();
    let proxy = Proxy::to(server.address()).expect("a proxy");
    let workload = Workload::begin(&proxy.address()).await;
    for n in 0..40 {
        workload.goes_on(5 + n % 7).await;
        proxy.reset();
    }
    workload.goes_on(300).await;
    assert_eq!(workload.check().await, 0);
}

/// One of the instances stands still with everything in its hands; the other one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_cut_off_stops_nobody_else() {
    let server = start();
    let proxy = Proxy::to(server.address()).expect("a proxy");
    let namespace = namespace();
    let far = super::open(&proxy.address(), &namespace);
    let near = Arc::new(super::open(&server.address(), &namespace));
    let lease = far.grant(TTL).await.expect("a lease");
    let held = Write::Put {
        key: "held".into(),
        value: "1".into(),
        lease: Some(lease),
    };
    assert!(far.commit(vec![], vec![held]).await.is_ok());
    let busy = tokio::spawn({
        let near = near.clone();
        async move {
            for n in 0..200 {
                commit(&*near, "near", &n.to_string())
                    .await
                    .expect("a commit");
            }
        }
    });
    for n in 0..50 {
        commit(&far, "far", &n.to_string()).await.expect("a commit");
    }
    proxy.cut();
    let stuck = tokio::spawn(async move { commit(&far, "far", "late").await });
    soon(busy).await.expect("the near one goes on");
    // The other one measures the leases now, whoever did before.
    soon(async {
        while near.get(b"held").await.expect("a read").is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_unknown(
        &soon(stuck)
            .await
            .expect("no panic")
            .expect_err("nobody answered"),
    );
}
