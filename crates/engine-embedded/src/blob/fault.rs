//! What the machine does to a store, as errors.

use std::io;

use sinew_core::{Error, Kind};

/// The store is closed, or the machine failed it.
pub(super) fn unavailable(message: &str) -> Error {
    Error::new(Kind::Unavailable, "blob.unavailable", message)
}

pub(super) fn closed() -> Error {
    unavailable("the store is closed")
}

pub(super) fn locked() -> Error {
    Error::new(
        Kind::FailedPrecondition,
        "blob.locked",
        "another process has this store open; a folder serves one process at a time",
    )
}

/// A thread of the store ended before its time.
pub(super) fn stopped(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    unavailable("the store was stopped in the middle of the call").with_source(error)
}

pub(super) fn timeout() -> Error {
    Error::new(
        Kind::DeadlineExceeded,
        "blob.timeout",
        "the store did not answer in time; the change may have happened",
    )
}

/// The store's own files make no sense.
pub(super) fn malformed(message: impl Into<String>) -> Error {
    Error::new(Kind::DataLoss, "blob.index_damaged", message)
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A failed operation on a file.
pub(super) fn disk(error: io::Error) -> Error {
    if is_full(&error) {
        Error::new(
            Kind::ResourceExhausted,
            "blob.full",
            "there is no room left on the disk",
        )
        .with_source(error)
    } else {
        unavailable("the disk failed").with_source(error)
    }
}

/// A failed operation on the index.
pub(super) fn index(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(error) => disk(error),
        error @ redb::Error::Corrupted(_) => {
            malformed("the index of the store is damaged").with_source(error)
        }
        error => unavailable("the index of the store failed").with_source(error),
    }
}
