//! What connections cost that wait.

use std::{thread, time::Duration};

use anyhow::Result;

use super::rig::{Layout, Rig, Subject};
use crate::{
    http::Connection,
    report::{Figure, ratio},
};

const CONNECTIONS: usize = 10_000;

/// Memory for each of many connections that had a request and wait for the next.
pub(super) fn measure(rounds: usize) -> Result<Vec<Figure>> {
    let mut each: Vec<Figure> = Vec::new();
    let mut whole: Vec<Figure> = Vec::new();
    for _ in 0..rounds {
        // Anew each time: memory that once was needed is not given back whole.
        let rig = Rig::start(Layout::ROOMY)?;
        for (index, subject) in rig.subjects().iter().enumerate() {
            let (per_connection, all) = held(subject)?;
            if each.len() == index {
                let figure =
                    |metric: &str, unit| Figure::new(metric.to_owned(), subject.name(), unit);
                each.push(figure("memory per idle connection", "kB"));
                whole.push(figure("memory with 10,000 idle", "MB"));
            }
            each[index].samples.push(per_connection / 1e3);
            whole[index].samples.push(all / 1e6);
        }
    }
    let ratios: Vec<Figure> = each[1..].iter().map(|peer| ratio(&each[0], peer)).collect();
    Ok(each.into_iter().chain(ratios).chain(whole).collect())
}

/// Bytes for each connection more, and bytes in all.
fn held(subject: &Subject<'_>) -> Result<(f64, f64)> {
    let open = |count: usize| -> Result<Vec<Connection>> {
        let connection = |_| {
            let mut connection = Connection::open(subject.ports.http)?;
            connection.send("GET", "/128", None, "")?;
            Ok(connection)
        };
        (0..count).map(connection).collect()
    };
    // What a first request needs once.
    drop(open(10)?);
    let before = subject.process.memory()?;
    let held = open(CONNECTIONS)?;
    thread::sleep(Duration::from_secs(1));
    let with = subject.process.memory()?;
    drop(held);
    let more = with.saturating_sub(before) as f64;
    Ok((more / CONNECTIONS as f64, with as f64))
}
