//! The errors of the contract, so that all engines say the same.

use sinew_core::{Error, Kind, Retry};

use super::BranchId;

/// A row with the same key is there. `constraint` names what was violated, when the database tells.
pub fn unique(constraint: Option<&str>) -> Error {
    violated(
        Kind::AlreadyExists,
        "sql.unique",
        "a row with the same key is there already",
        constraint,
    )
}

/// A row that is referred to is missing, or is still referred to.
pub fn foreign_key(constraint: Option<&str>) -> Error {
    violated(
        Kind::FailedPrecondition,
        "sql.foreign_key",
        "a row that is referred to is missing, or still referred to",
        constraint,
    )
}

/// A column that must have a value has none.
pub fn not_null(constraint: Option<&str>) -> Error {
    violated(
        Kind::FailedPrecondition,
        "sql.not_null",
        "a column that must have a value has none",
        constraint,
    )
}

/// A check of the table does not hold.
pub fn check(constraint: Option<&str>) -> Error {
    violated(
        Kind::FailedPrecondition,
        "sql.check",
        "a check of the table does not hold",
        constraint,
    )
}

fn violated(kind: Kind, code: &'static str, what: &str, constraint: Option<&str>) -> Error {
    let message = match constraint {
        Some(name) if !name.is_empty() => format!("{what} ({name})"),
        _ => what.to_owned(),
    };
    Error::new(kind, code, message)
}

/// Another transaction won, or holds a lock for too long.
pub fn conflict(why: impl Into<String>) -> Error {
    let message = "another transaction is in the way; try this one again from its start";
    Error::new(Kind::Aborted, "sql.conflict", message).with_context(why)
}

/// The statement can never run: its text, its tables, the number of its parameters.
pub fn statement_invalid(why: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, "sql.statement_invalid", why)
}

/// A value does not fit its place, or the database has nothing like it.
pub fn value_invalid(why: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, "sql.value_invalid", why)
}

/// More rows than were asked for.
pub fn too_many_rows(most: usize) -> Error {
    let message =
        format!("the statement has more than {most} rows; ask for fewer, or for a stream");
    Error::new(Kind::OutOfRange, "sql.too_many_rows", message)
}

/// All connections are in use, and were until the wait was over.
pub fn pool_exhausted(connections: u32) -> Error {
    let message = format!("all {connections} connections are in use; try again");
    Error::new(Kind::ResourceExhausted, "sql.pool_exhausted", message).with_retry(Retry::Yes)
}

/// The database has no room left.
pub fn full(why: impl Into<String>) -> Error {
    let message = "the database has no room left for this";
    Error::new(Kind::ResourceExhausted, "sql.full", message).with_context(why)
}

/// A read that writes, or a write to what can only be read.
pub fn read_only() -> Error {
    let message = "this can only be read: writing needs `execute`, `query` or a transaction that writes, on a primary";
    Error::new(Kind::FailedPrecondition, "sql.read_only", message)
}

/// The transaction is over because something in it failed.
pub fn transaction_failed() -> Error {
    let message = "the transaction was rolled back when a statement in it failed, was given up or ran out of time; begin it anew";
    Error::new(Kind::FailedPrecondition, "sql.transaction_failed", message)
}

/// The connection broke before the answer.
pub fn fate_unknown(why: impl Into<String>) -> Error {
    let message = "the connection broke before the answer; it may have happened";
    Error::new(Kind::DeadlineExceeded, "sql.fate_unknown", message).with_context(why)
}

/// The stored data is damaged.
pub fn damaged(why: impl Into<String>) -> Error {
    let message = "the database says that its stored data is damaged";
    Error::new(Kind::DataLoss, "sql.damaged", message).with_context(why)
}

/// The engine has nothing like it.
pub fn unsupported(engine: &'static str, what: &str) -> Error {
    let message = format!("{engine} has no {what}");
    Error::new(Kind::FailedPrecondition, "sql.unsupported", message)
}

/// A branch whose name is in use.
pub fn branch_exists(id: &BranchId) -> Error {
    let message = format!("branch {id} exists already");
    Error::new(Kind::AlreadyExists, "sql.branch_exists", message)
}

/// A session still works on the branch.
pub fn branch_busy(id: &BranchId) -> Error {
    let message = format!("a session still works on branch {id}; try again");
    Error::new(Kind::Aborted, "sql.branch_busy", message)
}

/// A name that no branch can have.
pub fn branch_invalid() -> Error {
    let message =
        "a branch is named transaction/part, of 1 to 64 and 1 to 32 characters A-Z a-z 0-9 . _ -";
    Error::new(Kind::InvalidArgument, "sql.branch_invalid", message)
}
