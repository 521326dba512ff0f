//! Transactions beside other stores: durable before the answer, many committers.
//!
//! Each committer checks one or two keys and puts two to four (keys of 40 bytes, values of 200), waits
//! for the answer and goes on. redb and SQLite get what Sinew has: one thread that writes what waits
//! as one transaction. etcd, in its own process, gets each transaction as one of its own.
//!
//! Parts (`--only`): `peers`, the embedded store beside others, of which `peers-64-random` and the like are one
//! load, and `peers-gets` the gets; `layers`, the stores over etcd and PostgreSQL beside
//! clients of those that do the same; `watch`; `open`.

mod bound;
mod external;
mod peers;
mod stores;

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{runtime::Runtime, task::JoinSet};

use self::stores::{LogOnly, OverKv, Store, Transaction};
use crate::{
    Options,
    measure::{self, Plan, Random, Side, Work},
    report::{self, Figure, quantile, ratio},
};

/// Keys that are there from the start.
const KEYS: u64 = 1_000_000;
/// The same where only what lies above the store is measured.
const FEW_KEYS: u64 = 100_000;
const COMMITTERS: [usize; 3] = [1, 64, 1024];
/// The first side over the second.
const BESIDE: &[(usize, usize)] = &[(0, 1)];

pub(crate) fn run(options: &Options) -> Result<()> {
    report::wants_a_disk()?;
    let mut plan = Plan::of(options);
    plan.turn *= 2;
    let keys = if options.quick { KEYS / 10 } else { KEYS };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let folder = tempfile::tempdir()?;
    let mut figures = Vec::new();
    if options.wants("peers") || part_of_peers(options).is_some() {
        let part = part_of_peers(options);
        runtime.block_on(peers(folder.path(), &plan, keys, part, &mut figures))?;
    }
    if options.wants("layers") {
        runtime.block_on(layers(&plan, &mut figures))?;
    }
    if options.wants("watch") {
        figures.push(watchers(&runtime, &folder.path().join("sinew watched"))?);
    }
    if options.wants("open") {
        figures.extend(opening(&folder.path().join("sinew killed"), options)?);
    }
    let conditions = format!(
        "{keys} keys of 40 B and values of 200 B to begin with ({FEW_KEYS} for layers over etcd and PostgreSQL); a transaction \
         checks 1 or 2 keys and puts 2 to 4, durable before the answer; {}; committers, keys; own log + map checks and writes the \
         same in a map in memory, and the log alone gets records of the same size",
        plan.text(),
    );
    report::print("kv", &conditions, &figures, options)
}

/// The one load of the part `peers` that is asked for.
fn part_of_peers(options: &Options) -> Option<&str> {
    options.only.as_deref()?.strip_prefix("peers-")
}

/// The embedded store beside others.
async fn peers(
    folder: &Path,
    plan: &Plan,
    keys: u64,
    part: Option<&str>,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let stores: Vec<Arc<dyn Store>> = vec![
        Arc::new(OverKv::embedded(&folder.join("sinew"))?),
        Arc::new(peers::Redb::open(&folder.join("redb"))?),
        Arc::new(peers::Sqlite::open(&folder.join("sqlite"))?),
        Arc::new(external::Etcd::start(4).await?),
        Arc::new(bound::Bound::open(&folder.join("bound"))?),
        Arc::new(LogOnly::open(&folder.join("log"))?),
    ];
    for store in &stores {
        load(store, keys).await.with_context(|| store.name())?;
    }
    let pairs: Vec<(usize, usize)> = (1..stores.len()).map(|peer| (0, peer)).collect();
    commits(plan, &stores, keys, part, &pairs, figures).await?;
    if part.is_some_and(|part| part != "gets") {
        return Ok(());
    }
    // What was written goes where it is to stay, and runs are merged.
    tokio::time::sleep(Duration::from_secs(10)).await;
    gets(&stores, plan, keys, figures).await
}

/// Sinew's stores over etcd and PostgreSQL beside clients of those.
async fn layers(plan: &Plan, figures: &mut Vec<Figure>) -> Result<()> {
    let sets: [Vec<Arc<dyn Store>>; 2] = [
        vec![
            Arc::new(external::over_etcd().await?),
            Arc::new(external::Etcd::start(1).await?),
        ],
        vec![
            Arc::new(external::over_postgres().await?),
            Arc::new(external::Postgres::start().await?),
        ],
    ];
    for stores in sets {
        for store in &stores {
            load(store, FEW_KEYS).await.with_context(|| store.name())?;
        }
        commits(plan, &stores, FEW_KEYS, None, BESIDE, figures).await?;
        for readers in [1, 64] {
            let sides: Vec<Side> = stores.iter().map(|store| reader(store, FEW_KEYS)).collect();
            let load = format!("gets {readers}");
            measure::alternate(plan, &load, readers, &sides, BESIDE, figures).await?;
        }
    }
    Ok(())
}

