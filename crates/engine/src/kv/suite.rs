//! The conformance suite of [`Kv`]: one case for each promise of the contract, run against every engine.
//!
//! An engine's tests implement [`Harness`] and [`Subject`], and call [`run`] once for each
//! [`Group`]. Cases that rest on something which the engine's [`Capability`] does
//! not promise are listed as such in the output; where the contract says what such an engine answers
//! instead, a case checks that. The cases count commits: an engine whose revisions have gaps is asked
//! through an adapter that numbers its commits.

#![expect(
    clippy::unwrap_used,
    reason = "this is test code that other crates' tests call"
)]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Capability, Kv, Retention};
use crate::suite::Promised;
pub use linear::check_linearizable;
use stand::Stand;

mod compaction;
mod concurrency;
mod contract;
mod dense;
mod durability;
mod history;
mod leases;
mod linear;
mod model;
mod stand;
mod watches;

/// How the suite opens the engine under test.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// A new, empty store. `retention` is the engine's choice unless it is given.
    async fn create(&self, retention: Option<Retention>) -> Box<dyn Subject>;

    /// Whether [`Subject::pass`] moves a manual clock, so that no other time passes.
    fn time_is_manual(&self) -> bool;
}

/// One store under test. Dropping it may delete its data.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The open store.
    fn kv(&self) -> Arc<dyn Kv>;

    /// Closes the store and opens the same data again. Only asked of durable engines.
    async fn reopen(&mut self);

    /// Lets time pass for the leases: moves the clock, or waits.
    async fn pass(&self, time: Duration);
}

/// A part of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Reads, commits, conditions, limits.
    Contract,
    /// Snapshots, what is kept of the past, compaction.
    History,
    /// Watches.
    Watches,
    /// Leases.
    Leases,
    /// What a reopened store still knows.
    Durability,
    /// Many tasks at once: linearizability, serialisable transactions.
    Concurrency,
    /// Random histories, compared step by step with [`super::MemoryKv`].
    Model,
}

type Case = crate::suite::Case<Stand, Needs>;

/// What an engine must promise for a case to make sense.
#[derive(Clone, Copy, Debug)]
enum Needs {
    Nothing,
    Durable,
    HistoricalReads,
    NoHistoricalReads,
    DurableSnapshots,
}

impl Needs {
    fn met(self, capability: &Capability) -> bool {
        match self {
            Self::Nothing => true,
            Self::Durable => capability.durable,
            Self::HistoricalReads => capability.historical_reads,
            Self::NoHistoricalReads => !capability.historical_reads,
            Self::DurableSnapshots => capability.durable && capability.historical_reads,
        }
    }
}

/// `case!(function, Needs, "clause")`: a [`Case`] named after its function.
macro_rules! case {
    ($run:ident, $needs:ident, $clause:literal) => {
        $crate::kv::suite::Case {
            name: stringify!($run),
            clause: $clause,
            needs: $crate::kv::suite::Needs::$needs,
            run: |stand| Box::pin($run(stand)),
        }
    };
}
use case;

/// Runs the cases of one group, each on a store of its own, and panics with the list of those that
/// failed. `SINEW_SUITE_CASE=name` in the environment runs only the cases whose name contains it.
/// Wants tokio's multi-thread runtime.
pub async fn run(group: Group, harness: Arc<dyn Harness>) {
    let cases = match group {
        Group::Contract => contract::cases(),
        Group::History => [history::cases(), compaction::cases()].concat(),
        Group::Watches => watches::cases(),
        Group::Leases => leases::cases(),
        Group::Durability => durability::cases(),
        Group::Concurrency => [concurrency::cases(), linear::cases()].concat(),
        Group::Model => model::cases(),
    };
    let stand = async || Stand::new(harness.clone()).await;
    crate::suite::run("kv", group, cases, stand, |stand, needs| {
        let capability = *stand.kv().capability();
        Promised::new(capability.engine, &capability, needs.met(&capability))
    })
    .await;
}
