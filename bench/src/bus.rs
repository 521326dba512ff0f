//! The embedded bus beside others: publish → durable, and publish → delivered.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    Options,
    report::{self, Figure, quantile, ratio},
};

mod nats;
mod redis;
mod sinew;

/// What is measured. Each keeps its data in a folder of its own on the same disk.
#[async_trait]
trait Subject: Send + Sync {
    fn name(&self) -> &'static str;

    /// What an answer to a publish means.
    fn durability(&self) -> &'static str;

    /// A place for messages, new in each round; answers what publishes into it.
    async fn stream(&self, name: &str) -> Result<Arc<dyn Stream>>;
}

#[async_trait]
trait Stream: Send + Sync {
    /// Answers when all are as durable as the subject makes them.
    async fn publish(&self, payloads: Vec<Bytes>) -> Result<()>;

    /// Takes messages and acknowledges them for ever. Nothing when it cannot.
    async fn consume(&self, seen: Arc<Seen>) -> Result<()>;
}

/// A way to load a stream.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    producers: usize,
    at_once: usize,
    bytes: usize,
}

const LOADS: [Load; 5] = [
    load("1x1 200B", 1, 1, 200),
    load("64x1 200B", 64, 1, 200),
    load("64x10 200B", 64, 10, 200),
    load("1x1 4KB", 1, 1, 4096),
    load("64x1 4KB", 64, 1, 4096),
];

const fn load(name: &'static str, producers: usize, at_once: usize, bytes: usize) -> Load {
    Load {
        name,
        producers,
        at_once,
        bytes,
    }
}

/// What a consumer has seen: how long ago each message was handed to its producer's call.
struct Seen {
    start: Instant,
    count: AtomicU64,
    latencies_us: Mutex<Vec<f64>>,
}

impl Seen {
    fn new(start: Instant) -> Self {
        Self {
            start,
            count: AtomicU64::new(0),
            latencies_us: Mutex::default(),
        }
    }

    fn stamp(&self, bytes: usize) -> Bytes {
        let mut payload = vec![b'x'; bytes];
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        payload[..8].copy_from_slice(&now.to_le_bytes());
        payload.into()
    }

