//! The conformance suite of [`Sql`]: one case for each promise of the contract, run against every engine.
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

use super::{Capability, Dialect, Sql};
use crate::suite::Promised;
use stand::Stand;

mod bank;
mod branches;
mod contract;
mod errors;
mod faults;
mod isolation;
mod pools;
mod stand;
mod streams;
mod transactions;
mod values;

/// How the suite opens the engine under test.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// A new, empty database. Several may be there at once, on one server.
    async fn create(&self) -> Box<dyn Subject>;
}

/// How a database is to be opened. What is `None` is the engine's choice.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    /// Connections of the pool.
    pub connections: Option<u32>,
    /// How long to wait for one.
    pub pool_wait: Option<Duration>,
    /// How long a statement may take.
    pub statement: Option<Duration>,
    /// Whose branches are listed; the subject's own unless it is given.
    pub namespace: Option<&'static str>,
    /// Whether [`Subject::network`] stands between.
    pub distant: bool,
}

/// What happens to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Nothing passes, nothing is refused.
    Cut,
    /// Everything passes again.
    Mended,
    /// All connections end.
    Reset,
}

/// One database under test. Dropping it may delete its data.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The open database.
    fn sql(&self) -> Arc<dyn Sql>;

    /// Opens the same database once more.
    async fn open(&self, opening: Opening) -> Arc<dyn Sql>;

    /// Ends the database's process at once and starts it again. Only asked of those that have one.
    async fn crash(&self);

    /// Ends it as its operator would, and starts it again. Only asked as above.
    async fn restart(&self);

    /// Does this to the network of what is opened `distant`. Only asked as above.
    async fn network(&self, network: Network);
}

/// A part of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Statements, values, errors, batches, streams.
    Contract,
    /// Local transactions and what they notice of one another.
    Transactions,
    /// Two-phase branches, with crashes at each step.
    Branches,
    /// Pools and time limits.
    Pools,
    /// The server killed, the network cut.
    Faults,
    /// Many tasks at once, over two databases, with crashes.
    Concurrency,
}

type Case = crate::suite::Case<Stand, Needs>;

/// What an engine must promise for a case to make sense.
#[derive(Clone, Copy, Debug)]
enum Needs {
    Nothing,
    PreparedBranches,
    NoPreparedBranches,
    ConcurrentWriters,
    TransactionalSchema,
    ImplicitCommits,
    Server,
}

impl Needs {
    fn met(self, capability: &Capability) -> bool {
        match self {
            Self::Nothing => true,
            Self::PreparedBranches => capability.prepared_branches,
            Self::NoPreparedBranches => !capability.prepared_branches,
            Self::ConcurrentWriters => capability.concurrent_writers,
            Self::TransactionalSchema => capability.transactional_schema,
            Self::ImplicitCommits => !capability.transactional_schema,
            Self::Server => capability.dialect != Dialect::Sqlite,
        }
    }
}

/// `case!(function, Needs, "clause")`: a [`Case`] named after its function.
macro_rules! case {
    ($run:ident, $needs:ident, $clause:literal) => {
        $crate::sql::suite::Case {
            name: stringify!($run),
            clause: $clause,
            needs: $crate::sql::suite::Needs::$needs,
            run: |stand| Box::pin($run(stand)),
        }
    };
}
use case;

/// Runs the cases of one group, each on a database of its own, and panics with the list of those that
/// failed. `SINEW_SUITE_CASE=name` in the environment runs only the cases whose name contains it.
/// Wants tokio's multi-thread runtime.
pub async fn run(group: Group, harness: Arc<dyn Harness>) {
    let cases = match group {
        Group::Contract => [
            contract::cases(),
            values::cases(),
            errors::cases(),
            streams::cases(),
        ]
        .concat(),
        Group::Transactions => [transactions::cases(), isolation::cases()].concat(),
        Group::Branches => branches::cases(),
        Group::Pools => pools::cases(),
        Group::Faults => faults::cases(),
        Group::Concurrency => bank::cases(),
    };
    let stand = async || Stand::new(harness.clone()).await;
    crate::suite::run("sql", group, cases, stand, |stand, needs| {
        let capability = *stand.sql().capability();
        Promised::new(capability.engine, &capability, needs.met(&capability))
    })
    .await;
}
