//! The conformance suite of [`Cache`]: one case for each promise of the contract, run
//! against every engine.
//!
//! An engine's tests implement [`Harness`] and [`Subject`], and call [`run`] once for each [`Group`].
//! Cases that rest on something which the engine's [`Capability`] does not promise
//! are listed as such in the output.

#![expect(
    clippy::unwrap_used,
    reason = "this is test code that other crates' tests call"
)]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Cache, Capability};
use crate::suite::Promised;
use stand::Stand;

mod bounds;
mod concurrency;
mod contract;
mod lifetimes;
mod model;
mod stand;

/// How the suite opens the engine under test.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// A new, empty cache, with the least room that the engine can have, or with enough for some
    /// 100,000 small items.
    async fn create(&self, small: bool) -> Box<dyn Subject>;

    /// Whether [`Subject::pass`] moves a manual clock, so that no other time passes.
    fn time_is_manual(&self) -> bool;
}

/// One cache under test. Dropping it may delete its data.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The cache.
    fn cache(&self) -> Arc<dyn Cache>;

    /// Lets time pass for the lifetimes: moves the clock, or waits.
    async fn pass(&self, time: Duration);
}

/// A part of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Reads, writes, counters, limits.
    Contract,
    /// When items go by themselves.
    Lifetimes,
    /// Room and eviction.
    Bounds,
    /// Many tasks at once.
    Concurrency,
    /// Random histories, compared step by step with [`super::MemoryCache`].
    Model,
}

type Case = crate::suite::Case<Stand, Needs>;

/// What an engine must promise for a case to make sense.
#[derive(Clone, Copy, Debug)]
enum Needs {
    Nothing,
    ForgetsOnlyForRoom,
    WeighsItems,
    /// Both.
    KeepsAndWeighs,
}

impl Needs {
    fn met(self, capability: &Capability) -> bool {
        match self {
            Self::Nothing => true,
            Self::ForgetsOnlyForRoom => capability.forgets_only_for_room,
            Self::WeighsItems => capability.weighs_items,
            Self::KeepsAndWeighs => capability.forgets_only_for_room && capability.weighs_items,
        }
    }
}

/// `case!(function, Needs, "clause")`: a [`Case`] named after its function.
macro_rules! case {
    ($run:ident, $needs:ident, $clause:literal) => {
        $crate::cache::suite::Case {
            name: stringify!($run),
            clause: $clause,
            needs: $crate::cache::suite::Needs::$needs,
            run: |stand| Box::pin($run(stand)),
        }
    };
}
use case;

/// Runs the cases of one group, each on a cache of its own, and panics with the list of those that
/// failed. `SINEW_SUITE_CASE=name` in the environment runs only the cases whose name contains it.
/// Wants tokio's multi-thread runtime.
pub async fn run(group: Group, harness: Arc<dyn Harness>) {
    let cases = match group {
        Group::Contract => contract::cases(),
        Group::Lifetimes => lifetimes::cases(),
        Group::Bounds => bounds::cases(),
        Group::Concurrency => concurrency::cases(),
        Group::Model => model::cases(),
    };
    let stand = async || Stand::new(harness.clone()).await;
    crate::suite::run("cache", group, cases, stand, |stand, needs| {
        let capability = *stand.cache().capability();
        Promised::new(capability.engine, &capability, needs.met(&capability))
    })
    .await;
}
