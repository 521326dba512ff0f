//! What the tests of all caches share: a workload that goes on while the server is away.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sinew_engine::{
    Health,
    cache::{Cache, Increment, Key, Lifetime, Swap, Version},
};
use tokio::{sync::watch, time::timeout};

/// How long servers are away in the fault tests: 3 seconds, or `SINEW_TEST_OUTAGE`.
pub(crate) fn outage() -> Duration {
    let seconds = std::env::var("SINEW_TEST_OUTAGE").map_or(3, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}

/// Longer than anything takes that is not broken, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn is_up(health: &mut watch::Receiver<Health>) {
    timeout(PATIENCE, health.wait_for(Health::is_up))
        .await
        .expect("it comes up")
        .expect("the engine lives");
}

pub(crate) async fn is_away(health: &mut watch::Receiver<Health>) {
    timeout(
        PATIENCE,
        health.wait_for(|health| matches!(health, Health::Away { .. })),
    )
    .await
    .expect("it is noticed")
    .expect("the engine lives");
}

/// What was answered so far.
#[derive(Default)]
struct Answered {
    sets: Vec<(u64, Version)>,
    counted: i64,
    /// Increments whose fate is unknown.
    unsure: i64,
}

/// Works on a cache, lets `begin` take its server away in the middle, `end` bring it back, and checks what is left.
/// `keeps`: whether what was set before must be there afterwards.
pub(crate) async fn survives<B, E>(
    cache: Arc<dyn Cache>,
    mut health: watch::Receiver<Health>,
    begin: B,
    end: E,
    keeps: bool,
) where
    B: FnOnce() + Send + 'static,
    E: FnOnce() + Send + 'static,
{
    is_up(&mut health).await;
    let answered = Arc::new(Mutex::new(Answered::default()));
    let stop = Arc::new(AtomicBool::new(false));
    let worker = tokio::spawn({
        let (cache, answered, stop) = (cache.clone(), answered.clone(), stop.clone());
        async move {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let set = cache.set(name(n), name(n), Lifetime::Unlimited).await;
                let sum = cache.increment("count".into(), Increment::by(1)).await;
                {
                    let mut answered = answered.lock().unwrap();
                    match set {
                        Ok(version) => answered.sets.push((n, version)),
                        Err(why) => assert_away(&why),
                    }
                    match sum {
                        Ok(_) => answered.counted += 1,
                        Err(why) => {
                            assert_away(&why);
                            answered.unsure += 1;
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let count = |answered: &Arc<Mutex<Answered>>| answered.lock().unwrap().sets.len();
    let more = async |than: usize| {
        timeout(PATIENCE, async {
            while count(&answered) <= than {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("it goes on");
    };
    more(100).await;
    tokio::task::spawn_blocking(begin).await.unwrap();
    is_away(&mut health).await;
    let before = count(&answered);
    tokio::time::sleep(outage()).await;
    tokio::task::spawn_blocking(end).await.unwrap();
    is_up(&mut health).await;
    more(before + 100).await;
    stop.store(true, Ordering::Relaxed);
    worker.await.unwrap();

    let (sets, counted, unsure) = {
        let answered = answered.lock().unwrap();
        (answered.sets.clone(), answered.counted, answered.unsure)
    };
    let mut lost = 0;
    for (place, (n, version)) in sets.iter().enumerate() {
        match cache.get(&name(*n)).await.unwrap() {
            Some(item) => assert_eq!((item.value, item.version), (name(*n), *version)),
            None if !keeps && place <= before + 1 => lost += 1,
            None => panic!("{n} was set and is gone"),
        }
    }
    let count = cache.get(b"count").await.unwrap().unwrap().value;
    let count: i64 = std::str::from_utf8(&count).unwrap().parse().unwrap();
    assert!(count <= counted + unsure, "{count} > {counted} + {unsure}");
    if keeps {
        assert!(count >= counted, "{count} < {counted}");
    } else {
        // A version from before does not fit what is there now.
        let (n, old) = sets[0];
        cache
            .set(name(n), name(0), Lifetime::Unlimited)
            .await
            .unwrap();
        let swap = cache
            .compare_and_set(name(n), old, name(1), Lifetime::Unlimited)
            .await
            .unwrap();
        assert_eq!(swap, Swap::Changed);
    }
    println!(
        "{} sets answered, {before} of them before, {lost} of them gone; {counted} increments, {unsure} unsure",
        sets.len()
    );
}

fn name(n: u64) -> Key {
    format!("k{n}").into()
}

fn assert_away(why: &sinew_core::Error) {
    assert!(
        ["engine.unavailable", "engine.timeout"].contains(&why.code()),
        "{why:?}"
    );
}
