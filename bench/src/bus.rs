//! Publish → durable, and publish → delivered. Parts: `peers`, the embedded bus beside others; `layers`, Sinew's buses over NATS and
//! RabbitMQ beside the clients that they stand on.

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
    process::{own_time, server_time},
    report::{self, Figure, quantile, ratio},
};

mod kafka;
mod nats;
mod rabbitmq;
mod redis;
mod sinew;

/// What is measured. Each keeps its data in a folder of its own on the same disk.
#[async_trait]
trait Subject: Send + Sync {
    fn name(&self) -> &'static str;

    /// What an answer to a publish means.
    fn durability(&self) -> &'static str;

    /// The process that leads its server.
    fn server(&self) -> Option<u32> {
        None
    }

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
    /// Whether somebody consumes meanwhile, which takes processor time from the publishing.
    is_consumed: bool,
}

const LOADS: [Load; 6] = [
    load("1x1 200B", 1, 1, 200),
    load("64x1 200B", 64, 1, 200),
    load("64x10 200B", 64, 10, 200),
    load("1x1 4KB", 1, 1, 4096),
    load("64x1 4KB", 64, 1, 4096),
    Load {
        is_consumed: false,
        ..load("64x1 200B, no consumer", 64, 1, 200)
    },
];

const fn load(name: &'static str, producers: usize, at_once: usize, bytes: usize) -> Load {
    Load {
        name,
        producers,
        at_once,
        bytes,
        is_consumed: true,
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
    /// Microseconds of processor time for each message, this process's and the server's.
    client: f64,
    server: f64,
}

async fn round(
    stream: Arc<dyn Stream>,
    server: Option<u32>,
    load: Load,
    time: Duration,
) -> Result<Round> {
    let server = || server.map_or(Ok(Duration::ZERO), server_time);
    let (own, others) = (own_time()?, server()?);
    let seen = Arc::new(Seen::new(Instant::now()));
    let consumer = {
        let (stream, seen) = (Arc::clone(&stream), Arc::clone(&seen));
        tokio::spawn(async move {
            match load.is_consumed {
                true => stream.consume(seen).await,
                false => Ok(()),
            }
        })
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
    let (own, others) = (own_time()? - own, server()? - others);
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
    let published = (calls.len() * load.at_once) as f64;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / published;
    Ok(Round {
        published: published / elapsed,
        call_p50: of(&calls, 0.5),
        call_p99: of(&calls, 0.99),
        delivered,
        delivered_p50: of(&latencies, 0.5),
        delivered_p99: of(&latencies, 0.99),
        client: each(own),
        server: each(others),
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

/// Those that are measured in the same rounds, and which of them over which.
struct Set {
    subjects: Vec<Box<dyn Subject>>,
    pairs: Vec<(&'static str, &'static str)>,
}

async fn peers() -> Result<Set> {
    let subjects: Vec<Box<dyn Subject>> = vec![
        Box::new(sinew::OverBus::embedded()?),
        Box::new(sinew::LogAlone::start()?),
        Box::new(redis::Redis::start().await?),
        Box::new(nats::Nats::start(true).await?),
        Box::new(nats::Nats::start(false).await?),
        Box::new(rabbitmq::RabbitMq::start("quorum").await?),
        Box::new(kafka::Kafka::start(true).await?),
        Box::new(kafka::Kafka::start(false).await?),
    ];
    let others = subjects[1..].iter();
    let pairs = others.map(|peer| (sinew::NAME, peer.name())).collect();
    Ok(Set { subjects, pairs })
}

async fn layers() -> Result<Vec<Set>> {
    let nats = nats::Nats::start(false).await?;
    let rabbitmq = rabbitmq::RabbitMq::start("stream").await?;
    let over_nats = sinew::over_nats(&nats.server)?;
    let over_rabbitmq = sinew::over_rabbitmq(&rabbitmq.server)?;
    Ok(vec![
        Set {
            pairs: vec![(over_nats.name(), nats.name())],
            subjects: vec![Box::new(over_nats), Box::new(nats)],
        },
        Set {
            pairs: vec![(over_rabbitmq.name(), rabbitmq.name())],
            subjects: vec![Box::new(over_rabbitmq), Box::new(rabbitmq)],
        },
    ])
}

async fn measure(options: &Options) -> Result<()> {
    report::wants_a_disk()?;
    let (rounds, time) = if options.quick {
        (2, Duration::from_millis(1500))
    } else {
        (5, Duration::from_secs(4))
    };
    let mut sets = Vec::new();
    if options.wants("peers") {
        sets.push(peers().await?);
    }
    if options.wants("layers") {
        sets.extend(layers().await?);
    }
    let mut figures: Vec<Figure> = Vec::new();
    for set in &sets {
        let mut of_set = Vec::new();
        for (index, load) in LOADS.into_iter().enumerate() {
            for n in 0..rounds {
                for subject in &set.subjects {
                    let name = format!("bench-{index}-{n}");
                    let round = one(&**subject, &name, load, time).await;
                    collect(&mut of_set, &**subject, load, &round?);
                }
            }
        }
        for (subject, peer) in &set.pairs {
            for load in LOADS {
                figures.extend(over(&of_set, "published", load, subject, peer));
                figures.extend(over(&of_set, "cpu", load, subject, peer));
            }
        }
        figures.extend(of_set);
    }
    let conditions = format!(
        "producers x messages a call, size of a message; one consumer that acknowledges unless said otherwise, {rounds} rounds of {time:?}, a new stream each",
    );
    report::print("bus", &conditions, &figures, options)
}

async fn one(subject: &dyn Subject, name: &str, load: Load, time: Duration) -> Result<Round> {
    let stream = subject.stream(name).await;
    let stream = stream.with_context(|| subject.name())?;
    let round = round(stream, subject.server(), load, time).await;
    round.with_context(|| subject.name())
}

fn collect(figures: &mut Vec<Figure>, subject: &dyn Subject, load: Load, round: &Round) {
    let mut add = |metric: &str, unit, sample| {
        let metric = format!("{metric}, {}", load.name);
        let known = figures
            .iter_mut()
            .find(|figure| figure.metric == metric && figure.subject == subject.name());
        match known {
            Some(figure) => figure.samples.push(sample),
            None => figures.push(
                Figure::new(metric, subject.name(), unit)
                    .note(subject.durability())
                    .with(vec![sample]),
            ),
        }
    };
    add("published", "1/s", round.published);
    add("call p50", "µs", round.call_p50);
    add("call p99", "µs", round.call_p99);
    add("cpu", "µs", round.client + round.server);
    add("cpu client", "µs", round.client);
    if round.server > 0.0 {
        add("cpu server", "µs", round.server);
    }
    if round.delivered > 0.0 {
        add("delivered", "1/s", round.delivered);
        add("delivered p50", "µs", round.delivered_p50);
        add("delivered p99", "µs", round.delivered_p99);
    }
}

/// The ratio of two subjects, when both were measured.
fn over(figures: &[Figure], metric: &str, load: Load, subject: &str, peer: &str) -> Option<Figure> {
    let metric = format!("{metric}, {}", load.name);
    let of = |name: &str| {
        let mut figures = figures.iter();
        figures.find(|figure| figure.metric == metric && figure.subject == name)
    };
    Some(ratio(of(subject)?, of(peer)?))
}
