//! Failures of the disk and the files, as the store's callers see them.

use std::{io, path::Path};

use sinew_core::{Error, Kind};

use crate::{
    damage::{Damage, HINT, Place},
    kv::{change::Malformed, unavailable},
};

/// The files failed, not the request. Kinds: Unavailable, ResourceExhausted, DataLoss.
#[derive(Debug)]
pub(in crate::kv) struct StoreError(pub(in crate::kv) Error);

/// What is wrong at a place of a file.
pub(super) fn damaged(path: &Path, offset: u64, what: &str) -> StoreError {
    let damage = Damage::new(path, offset, what);
    let message = format!("the store is damaged in {}", damage.brief());
    let error = Error::new(Kind::DataLoss, "kv.corrupt", message);
    StoreError(error.with_source(Place(damage)))
}

pub(in crate::kv) fn corrupt(message: &str) -> StoreError {
    StoreError(Error::new(
        Kind::DataLoss,
        "kv.corrupt",
        format!("{message}; {HINT}"),
    ))
}

/// Reading at a place of a file failed: one that is too short is damaged.
pub(super) fn unread(path: &Path, offset: u64) -> impl Fn(io::Error) -> StoreError {
    move |error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged(path, offset, "the file is too short"),
        io::ErrorKind::NotFound => damaged(path, 0, "the file is missing"),
        _ => StoreError::from(error),
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{InvalidData, QuotaExceeded, StorageFull, UnexpectedEof};
        Self(match error.kind() {
            StorageFull | QuotaExceeded => disk_full().with_source(error),
            InvalidData | UnexpectedEof => corrupt("a file of the store is damaged")
                .0
                .with_source(error),
            _ => unavailable("the store's disk does not work").with_source(error),
        })
    }
}

impl From<Malformed> for StoreError {
    fn from(_: Malformed) -> Self {
        corrupt("a record of the store is damaged")
    }
}

pub(in crate::kv) fn disk_full() -> Error {
    Error::new(
        Kind::ResourceExhausted,
        "kv.disk_full",
        "the disk of the store is full; nothing was written, reads go on",
    )
}