async fn commits(
    plan: &Plan,
    stores: &[Arc<dyn Store>],
    keys: u64,
    part: Option<&str>,
    pairs: &[(usize, usize)],
    figures: &mut Vec<Figure>,
) -> Result<()> {
    for committers in COMMITTERS {
        for place in ["random", "local"] {
            if part.is_some_and(|part| part != format!("{committers}-{place}")) {
                continue;
            }
            let committer = |store| committer(store, keys, place == "local");
            let sides: Vec<Side> = stores.iter().map(committer).collect();
            let load = format!("commits {committers} {place}");
            measure::alternate(plan, &load, committers, &sides, pairs, figures).await?;
        }
    }
    Ok(())
}

fn committer(store: &Arc<dyn Store>, keys: u64, local: bool) -> Side {
    let of = Arc::clone(store);
    let work = move |seed| -> Work {
        let (store, mut random) = (Arc::clone(&of), Random(seed));
        let mut near = random.below(keys);
        Box::new(move || {
            let transaction = transaction(&mut random, keys, local.then_some(&mut near));
            let store = Arc::clone(&store);
            Box::pin(async move { store.commit(transaction).await })
        })
    };
    Side::new(store.name(), store.durability(), store.server(), work)
}

fn reader(store: &Arc<dyn Store>, keys: u64) -> Side {
    let of = Arc::clone(store);
    let work = move |seed| -> Work {
        let (store, mut random) = (Arc::clone(&of), Random(seed));
        Box::new(move || {
            let (store, key) = (Arc::clone(&store), key(random.below(keys)));
            Box::pin(async move {
                ensure!(store.get(&key).await?, "a key is lost");
                Ok(())
            })
        })
    };
    Side::new(store.name(), "", store.server(), work)
}

