//! Commits a second of the embedded Kv on this machine:
//! `cargo run --release -p sinew-engine-embedded --example kv_bench -- [FOLDER] [SECONDS]`.
#![allow(clippy::unwrap_used, reason = "a bench")]

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use sinew_core::Clock;
use sinew_engine::kv::{Condition, Kv, Write};
use sinew_engine_embedded::{EmbeddedKv, Options};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments
        .next()
        .map_or_else(|| PathBuf::from("target/kv-bench"), PathBuf::from);
    let seconds = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(5);
    let time = Duration::from_secs(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    for committers in [1, 64, 1024] {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        runtime.block_on(run(&folder, committers, time));
    }
    let _ = std::fs::remove_dir_all(&folder);
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!(
        "key/{:016x}/{:019}",
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        number
    ))
}

async fn run(folder: &std::path::Path, committers: u64, time: Duration) {
    let clock = Clock::system();
    let kv = Arc::new(EmbeddedKv::open(folder.join("kv"), clock.clone(), options()).unwrap());
    // Some to overwrite.
    for from in (0..100_000_u64).step_by(500) {
        let writes = (from..from + 500)
            .map(|n| Write::Put {
                key: key(n),
                value: Bytes::from(vec![1; 200]),
                lease: None,
            })
            .collect();
        let _ = kv.commit(vec![], writes).await.unwrap();
    }
    let begin = clock.monotonic();
    let mut running = tokio::task::JoinSet::new();
    for committer in 0..committers {
        let (kv, clock) = (Arc::clone(&kv), clock.clone());
        running.spawn(async move {
            let mut times = Vec::new();
            let mut random = committer + 1;
            let mut next = move || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % 1_000_000
            };
            loop {
                let before = clock.monotonic();
                if before - begin > time {
                    return times;
                }
                let n = next();
                let conditions = vec![Condition::Absent(Bytes::from(format!("absent/{n}")))];
                let mut numbers = vec![n, next(), next()];
                numbers.sort_unstable();
                numbers.dedup();
                let writes = numbers
                    .into_iter()
                    .map(|n| Write::Put {
                        key: key(n),
                        value: Bytes::from(vec![2; 200]),
                        lease: None,
                    })
                    .collect();
                let _ = kv.commit(conditions, writes).await.unwrap();
                times.push(clock.monotonic() - before);
            }
        });
    }
    let mut times: Vec<_> = running.join_all().await.into_iter().flatten().collect();
    let took = clock.monotonic() - begin;
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let rate = times.len() as f64 / took.as_secs_f64();
    let begin = clock.monotonic();
    let mut gets = 0_u64;
    while clock.monotonic() - begin < time / 4 {
        for n in 0..1000 {
            gets += u64::from(
                kv.get(&key((gets * 7919 + n) % 100_000))
                    .await
                    .unwrap()
                    .is_some(),
            );
        }
    }
    let getting = gets as f64 / (clock.monotonic() - begin).as_secs_f64();
    drop(kv);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let begin = clock.monotonic();
    let again = EmbeddedKv::open(folder.join("kv"), clock.clone(), options()).unwrap();
    let opening = clock.monotonic() - begin;
    drop(again);
    println!(
        "{committers:>5} committers {rate:>8.0}/s  p50 {:.2} ms  p99 {:.2} ms  p99.9 {:.1} ms  max {:.0} ms;  gets {:.0}k/s; opened in {:.0} ms",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        getting / 1e3,
        opening.as_secs_f64() * 1e3
    );
    tokio::time::sleep(Duration::from_millis(1000)).await;
}

fn options() -> Options {
    let mib = |name: &str, default| {
        std::env::var(name).map_or(default, |text| text.parse::<usize>().unwrap() << 20)
    };
    let mut options = Options::default();
    options.layer_bytes = mib("LAYER", options.layer_bytes);
    options.cache_bytes = mib("CACHE", options.cache_bytes);
    options
}
