//! The errors of the log; each has a page under `docs/errors/`.

use std::{io, path::Path, time::Duration};

use sinew_core::{Error, Kind, Retry};

use super::Sequence;
use crate::damage::{Damage, Place};

/// Something that was durable once is not whole any more.
pub(super) fn corrupt(path: &Path, offset: u64, what: &str) -> Error {
    let damage = Damage::new(path, offset, what);
    let message = format!("the log is damaged in {}", damage.brief());
    Error::new(Kind::DataLoss, "log.corrupt", message).with_source(Place(damage))
}

/// No room for more records; comes and goes with the room.
pub(super) fn full(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(
        Kind::ResourceExhausted,
        "log.full",
        "the disk is full: nothing more is written until there is room; reads go on",
    )
    .with_retry(Retry::After(Duration::from_secs(1)))
    .with_source(cause)
}

/// An input/output error that left what is durable as it was.
pub(super) fn io(doing: &str, path: &Path, cause: io::Error) -> Error {
    if is_out_of_room(&cause) {
        return full(cause).with_context(format!("{doing} {}", path.display()));
    }
    Error::new(
        Kind::Unavailable,
        "log.io",
        format!("{doing} the log failed"),
    )
    .with_context(format!("file {}", path.display()))
    .with_source(cause)
}

pub(super) fn is_out_of_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The log has stopped for good: what it had in hand may or may not be durable.
pub(super) fn failed(why: &str) -> Error {
    Error::new(
        Kind::Unavailable,
        "log.failed",
        format!("the log has stopped: {why}"),
    )
    .with_retry(Retry::No)
}

pub(super) fn version(path: &Path, found: u32, known: u32) -> Error {
    Error::new(
        Kind::FailedPrecondition,
        "log.version",
        format!(
            "the log was written in format {found} and this executable reads formats up to \
             {known}; use the newer one that wrote it"
        ),
    )
    .with_context(format!("file {}", path.display()))
}

pub(super) fn too_large(bytes: usize, limit: usize) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "log.record_too_large",
        format!("a record of {bytes} bytes is more than the {limit} that one may have"),
    )
}

pub(super) fn released(asked: Sequence, oldest: Sequence) -> Error {
    Error::new(
        Kind::OutOfRange,
        "log.released",
        format!("record {asked} is no longer kept (the oldest is {oldest})"),
    )
}

pub(super) fn unknown(asked: &str) -> Error {
    Error::new(
        Kind::OutOfRange,
        "log.unknown",
        format!("{asked} does not exist yet"),
    )
}

pub(super) fn busy() -> Error {
    Error::new(
        Kind::ResourceExhausted,
        "log.busy",
        "more is being written than the disk takes; nothing of this was written, try again",
    )
    .with_retry(Retry::After(Duration::from_millis(100)))
}

pub(super) fn timeout() -> Error {
    Error::new(
        Kind::DeadlineExceeded,
        "log.timeout",
        "the disk did not answer in time; the record may or may not become durable",
    )
}

pub(super) fn options(what: &str) -> Error {
    Error::new(Kind::InvalidArgument, "log.options", what)
}
