//! Who sees a version in gray release.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use sinew_core::{Error, Result};

use super::{ItemId, error};

const MOST_ENTRIES: usize = 1000;
const MOST_TEXT: usize = 256;

/// Who asks, as far as they say; what decides who sees a version in gray release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Client {
    /// The id of the instance.
    pub instance: Option<String>,
    /// Where it asks from.
    pub address: Option<IpAddr>,
    /// What it says of itself, such as `zone` = `a`.
    pub labels: BTreeMap<String, String>,
}

/// Who sees a version in gray release: whoever any of these names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// These instances.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<String>,
    /// Those who ask from these addresses, such as `10.0.0.0/8`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<AddressRange>,
    /// Those who have all of these labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// So many of a hundred instances (of addresses, for those who do not say which instance they are).
    /// Who is among them stays among them when the number grows.
    #[serde(skip_serializing_if = "is_zero")]
    pub percent: f64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_zero(percent: &f64) -> bool {
    *percent == 0.0
}

impl Rule {
    /// InvalidArgument `configs.rule_invalid`.
    pub(super) fn check(&self) -> Result<()> {
        if !(0.0..=100.0).contains(&self.percent) {
            return Err(error::rule_invalid(
                "has a percentage that is not within 0 to 100",
            ));
        }
        let names_nobody = self.instances.is_empty()
            && self.addresses.is_empty()
            && self.labels.is_empty()
            && self.percent == 0.0;
        if names_nobody {
            return Err(error::rule_invalid(
                "names nobody: say instances, addresses, labels or percent",
            ));
        }
        let entries = self.instances.len() + self.addresses.len() + self.labels.len();
        let labels = self.labels.iter().flat_map(|(key, value)| [key, value]);
        let is_long = self
            .instances
            .iter()
            .chain(labels)
            .any(|text| text.len() > MOST_TEXT);
        if entries > MOST_ENTRIES || is_long {
            return Err(error::rule_invalid(&format!(
                "may have {MOST_ENTRIES} entries of {MOST_TEXT} bytes"
            )));
        }
        Ok(())
    }

    /// Whether `client` sees the version of the item that is in gray release.
    pub(super) fn names(&self, client: &Client, item: &ItemId, version: u64) -> bool {
        let instance = client.instance.as_deref();
        if instance.is_some_and(|id| self.instances.iter().any(|named| named == id)) {
            return true;
        }
        if let Some(address) = client.address
            && self.addresses.iter().any(|range| range.contains(address))
        {
            return true;
        }
        let has = |(key, value): (&String, &String)| client.labels.get(key) == Some(value);
        if !self.labels.is_empty() && self.labels.iter().all(has) {
            return true;
        }
        let who = match (instance, client.address) {
            (Some(id), _) => id.to_owned(),
            (None, Some(address)) => address.to_string(),
            (None, None) => return self.percent >= 100.0,
        };
        share(item, version, &who) < self.percent
    }
}

/// Where `who` stands among a hundred, for this release: every node and every version of Sinew says the same.
fn share(item: &ItemId, version: u64, who: &str) -> f64 {
    let text = format!("{item}\n{version}\n{who}");
    let digest = digest(&SHA256, text.as_bytes());
    let bytes = digest.as_ref().first_chunk().copied().unwrap_or_default();
    let number = u32::from_be_bytes(bytes);
    f64::from(number) / (f64::from(u32::MAX) + 1.0) * 100.0
}

/// An address, or all that begin with the same bits: `10.0.0.7`, `10.0.0.0/8`, `fd00::/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    address: IpAddr,
    bits: u32,
}

impl AddressRange {
    /// Whether it holds the address. An IPv4 address written as IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differs = own.to_bits() ^ other.to_bits();
                differs.leading_zeros() >= self.bits
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differs = own.to_bits() ^ other.to_bits();
                differs.leading_zeros() >= self.bits
            }
            _ => false,
        }
    }
}

impl FromStr for AddressRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid =
            || error::rule_invalid("has an address that is none; write 10.0.0.7 or 10.0.0.0/8");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().map_err(|_| invalid())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        match bits.unwrap_or(most) {
            bits if bits <= most => Ok(Self { address, bits }),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl TryFrom<String> for AddressRange {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> Self {
        range.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item() -> ItemId {
        ItemId::new("default", "orders", "default", "main").unwrap()
    }

    fn client(id: &str) -> Client {
        Client {
            instance: Some(id.into()),
            ..Client::default()
        }
    }

    #[test]
    fn each_part_of_a_rule_names_its_own() {
        let rule: Rule = serde_json::from_str(
            r#"{"instances": ["a"], "addresses": ["10.1.0.0/16", "fd00::1"], "labels": {"zone": "x", "tier": "1"}}"#,
        )
        .unwrap();
        rule.check().unwrap();
        let from = |address: &str, labels: &[(&str, &str)]| Client {
            instance: Some("z".into()),
            address: Some(address.parse().unwrap()),
            labels: labels
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
        };
        let names = |client: &Client| rule.names(client, &item(), 2);
        assert!(names(&client("a")) && !names(&client("b")));
        assert!(names(&from("10.1.2.3", &[])) && names(&from("::ffff:10.1.2.3", &[])));
        assert!(names(&from("fd00::1", &[])) && !names(&from("fd00::2", &[])));
        assert!(!names(&from("10.2.0.1", &[("zone", "x")])));
        assert!(names(&from(
            "10.2.0.1",
            &[("zone", "x"), ("tier", "1"), ("more", "y")]
        )));
        assert!(!names(&Client::default()));
    }

    #[test]
    fn a_percentage_is_stable_and_only_grows() {
        let of = |percent| Rule {
            percent,
            ..Rule::default()
        };
        let mut before: Vec<String> = Vec::new();
        for percent in [0.0, 1.0, 10.0, 50.0, 100.0] {
            let rule = of(percent);
            let named: Vec<_> = (0..2000)
                .map(|number| format!("instance-{number}"))
                .filter(|id| rule.names(&client(id), &item(), 3))
                .collect();
            assert!(before.iter().all(|id| named.contains(id)));
            let share = named.len() as f64 / 20.0;
            assert!((share - percent).abs() < 4.0, "{percent}: {share}");
            before = named;
        }
        // A fixed point: nodes of different versions must agree.
        assert_eq!((share(&item(), 1, "orders-1") * 1000.0) as u64, 90_268);
        let other = (0..2000).filter(|number| {
            let id = format!("instance-{number}");
            of(10.0).names(&client(&id), &item(), 4) && of(10.0).names(&client(&id), &item(), 3)
        });
        assert!(other.count() < 60, "the next release tries others");
    }

    #[test]
    fn rules_that_name_nobody_or_are_wrong_are_refused() {
        for bad in ["{}", r#"{"percent": 101}"#, r#"{"percent": -1}"#] {
            let rule: Rule = serde_json::from_str(bad).unwrap();
            assert_eq!(
                rule.check().unwrap_err().code(),
                "configs.rule_invalid",
                "{bad}"
            );
        }
        for bad in [
            r#"{"addresses": ["10.0.0.0/33"]}"#,
            r#"{"addresses": ["x"]}"#,
            r#"{"percentage": 1}"#,
        ] {
            assert!(serde_json::from_str::<Rule>(bad).is_err(), "{bad}");
        }
    }
}
