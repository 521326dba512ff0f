//! The keyspace's errors; each code has a page under `docs/errors/`.

use std::time::Duration;

use sinew_core::{Error, Kind};

pub(super) fn key_invalid(most: usize) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "keyspace.key_invalid",
        format!("a key has 1 to {most} bytes"),
    )
}

pub(super) fn value_too_large(bytes: usize, most: usize) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "keyspace.value_too_large",
        format!("the value has {bytes} bytes; use up to {most}"),
    )
}

pub(super) fn answer_too_large(most: usize) -> Error {
    Error::new(
        Kind::ResourceExhausted,
        "keyspace.answer_too_large",
        format!(
            "the keys and values that were asked for have more than {most} bytes; ask for a longer prefix"
        ),
    )
}

pub(super) fn session_unknown(id: &str) -> Error {
    let id: String = id.chars().take(64).collect();
    Error::new(
        Kind::NotFound,
        "keyspace.session_unknown",
        format!("there is no session {id:?}; it may have expired"),
    )
}

pub(super) fn session_invalid(why: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, "keyspace.session_invalid", why)
}

pub(super) fn sessions_full(limit: usize) -> Error {
    Error::new(
        Kind::ResourceExhausted,
        "keyspace.sessions_full",
        format!("there are {limit} sessions, which is the limit"),
    )
}

pub(super) fn damaged(key: &[u8]) -> Error {
    Error::new(
        Kind::DataLoss,
        "keyspace.damaged",
        format!(
            "what is stored of {:?} cannot be read; write it anew after deleting it",
            key.escape_ascii().to_string()
        ),
    )
}

pub(super) fn timeout(what: &str, limit: Duration) -> Error {
    Error::new(
        Kind::DeadlineExceeded,
        "keyspace.timeout",
        format!(
            "the store did not answer within {} ms; it may have happened",
            limit.as_millis()
        ),
    )
    .with_context(what.to_owned())
}
