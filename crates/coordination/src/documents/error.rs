//! The errors of documents; each code has a page under `docs/errors/`.

use std::time::Duration;

use sinew_core::{Error, Kind, Name};

use super::Version;

pub(super) fn changed_meanwhile(name: &Name, expected: u64, current: Option<&Version>) -> Error {
    let is = match current {
        None => "does not exist yet (version 0)".to_owned(),
        Some(current) if current.note.is_empty() => {
            format!("is at version {}, by {:?}", current.version, current.author)
        }
        Some(current) => format!(
            "is at version {}, by {:?} ({:?})",
            current.version, current.author, current.note
        ),
    };
    Error::new(
        Kind::FailedPrecondition,
        "documents.changed_meanwhile",
        format!(
            "the document {name} {is}, and not at {expected} as expected; read it again, then change it"
        ),
    )
}

pub(super) fn contended(name: &Name) -> Error {
    Error::new(
        Kind::Aborted,
        "documents.contended",
        format!("the document {name} keeps being changed by others; try again"),
    )
}

pub(super) fn version_unknown(name: &Name, version: u64) -> Error {
    Error::new(
        Kind::NotFound,
        "documents.version_unknown",
        format!(
            "there is no version {version} of the document {name}; it was never made, or is no longer kept"
        ),
    )
}

pub(super) fn too_large(name: &Name, bytes: usize, most: usize) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "documents.too_large",
        format!("the document {name} would have {bytes} bytes; {most} is the most"),
    )
}

pub(super) fn label_invalid(what: &str, most: usize) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "documents.label_invalid",
        format!("the {what} may have {most} bytes and no control characters"),
    )
}

pub(super) fn damaged(name: &Name, version: u64, why: impl Into<String>) -> Error {
    Error::new(
        Kind::DataLoss,
        "documents.damaged",
        format!("version {version} of the document {name} cannot be read whole"),
    )
    .with_context(why)
}

pub(super) fn timeout(what: &str, limit: Duration) -> Error {
    Error::new(
        Kind::DeadlineExceeded,
        "documents.timeout",
        format!(
            "the store did not answer within {} ms; it may have happened",
            limit.as_millis()
        ),
    )
    .with_context(what.to_owned())
}
