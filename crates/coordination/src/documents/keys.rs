//! Names contain no slash and numbers have a fixed width, so no key of one document lies among those
//! of another, and versions are in order.

use bytes::Bytes;
use sinew_core::Name;
use sinew_engine::kv::{Key, Span};

pub(super) fn current(name: &Name) -> Key {
    Bytes::from(format!("documents/current/{name}"))
}

pub(super) fn version(name: &Name, version: u64) -> Key {
    Bytes::from(format!("documents/version/{name}/{version:020}"))
}

pub(super) fn versions(name: &Name) -> Span {
    Span::prefix(format!("documents/version/{name}/"))
}

pub(super) fn versions_before(name: &Name, version: u64) -> Span {
    Span::between(self::version(name, 0), self::version(name, version))
}

pub(super) fn part(name: &Name, version: u64, writer: &str, part: usize) -> Key {
    Bytes::from(format!(
        "documents/part/{name}/{version:020}/{writer}/{part:06}"
    ))
}

/// The content of one version.
pub(super) fn parts(name: &Name, version: u64, writer: &str) -> Span {
    Span::prefix(format!("documents/part/{name}/{version:020}/{writer}/"))
}

/// All that was ever written for a version, by whomever.
pub(super) fn parts_of_all_writers(name: &Name, version: u64) -> Span {
    Span::prefix(format!("documents/part/{name}/{version:020}/"))
}

pub(super) fn parts_before(name: &Name, version: u64) -> Span {
    Span::between(
        format!("documents/part/{name}/{:020}/", 0),
        format!("documents/part/{name}/{version:020}/"),
    )
}
