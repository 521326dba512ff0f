//! The errors of the config centre; each code has a page under `docs/errors/`. None of them quotes content.

use std::time::Duration;

use sinew_core::{Error, Kind};

use super::ItemId;

pub(super) fn item_invalid(what: &str, text: &str, rule: &str) -> Error {
    let shown: String = text.chars().take(64).collect();
    Error::new(
        Kind::InvalidArgument,
        "configs.item_invalid",
        format!("{shown:?} is not a {what} of an item: use {rule}"),
    )
}

pub(super) fn unknown(id: &ItemId) -> Error {
    Error::new(
        Kind::NotFound,
        "configs.item_unknown",
        format!("there is no item {id}"),
    )
}

pub(super) fn version_unknown(id: &ItemId, version: u64) -> Error {
    Error::new(
        Kind::NotFound,
        "configs.version_unknown",
        format!("there is no version {version} of {id}; it was never made, or is no longer kept"),
    )
}

pub(super) fn draft_unknown(id: &ItemId) -> Error {
    Error::new(
        Kind::NotFound,
        "configs.draft_unknown",
        format!("there is no draft of {id}"),
    )
}

pub(super) fn changed_meanwhile(id: &ItemId, expected: u64, current: u64) -> Error {
    let is = match current {
        0 => "does not exist (version 0)".to_owned(),
        version => format!("is at version {version}"),
    };
    Error::new(
        Kind::FailedPrecondition,
        "configs.changed_meanwhile",
        format!("{id} {is}, and not at {expected} as expected; read it again, then change it"),
    )
}

pub(super) fn contended(id: &ItemId) -> Error {
    Error::new(
        Kind::Aborted,
        "configs.contended",
        format!("{id} keeps being changed by others; try again"),
    )
}

pub(super) fn gray_running(id: &ItemId, version: u64) -> Error {
    Error::new(
        Kind::FailedPrecondition,
        "configs.gray_running",
        format!("version {version} of {id} is in gray release; promote or abort it first"),
    )
}

pub(super) fn gray_absent(id: &ItemId) -> Error {
    Error::new(
        Kind::FailedPrecondition,
        "configs.gray_absent",
        format!("no version of {id} is in gray release"),
    )
}

pub(super) fn rule_invalid(why: &str) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "configs.rule_invalid",
        format!("the rule of a gray release {why}"),
    )
}

pub(super) fn content_invalid(what: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, "configs.content_invalid", what)
}

pub(super) fn schema_invalid(why: impl std::fmt::Display) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "configs.schema_invalid",
        format!("the schema cannot be used: {why}"),
    )
}

pub(super) fn schema_mismatch(why: impl std::fmt::Display) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "configs.schema_mismatch",
        format!("the content does not fit its schema: {why}"),
    )
}

pub(super) fn too_large(what: &str, bytes: usize, most: usize) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "configs.too_large",
        format!("the {what} has {bytes} bytes; {most} is the most"),
    )
}

pub(super) fn full(most: usize) -> Error {
    Error::new(
        Kind::ResourceExhausted,
        "configs.full",
        format!(
            "there are {most} items, which is the limit; purge what is deleted, or raise `[configs] items`"
        ),
    )
}

pub(super) fn text_invalid(what: &str, most: usize) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "configs.text_invalid",
        format!("the {what} may have {most} bytes and no control characters"),
    )
}

pub(super) fn query_invalid(why: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, "configs.query_invalid", why)
}

pub(super) fn secret_invalid(why: &str) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "configs.secret_invalid",
        format!("an encrypted value cannot be read: {why}; make one with `sinew config encrypt`"),
    )
}

pub(super) fn key_unavailable(why: &str) -> Error {
    Error::new(
        Kind::FailedPrecondition,
        "configs.key_unavailable",
        format!("encrypted values cannot be used on this node: {why}"),
    )
}

pub(super) fn damaged(id: &ItemId) -> Error {
    Error::new(
        Kind::DataLoss,
        "configs.damaged",
        format!("what is stored of {id} cannot be read"),
    )
}

pub(super) fn bundle_invalid(why: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, "configs.bundle_invalid", why)
}

pub(super) fn stopped() -> Error {
    Error::new(
        Kind::Unavailable,
        "configs.stopped",
        "the config centre of this node has stopped",
    )
}

pub(super) fn timeout(what: &str, limit: Duration) -> Error {
    Error::new(
        Kind::DeadlineExceeded,
        "configs.timeout",
        format!(
            "the store did not answer within {} ms; it may have happened",
            limit.as_millis()
        ),
    )
    .with_context(what.to_owned())
}
