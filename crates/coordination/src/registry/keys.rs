//! `registry/instance/<service>/<id>`. Neither part can contain a slash, so keys parse one way only,
//! and no service's keys are within another's prefix.

use bytes::Bytes;
use sinew_core::{InstanceId, Name};
use sinew_engine::kv::{Key, Span};

const PREFIX: &str = "registry/instance/";

/// All instances.
pub(super) fn all() -> Span {
    Span::prefix(PREFIX)
}

/// One instance.
pub(super) fn instance(service: &Name, id: &InstanceId) -> Key {
    Bytes::from(format!("{PREFIX}{service}/{id}"))
}

/// The service and the id that a key stands for; `None` for what this version does not know.
pub(super) fn parse(key: &[u8]) -> Option<(Name, InstanceId)> {
    let (service, id) = std::str::from_utf8(key)
        .ok()?
        .strip_prefix(PREFIX)?
        .split_once('/')?;
    Some((Name::new(service).ok()?, InstanceId::new(id).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back() {
        let (service, id) = (
            Name::new("orders").unwrap(),
            InstanceId::new("a.b_c:80-1").unwrap(),
        );
        let key = instance(&service, &id);
        assert!(all().contains(&key));
        assert_eq!(parse(&key), Some((service, id)));
        for other in [
            &b"registry/instance/orders"[..],
            b"registry/instance/Orders/1",
            b"\xff",
        ] {
            assert_eq!(parse(other), None);
        }
    }
}
