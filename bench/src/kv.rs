//! Transactions beside other stores: durable before the answer, many committers.
//!
//! Each committer checks one or two keys and puts two to four (keys of 40 bytes, values of 200), waits
//! for the answer and goes on. redb and SQLite get what Sinew has: one thread that writes what waits
//! as one transaction.

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

use self::stores::{LogOnly, Sinew, Store, Transaction};
use crate::{
    Options,
    report::{self, Figure, quantile, ratio},
};

/// Keys that are there from the start.
const KEYS: u64 = 1_000_000;

/// How much is measured.
struct Plan {
    keys: u64,
    rounds: usize,
    turn: Duration,
    committers: &'static [usize],
    store_mib: u64,
}

impl Plan {
    fn of(options: &Options) -> Result<Self> {
        let store_mib = match std::env::var("SINEW_BENCH_STORE_MIB") {
            Ok(text) => text.parse().context("SINEW_BENCH_STORE_MIB is a number")?,
            Err(_) if options.quick => 256,
            Err(_) => 10 << 10,
        };
        Ok(if options.quick {
            Self {
                keys: KEYS / 4,
                rounds: 3,
                turn: Duration::from_secs(2),
                committers: &[1, 64, 1024],
                store_mib,
            }
        } else {
            Self {
                keys: KEYS,
                rounds: 7,
                turn: Duration::from_secs(4),
                committers: &[1, 64, 1024],
                store_mib,
            }
        })
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let plan = Plan::of(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let folder = tempfile::tempdir_in(".")?;
    let stores: Vec<Arc<dyn Store>> = vec![
        Arc::new(Sinew::open(&folder.path().join("sinew"))?),
        Arc::new(peers::Redb::open(&folder.path().join("redb"))?),
        Arc::new(peers::Sqlite::open(&folder.path().join("sqlite"))?),
        Arc::new(LogOnly::open(&folder.path().join("log"))?),
    ];
    for store in &stores {
        runtime.block_on(load(&**store, plan.keys))?;
    }
    let mut figures = Vec::new();
    for committers in plan.committers {
        for keys in ["random", "local"] {
            measure(&runtime, &stores, &plan, *committers, keys, &mut figures)?;
        }
    }
    gets(&runtime, &stores, &plan, &mut figures)?;
    figures.push(watchers(&runtime, &folder.path().join("sinew watched"))?);
    figures.extend(opening(
        &folder.path().join("sinew killed"),
        plan.store_mib,
    )?);
    let conditions = format!(
        "{} keys of 40 B and values of 200 B to begin with; a transaction checks 1 or 2 keys and puts 2 to 4, durable before \
         the answer; {} alternating turns of {} s; the log alone gets records of the same size; on the machine's own disk",
        plan.keys,
        plan.rounds,
        plan.turn.as_secs(),
    );
    report::print("kv", &conditions, &figures, options)
}

async fn load(store: &dyn Store, keys: u64) -> Result<()> {
    for first in (0..keys).step_by(500) {
        let puts = (first..keys.min(first + 500)).map(|n| (key(n), vec![1; 200]));
        let loaded = store.commit(Transaction {
            checks: Vec::new(),
            puts: puts.collect(),
        });
        loaded.await?;
    }
    Ok(())
}

fn key(number: u64) -> Vec<u8> {
    format!("key/{number:036}").into_bytes()
}

/// The name of a figure. There are some dozens, as long as the bench runs.
fn name(text: String) -> &'static str {
    text.leak()
}

/// A small generator of numbers (xorshift64*, Vigna 2014): the same for all stores.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % end
    }
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

/// What one turn of one store came to.
struct Turn {
    rate: f64,
    p50: f64,
    p99: f64,
    max: f64,
}

