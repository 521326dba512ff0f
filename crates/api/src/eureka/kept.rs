//! From what a client announces to what the registry keeps. What the registry's model has no place for
//! are attributes of the instance, `eureka.<field>`.

use std::time::Duration;

use sinew_coordination::registry::{
    Config, Instance, Port, Registration, ServiceId, Spelling, naming,
};
use sinew_core::Result;

use super::announced::{Announced, PortOf};

/// The field's name as an attribute.
macro_rules! attribute {
    ($field:literal) => {
        concat!("eureka.", $field)
    };
}
pub(super) use attribute;

/// The name of one of [`TEXTS`](super::announced::TEXTS) as an attribute.
pub(super) fn attribute_of(field: &str) -> String {
    format!("eureka.{field}")
}

/// The longest time to live that the registry gives; who asks for more gets this.
fn ttl(asked: Duration) -> Duration {
    let Config {
        shortest_ttl,
        longest_ttl,
        ..
    } = Config::default();
    asked.clamp(shortest_ttl, longest_ttl)
}

/// The instance as it is to be registered at `now`, milliseconds. `known` is what stands there already.
///
/// InvalidArgument `registry.name_invalid`.
pub(super) fn registration(
    announced: Announced,
    (service, mut spelling): (ServiceId, Spelling),
    known: Option<&Instance>,
    now: u64,
) -> Result<Registration> {
    let (id, written) = naming::instance(&announced.id)?;
    spelling.id = written;
    // The address is what gets the requests; host names of clients are often known to nobody else.
    let is_address = announced.ip.parse::<std::net::IpAddr>().is_ok();
    let address = if is_address {
        &announced.ip
    } else {
        &announced.host
    };
    let main = [announced.port, announced.secure_port]
        .into_iter()
        .find(|port| port.enabled);
    let main = main.map_or(0, |port| port.number);
    let mut registration = Registration::new(service, id, address.clone(), main);

    let mut keep = |field: &str, value: String| {
        registration.attributes.insert(attribute_of(field), value);
    };
    if announced.host != *address {
        keep("hostName", announced.host.clone());
    }
    if announced.ip != *address {
        keep("ipAddr", announced.ip.clone());
    }
    for (field, text) in announced.texts {
        keep(field, text);
    }
    for (field, PortOf { number, enabled }) in [
        ("port", announced.port),
        ("securePort", announced.secure_port),
    ] {
        if !enabled && number != 0 {
            keep(field, number.to_string());
        }
    }
    if announced.status.kept() != sinew_coordination::registry::Status::Up {
        keep("status", announced.status.name().to_owned());
    }
    if announced.country != 1 {
        keep("countryId", announced.country.to_string());
    }
    if announced.data_center != "MyOwn" {
        keep("dataCenter", announced.data_center);
    }
    if announced.coordinates {
        keep("isCoordinatingDiscoveryServer", "true".to_owned());
    }
    if let Some(dirty) = announced.dirty {
        keep("lastDirtyTimestamp", dirty.to_string());
    }
    keep(
        "renewalIntervalInSecs",
        announced.renewal_seconds.to_string(),
    );
    keep("lastUpdatedTimestamp", now.to_string());
    let since = known.and_then(|known| known.attributes().get(attribute!("registrationTimestamp")));
    keep(
        "registrationTimestamp",
        since.map_or_else(|| now.to_string(), str::to_owned),
    );

    registration.zone = announced
        .data_center_metadata
        .get("availability-zone")
        .cloned();
    if !announced.data_center_metadata.is_empty() {
        let text = serde_json::to_string(&announced.data_center_metadata);
        let text = text.expect("a map of texts serialises");
        registration
            .attributes
            .insert(attribute!("dataCenterMetadata").to_owned(), text);
    }
    for (name, port) in [("http", announced.port), ("https", announced.secure_port)] {
        if port.enabled {
            registration.ports.push(Port {
                name: name.into(),
                protocol: name.into(),
                number: port.number,
            });
        }
    }
    registration.status = announced.status.kept();
    registration.metadata = announced.metadata;
    registration.ttl = Some(ttl(announced.duration));
    registration.spelling = spelling;
    Ok(registration)
}

/// When the instance's client last changed it, as that said; 0 when it did not.
pub(super) fn dirty(instance: &Instance) -> u64 {
    let text = instance.attributes().get(attribute!("lastDirtyTimestamp"));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}
