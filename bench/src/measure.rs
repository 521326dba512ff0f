//! What most benches do: several sides do the same, one after the other in each round, with so many tasks.
//!
//! Turns alternate, so that what else the machine does in a round touches all sides; ratios are taken round by round.
//! Processor time is that of this process, which is the client, and that of the server's processes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::BoxFuture;
use tokio::task::JoinSet;

use crate::{
    Options,
    process::{own_time, server_time},
    report::{Figure, ratio},
};

/// What one task does again and again.
pub(crate) type Work = Box<dyn FnMut() -> BoxFuture<'static, Result<()>> + Send>;

/// One of those that do the same.
pub(crate) struct Side {
    pub(crate) name: String,
    /// How durable what it did is.
    pub(crate) durability: &'static str,
    /// The process that leads its server, when it has one.
    pub(crate) server: Option<u32>,
    /// Makes a task's work. Different numbers make it ask for different things; each side gets the same ones.
    pub(crate) work: Box<dyn Fn(u64) -> Work>,
}

impl Side {
    pub(crate) fn new(
        name: impl Into<String>,
        durability: &'static str,
        server: Option<u32>,
        work: impl Fn(u64) -> Work + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            durability,
            server,
            work: Box::new(work),
        }
    }
}

/// How long it is measured.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) turn: Duration,
}

impl Plan {
    /// As long as it must, or just for a look.
    pub(crate) fn of(options: &Options) -> Self {
        let (rounds, turn) = if options.quick {
            (3, Duration::from_millis(500))
        } else {
            (9, Duration::from_secs(2))
        };
        Self { rounds, turn }
    }

    pub(crate) fn text(&self) -> String {
        format!(
            "{} rounds of alternating turns of {:?}",
            self.rounds, self.turn
        )
    }
}

/// What one turn came to.
pub(crate) struct Turn {
    /// Per second.
    pub(crate) rate: f64,
    /// Milliseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
    /// Microseconds per operation.
    pub(crate) client: f64,
    pub(crate) server: f64,
}

/// Measures each side with so many tasks, as `load`; ratios of each pair `(side, its peer)`.
pub(crate) async fn alternate(
    plan: &Plan,
    load: &str,
    tasks: usize,
    sides: &[Side],
    pairs: &[(usize, usize)],
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let mut collected: Vec<Vec<Figure>> = sides.iter().map(|side| blank(side, load)).collect();
    for round in 0..plan.rounds {
        // Who is first has a cache or a disk that others have not warmed: each is, in turn.
        for place in 0..sides.len() {
            let place = (place + round) % sides.len();
            let side = &sides[place];
            let turn = turn(side, plan.turn, tasks, round as u64).await;
            let turn = turn.with_context(|| format!("{}, {load}", side.name))?;
            let samples = [
                turn.rate,
                turn.p50,
                turn.p99,
                turn.max,
                turn.client,
                turn.server,
                turn.client + turn.server,
            ];
            for (figure, sample) in collected[place].iter_mut().zip(samples) {
                figure.samples.push(sample);
            }
        }
    }
    for (side, peer) in pairs {
        for metric in [RATE, CPU] {
            let (side, peer) = (&collected[*side][metric], &collected[*peer][metric]);
            // Few operations may take less than the clock ticks.
            if peer.samples.iter().all(|sample| *sample > 0.0) {
                figures.push(ratio(side, peer));
            }
        }
    }
    let has_server = |figure: &Figure| figure.samples.iter().any(|sample| *sample > 0.0);
    figures.extend(collected.into_iter().flatten().filter(has_server));
    Ok(())
}

const RATE: usize = 0;
const CPU: usize = 6;

fn blank(side: &Side, load: &str) -> Vec<Figure> {
    let figure = |metric: &str, unit| {
        Figure::new(format!("{metric}, {load}"), &side.name, unit).note(side.durability)
    };
    vec![
        figure("done", "1/s"),
        figure("p50", "ms"),
        figure("p99", "ms"),
        figure("max", "ms"),
        figure("cpu client", "µs"),
        figure("cpu server", "µs"),
        figure("cpu", "µs"),
    ]
}

async fn turn(side: &Side, time: Duration, tasks: usize, round: u64) -> Result<Turn> {
    // What the turn before has left to do in the background.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let work: Vec<Work> = (0..tasks as u64)
        .map(|task| (side.work)(round * 7919 + task + 1))
        .collect();
    let server = |side: &Side| side.server.map_or(Ok(Duration::ZERO), server_time);
    let (own, others) = (own_time()?, server(side)?);
    let begin = Instant::now();
    let mut running = JoinSet::new();
    for mut work in work {
        running.spawn(async move {
            let mut times = Vec::new();
            while begin.elapsed() < time {
                let before = Instant::now();
                work().await?;
                times.push(before.elapsed().as_secs_f64() * 1e3);
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(one) = running.join_next().await {
        times.extend(one??);
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let (own, others) = (own_time()? - own, server(side)? - others);
    ensure!(!times.is_empty(), "nothing was done");
    times.sort_unstable_by(f64::total_cmp);
    let at = |q: f64| times[((q * times.len() as f64) as usize).min(times.len() - 1)];
    let each = |time: Duration| time.as_secs_f64() * 1e6 / times.len() as f64;
    Ok(Turn {
        rate: times.len() as f64 / elapsed,
        p50: at(0.5),
        p99: at(0.99),
        max: at(1.0),
        client: each(own),
        server: each(others),
    })
}

/// A small generator of numbers (xorshift64*, Vigna 2014): the same for all sides.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % end
    }
}