async fn turn(
    store: &Arc<dyn Store>,
    plan: &Plan,
    committers: usize,
    local: bool,
    seed: u64,
) -> Result<Turn> {
    let mut running = JoinSet::new();
    let (begin, time, keys) = (Instant::now(), plan.turn, plan.keys);
    for committer in 0..committers as u64 {
        let store = Arc::clone(store);
        running.spawn(async move {
            let mut random = Random(seed * 7919 + committer + 1);
            let mut near = random.below(keys);
            let mut times = Vec::new();
            while begin.elapsed() < time {
                let near = local.then_some(&mut near);
                let transaction = transaction(&mut random, keys, near);
                let before = Instant::now();
                store.commit(transaction).await?;
                times.push(before.elapsed().as_secs_f64() * 1e3);
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(one) = running.join_next().await {
        times.extend(one??);
    }
    ensure!(!times.is_empty(), "nothing was committed");
    Ok(Turn {
        rate: times.len() as f64 / begin.elapsed().as_secs_f64(),
        p50: quantile(&times, 0.5),
        p99: quantile(&times, 0.99),
        max: quantile(&times, 1.0),
    })
}

fn measure(
    runtime: &Runtime,
    stores: &[Arc<dyn Store>],
    plan: &Plan,
    committers: usize,
    keys: &str,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let figure = |metric: &str, subject: &str, unit| Figure {
        metric: name(format!("{metric}, {committers} {keys}")),
        subject: subject.into(),
        unit,
        samples: Vec::new(),
    };
    let mut collected: Vec<[Figure; 4]> = Vec::new();
    for store in stores {
        collected.push([
            figure("commits", store.name(), "1/s"),
            figure("p50", store.name(), "ms"),
            figure("p99", store.name(), "ms"),
            figure("max", store.name(), "ms"),
        ]);
    }
    for round in 0..plan.rounds {
        for (store, collected) in stores.iter().zip(&mut collected) {
            let seed = round as u64 * 64 + committers as u64;
            let turn = runtime.block_on(turn(store, plan, committers, keys == "local", seed))?;
            let samples = [turn.rate, turn.p50, turn.p99, turn.max];
            for (figure, sample) in collected.iter_mut().zip(samples) {
                figure.samples.push(sample);
            }
        }
    }
    for peer in 1..stores.len() {
        let ratio = ratio(&collected[0][0], &collected[peer][0]);
        figures.push(ratio);
    }
    figures.extend(collected.into_iter().flatten());
    Ok(())
}

/// Gets of random keys by one reader, nothing else going on.
fn gets(
    runtime: &Runtime,
    stores: &[Arc<dyn Store>],
    plan: &Plan,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let mut collected: Vec<Figure> = Vec::new();
    for store in stores.iter().filter(|store| store.has_gets()) {
        collected.push(Figure {
            metric: "gets, idle",
            subject: store.name().into(),
            unit: "1/s",
            samples: Vec::new(),
        });
    }
    // What was written goes where it is to stay.
    std::thread::sleep(Duration::from_secs(2));
    for round in 0..plan.rounds as u64 {
        let readable = stores.iter().filter(|store| store.has_gets());
        for (store, figure) in readable.zip(&mut collected) {
            let rate = runtime.block_on(async {
                let mut random = Random(round + 1);
                let (begin, mut count) = (Instant::now(), 0_u64);
                while begin.elapsed() < plan.turn / 4 {
                    for _ in 0..1000 {
                        ensure!(
                            store.get(&key(random.below(plan.keys))).await?,
                            "a key is lost"
                        );
                    }
                    count += 1000;
                }
                Ok(count as f64 / begin.elapsed().as_secs_f64())
            })?;
            figure.samples.push(rate);
        }
    }
    figures.extend(collected);
    Ok(())
}

/// From the call that commits to the moment that a watcher has it, for each of 1,000 watchers.
fn watchers(runtime: &Runtime, folder: &Path) -> Result<Figure> {
    const WATCHERS: usize = 1000;
    const COMMITS: usize = 50;
    let samples = runtime.block_on(async {
        let store = Sinew::open(folder)?;
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
    Ok(Figure {
        metric: "commit to 1000 watchers, p99",
        subject: "sinew".into(),
        unit: "ms",
        samples,
    })
}

/// Fills a store in a process of its own, kills that in the middle of writing, and opens the store.
fn opening(folder: &Path, mib: u64) -> Result<Vec<Figure>> {
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
    let store = Sinew::open(folder)?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    drop(store);
    let bytes = bytes_of(folder)? as f64 / f64::from(1 << 20);
    let figure = |metric, unit, sample| Figure {
        metric,
        subject: "sinew".into(),
        unit,
        samples: vec![sample],
    };
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
    let store: Arc<dyn Store> = Arc::new(Sinew::open(Path::new(folder))?);
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
