//! The server goes away in the middle of a workload and comes back.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use sinew_core::Kind;
use sinew_engine::kv::{Condition, Event, Key, Kv, Outcome, Revision, Span, Write};
use sinew_engine_external::etcd::Options;
use sinew_testbed::{Etcd, Proxy, Server};
use tokio::{sync::watch, task::JoinHandle};

use super::{block_in_place, open};

const WRITERS: usize = 4;

/// How long the server is away.
fn outage() -> Duration {
    let seconds = std::env::var("SINEW_TEST_OUTAGE").map_or(3, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}

fn put(key: &str, value: &str) -> Write {
    Write::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        lease: None,
    }
}

/// Writers that go on whatever happens, each to new keys, and a watcher of everything.
struct Workload {
    kv: Arc<dyn Kv>,
    stop: watch::Sender<bool>,
    writers: Vec<JoinHandle<BTreeMap<Key, Revision>>>,
    watcher: JoinHandle<BTreeMap<Key, Revision>>,
}

const LAST: &str = "zzz";

impl Workload {
    async fn begin(kv: Arc<dyn Kv>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut everything = kv.watch(Span::all(), 0).await.unwrap();
        let watcher = tokio::spawn(async move {
            let (mut seen, mut newest) = (BTreeMap::new(), 0);
            while !seen.contains_key(LAST.as_bytes()) {
                let batch = everything.next().await.unwrap();
                assert!(batch.revision > newest, "in order, none twice");
                newest = batch.revision;
                for event in batch.events {
                    let Event::Put(entry) = event else {
                        panic!("nothing was deleted: {event:?}")
                    };
                    assert!(seen.insert(entry.key, entry.revision).is_none());
                }
            }
            seen
        });
        let writers = (0..WRITERS)
            .map(|writer| tokio::spawn(write(kv.clone(), writer, stopped.clone())))
            .collect();
        Self {
            kv,
            stop,
            writers,
            watcher,
        }
    }

    /// Stops it, and checks that nothing acknowledged is lost and that the watcher saw what there is.
    async fn end(self) {
        // It goes on by itself: new commits are acknowledged before this.
        let patience = Duration::from_secs(60);
        let last = tokio::time::timeout(patience, async {
            loop {
                match self.kv.commit(vec![], vec![put("going-on", "")]).await {
                    Ok(_) => break,
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        last.await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.stop.send_replace(true);
        let mut acknowledged = BTreeMap::new();
        for writer in self.writers {
            acknowledged.extend(
                tokio::time::timeout(patience, writer)
                    .await
                    .unwrap()
                    .unwrap(),
            );
        }
        let written = self.kv.commit(vec![], vec![put(LAST, "")]).await.unwrap();
        assert!(matches!(written, Outcome::Committed(_)));
        let seen = tokio::time::timeout(patience, self.watcher);
        let seen = seen.await.unwrap().unwrap();
        let (mut there, mut rest) = (BTreeMap::new(), Span::all());
        loop {
            let page = self.kv.range(rest.clone(), 1000, None).await.unwrap();
            there.extend(
                page.entries
                    .into_iter()
                    .map(|entry| (entry.key, entry.revision)),
            );
            match page.next {
                Some(next) => rest.start = next,
                None => break,
            }
        }
        for (key, revision) in &acknowledged {
            assert_eq!(there.get(key), Some(revision), "{key:?} was acknowledged");
        }
        let there: BTreeMap<_, _> = there
            .into_iter()
            .filter(|(key, _)| key != "going-on".as_bytes())
            .collect();
        let seen: BTreeMap<_, _> = seen
            .into_iter()
            .filter(|(key, _)| key != "going-on".as_bytes())
            .collect();
        assert_eq!(seen, there);
        println!(
            "{} acknowledged, {} written",
            acknowledged.len(),
            there.len()
        );
        assert!(acknowledged.len() > WRITERS);
    }
}

/// Answers what was acknowledged. A commit of unknown fate is left alone.
async fn write(
    kv: Arc<dyn Kv>,
    writer: usize,
    stopped: watch::Receiver<bool>,
) -> BTreeMap<Key, Revision> {
    let mut acknowledged = BTreeMap::new();
    for n in 0.. {
        if *stopped.borrow() {
            break;
        }
        let key = format!("w{writer}/{n:06}");
        let new = Condition::Absent(Bytes::copy_from_slice(key.as_bytes()));
        match kv.commit(vec![new], vec![put(&key, "1")]).await {
            Ok(Outcome::Committed(revision)) => {
                acknowledged.insert(Key::from(key), revision);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok(Outcome::Conflict(_)) => panic!("{key} was written twice"),
            Err(error) => {
                let known = [Kind::Unavailable, Kind::DeadlineExceeded];
                assert!(known.contains(&error.kind()), "{error:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    acknowledged
}

async fn fails_and_comes_back(fault: impl FnOnce(&mut Server, &Proxy)) {
    let mut server = block_in_place(|| Server::start(Etcd::default())).unwrap();
    let proxy = Proxy::to(server.address()).unwrap();
    let at = format!("{}?timeout=2s", proxy.address());
    let kv = Arc::new(open(&at, Options::default()));
    let workload = Workload::begin(kv.clone()).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    block_in_place(|| fault(&mut server, &proxy));
    workload.end().await;
    assert!(kv.health().borrow().is_up());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_and_started_again() {
    fails_and_comes_back(|server, _| {
        server.stop();
        std::thread::sleep(outage());
        server.start_again().unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_started_again() {
    fails_and_comes_back(|server, _| {
        server.kill();
        std::thread::sleep(outage());
        server.start_again().unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off() {
    fails_and_comes_back(|_, proxy| {
        proxy.cut();
        std::thread::sleep(outage());
        proxy.mend();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_reset() {
    fails_and_comes_back(|_, proxy| {
        for _ in 0..10 {
            proxy.reset();
            std::thread::sleep(Duration::from_millis(100));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standing_still() {
    fails_and_comes_back(|server, _| {
        server.pause();
        std::thread::sleep(outage());
        server.resume();
    })
    .await;
}

/// One of two ways to the cluster is cut for good.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_endpoint_takes_over() {
    let server = block_in_place(|| Server::start(Etcd::default())).unwrap();
    let (one, other) = (
        Proxy::to(server.address()).unwrap(),
        Proxy::to(server.address()).unwrap(),
    );
    let at = format!("{},{}?timeout=2s", one.address(), other.address());
    let kv = Arc::new(open(&at, Options::default()));
    let workload = Workload::begin(kv).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    one.cut();
    workload.end().await;
}

/// Whichever member leads is killed, one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_cluster_are_killed() {
    let mut members = block_in_place(|| Etcd::cluster(3)).unwrap();
    let hosts: Vec<String> = members.iter().map(Server::address).collect();
    let at = format!("{}?timeout=3s", hosts.join(","));
    let kv = Arc::new(open(&at, Options::default()));
    let workload = Workload::begin(kv).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    block_in_place(|| {
        for member in &mut members {
            member.kill();
            std::thread::sleep(outage());
            member.start_again().unwrap();
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    workload.end().await;
}
