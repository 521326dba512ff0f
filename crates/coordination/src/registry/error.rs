//! The registry's errors; each code has a page under `docs/errors/`.

use std::time::Duration;

use sinew_core::{Error, InstanceId, Kind};

use super::ServiceId;

pub(super) fn instance_unknown(service: &ServiceId, id: &InstanceId) -> Error {
    Error::new(
        Kind::NotFound,
        "registry.instance_unknown",
        format!(
            "no instance {id} of {service} is registered (its lease may have ended); register again"
        ),
    )
}

pub(super) fn service_full(service: &ServiceId, limit: usize) -> Error {
    Error::new(
        Kind::ResourceExhausted,
        "registry.service_full",
        format!("{service} has {limit} instances, which is the limit for one service"),
    )
}

pub(super) fn full(limit: usize) -> Error {
    Error::new(
        Kind::ResourceExhausted,
        "registry.full",
        format!("{limit} instances are registered, which is the limit"),
    )
}

pub(super) fn address_invalid(why: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, "registry.address_invalid", why)
}

pub(super) fn ttl_invalid(ttl: Duration, shortest: Duration, longest: Duration) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "registry.ttl_invalid",
        format!(
            "a time to live of {} ms is out of range; use {} to {} ms",
            ttl.as_millis(),
            shortest.as_millis(),
            longest.as_millis()
        ),
    )
}

pub(super) fn metadata_invalid(why: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, "registry.metadata_invalid", why)
}

pub(super) fn check_invalid(why: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, "registry.check_invalid", why)
}

pub(super) fn name_invalid(most: usize) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "registry.name_invalid",
        format!("a name has 1 to {most} bytes and no control characters"),
    )
}

pub(super) fn contended(service: &ServiceId, id: &InstanceId) -> Error {
    Error::new(
        Kind::Aborted,
        "registry.contended",
        format!("instance {id} of {service} keeps being changed by others; try again"),
    )
}

pub(super) fn timeout(what: &str, limit: Duration) -> Error {
    Error::new(
        Kind::DeadlineExceeded,
        "registry.timeout",
        format!(
            "the store did not answer within {} ms; it may have happened",
            limit.as_millis()
        ),
    )
    .with_context(what.to_owned())
}

pub(super) fn behind() -> Error {
    Error::new(
        Kind::Unavailable,
        "registry.behind",
        "this node does not see the store's newest changes at the moment; try again",
    )
}

pub(super) fn watch_lagged() -> Error {
    Error::new(
        Kind::OutOfRange,
        "registry.watch_lagged",
        "this watch is too far behind; list again",
    )
}

pub(super) fn stopped() -> Error {
    Error::new(
        Kind::Unavailable,
        "registry.stopped",
        "the registry of this node has stopped",
    )
}
