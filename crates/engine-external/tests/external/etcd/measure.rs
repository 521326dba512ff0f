//! Figures, by hand: `cargo test --release -p sinew-engine-external --features etcd --test external -- etcd::measure --ignored --nocapture`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use sinew_engine::kv::{Condition, Kv, Write};
use sinew_engine_external::etcd::{
    Client, Options,
    wire::{Compare, Is, Operand, RequestOp, TxnRequest},
};
use sinew_testbed::{Etcd, Server};

use super::{block_in_place, open};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);

/// Commits a second of so many tasks at once.
async fn rate<F, T>(committers: usize, commit: F) -> f64
where
    F: Fn(u64) -> T + Clone + Send + 'static,
    T: Future<Output = ()> + Send,
{
    static KEY: AtomicU64 = AtomicU64::new(0);
    let count = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..committers)
        .map(|_| {
            let (commit, count) = (commit.clone(), count.clone());
            tokio::spawn(async move {
                loop {
                    commit(KEY.fetch_add(1, Ordering::Relaxed)).await;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = count.load(Ordering::Relaxed);
    tokio::time::sleep(ROUND).await;
    let after = count.load(Ordering::Relaxed);
    for task in tasks {
        task.abort();
        let _ = task.await;
    }
    (after - before) as f64 / ROUND.as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and wants an idle machine"]
async fn beside_the_bare_client() {
    let server = block_in_place(|| Server::start(Etcd::default())).unwrap();
    let kv = Arc::new(open(&server.address(), Options::default()));
    let bare: Client = kv.client().await.unwrap();
    let value = Bytes::from(vec![b'v'; 200]);
    for committers in [1, 64, 1024] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (store, stored) = (kv.clone(), value.clone());
            ours.push(
                rate(committers, move |n| {
                    let (kv, value) = (store.clone(), stored.clone());
                    let key = Bytes::from(format!(
                        "key/{:016x}",
                        n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    ));
                    async move {
                        let write = Write::Put {
                            key: key.clone(),
                            value,
                            lease: None,
                        };
                        let _ = kv
                            .commit(vec![Condition::Absent(key)], vec![write])
                            .await
                            .unwrap();
                    }
                })
                .await,
            );
            let (client, stored) = (bare.clone(), value.clone());
            theirs.push(
                rate(committers, move |n| {
                    let (client, value) = (client.clone(), stored.clone());
                    let key = Bytes::from(format!(
                        "bare/{:016x}",
                        n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    ));
                    async move {
                        let txn = TxnRequest {
                            compare: vec![Compare::key(
                                key.clone(),
                                Is::Equal,
                                Operand::Version(0),
                            )],
                            success: vec![RequestOp::put(key, value)],
                            failure: vec![],
                        };
                        assert!(client.txn(txn).await.unwrap().succeeded);
                    }
                })
                .await,
            );
        }
        let (ours, theirs) = (median(ours), median(theirs));
        println!(
            "{committers} committers: {ours:.0}/s, bare {theirs:.0}/s, ratio {:.2}",
            ours / theirs
        );
    }
}
