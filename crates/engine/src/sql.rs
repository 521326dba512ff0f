//! `Sql`: the services' own relational databases, used as resources. Nothing of Sinew's own lives there.
//!
//! The text of this module is the contract; the conformance suite (module `suite`, behind the cargo
//! feature of that name) quotes it and runs against every engine.
//!
//! # Statements and values
//! A [`Statement`] is one SQL statement in the database's own dialect ([`Capability::dialect`]) with its
//! parameters. Parameters are written `$1`, `$2`, … in every dialect; one may occur often, and what looks like one inside quotes,
//! comments or names is none. Every parameter must occur. Values never become part of the text. What begins, ends or names a transaction
//! (`BEGIN`, `COMMIT`, `XA`, …) is refused with `sql.statement_invalid`: that is what [`Sql::begin`] is for. A statement must not change the
//! session it runs in (`SET`, temporary tables): connections are shared. What each type of a database is read as, and each [`Value`] written
//! as, stands at [`Value`].
//!
//! # What an error says happened
//! An error of kind DeadlineExceeded (`engine.timeout`, `sql.fate_unknown`) says that the statement, or the commit, may have happened.
//! After every other error it did not. `engine.unavailable` and `sql.pool_exhausted` come before anything was sent,
//! or from within a transaction that is rolled back with its connection; `sql.conflict` (Aborted) means that another transaction won, and that this
//! one can be tried again from its start. Messages name constraints, never values.
//!
//! # Transactions
//! A [`Transaction`] is all or nothing, and durable when `commit` answers. It is rolled back when it is
//! dropped, and when one of its statements fails or its future is dropped before it is done: afterwards statements and `commit` answer
//! `sql.transaction_failed`, in every dialect. What a level of [`Isolation`] promises stands there; an
//! engine may give more. A transaction that outlives [`Begin::timeout`] is rolled back.
//! A statement outside of a transaction is a transaction of its own; [`Sql::batch`] is one of many statements.
//!
//! # Two-phase branches
//! A [`Branch`] is this database's part of a transaction over several. [`Branch::prepare`] makes it durable without deciding it: from then on
//! it holds its locks, needs no session, and outlives the crash of the database and of its client, until somebody who knows the decision calls
//! [`Sql::commit_prepared`] or [`Sql::rollback_prepared`] from anywhere. A branch that is not prepared is gone with its session.
//! Settling is idempotent: a branch that is not there any more, or never was, answers [`Settled::Absent`]. That answer is final: a session that could
//! still prepare the branch is ruled out first, otherwise the answer is `sql.branch_busy` (Aborted; try again). A caller
//! that got no clear answer to `prepare` settles the branch by its decision like any other. A prepared branch that wrote nothing may be gone at once.
//! [`Sql::prepared`] lists what is in doubt, of the engine's namespace alone; what other programs prepared is never listed nor touched.
//! The name of a branch is used once: `begin_branch` or `prepare` answers `sql.branch_exists` (AlreadyExists) while it is in doubt.
//! Engines without branches answer `sql.unsupported`.
//!
//! # Reads from replicas
//! [`Sql::read`] with [`Freshness::Within`] is answered by a replica that is proven to hold everything committed before that time, and by
//! the primary when there is none. The staleness that an answer states is an upper bound, measured on this process's monotonic clock: positions of
//! the primary are noted with the time, and a replica that has applied one is at most that old. Clocks of servers play no part. A read must not write.
//!
//! # Pools
//! Connections are bounded, checked after they were idle, renewed after their lifetime. Who finds none free waits for at most the pool's wait,
//! then gets `sql.pool_exhausted` (ResourceExhausted; try again). Opening never fails because the database is away.

mod branch;
pub mod fault;
mod forward;
mod statement;
#[cfg(feature = "suite")]
pub mod suite;
mod value;

use std::time::Duration;

use async_trait::async_trait;
use sinew_core::Result;
use tokio::sync::watch;

use crate::Health;
pub use branch::{BranchId, Prepared, Settled};
pub use statement::{Begin, Executed, Freshness, Isolation, Read, Source, Statement};
pub use value::{Column, Row, Value};

/// Which SQL the database understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// SQLite.
    Sqlite,
    /// PostgreSQL.
    Postgres,
    /// MariaDB and MySQL.
    Mysql,
}

/// What bounds an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Parameters of one statement.
    pub parameters: usize,
    /// Statements in one batch.
    pub batch: usize,
    /// Rows that are answered at once when the statement does not say otherwise.
    pub rows: usize,
    /// Connections of the pool.
    pub connections: u32,
    /// How long a call waits for a connection.
    pub pool_wait: Duration,
    /// How long a statement may take.
    pub statement: Duration,
}

