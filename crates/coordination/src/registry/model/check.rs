//! What a registration may say.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use sinew_core::Result;

use super::{Extra, Instance, Port, Registration, health};
use crate::registry::{Config, error};

const METADATA_PAIRS: usize = 64;
const METADATA_KEY_BYTES: usize = 128;
const METADATA_VALUE_BYTES: usize = 1024;
const ATTRIBUTE_PAIRS: usize = 32;
const ATTRIBUTE_VALUE_BYTES: usize = 8 * 1024;
const ADDRESS_BYTES: usize = 253;
const PORTS: usize = 16;
const LABEL_BYTES: usize = 128;
const LONGEST_DEAD: Duration = Duration::from_secs(30 * 24 * 3600);

impl Registration {
    /// Checks everything that the types do not, and makes an instance of it.
    pub(in crate::registry) fn check(self, config: &Config) -> Result<Instance> {
        check_address(&self.address)?;
        check_ports(&self.ports)?;
        let ttl = match (self.ttl, self.persistent) {
            (None, true) => None,
            (None, false) => Some(config.default_ttl),
            (ttl, _) => ttl,
        };
        if let Some(ttl) = ttl
            && !(config.shortest_ttl..=config.longest_ttl).contains(&ttl)
        {
            return Err(error::ttl_invalid(
                ttl,
                config.shortest_ttl,
                config.longest_ttl,
            ));
        }
        if self
            .deregister_after
            .is_some_and(|after| after > LONGEST_DEAD)
        {
            return Err(error::check_invalid(
                "the time after which the dead are deregistered is out of range; use up to 30 days",
            ));
        }
        metadata(&self.metadata)?;
        check_pairs(&self.attributes, ATTRIBUTE_PAIRS, ATTRIBUTE_VALUE_BYTES)?;
        let zone = label("zone", self.zone)?;
        let version = label("version", self.version)?;
        health::check(&self.checks)?;
        let extra = Extra {
            spelling: self.spelling,
            attributes: self.attributes.into(),
            checks: self.checks.into(),
            deregister_after: self.deregister_after,
        };
        Ok(Instance {
            service: self.service,
            id: self.id,
            address: self.address.into(),
            port: self.port,
            ports: self.ports.into(),
            status: self.status,
            status_override: None,
            weight: self.weight,
            zone,
            version,
            metadata: self.metadata.into(),
            ttl,
            persistent: self.persistent,
            alive: true,
            revision: 0,
            lease: None,
            attached: false,
            extra: extra.boxed(),
        })
    }
}

fn label(what: &str, text: Option<String>) -> Result<Option<std::sync::Arc<str>>> {
    match text {
        Some(text) if text.len() > LABEL_BYTES || text.chars().any(char::is_control) => Err(
            error::metadata_invalid(format!("the {what} is longer than {LABEL_BYTES} bytes")),
        ),
        Some(text) if text.is_empty() => Ok(None),
        text => Ok(text.map(Into::into)),
    }
}

fn check_ports(ports: &[Port]) -> Result<()> {
    if ports.len() > PORTS {
        return Err(error::address_invalid(format!(
            "{} ports are too many; use up to {PORTS}",
            ports.len()
        )));
    }
    let word = |text: &str| {
        (1..=32).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+'))
    };
    for (at, port) in ports.iter().enumerate() {
        if !word(&port.name) || !word(&port.protocol) || port.number == 0 {
            return Err(error::address_invalid(
                "a port has a name and a protocol of 1 to 32 letters, digits, '-', '_', '.' and '+', \
                 and a number from 1 to 65535",
            ));
        }
        if ports[..at].iter().any(|other| other.name == port.name) {
            return Err(error::address_invalid("two ports have the same name"));
        }
    }
    Ok(())
}

fn check_address(address: &str) -> Result<()> {
    if let Ok(ip) = address.parse::<IpAddr>() {
        return if ip.is_unspecified() || ip.is_multicast() {
            Err(error::address_invalid(format!(
                "{ip} is not an address that others can reach; register the one they shall use"
            )))
        } else {
            Ok(())
        };
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    // All digits in the last label would be an address that somebody mistyped.
    let name = address.strip_suffix('.').unwrap_or(address);
    let numeric = name
        .rsplit('.')
        .next()
        .is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    if address.len() <= ADDRESS_BYTES && !numeric && name.split('.').all(label) {
        Ok(())
    } else {
        Err(error::address_invalid(format!(
            "the address is neither an IP address nor a host name of up to {ADDRESS_BYTES} characters"
        )))
    }
}

/// Whether these may be an instance's metadata.
pub(super) fn metadata(pairs: &BTreeMap<String, String>) -> Result<()> {
    check_pairs(pairs, METADATA_PAIRS, METADATA_VALUE_BYTES)
}

/// Metadata, or attributes.
fn check_pairs(metadata: &BTreeMap<String, String>, most: usize, longest: usize) -> Result<()> {
    if metadata.len() > most {
        return Err(error::metadata_invalid(format!(
            "{} pairs of metadata are too many; use up to {most}",
            metadata.len()
        )));
    }
    for (key, value) in metadata {
        if key.is_empty() || key.len() > METADATA_KEY_BYTES {
            return Err(error::metadata_invalid(format!(
                "a metadata key has {} bytes; use 1 to {METADATA_KEY_BYTES}",
                key.len()
            )));
        }
        if value.len() > longest {
            return Err(error::metadata_invalid(format!(
                "the metadata value of {key:?} has {} bytes; use up to {longest}",
                value.len()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in [
            "127.0.0.1",
            "::1",
            "orders",
            "a-b.example.com",
            "x_1.local.",
            "10.0.0.1",
        ] {
            assert!(check_address(good).is_ok(), "{good}");
        }
        let long = "a".repeat(254);
        for bad in [
            "",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "a b",
            "a/b",
            "-a",
            "a..b",
            "[::1]",
            "1.2.3",
            "300.1.1.1",
            &long,
        ] {
            assert_eq!(
                check_address(bad).unwrap_err().code(),
                "registry.address_invalid",
                "{bad}"
            );
        }
    }

    #[test]
    fn metadata_is_bounded() {
        let pairs = |n: usize, key: usize, value: usize| -> BTreeMap<_, _> {
            (0..n)
                .map(|i| (format!("{i:0key$}"), "v".repeat(value)))
                .collect()
        };
        assert!(check_pairs(&pairs(64, 128, 1024), 64, 1024).is_ok());
        for bad in [pairs(65, 8, 1), pairs(1, 129, 1), pairs(1, 8, 1025)] {
            assert_eq!(
                check_pairs(&bad, 64, 1024).unwrap_err().code(),
                "registry.metadata_invalid"
            );
        }
    }
}
