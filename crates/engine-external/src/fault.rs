//! The errors that all external engines share.

use std::time::Duration;

use sinew_core::{Error, Kind};

/// The server cannot be reached, or the connection broke before an answer came. Retrying helps.
pub fn unavailable(engine: &'static str, why: impl Into<String>) -> Error {
    let message = format!("{engine} cannot be reached now; try again");
    Error::new(Kind::Unavailable, "engine.unavailable", message).with_context(why)
}

/// No answer in time: whatever was asked for may have happened or not.
pub fn timeout(engine: &'static str, after: Duration) -> Error {
    let message = format!("{engine} did not answer within {after:?}; it may have happened");
    Error::new(Kind::DeadlineExceeded, "engine.timeout", message)
}

/// The server does not let us in, or not do what we need.
pub fn denied(engine: &'static str, why: impl Into<String>) -> Error {
    let message = format!(
        "{engine} refuses the credentials, or they do not allow what Sinew needs; see the log"
    );
    Error::new(Kind::PermissionDenied, "engine.denied", message).with_context(why)
}

/// What is stored under our namespace is not what we wrote, or the server is too old or set up otherwise.
pub fn unsuitable(engine: &'static str, why: impl Into<String>) -> Error {
    let message = format!("{engine} cannot be used: {}", why.into());
    Error::new(Kind::FailedPrecondition, "engine.unsuitable", message)
}

/// The server answered something that it should not: an answer that we cannot read, an error that we do not know.
pub fn unexpected(engine: &'static str, why: impl Into<String>) -> Error {
    let message = format!("{engine} gave an answer that is not understood; see the log");
    Error::new(Kind::Internal, "engine.unexpected", message).with_context(why)
}

/// Why a server is away, once more: errors are not cloned, and many calls ask for the same one.
#[cfg(any(feature = "memcached", feature = "redis"))]
pub(crate) fn repeat(engine: &'static str, why: &Error) -> Error {
    match why.code() {
        "engine.denied" => denied(engine, why.detail()),
        "engine.unsuitable" => unsuitable(engine, why.detail()),
        "engine.unexpected" => unexpected(engine, why.detail()),
        _ => unavailable(engine, why.detail()),
    }
}

/// An engine's URL or its options are wrong.
pub fn address(why: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, "engine.address", why)
}
