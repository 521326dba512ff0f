//! `registry/instance/<service>/<id>` of the default namespace, as before there were others, and
//! `registry/instance/@<namespace>/<service>/<id>` of the others; `registry/beat/…` likewise. No part can
//! contain a slash or begin with `@`, so keys parse one way only, and no service's keys are within
//! another's prefix.

use bytes::Bytes;
use sinew_core::{InstanceId, Name};
use sinew_engine::kv::{Key, Span};

use super::ServiceId;

const ALL: &str = "registry/";
const INSTANCE: &str = "registry/instance/";
const BEAT: &str = "registry/beat/";

/// What a key stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What an instance is.
    Instance,
    /// That its heartbeats come.
    Beat,
}

/// All keys of the registry.
pub(super) fn all() -> Span {
    Span::prefix(ALL)
}

/// What an instance is.
pub(super) fn instance(service: &ServiceId, id: &InstanceId) -> Key {
    key(INSTANCE, service, id)
}

/// That its heartbeats come.
pub(super) fn beat(service: &ServiceId, id: &InstanceId) -> Key {
    key(BEAT, service, id)
}

fn key(prefix: &str, service: &ServiceId, id: &InstanceId) -> Key {
    let ServiceId { namespace, name } = service;
    Bytes::from(match service.is_default() {
        true => format!("{prefix}{name}/{id}"),
        false => format!("{prefix}@{namespace}/{name}/{id}"),
    })
}

/// What a key stands for, of which service and id; `None` for what this version does not know.
pub(super) fn parse(key: &[u8]) -> Option<(Kind, ServiceId, InstanceId)> {
    let key = std::str::from_utf8(key).ok()?;
    let (kind, rest) = match key.strip_prefix(INSTANCE) {
        Some(rest) => (Kind::Instance, rest),
        None => (Kind::Beat, key.strip_prefix(BEAT)?),
    };
    let (namespace, rest) = match rest.strip_prefix('@') {
        Some(rest) => {
            let (namespace, rest) = rest.split_once('/')?;
            (Name::new(namespace).ok()?, rest)
        }
        None => (super::default_namespace(), rest),
    };
    let (name, id) = rest.split_once('/')?;
    let service = ServiceId::new(namespace, Name::new(name).ok()?);
    Some((kind, service, InstanceId::new(id).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back() {
        let orders = Name::new("orders").unwrap();
        let id = InstanceId::new("a.b_c:80-1").unwrap();
        for service in [
            ServiceId::from(&orders),
            ServiceId::new(Name::new("team-a").unwrap(), orders),
        ] {
            for (kind, key) in [
                (Kind::Instance, instance(&service, &id)),
                (Kind::Beat, beat(&service, &id)),
            ] {
                assert!(all().contains(&key));
                assert_eq!(parse(&key), Some((kind, service.clone(), id.clone())));
            }
        }
        for other in [
            &b"registry/instance/orders"[..],
            b"registry/instance/Orders/1",
            b"registry/other/orders/1",
            b"registry/instance/@a/orders",
            b"registry/instance/@A/orders/1",
            b"\xff",
        ] {
            assert_eq!(parse(other), None);
        }
    }
}
