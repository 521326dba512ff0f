//! Several nodes and others on one cluster.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use sinew_engine::kv::{
    Batch, Condition, Event, Kv, LeaseId, Outcome, Retention, Revision, Span, Write, transact,
};
use sinew_engine_external::etcd::{Options, wire::RangeRequest};
use sinew_testbed::{Etcd, Server};

use super::{block_in_place, open};

fn put(key: &str, lease: Option<LeaseId>) -> Write {
    Write::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: "1".into(),
        lease,
    }
}

async fn committed(kv: &dyn Kv, writes: Vec<Write>) -> Revision {
    match kv.commit(vec![], writes).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(index) => panic!("condition {index} of none"),
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("this should have happened soon")
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_share_a_store_beside_other_stores() {
    let server = block_in_place(|| Server::start(Etcd::default())).unwrap();
    let node = |namespace: &str| {
        let at = format!("{}?namespace={namespace}", server.address());
        Arc::new(open(&at, Options::default()))
    };
    let nodes = [node("shop"), node("shop"), node("shop")];
    // Somebody else writes all the time.
    let other = node("others");
    let noise = tokio::spawn(async move {
        loop {
            committed(&*other, vec![put("x", None)]).await;
        }
    });
    let mut watches = Vec::new();
    for node in &nodes {
        watches.push(node.watch(Span::all(), 0).await.unwrap());
    }
    let tasks: Vec<_> = nodes
        .iter()
        .cloned()
        .map(|node| {
            tokio::spawn(async move {
                for _ in 0..40 {
                    let kv: &dyn Kv = &*node;
                    transact(kv, |tx| async move {
                        let before = tx.get("count").await?;
                        let before = before.map_or(0, |entry| entry.value.len());
                        tx.put("count", vec![b'i'; before + 1]);
                        Ok(())
                    })
                    .await
                    .unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        soon(task).await.unwrap();
    }
    let count = nodes[1].get(b"count").await.unwrap().unwrap();
    assert_eq!(count.value.len(), 120);
    assert_eq!(nodes[2].revision().await.unwrap(), count.revision);
    // All see the same 120 commits, whose numbers have gaps.
    let mut seen: Vec<Vec<Batch>> = Vec::new();
    for mut watch in watches {
        let mut batches = Vec::new();
        while batches.len() < 120 {
            batches.push(soon(watch.next()).await.unwrap());
        }
        seen.push(batches);
    }
    assert!(seen.iter().all(|batches| *batches == seen[0]));
    let numbers: Vec<u64> = seen[0].iter().map(|batch| batch.revision).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(numbers.last(), Some(&count.revision));
    assert!(count.revision > 120);
    // Numbers between two commits name the snapshot of the one before.
    let gap = numbers
        .windows(2)
        .find(|pair| pair[1] > pair[0] + 1)
        .unwrap();
    let page = nodes[0]
        .range(Span::all(), 1, Some(gap[1] - 1))
        .await
        .unwrap();
    assert_eq!(page.entries[0].revision, gap[0]);
    // The future of the store is unknown, though the cluster is past it.
    let error = nodes[0]
        .watch(Span::all(), count.revision + 1)
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.code(), "kv.revision_unknown");
    noise.abort();
}

/// Its operator may compact etcd at any time, and a store in which little happens must not suffer from it.
#[tokio::test(flavor = "multi_thread")]
async fn others_compact_the_cluster() {
    let server = block_in_place(|| Server::start(Etcd::default())).unwrap();
    let shop = open(
        &format!("{}?namespace=shop", server.address()),
        Options::default(),
    );
    let other = open(
        &format!("{}?namespace=others&compact=on", server.address()),
        Options::default(),
    );
    let first = committed(&shop, vec![put("a", None), put("b", None)]).await;
    let delete = Write::Delete { key: "b".into() };
    let second = committed(&shop, vec![delete]).await;
    let mut early = shop.watch(Span::all(), second).await.unwrap();
    for _ in 0..20 {
        committed(&other, vec![put("x", None)]).await;
    }
    other
        .compact(other.revision().await.unwrap())
        .await
        .unwrap();
    // What is the newest here can be read and watched from, although etcd has forgotten it.
    let page = shop.range(Span::all(), 10, Some(second)).await.unwrap();
    assert_eq!((page.entries.len(), page.revision), (1, second));
    let mut late = shop.watch(Span::all(), second).await.unwrap();
    // What is older is gone, and that is said.
    let error = shop.range(Span::all(), 10, Some(first)).await.unwrap_err();
    assert_eq!(error.code(), "kv.compacted");
    let mut watch = shop.watch(Span::all(), first).await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap_err().code(), "kv.compacted");
    // Conditions rest on what the store keeps itself.
    let since = |revision| vec![Condition::Unchanged(Span::all(), revision)];
    let outcome = shop.commit(since(first), vec![]).await.unwrap();
    assert_eq!(outcome, Outcome::Conflict(0));
    let Outcome::Committed(third) = shop
        .commit(since(second), vec![put("c", None)])
        .await
        .unwrap()
    else {
        panic!("nothing has changed")
    };
    for watch in [&mut early, &mut late] {
        assert_eq!(soon(watch.next()).await.unwrap().revision, third);
    }
}

/// The node that keeps the store vanishes, and with more keys than fit one commit.
#[tokio::test(flavor = "multi_thread")]
async fn leases_end_whoever_is_left() {
    let server = block_in_place(|| Server::start(Etcd::default())).unwrap();
    let first = open(&server.address(), Options::default());
    let lease = first.grant(Duration::from_secs(2)).await.unwrap();
    for page in 0..25 {
        let some = (0..50).map(|n| put(&format!("k{:04}", page * 50 + n), Some(lease)));
        committed(&first, some.collect()).await;
        first.keep_alive(lease).await.unwrap();
    }
    let newest = committed(&first, vec![put("stays", None)]).await;
    drop(first);
    let second = open(&server.address(), Options::default());
    let mut watch = second.watch(Span::all(), newest).await.unwrap();
    let mut deleted = 0;
    let mut commits = 0;
    while deleted < 1250 {
        let batch = soon(watch.next()).await.unwrap();
        assert!(
            batch
                .events
                .iter()
                .all(|event| matches!(event, Event::Delete(_)))
        );
        deleted += batch.events.len();
        commits += 1;
    }
    assert_eq!((deleted, commits), (1250, 2));
    let page = second.range(Span::all(), 10, None).await.unwrap();
    assert_eq!(page.entries.len(), 1);
    assert_eq!(
        second.keep_alive(lease).await.unwrap_err().code(),
        "kv.lease_unknown"
    );
    // What a lease took with it counts as a change.
    let since = vec![Condition::Unchanged(Span::prefix("k"), newest)];
    assert_eq!(
        second.commit(since, vec![]).await.unwrap(),
        Outcome::Conflict(0)
    );
}

/// The marks of deleted keys go once nobody may ask about them, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn marks_of_deleted_keys_go_with_the_history() {
    let server = block_in_place(|| Server::start(Etcd::default())).unwrap();
    let node = || {
        let retention = Retention {
            commits: 10,
            bytes: usize::MAX,
        };
        let options = Options {
            retention,
            ..Options::default()
        };
        open(&server.address(), options)
    };
    let kv = node();
    let bare = kv.client().await.unwrap();
    let marks = async || {
        let range = RangeRequest::names("sinew/t/".into(), "sinew/t0".into(), 0);
        bare.range(range).await.unwrap().kvs.len()
    };
    let delete = |n: u32| Write::Delete {
        key: format!("k{n:02}").into(),
    };
    let all: Vec<Write> = (0..20).map(|n| put(&format!("k{n:02}"), None)).collect();
    let start = committed(&kv, all).await;
    for n in 0..20 {
        committed(&kv, vec![delete(n)]).await;
    }
    assert_eq!(marks().await, 20);
    let since = |revision| vec![Condition::Unchanged(Span::all(), revision)];
    soon(async {
        while kv.commit(since(start), vec![]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    // The next keeper begins with what the last one left.
    drop(kv);
    let kv = node();
    soon(async {
        while marks().await > 10 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(marks().await > 0);
    let newest = kv.revision().await.unwrap();
    let outcome = kv.commit(since(newest - 5), vec![]).await.unwrap();
    assert_eq!(outcome, Outcome::Conflict(0));
    let error = kv.commit(since(start), vec![]).await.unwrap_err();
    assert_eq!(error.code(), "kv.compacted");
}
