//! Latency at half of what goes through: what a proxy adds, and what changes of routes add to that.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    CONNECTIONS, UPSTREAM,
    h2load::{self, Paced},
    rig::{Layout, Rig, Subject},
};
use crate::{
    http::Connection,
    node::Node,
    report::{Figure, ratio},
    wrk,
};

/// Connections over which the paced load comes.
const PACED: u32 = 32;
/// Changes of the routes in a second.
const CHANGES: u32 = 50;

/// Half of what goes through the slowest of them.
fn half_load(layout: Layout, subjects: &[Subject<'_>]) -> Result<u32> {
    let mut least = f64::MAX;
    for subject in subjects {
        let load = wrk::run(
            layout.load,
            (layout.threads, CONNECTIONS),
            1,
            &url(subject.ports.http),
        )?;
        least = least.min(load.per_second);
    }
    Ok(least as u32 / 2)
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/128")
}

/// What each of them adds to the way to the upstream.
pub(super) fn added(rounds: usize, seconds: u32, log: &Path) -> Result<(Vec<Figure>, String)> {
    let layout = Layout::ONE;
    let rig = Rig::start(layout)?;
    let subjects = rig.subjects();
    let rate = half_load(layout, &subjects)?;
    let paced = |port: u16| h2load::paced(layout.load, (PACED, rate), seconds, &url(port), log);
    let mut direct = [
        Figure::new("p50 half load", "direct", "µs"),
        Figure::new("p99 half load", "direct", "µs"),
    ];
    let mut added: Vec<[Figure; 2]> = subjects
        .iter()
        .map(|subject| {
            [
                Figure::new("added p50 half load", subject.name(), "µs"),
                Figure::new("added p99 half load", subject.name(), "µs"),
            ]
        })
        .collect();
    for round in 0..=rounds {
        let base = paced(UPSTREAM)?;
        for place in 0..subjects.len() {
            let subject = (place + round) % subjects.len();
            let with = paced(subjects[subject].ports.http)?;
            ensure!(
                with.per_second > f64::from(rate) * 0.9,
                "{} does not keep up with {rate}/s: {}/s",
                subjects[subject].name(),
                with.per_second
            );
            if round > 0 {
                let [p50, p99] = &mut added[subject];
                p50.samples.push(with.p50_us - base.p50_us);
                p99.samples.push(with.p99_us - base.p99_us);
            }
        }
        if round > 0 {
            direct[0].samples.push(base.p50_us);
            direct[1].samples.push(base.p99_us);
        }
    }
    let mut figures: Vec<Figure> = direct.into();
    // Of the medians no ratio: what is added is less than its spread.
    for peer in 1..added.len() {
        figures.push(ratio(&added[0][1], &added[peer][1]));
    }
    figures.extend(added.into_iter().flatten());
    Ok((
        figures,
        format!("half load is {rate} requests/s over {PACED} connections"),
    ))
}

/// Sinew's latency with and without changes of its routes, turn by turn.
pub(super) fn under_changes(rounds: usize, seconds: u32, log: &Path) -> Result<Vec<Figure>> {
    let layout = Layout::ONE;
    let rig = Rig::start(layout)?;
    let subject = rig.subjects()[0];
    let rate = half_load(layout, &[subject])?;
    let paced = || {
        h2load::paced(
            layout.load,
            (PACED, rate),
            seconds,
            &url(subject.ports.http),
            log,
        )
    };
    let metrics = ["p50 half load", "p99 half load"];
    let figures = |name: &str| metrics.map(|metric| Figure::new(metric, name, "µs"));
    let (mut with, mut without) = (figures("sinew changing"), figures("sinew"));
    let mut made = Figure::new("route changes", "sinew changing", "1/s");
    for round in 0..=rounds {
        // Either comes first in every other round.
        for changing in [round % 2 == 0, round % 2 == 1] {
            let (seen, changes) = if changing {
                while_changing(&rig.node, paced)?
            } else {
                (paced()?, 0.0)
            };
            if round == 0 {
                continue;
            }
            let to = if changing {
                made.samples.push(changes);
                &mut with
            } else {
                &mut without
            };
            to[0].samples.push(seen.p50_us);
            to[1].samples.push(seen.p99_us);
        }
    }
    let ratios = [ratio(&with[0], &without[0]), ratio(&with[1], &without[1])];
    Ok(with
        .into_iter()
        .chain(without)
        .chain(ratios)
        .chain([made])
        .collect())
}

/// Runs a load while routes are stored, one change after the other at their times; and how many a second were.
fn while_changing(node: &Node, load: impl FnOnce() -> Result<Paced>) -> Result<(Paced, f64)> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let changing = scope.spawn(|| -> Result<f64> {
            let mut api = Connection::open(node.control_port)?;
            let begin = Instant::now();
            let mut changes = 0;
            while !stop.load(Ordering::Relaxed) {
                let due = Duration::from_secs(1) / CHANGES * changes;
                thread::sleep(due.saturating_sub(begin.elapsed()));
                let route =
                    format!("{{\"path\":\"/changing/{changes}/**\",\"service\":\"upstream\"}}");
                node.set_route(&mut api, "changing", &route)?;
                changes += 1;
            }
            Ok(f64::from(changes) / begin.elapsed().as_secs_f64())
        });
        let seen = load();
        stop.store(true, Ordering::Relaxed);
        let changes = changing
            .join()
            .ok()
            .context("the changing thread panicked")??;
        Ok((seen?, changes))
    })
}
