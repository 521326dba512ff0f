//! The conformance suite of [`Bus`]: one case for each promise of the contract, run
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

use sinew_core::Timestamp;

use super::{Bus, Capability};
use crate::suite::Promised;
use stand::Stand;

mod concurrency;
mod deadletters;
mod deliveries;
mod durability;
mod publishing;
mod replay;
mod retention;
mod schedule;
mod stand;
mod topics;

/// How the suite opens the engine under test.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// A new, empty bus.
    async fn create(&self) -> Box<dyn Subject>;

    /// Whether [`Subject::pass`] moves a manual clock, so that no other time passes.
    fn time_is_manual(&self) -> bool;
}

/// One bus under test. Dropping it may delete its data.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The open bus.
    fn bus(&self) -> Arc<dyn Bus>;

    /// Ends the bus and opens the same data again. Only asked of durable engines.
    async fn reopen(&mut self, end: End);

    /// Lets time pass, on both the wall clock and the monotonic one: moves the clock, or waits.
    async fn pass(&self, time: Duration);

    /// The wall-clock time of the engine.
    fn now(&self) -> Timestamp;
}

/// How a bus ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is closed.
    Close,
    /// It stops in the middle of whatever it does, as if its process had been killed.
    Kill,
}

/// A part of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Topics and what is published into them.
    Publishing,
    /// Groups, acks, redelivery, order, dead letters.
    Delivery,
    /// Due times.
    Schedule,
    /// Seeking and reading.
    Replay,
    /// What goes when.
    Retention,
    /// What a reopened bus still knows.
    Durability,
    /// Many tasks at once.
    Concurrency,
}

type Case = crate::suite::Case<Stand, Needs>;

/// What an engine must promise for a case to make sense.
#[derive(Clone, Copy, Debug)]
enum Needs {
    Nothing,
    Durable,
    DurableDelay,
    DurableDeduplication,
    Delay,
    NoDelay,
    Deduplication,
    Replay,
    AtomicPublish,
    KeepsUnsettled,
    ExactRetention,
    FixedRetention,
}

impl Needs {
    fn met(self, capability: &Capability) -> bool {
        match self {
            Self::Nothing => true,
            Self::Durable => capability.durable,
            Self::DurableDelay => capability.durable && capability.delay,
            Self::DurableDeduplication => capability.durable && capability.deduplication,
            Self::Delay => capability.delay,
            Self::NoDelay => !capability.delay,
            Self::Deduplication => capability.deduplication,
            Self::Replay => capability.replay,
            Self::AtomicPublish => capability.atomic_publish,
            Self::KeepsUnsettled => capability.keeps_unsettled,
            Self::ExactRetention => capability.exact_retention,
            Self::FixedRetention => !capability.exact_retention,
        }
    }
}

/// `case!(function, Needs, "clause")`: a [`Case`] named after its function.
macro_rules! case {
    ($run:ident, $needs:ident, $clause:literal) => {
        $crate::bus::suite::Case {
            name: stringify!($run),
            clause: $clause,
            needs: $crate::bus::suite::Needs::$needs,
            run: |stand| Box::pin($run(stand)),
        }
    };
}
use case;

/// Runs the cases of one group, each on a bus of its own, and panics with the list of those that
/// failed. `SINEW_SUITE_CASE=name` in the environment runs only the cases whose name contains it.
/// Wants tokio's multi-thread runtime.
pub async fn run(group: Group, harness: Arc<dyn Harness>) {
    let cases = match group {
        Group::Publishing => [topics::cases(), publishing::cases()].concat(),
        Group::Delivery => [deliveries::cases(), deadletters::cases()].concat(),
        Group::Schedule => schedule::cases(),
        Group::Replay => replay::cases(),
        Group::Retention => retention::cases(),
        Group::Durability => durability::cases(),
        Group::Concurrency => concurrency::cases(),
    };
    let stand = async || Stand::new(harness.clone()).await;
    crate::suite::run("bus", group, cases, stand, |stand, needs| {
        let capability = *stand.bus().capability();
        Promised::new(capability.engine, &capability, needs.met(&capability))
    })
    .await;
}
