//! Failures of the disk, the log and the index, as the store's callers see them.

use std::io;

use sinew_core::{Error, Kind};

use crate::kv::{change::Malformed, closed, unavailable};

/// The file failed, not the request. Kinds: Unavailable, ResourceExhausted, DataLoss.
#[derive(Debug)]
pub(in crate::kv) struct StoreError(pub(in crate::kv) Error);

impl From<Error> for StoreError {
    /// An error of the log.
    fn from(error: Error) -> Self {
        Self(match error.code() {
            "log.full" => disk_full().with_source(error),
            // Both say more than could be said here.
            "log.corrupt" | "log.version" => error,
            _ => unavailable("the store's disk does not work").with_source(error),
        })
    }
}

pub(super) fn corrupt(message: &str) -> StoreError {
    StoreError(Error::new(
        Kind::DataLoss,
        "kv.corrupt",
        format!("{message}; restore a backup"),
    ))
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        use redb::Error::*;
        Self(match error {
            Io(error) => return error.into(),
            DatabaseClosed => closed(),
            DatabaseAlreadyOpen => Error::new(
                Kind::FailedPrecondition,
                "kv.locked",
                "another process has the store open; only one may",
            ),
            Corrupted(_) | UpgradeRequired(_) => {
                corrupt("the store's file is damaged").0.with_source(error)
            }
            error => unavailable("the store's file cannot be used").with_source(error),
        })
    }
}

macro_rules! from_redb {
    ($($error:ident)*) => {
        $(
            impl From<redb::$error> for StoreError {
                fn from(error: redb::$error) -> Self {
                    redb::Error::from(error).into()
                }
            }
        )*
    };
}
from_redb!(StorageError TableError TransactionError CommitError DatabaseError SetDurabilityError);

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{InvalidData, QuotaExceeded, StorageFull};
        Self(match error.kind() {
            StorageFull | QuotaExceeded => disk_full().with_source(error),
            // How redb says that the file is none of its own.
            InvalidData => corrupt("the store's file is damaged").0.with_source(error),
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