async fn load(store: &Arc<dyn Store>, keys: u64) -> Result<()> {
    const TOGETHER: u64 = 16;
    const EACH: u64 = 50;
    let mut running = JoinSet::new();
    for worker in 0..TOGETHER {
        let store = Arc::clone(store);
        running.spawn(async move {
            for first in (worker * EACH..keys).step_by((TOGETHER * EACH) as usize) {
                let puts = (first..keys.min(first + EACH)).map(|n| (key(n), vec![1; 200]));
                let (checks, puts) = (Vec::new(), puts.collect());
                store.commit(Transaction { checks, puts }).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(worker) = running.join_next().await {
        worker??;
    }
    Ok(())
}

fn key(number: u64) -> Vec<u8> {
    format!("key/{number:036}").into_bytes()
}

fn transaction(random: &mut Random, keys: u64, near: Option<&mut u64>) -> Transaction {
    let mut checks = vec![(
        format!("absent/{:033}", random.below(keys)).into_bytes(),
        false,
    )];
    let count = 2 + random.below(3);
    let mut numbers: Vec<u64> = match near {
        // One after the other.
        Some(next) => {
            *next += count;
            (*next - count..*next).map(|n| n % keys).collect()
        }
        None => (0..count).map(|_| random.below(keys)).collect(),
    };
    if random.below(2) == 0 {
        checks.push((key(numbers[0]), true));
    }
    numbers.sort_unstable();
    numbers.dedup();
    Transaction {
        checks,
        puts: numbers
            .into_iter()
            .map(|n| (key(n), vec![2; 200]))
            .collect(),
    }
}

/// Gets of random keys by one reader, nothing else going on. Without a task's overhead, which counts here.
async fn gets(
    stores: &[Arc<dyn Store>],
    plan: &Plan,
    keys: u64,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let stores: Vec<_> = stores.iter().filter(|store| store.has_gets()).collect();
    let figure = |store: &&Arc<dyn Store>| Figure::new("gets, idle", store.name(), "1/s");
    let mut collected: Vec<Figure> = stores.iter().map(figure).collect();
    for round in 0..plan.rounds as u64 {
        for (store, figure) in stores.iter().zip(&mut collected) {
            let mut random = Random(round + 1);
            let (begin, mut count) = (Instant::now(), 0_u64);
            while begin.elapsed() < plan.turn / 4 {
                for _ in 0..100 {
                    let found = store.get(&key(random.below(keys))).await?;
                    ensure!(found, "a key is lost");
                }
                count += 100;
            }
            let rate = count as f64 / begin.elapsed().as_secs_f64();
            figure.samples.push(rate);
        }
    }
    let ratios: Vec<Figure> = collected[1..]
        .iter()
        .map(|peer| ratio(&collected[0], peer))
        .collect();
    figures.extend(ratios.into_iter().chain(collected));
    Ok(())
}

/// From the call that commits to the moment that a watcher has it, for each of 1,000 watchers.
fn watchers(runtime: &Runtime, folder: &Path) -> Result<Figure> {
    const WATCHERS: usize = 1000;
    const COMMITS: usize = 50;
    let samples = runtime.block_on(async {
        let store = OverKv::embedded(folder)?;
        let (told, mut tells) = tokio::sync::mpsc::channel(WATCHERS);
        let mut running = JoinSet::new();
        for _ in 0..WATCHERS {
            let (mut watch, told) = (store.watch().await?, told.clone());
            running.spawn(async move {
                while watch.next().await.is_ok() {
                    if told.send(Instant::now()).await.is_err() {
                        return;
                    }
                }
            });
        }
        let mut p99 = Vec::new();
        for n in 0..COMMITS as u64 {
            let begin = Instant::now();
            let puts = vec![(format!("watched/{n}").into_bytes(), vec![3; 200])];
            let checks = Vec::new();
            store.commit(Transaction { checks, puts }).await?;
            let mut times = Vec::new();
            for _ in 0..WATCHERS {
                let at = tells.recv().await.context("a watcher has ended")?;
                times.push((at - begin).as_secs_f64() * 1e3);
            }
            p99.push(quantile(&times, 0.99));
        }
        running.shutdown().await;
        anyhow::Ok(p99)
    })?;
    let figure = Figure::new("commit to 1000 watchers, p99", "sinew", "ms");
    Ok(figure.note(stores::SYNCED).with(samples))
}

/// Fills a store in a process of its own, kills that in the middle of writing, and opens the store.
fn opening(folder: &Path, options: &Options) -> Result<Vec<Figure>> {
    let mib: u64 = match std::env::var("SINEW_BENCH_STORE_MIB") {
        Ok(text) => text.parse().context("SINEW_BENCH_STORE_MIB is a number")?,
        Err(_) if options.quick => 256,
        Err(_) => 10 << 10,
    };
    let mut child = Command::new(std::env::current_exe()?)
        .args(["kv-fill", &folder.to_string_lossy(), &mib.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let stdout = child.stdout.take().context("its output is piped")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
    // It goes on writing.
    std::thread::sleep(Duration::from_millis(700));
    child.kill()?;
    child.wait()?;
    ensure!(line.trim() == "full", "the filling process ended early");
    let begin = Instant::now();
    let store = OverKv::embedded(folder)?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    drop(store);
    let bytes = bytes_of(folder)? as f64 / f64::from(1 << 20);
    let figure = |metric: &str, unit, sample| Figure::new(metric, "sinew", unit).with(vec![sample]);
    Ok(vec![
        figure("store when killed", "MiB", bytes),
        figure("open after kill -9", "ms", took),
    ])
}

fn bytes_of(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() {
            bytes_of(&entry.path())?
        } else {
            entry.metadata()?.len()
        };
    }
    Ok(bytes)
}

/// The process that is killed: `sinew-bench kv-fill FOLDER MIB`.
pub(crate) fn fill(folder: &str, mib: &str) -> Result<()> {
    let mib: u64 = mib.parse()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let store: Arc<dyn Store> = Arc::new(OverKv::embedded(Path::new(folder))?);
    let keys = mib * (1 << 20) / 260;
    runtime.block_on(async {
        // Eight at a time, in an order that is none.
        let mut running = JoinSet::new();
        for worker in 0..8_u64 {
            let store = Arc::clone(&store);
            running.spawn(async move {
                for first in (worker * 500..keys).step_by(8 * 500) {
                    // A permutation: the number is odd and no divisor of the count matters.
                    let numbers = (first..keys.min(first + 500))
                        .map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                    let puts = numbers.map(|n| (key(n), vec![1; 200]));
                    let checks = Vec::new();
                    let puts = puts.collect();
                    store.commit(Transaction { checks, puts }).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(worker) = running.join_next().await {
            worker??;
        }
        println!("full");
        let mut random = Random(1);
        loop {
            store.commit(transaction(&mut random, keys, None)).await?;
        }
    })
}
