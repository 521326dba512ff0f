//! `registry/instance/<service>/<id>` of the default namespace, as before there were others, and
//! `registry/instance/@<namespace>/<service>/<id>` of the others. No part can contain a slash or begin with
//! `@`, so keys parse one way only, and no service's keys are within another's prefix.

use bytes::Bytes;
use sinew_core::{InstanceId, Name};
use sinew_engine::kv::{Key, Span};

use super::ServiceId;

const PREFIX: &str = "registry/instance/";

/// All instances.
pub(super) fn all() -> Span {
    Span::prefix(PREFIX)
}

/// One instance.
pub(super) fn instance(service: &ServiceId, id: &InstanceId) -> Key {
    let ServiceId { namespace, name } = service;
    Bytes::from(match service.is_default() {
        true => format!("{PREFIX}{name}/{id}"),
        false => format!("{PREFIX}@{namespace}/{name}/{id}"),
    })
}

/// The service and the id that a key stands for; `None` for what this version does not know.
pub(super) fn parse(key: &[u8]) -> Option<(ServiceId, InstanceId)> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?;
    let (namespace, rest) = match rest.strip_prefix('@') {
        Some(rest) => {
            let (namespace, rest) = rest.split_once('/')?;
            (Name::new(namespace).ok()?, rest)
        }
        None => (super::default_namespace(), rest),
    };
    let (name, id) = rest.split_once('/')?;
    let service = ServiceId::new(namespace, Name::new(name).ok()?);
    Some((service, InstanceId::new(id).ok()?))
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
            let key = instance(&service, &id);
            assert!(all().contains(&key));
            assert_eq!(parse(&key), Some((service, id.clone())));
        }
        for other in [
            &b"registry/instance/orders"[..],
            b"registry/instance/Orders/1",
            b"registry/instance/@a/orders",
            b"registry/instance/@A/orders/1",
            b"\xff",
        ] {
            assert_eq!(parse(other), None);
        }
    }
}