/// What an engine can do; it selects the cases of the conformance suite and is shown in the
/// documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// The engine's name.
    pub engine: &'static str,
    /// Which SQL it understands.
    pub dialect: Dialect,
    /// Whether it has two-phase branches.
    pub prepared_branches: bool,
    /// Whether transactions weaker than [`Isolation::Serializable`] are really weaker, so that writers do not wait for one another as a whole.
    pub concurrent_writers: bool,
    /// Whether creating and dropping tables is rolled back with its transaction.
    pub transactional_schema: bool,
    /// Whether it can read from replicas.
    pub replicas: bool,
    /// Its limits.
    pub limits: Limits,
}

/// How the pool stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Connections that there are.
    pub open: u32,
    /// Those that nobody uses now.
    pub idle: u32,
    /// The most that there may be.
    pub most: u32,
}

/// Rows that are fetched as they are asked for. Dropping it ends the query and its connection.
#[async_trait]
pub trait Rows: Send {
    /// The next row; `None` when there are no more. After an error there are none. Cancel safe.
    async fn next(&mut self) -> Result<Option<Row>>;
}

/// What runs statements one after the other in one transaction.
#[async_trait]
pub trait Session: Send {
    /// Runs a statement for what it does.
    async fn execute(&mut self, statement: Statement) -> Result<Executed>;

    /// Runs a statement for its rows; `sql.too_many_rows` (OutOfRange) when there are more than it asks for.
    async fn query(&mut self, statement: Statement) -> Result<Vec<Row>>;
}

/// A local transaction.
#[async_trait]
pub trait Transaction: Session {
    /// Makes it durable and visible.
    async fn commit(self: Box<Self>) -> Result<()>;

    /// Undoes it.
    async fn rollback(self: Box<Self>) -> Result<()>;
}

/// A part of a transaction over several databases, before it is prepared.
#[async_trait]
pub trait Branch: Session {
    /// Its name.
    fn id(&self) -> &BranchId;

    /// Makes it durable, undecided. The branch is no longer bound to this process afterwards.
    async fn prepare(self: Box<Self>) -> Result<()>;

    /// Undoes it.
    async fn rollback(self: Box<Self>) -> Result<()>;
}

/// The database. See the module's text for what every method promises.
#[async_trait]
pub trait Sql: Send + Sync + 'static {
    /// What this engine can do.
    fn capability(&self) -> &Capability;

    /// Runs a statement for what it does.
    async fn execute(&self, statement: Statement) -> Result<Executed>;

    /// Runs a statement for its rows, on the primary; it may write (`… returning …`).
    /// `sql.too_many_rows` (OutOfRange) when there are more than it asks for; unlike after other errors the statement has then run all the same.
    async fn query(&self, statement: Statement) -> Result<Vec<Row>>;

    /// Runs many statements as one transaction, in order. At most [`Limits::batch`].
    async fn batch(&self, statements: Vec<Statement>) -> Result<Vec<Executed>>;

    /// Runs a statement that only reads, where its answer is fresh enough. One that writes is refused with `sql.read_only`
    /// (FailedPrecondition) where it can be seen.
    async fn read(&self, statement: Statement, freshness: Freshness) -> Result<Read>;

    /// As [`Sql::read`], row by row: a bounded number is fetched ahead. The stream as a whole has no time limit; the database's answer to each
    /// step has.
    async fn stream(&self, statement: Statement, freshness: Freshness) -> Result<Box<dyn Rows>>;

    /// Begins a transaction.
    async fn begin(&self, options: Begin) -> Result<Box<dyn Transaction>>;

    /// Begins a branch of this name.
    async fn begin_branch(&self, id: BranchId, options: Begin) -> Result<Box<dyn Branch>>;

    /// Commits a prepared branch.
    async fn commit_prepared(&self, id: &BranchId) -> Result<Settled>;

    /// Rolls a prepared branch back.
    async fn rollback_prepared(&self, id: &BranchId) -> Result<Settled>;

    /// All branches that are prepared and not settled, of this namespace.
    async fn prepared(&self) -> Result<Vec<Prepared>>;

    /// Whether the primary answers.
    fn health(&self) -> watch::Receiver<Health>;

    /// How the pool of the primary stands.
    fn statistics(&self) -> Statistics;

    /// Closes all connections; what is under way is given the time of one statement. Calls answer `engine.unavailable` from then on.
    async fn close(&self);
}
