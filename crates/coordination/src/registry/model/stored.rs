//! The stored form of instances.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sinew_core::InstanceId;
use sinew_engine::kv::{LeaseId, Revision};

use super::{Check, Extra, Instance, Metadata, Port, Status, Weight, metadata::Texts};
use crate::registry::{ServiceId, Spelling};

/// Version 1. Fields may be added with a default; anything else is a new version.
#[derive(Serialize, Deserialize)]
struct Stored {
    v: u8,
    address: Arc<str>,
    port: u16,
    status: Status,
    /// 0 when there need be no heartbeats.
    ttl_ms: u64,
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    metadata: Metadata,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    ports: Box<[Port]>,
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    status_override: Option<Status>,
    #[serde(default, skip_serializing_if = "Weight::is_default")]
    weight: Weight,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    persistent: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deregister_after_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Spelling::is_plain")]
    spelling: Spelling,
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    attributes: Metadata,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    checks: Box<[Check]>,
}

/// The value to store for an instance.
pub(in crate::registry) fn encode(instance: &Instance) -> Bytes {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let stored = Stored {
        v: 1,
        address: instance.address.clone(),
        port: instance.port,
        status: instance.status,
        ttl_ms: instance.ttl.map_or(0, millis),
        metadata: instance.metadata.clone(),
        ports: instance.ports.clone(),
        status_override: instance.status_override,
        weight: instance.weight,
        zone: instance.zone.clone(),
        version: instance.version.clone(),
        persistent: instance.persistent,
        deregister_after_ms: instance.deregister_after().map(millis),
        spelling: instance.spelling().clone(),
        attributes: instance.attributes().clone(),
        checks: instance.checks().into(),
    };
    serde_json::to_vec(&stored)
        .expect("strings and numbers serialise")
        .into()
}

/// The instance that a stored value describes; `None` when this version cannot read it.
pub(in crate::registry) fn decode(
    (service, id): (ServiceId, InstanceId),
    value: &[u8],
    revision: Revision,
    lease: Option<LeaseId>,
) -> Option<Instance> {
    let stored: Stored = serde_json::from_slice(value)
        .ok()
        .filter(|stored: &Stored| stored.v == 1)?;
    let extra = Extra {
        spelling: stored.spelling,
        attributes: stored.attributes,
        checks: stored.checks,
        deregister_after: stored.deregister_after_ms.map(Duration::from_millis),
    };
    // Until its heartbeats are seen, it is not alive, if it owes any.
    let attached = lease.is_some();
    Some(Instance {
        service,
        id,
        address: stored.address,
        port: stored.port,
        ports: stored.ports,
        status: stored.status,
        status_override: stored.status_override,
        weight: stored.weight,
        zone: stored.zone,
        version: stored.version,
        metadata: stored.metadata,
        ttl: (stored.ttl_ms > 0).then(|| Duration::from_millis(stored.ttl_ms)),
        persistent: stored.persistent,
        alive: attached || stored.ttl_ms == 0,
        revision,
        lease,
        attached,
        extra: extra.boxed(),
    })
}

impl Instance {
    /// Lets it share what others say too.
    pub(in crate::registry) fn shared(mut self, texts: &mut Texts) -> Self {
        texts.share_name(&mut self.service.namespace);
        texts.share_name(&mut self.service.name);
        texts.share(&mut self.address);
        self.metadata.shared(texts);
        for text in [&mut self.zone, &mut self.version].into_iter().flatten() {
            texts.share(text);
        }
        for port in &mut self.ports {
            texts.share(&mut port.name);
            texts.share(&mut port.protocol);
        }
        if let Some(extra) = &mut self.extra {
            extra.attributes.shared(texts);
            let spelling = &mut extra.spelling;
            let written = [
                &mut spelling.namespace,
                &mut spelling.group,
                &mut spelling.service,
            ];
            for text in written.into_iter().flatten() {
                texts.share(text);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use sinew_core::Name;

    use super::*;

    /// Written by version 0.1.0. It must be read by every later one.
    #[test]
    fn the_stored_form_of_version_1_is_read() {
        let value = br#"{"v":1,"address":"127.0.0.1","port":8081,"status":"out_of_service","ttl_ms":10000,"metadata":{"zone":"a"}}"#;
        let name = || {
            (
                ServiceId::from(Name::new("orders").unwrap()),
                InstanceId::new("orders-1").unwrap(),
            )
        };
        let instance = decode(name(), value, 7, Some(LeaseId(3))).unwrap();
        assert_eq!((&*instance.address, instance.port), ("127.0.0.1", 8081));
        assert_eq!(instance.status, Status::OutOfService);
        assert_eq!(instance.ttl, Some(Duration::from_secs(10)));
        assert_eq!(&instance.metadata["zone"], "a");
        assert_eq!(&encode(&instance)[..], value);
        assert!(instance.alive, "it goes with its lease, as then");
        assert!(decode(name(), br#"{"v":2}"#, 7, None).is_none());
    }

    /// Every field of today, in today's form.
    #[test]
    fn the_stored_form_keeps_everything() {
        let value = br#"{"v":1,"address":"127.0.0.1","port":8081,"status":"up","ttl_ms":0,"ports":[{"name":"secure","protocol":"https","number":8443}],"override":"out_of_service","weight":0.5,"zone":"a","version":"2","persistent":true,"deregister_after_ms":60000,"spelling":{"group":"Pay","service":"Orders"},"attributes":{"consul.tags":"[]"},"checks":[{"id":"http","probe":{"http":{"target":"/health","method":"GET","from":200,"to":299}},"interval_ms":10000,"timeout_ms":3000,"failures":3,"passes":2,"health":"critical","output":"503"}]}"#;
        let name = (
            ServiceId::from(Name::new("orders").unwrap()),
            InstanceId::new("orders-1").unwrap(),
        );
        let instance = decode(name, value, 7, None).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&encode(&instance)),
            String::from_utf8_lossy(value)
        );
        assert_eq!(instance.effective(), Status::OutOfService);
        assert_eq!(instance.weight.as_f64(), 0.5);
        let mut texts = Texts::default();
        assert_eq!(instance.clone().shared(&mut texts), instance);
    }
}
