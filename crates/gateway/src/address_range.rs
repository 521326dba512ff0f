use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use sinew_core::{Error, Kind, Result};

/// A range of addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    address: IpAddr,
    /// Bits that its addresses share.
    length: u8,
}

impl AddressRange {
    /// Reads `10.0.0.0/8`, `::1` or the like; `gateway.config_invalid` (InvalidArgument) otherwise,
    /// also when bits beyond the length are set.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |why: &str| {
            let message = format!("{text:?} is not a range of addresses: {why}");
            Err(Error::new(
                Kind::InvalidArgument,
                "gateway.config_invalid",
                message,
            ))
        };
        let (address, length) = text.split_once('/').unwrap_or((text, ""));
        let Ok(address) = address.parse::<IpAddr>() else {
            return invalid("write 10.0.0.0/8, 2001:db8::/32 or one address");
        };
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match length.parse::<u8>() {
            Ok(length) if length <= most => length,
            Err(_) if !text.contains('/') => most,
            _ => return invalid(&format!("after the slash stands 0 to {most}")),
        };
        let range = Self { address, length };
        if bits(address) & !range.mask() == 0 {
            Ok(range)
        } else {
            invalid("bits beyond its length are set")
        }
    }

    /// Whether the address is one of the range. IPv4 within IPv6 (`::ffff:1.2.3.4`) is IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4()
            && bits(address) & self.mask() == bits(self.address)
    }

    /// Whether some address is one of both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// Of the 128 bits that both families have here.
    fn mask(&self) -> u128 {
        let family = if self.address.is_ipv4() { 96 } else { 0 };
        let free = 128 - family - u32::from(self.length);
        u128::MAX.checked_shl(free).unwrap_or(0)
    }
}

fn bits(address: IpAddr) -> u128 {
    let address: Ipv6Addr = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    address.to_bits()
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for AddressRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl TryFrom<String> for AddressRange {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
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

    #[test]
    fn ranges_hold_what_they_say() {
        for (range, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
            ("0.0.0.0/0", "1.2.3.4", "::1"),
            ("::/0", "::1", "1.2.3.4"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::"),
            ("::1", "::1", "::2"),
            ("192.168.1.7", "192.168.1.7", "192.168.1.6"),
        ] {
            let range: AddressRange = range.parse().unwrap();
            assert!(range.contains(inside.parse().unwrap()), "{range}");
            assert!(!range.contains(outside.parse().unwrap()), "{range}");
            assert_eq!(range.to_string().parse::<AddressRange>().unwrap(), range);
        }
        for bad in [
            "",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "::/129",
            "a/8",
            "10.0.0.0/",
            "/8",
        ] {
            assert!(AddressRange::parse(bad).is_err(), "{bad}");
        }
    }
}
