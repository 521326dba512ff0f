//! What differs between the databases.

use std::{sync::Arc, time::Duration};

use futures_util::{future::BoxFuture, stream::BoxStream};
use sinew_core::Result;
use sinew_engine::sql::{
    Begin, BranchId, Column, Dialect as Language, Executed, Prepared, Row, Value,
};
use sqlx::{Database, Either, error::DatabaseError};

pub(super) type Connection<D> = <<D as Dialect>::Db as Database>::Connection;
pub(super) type Arguments<D> = <<D as Dialect>::Db as Database>::Arguments;
pub(super) type Answer<D> = sqlx::Result<
    Either<<<D as Dialect>::Db as Database>::QueryResult, <<D as Dialect>::Db as Database>::Row>,
>;

/// How far a primary is, or how much of it a replica has applied: numbers that grow, each for one origin of changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Position(pub(super) Vec<(u64, u64)>);

impl Position {
    /// Whether everything up to `other` is in here. An unknown position is in nothing.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let reached = |(origin, number): &(u64, u64)| {
            self.0
                .iter()
                .any(|(mine, reached)| mine == origin && reached >= number)
        };
        !other.0.is_empty() && other.0.iter().all(reached)
    }
}

/// What a database says about the end of a branch that it could not settle.
pub(super) enum Unsettled {
    /// It knows no such prepared branch.
    Unknown,
    /// Somebody else is settling it, or still works on it.
    Busy,
    /// Anything else.
    Other,
}

/// One kind of database.
pub(super) trait Dialect: Send + Sync + Sized + 'static {
    type Db: Database;

    /// The engine's name.
    const NAME: &'static str;
    const LANGUAGE: Language;
    const PARAMETERS: usize;
    const BRANCHES: bool;
    /// Whether a prepared branch stays bound to its session until that ends.
    const BRANCH_HOLDS_SESSION: bool;
    const REPLICAS: bool;

    /// Encodes the parameters; may add to the text what keeps statements apart whose parameters have other types.
    fn bind(parameters: Vec<Value>, text: &mut String) -> Result<Arguments<Self>>;

    /// Runs a statement: prepared when there are arguments, else as plain text.
    fn run(
        connection: &mut Connection<Self>,
        text: String,
        arguments: Option<Arguments<Self>>,
    ) -> BoxStream<'_, Answer<Self>>;

    /// Reads a row. The first one of an answer sets the columns.
    fn row(row: &<Self::Db as Database>::Row, columns: &mut Option<Arc<[Column]>>) -> Result<Row>;

    fn executed(result: &<Self::Db as Database>::QueryResult) -> Executed;

    /// What an answer of the database means; `None` when it ended the connection, so that nothing is known.
    fn fault(error: &dyn DatabaseError, limit: Duration) -> Option<sinew_core::Error>;

    /// Prepares a new connection for its use.
    fn settle(
        connection: &mut Connection<Self>,
        limit: Duration,
    ) -> BoxFuture<'_, sqlx::Result<()>>;

    /// The statement that begins a transaction.
    fn begin(options: &Begin) -> String;

    /// What lifts and restores the time limit of statements on a connection, for streams.
    fn unlimited() -> Option<(&'static str, &'static str)> {
        None
    }

    /// The global name of a branch, as a literal of its statements.
    fn branch(namespace: &str, id: &BranchId) -> String;

    /// Begins a branch; `false` when one of this name is there.
    fn begin_branch<'a>(
        connection: &'a mut Connection<Self>,
        branch: &'a str,
        options: &'a Begin,
    ) -> BoxFuture<'a, sqlx::Result<bool>>;

    fn prepare(branch: &str) -> String;
    fn rollback_branch(branch: &str) -> String;
    fn commit_prepared(branch: &str) -> String;
    fn rollback_prepared(branch: &str) -> String;

    /// Whether an error of `prepare` says that a branch of this name is there.
    fn is_taken(error: &dyn DatabaseError) -> bool;

    fn unsettled(error: &dyn DatabaseError) -> Unsettled;

    /// Whether no session can still prepare this branch, and it is not prepared.
    fn is_absent<'a>(
        connection: &'a mut Connection<Self>,
        branch: &'a str,
    ) -> BoxFuture<'a, sqlx::Result<bool>>;

    fn prepared<'a>(
        connection: &'a mut Connection<Self>,
        namespace: &'a str,
    ) -> BoxFuture<'a, sqlx::Result<Vec<Prepared>>>;

    /// How far a primary is.
    fn written(connection: &mut Connection<Self>) -> BoxFuture<'_, sqlx::Result<Position>>;

    /// How much a replica has applied; nothing when it is no replica.
    fn applied(connection: &mut Connection<Self>) -> BoxFuture<'_, sqlx::Result<Position>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_covers_what_it_has_reached_of_every_origin() {
        let at = |numbers: &[(u64, u64)]| Position(numbers.to_vec());
        assert!(at(&[(1, 5)]).covers(&at(&[(1, 5)])));
        assert!(at(&[(2, 9), (1, 6)]).covers(&at(&[(1, 5), (2, 9)])));
        assert!(!at(&[(1, 4)]).covers(&at(&[(1, 5)])));
        assert!(!at(&[(1, 6)]).covers(&at(&[(1, 5), (2, 1)])));
        // Another cluster with higher numbers.
        assert!(!at(&[(2, 60)]).covers(&at(&[(1, 5)])));
        // Nothing is proven by nothing.
        assert!(!at(&[(1, 6)]).covers(&at(&[])));
        assert!(!at(&[]).covers(&at(&[(1, 1)])));
    }
}
