//! Failures of the disk and the files, as the store's callers see them.

use std::{io, path::Path};

use sinew_core::{Error, Kind};

use crate::kv::{change::Malformed, unavailable};

/// The files failed, not the request. Kinds: Unavailable, ResourceExhausted, DataLoss.
#[derive(Debug)]
pub(in crate::kv) struct StoreError(pub(in crate::kv) Error);

impl StoreError {
    pub(super) fn at(self, path: &Path) -> Self {
        Self(self.0.with_context(format!("file {}", path.display())))
    }
}

pub(in crate::kv) fn corrupt(message: &str) -> StoreError {
    StoreError(Error::new(
        Kind::DataLoss,
        "kv.corrupt",
        format!("{message}; restore a backup"),
    ))
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
