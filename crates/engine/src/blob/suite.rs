//! The conformance suite of [`Blob`]: one case for each promise of the contract, run
//! against every engine.
//!
//! An engine's tests implement [`Harness`] and [`Subject`], and call [`run`] once for each [`Group`].
//! Cases that rest on something which the engine's [`Capability`] does not promise
//! are listed as such in the output.

#![expect(
    clippy::unwrap_used,
    reason = "this is test code that other crates' tests call"
)]

use std::sync::Arc;

use async_trait::async_trait;

use super::{Blob, Capability};
use crate::suite::Promised;
use stand::Stand;

mod concurrency;
mod contract;
mod durability;
mod listing;
mod model;
mod multipart;
mod stand;

/// How the suite opens the engine under test.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// A new, empty store.
    async fn create(&self) -> Box<dyn Subject>;
}

/// One store under test. Dropping it may delete its data.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The open store.
    fn blob(&self) -> Arc<dyn Blob>;

    /// Ends the store and opens the same data again. Only asked of durable engines.
    async fn reopen(&mut self, end: End);
}

/// How a store ends.
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
    /// Puts, downloads, copies, deletions, limits.
    Contract,
    /// Listings and their pages.
    Listing,
    /// Uploads in parts.
    Multipart,
    /// What a reopened store still knows.
    Durability,
    /// Many tasks at once.
    Concurrency,
    /// Random histories, compared step by step with [`super::MemoryBlob`].
    Model,
}

type Case = crate::suite::Case<Stand, Needs>;

/// What an engine must promise for a case to make sense.
#[derive(Clone, Copy, Debug)]
enum Needs {
    Nothing,
    Durable,
    AnyKeys,
    TagsNameWrites,
    CompletesOnce,
    /// Tags of their own, and kept.
    DurableTags,
}

impl Needs {
    fn met(self, capability: &Capability) -> bool {
        match self {
            Self::Nothing => true,
            Self::Durable => capability.durable,
            Self::AnyKeys => capability.any_keys,
            Self::TagsNameWrites => capability.tags_name_writes,
            Self::CompletesOnce => capability.completes_once,
            Self::DurableTags => capability.durable && capability.tags_name_writes,
        }
    }
}

/// `case!(function, Needs, "clause")`: a [`Case`] named after its function.
macro_rules! case {
    ($run:ident, $needs:ident, $clause:literal) => {
        $crate::blob::suite::Case {
            name: stringify!($run),
            clause: $clause,
            needs: $crate::blob::suite::Needs::$needs,
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
        Group::Listing => listing::cases(),
        Group::Multipart => multipart::cases(),
        Group::Durability => durability::cases(),
        Group::Concurrency => concurrency::cases(),
        Group::Model => model::cases(),
    };
    let stand = async || Stand::new(harness.clone()).await;
    crate::suite::run("blob", group, cases, stand, |stand, needs| {
        let capability = *stand.blob().capability();
        Promised::new(capability.engine, &capability, needs.met(&capability))
    })
    .await;
}
