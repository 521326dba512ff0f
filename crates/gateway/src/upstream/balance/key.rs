//! What the same instance is chosen for. The same everywhere and for ever: several gateways agree on
//! it, and so do the versions of Sinew.

use crate::{
    policy::HashBy,
    scratch::Scratch,
    server::Client,
    upstream::{Balancer, Service},
};

/// FNV-1a with the last step of splitmix64, which spreads what FNV leaves close together.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// One number from another, without a pattern (splitmix64, Steele et al. 2014).
pub(super) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Service {
    /// The key of a request, if the service's instances are chosen by one and the request has it.
    pub(crate) fn key(&self, client: &Client, scratch: &Scratch) -> Option<u64> {
        let balancer = self.balancer.borrow();
        let Balancer::Hash(by, _) = &*balancer else {
            return None;
        };
        match by {
            HashBy::Source => match client.peer.ip().to_canonical() {
                std::net::IpAddr::V4(ip) => Some(hash(&ip.octets())),
                std::net::IpAddr::V6(ip) => Some(hash(&ip.octets())),
            },
            HashBy::Path => Some(hash(scratch.path.as_bytes())),
            HashBy::Header(name) => {
                let fields = scratch.head.fields();
                value(fields.map(|(_, name, value)| (name, value)), name).map(hash)
            }
            HashBy::Cookie(name) => {
                let fields = scratch.head.fields();
                let cookies = fields.filter(|(_, name, _)| name.eq_ignore_ascii_case(b"cookie"));
                cookies
                    .flat_map(|(_, _, value)| value.split(|byte| *byte == b';'))
                    .find_map(|pair| cookie(pair, name))
                    .map(hash)
            }
        }
    }
}

fn value<'a>(
    mut fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    name: &str,
) -> Option<&'a [u8]> {
    let (_, value) = fields.find(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))?;
    Some(value)
}

/// The value of `pair` if that is its name (RFC 6265 §5.4: names are compared as they are).
fn cookie<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let rest = pair.trim_ascii().strip_prefix(name.as_bytes())?;
    rest.strip_prefix(b"=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_same_for_ever() {
        assert_eq!(hash(b""), mix(0xcbf2_9ce4_8422_2325));
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_ne!(hash(b"a"), hash(b"b"));
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let found = |header: &'static [u8]| {
            header
                .split(|byte| *byte == b';')
                .find_map(|pair| cookie(pair, "sid"))
        };
        assert_eq!(found(b"a=b; sid=7; c=d"), Some(&b"7"[..]));
        assert_eq!(found(b"xsid=1;sids=2; SID=3; sid"), None);
        assert_eq!(found(b"sid=a=b"), Some(&b"a=b"[..]));
    }
}
