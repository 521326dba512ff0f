//! What etcd's errors mean to us.

use std::time::Duration;

use sinew_core::{Error, Kind};
use tonic::{Code, Status};

use crate::fault;

pub(super) const ENGINE: &str = "etcd";

/// What to make of a call that failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection, the member or its leader is gone; what was asked for may have happened.
    Lost(String),
    /// No answer in time; it may have happened.
    Late,
    /// Our token is not known any more; nothing happened.
    Token,
    /// The server has too much to do; nothing happened.
    Busy,
    /// The revision asked for is compacted.
    Compacted,
    /// The revision asked for does not exist yet.
    Future,
    /// The answer was larger than we take.
    TooLarge,
    /// There is no such lease.
    NoLease,
    /// There is such a lease already.
    LeaseExists,
    /// The server is there but cannot be used: why, for people.
    Unsuitable(String),
    /// Nothing happened, and asking again is of no use.
    Refused(Cause, String),
}

/// Why the server refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Denied,
    Full,
    Transaction,
    Unexpected,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let text = status.message();
        let has = |part: &str| text.contains(part);
        let said = || format!("{:?}: {text}", status.code());
        if has("invalid auth token") || has("revision of auth store is old") {
            return Self::Token;
        }
        if has("message length too large") {
            return Self::TooLarge;
        }
        match status.code() {
            Code::DeadlineExceeded => Self::Late,
            Code::OutOfRange if has("compacted") => Self::Compacted,
            Code::OutOfRange if has("future revision") => Self::Future,
            Code::NotFound if has("lease") => Self::NoLease,
            Code::FailedPrecondition if has("lease already exists") => Self::LeaseExists,
            Code::ResourceExhausted if has("too many requests") => Self::Busy,
            Code::ResourceExhausted if has("space exceeded") => Self::Refused(Cause::Full, said()),
            Code::PermissionDenied | Code::Unauthenticated => Self::Refused(Cause::Denied, said()),
            Code::InvalidArgument | Code::FailedPrecondition
                if has("authentication failed")
                    || has("user name is empty")
                    || has("authentication is not enabled") =>
            {
                Self::Refused(Cause::Denied, said())
            }
            Code::InvalidArgument if has("too many operations") || has("request is too large") => {
                Self::Refused(Cause::Transaction, said())
            }
            Code::Unavailable | Code::Cancelled | Code::Aborted => Self::Lost(said()),
            // What tonic makes of a connection that breaks in the middle of a call.
            Code::Unknown | Code::Internal if !has("etcdserver") => Self::Lost(said()),
            _ => Self::Refused(Cause::Unexpected, said()),
        }
    }
}

impl Failure {
    /// As our callers see it.
    pub(super) fn error(self, timeout: Duration) -> Error {
        match self {
            Self::Lost(why) => fault::unavailable(ENGINE, why),
            Self::Late => fault::timeout(ENGINE, timeout),
            Self::Token => fault::denied(ENGINE, "the token is refused again and again"),
            Self::Busy => fault::unavailable(ENGINE, "it refuses more requests"),
            Self::Unsuitable(why) => Error::new(Kind::FailedPrecondition, "engine.unsuitable", why),
            Self::Refused(cause, why) => cause.error(why),
            other => fault::unexpected(ENGINE, format!("{other:?}")),
        }
    }
}

impl Cause {
    fn error(self, why: String) -> Error {
        match self {
            Self::Denied => fault::denied(ENGINE, why),
            Self::Full => Error::new(
                Kind::ResourceExhausted,
                "kv.disk_full",
                "etcd's database has reached its quota; compact and defragment it, or raise the quota",
            )
            .with_context(why),
            Self::Transaction => Error::new(
                Kind::InvalidArgument,
                "kv.transaction_invalid",
                "the transaction is larger than etcd takes; split it",
            )
            .with_context(why),
            Self::Unexpected => fault::unexpected(ENGINE, why),
        }
    }
}