    fn note<'a>(&self, payloads: impl Iterator<Item = &'a [u8]>) {
        let now = self.start.elapsed().as_nanos() as f64;
        let mut latencies = self
            .latencies_us
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for payload in payloads {
            let stamp = payload
                .first_chunk()
                .map_or(0, |at| u64::from_le_bytes(*at));
            latencies.push((now - stamp as f64) / 1000.0);
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One round's results.
#[derive(Default)]
struct Round {
    published: f64,
    call_p50: f64,
    call_p99: f64,
    delivered: f64,
    delivered_p50: f64,
    delivered_p99: f64,
}

async fn round(stream: Arc<dyn Stream>, load: Load, time: Duration) -> Result<Round> {
    let seen = Arc::new(Seen::new(Instant::now()));
    let consumer = {
        let (stream, seen) = (Arc::clone(&stream), Arc::clone(&seen));
        tokio::spawn(async move { stream.consume(seen).await })
    };
    let producers: Vec<_> = (0..load.producers)
        .map(|_| {
            let (stream, seen) = (Arc::clone(&stream), Arc::clone(&seen));
            tokio::spawn(async move {
                let mut calls_us = Vec::new();
                while seen.start.elapsed() < time {
                    let payloads = (0..load.at_once).map(|_| seen.stamp(load.bytes));
                    let start = Instant::now();
                    stream.publish(payloads.collect()).await?;
                    calls_us.push(start.elapsed().as_secs_f64() * 1e6);
                }
                Ok::<_, anyhow::Error>(calls_us)
            })
        })
        .collect();
    let mut calls = Vec::new();
    for producer in producers {
        calls.extend(producer.await??);
    }
    let elapsed = seen.start.elapsed().as_secs_f64();
    let delivered = seen.count.load(Ordering::Relaxed) as f64 / elapsed;
    consumer.abort();
    if let Ok(Err(error)) = consumer.await {
        return Err(error.context("the consumer failed"));
    }
    let latencies = seen
        .latencies_us
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let of = |samples: &[f64], q| {
        if samples.is_empty() {
            0.0
        } else {
            quantile(samples, q)
        }
    };
    Ok(Round {
        published: (calls.len() * load.at_once) as f64 / elapsed,
        call_p50: of(&calls, 0.5),
        call_p99: of(&calls, 0.99),
        delivered,
        delivered_p50: of(&latencies, 0.5),
        delivered_p99: of(&latencies, 0.99),
    })
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no runtime")?;
    runtime.block_on(measure(options))
}

async fn measure(options: &Options) -> Result<()> {
    let (rounds, time) = if options.quick {
        (1, Duration::from_millis(1500))
    } else {
        (5, Duration::from_secs(4))
    };
    let subjects: Vec<Box<dyn Subject>> = vec![
        Box::new(sinew::Embedded::start()?),
        Box::new(sinew::LogAlone::start()?),
        Box::new(redis::Redis::start().await?),
        Box::new(nats::Nats::start(true).await?),
        Box::new(nats::Nats::start(false).await?),
    ];
    let mut figures: Vec<Figure> = Vec::new();
    for (index, load) in LOADS.into_iter().enumerate() {
        for n in 0..rounds {
            for subject in &subjects {
                let stream = subject.stream(&format!("bench-{index}-{n}")).await;
                let stream = stream.with_context(|| subject.name())?;
                let round = round(stream, load, time).await;
                let round = round.with_context(|| subject.name())?;
                let mut add = |metric: &str, unit, sample| {
                    let metric = format!("{metric}, {}", load.name);
                    add(&mut figures, &metric, subject.name(), unit, sample);
                };
                add("published", "1/s", round.published);
                add("call p50", "µs", round.call_p50);
                add("call p99", "µs", round.call_p99);
                if round.delivered > 0.0 {
                    add("delivered", "1/s", round.delivered);
                    add("delivered p50", "µs", round.delivered_p50);
                    add("delivered p99", "µs", round.delivered_p99);
                }
            }
        }
    }
    let ratios: Vec<Figure> = LOADS
        .iter()
        .flat_map(|load| ratios(&figures, &format!("published, {}", load.name)))
        .collect();
    figures.extend(ratios);
    let conditions = conditions(rounds, time, &subjects);
    report::print("bus", &conditions, &figures, options)?;
    println!(
        "\nleft out: RabbitMQ (quorum queues) and Kafka: no client of theirs is part of this bench"
    );
    Ok(())
}

fn add(figures: &mut Vec<Figure>, metric: &str, subject: &str, unit: &'static str, sample: f64) {
    let known = figures
        .iter_mut()
        .find(|figure| figure.metric == metric && figure.subject == subject);
    match known {
        Some(figure) => figure.samples.push(sample),
        None => figures.push(Figure::new(metric, subject, unit).with(vec![sample])),
    }
}

/// Sinew over each peer.
fn ratios(figures: &[Figure], metric: &str) -> Vec<Figure> {
    let of = |figure: &&Figure| figure.metric == metric;
    let Some(own) = figures
        .iter()
        .filter(of)
        .find(|figure| figure.subject == sinew::NAME)
    else {
        return Vec::new();
    };
    let peers = figures.iter().filter(of);
    let peers = peers.filter(|figure| figure.subject != sinew::NAME);
    peers.map(|peer| ratio(own, peer)).collect()
}

fn conditions(rounds: usize, time: Duration, subjects: &[Box<dyn Subject>]) -> String {
    let durability: Vec<String> = subjects
        .iter()
        .map(|subject| format!("{}: {}", subject.name(), subject.durability()))
        .collect();
    format!(
        "producers x messages a call, size of a message; one consumer that acknowledges, {rounds} rounds of {time:?}, \
         a new stream each; {}",
        durability.join("; ")
    )
}
