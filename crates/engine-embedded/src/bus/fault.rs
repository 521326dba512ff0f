//! The errors of this engine; each has a page under `docs/errors/`. Those of every bus are in
//! `sinew_engine::bus`.

use std::{io, path::Path, time::Duration};

use sinew_core::{Error, Kind, Retry};

use crate::{
    damage::{Damage, HINT, Place},
    log::FailedSync,
};

pub(super) fn closed() -> Error {
    Error::new(Kind::Unavailable, "bus.closed", "the bus is closed").with_retry(Retry::No)
}

pub(super) fn overloaded() -> Error {
    Error::new(
        Kind::ResourceExhausted,
        "bus.overloaded",
        "more is being published than the disk takes; nothing was written, try again later",
    )
    .with_retry(Retry::After(Duration::from_millis(100)))
}

pub(super) fn deadline() -> Error {
    Error::new(
        Kind::DeadlineExceeded,
        "bus.deadline",
        "the disk has not answered in time; what was asked for may or may not happen",
    )
}

pub(super) fn corrupt(path: &Path, offset: u64, what: &str) -> Error {
    let damage = Damage::new(path, offset, what);
    let message = format!("a topic is damaged in {}", damage.brief());
    Error::new(Kind::DataLoss, "bus.corrupt", message).with_source(Place(damage))
}

/// The tables or the log say what cannot be.
pub(super) fn malformed(what: &str) -> Error {
    Error::new(
        Kind::DataLoss,
        "bus.corrupt",
        format!("the bus is damaged: {what}; {HINT}"),
    )
}

pub(super) fn newer(found: u64) -> Error {
    Error::new(
        Kind::FailedPrecondition,
        "bus.format_newer",
        format!("the bus was written in format {found}; run the version that wrote it"),
    )
}

pub(super) fn unavailable(what: &str) -> Error {
    Error::new(Kind::Unavailable, "bus.unavailable", what)
}

pub(super) fn disk_full() -> Error {
    Error::new(
        Kind::ResourceExhausted,
        "bus.disk_full",
        "the disk is full: nothing is published until there is room; reads and acks go on",
    )
    .with_retry(Retry::After(Duration::from_secs(1)))
}

pub(super) fn io(doing: &str, path: &Path, cause: io::Error) -> Error {
    let error = match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => disk_full(),
        _ => unavailable(&format!("{doing} a file of a topic failed")),
    };
    error
        .with_context(format!("file {}", path.display()))
        .with_source(cause)
}

/// After a failed sync nobody knows what the disk has.
pub(super) fn failed_sync(react: &FailedSync, path: &Path, cause: io::Error) -> Error {
    react.react(&format!(
        "making {} durable failed ({cause}): the process ends rather than trust what may be lost; \
         check the disk, then start again",
        path.display()
    ));
    io("syncing", path, cause)
}
