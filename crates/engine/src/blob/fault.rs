//! The errors that every engine answers in the same words.

use sinew_core::{Error, Kind};

use super::{Key, Range, Upload};

/// There is no object.
pub fn unknown(key: &Key) -> Error {
    Error::new(
        Kind::NotFound,
        "blob.unknown",
        format!("there is no object {:?}", key.as_str()),
    )
}

/// There is an object where none should be.
pub fn exists(key: &Key) -> Error {
    let message = format!("there is an object {:?} already", key.as_str());
    Error::new(Kind::AlreadyExists, "blob.exists", message)
}

/// The object has none of the bytes asked for.
pub fn range_invalid(range: Range, size: u64) -> Error {
    Error::new(
        Kind::OutOfRange,
        "blob.range_invalid",
        format!("{range:?} names no byte of an object of {size} bytes"),
    )
}

/// The body is not what was announced.
pub fn body_mismatch(message: String) -> Error {
    Error::new(Kind::InvalidArgument, "blob.body_mismatch", message)
}

/// The body is longer than the engine takes.
pub fn too_large(most: u64) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "blob.too_large",
        format!("the body may have {most} bytes at most; put larger objects in parts"),
    )
}

/// There is no such upload.
pub fn upload_unknown(upload: &Upload) -> Error {
    let key = upload.key.as_str();
    Error::new(
        Kind::NotFound,
        "blob.upload_unknown",
        format!("the upload of {key:?} was completed, aborted or never begun"),
    )
}

/// The parts do not make an object.
pub fn part_invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, "blob.part_invalid", message)
}

/// Stored bytes are not what was written.
pub fn damaged(key: &Key) -> Error {
    Error::new(
        Kind::DataLoss,
        "blob.damaged",
        format!("the stored content of {:?} is damaged", key.as_str()),
    )
}
