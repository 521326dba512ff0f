//! Where a route forwards to: one service, or several backends with weights.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sinew_core::{Name, units};

use crate::{
    matcher::{HeaderLines, every_cookie},
    route::Route,
};

/// One of the places that a route forwards to: a service, part of one, or fixed addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// A registered service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
    /// Only its instances whose metadata has all of these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subset: BTreeMap<String, String>,
    /// What happens while none of them is up.
    #[serde(default, skip_serializing_if = "SubsetFallback::is_refuse")]
    pub fallback: SubsetFallback,
    /// Addresses, instead of a service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<SocketAddr>,
    /// What metrics and logs call the addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Its share of the requests, beside the other weights; 0 takes none.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
}

/// What happens to requests for a subset of which no instance is up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SubsetFallback {
    /// They are answered 503.
    #[default]
    #[serde(rename = "503")]
    Refuse,
    /// They go to any instance of the service.
    #[serde(rename = "any")]
    Any,
}

/// Keeps a client with the backend that it had first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// The cookie that says which.
    pub cookie: String,
    /// For how long.
    #[serde(with = "units::duration")]
    pub max_age: Duration,
    /// Whether browsers send it over TLS only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secure: bool,
}

/// What makes a target the same: routes with the same one share its connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TargetKey {
    pub(crate) service: Name,
    pub(crate) subset: BTreeMap<String, String>,
    pub(crate) fallback: SubsetFallback,
    /// Of a target that is no service.
    pub(crate) addresses: Vec<SocketAddr>,
}

/// The backends of a route, ready to be drawn from.
#[derive(Debug)]
pub(crate) struct Backends {
    pub(crate) list: Box<[Share]>,
    /// Of all together.
    weight: u32,
    cookie: Option<Box<str>>,
}

#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) key: TargetKey,
    /// Draws below this, and not below that of the one before, are its.
    end: u32,
    weight: u32,
    /// What the cookie says for it.
    mark: Box<str>,
    /// The line that sets the cookie.
    set_cookie: Box<str>,
}

fn one() -> u32 {
    1
}

fn is_one(weight: &u32) -> bool {
    *weight == 1
}

const MOST_BACKENDS: usize = 64;
const MOST_ADDRESSES: usize = 1_024;
const MOST_WEIGHT: u32 = 1_000_000;

impl SubsetFallback {
    fn is_refuse(&self) -> bool {
        *self == Self::Refuse
    }
}

impl Backend {
    /// The whole service, with weight 1.
    pub fn service(name: Name) -> Self {
        Self {
            service: Some(name),
            subset: BTreeMap::new(),
            fallback: SubsetFallback::Refuse,
            addresses: Vec::new(),
            name: None,
            weight: 1,
        }
    }

    fn key(&self) -> Result<TargetKey, String> {
        let service = match (&self.service, &self.addresses[..]) {
            (Some(service), []) if self.name.is_none() => service.clone(),
            (Some(_), []) => return Err("`name` is for addresses; a service has one".to_owned()),
            (None, [first, ..]) => match &self.name {
                Some(name) => name.clone(),
                None => named_after(*first),
            },
            _ => return Err("a backend has either `service` or `addresses`".to_owned()),
        };
        if !self.addresses.is_empty() && (!self.subset.is_empty() || !self.fallback.is_refuse()) {
            return Err("addresses have no `subset`".to_owned());
        }
        if self.subset.is_empty() && !self.fallback.is_refuse() {
            return Err("`fallback` is for a `subset`".to_owned());
        }
        let mut addresses = self.addresses.clone();
        addresses.sort();
        addresses.dedup();
        if addresses.len() < self.addresses.len() {
            return Err("an address stands twice".to_owned());
        }
        if addresses.len() > MOST_ADDRESSES {
            return Err(format!("more than {MOST_ADDRESSES} addresses"));
        }
        let unusable = |one: &SocketAddr| one.port() == 0 || one.ip().is_unspecified();
        if let Some(bad) = addresses.iter().find(|one| unusable(one)) {
            return Err(format!("{bad} is no address to connect to"));
        }
        Ok(TargetKey {
            service,
            subset: self.subset.clone(),
            fallback: self.fallback,
            addresses,
        })
    }
}

/// `at-10-0-0-1-8080`.
fn named_after(address: SocketAddr) -> Name {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let parts = v6.segments().map(|part| format!("{part:x}"));
            parts.join("-")
        }
    };
    let text = format!("at-{}-{}", ip.replace('.', "-"), address.port());
    Name::new(&text).expect("letters, digits and dashes, at most 48 of them")
}

impl TargetKey {
    /// All instances of a service.
    pub(crate) fn service(service: Name) -> Self {
        Self {
            service,
            subset: BTreeMap::new(),
            fallback: SubsetFallback::Refuse,
            addresses: Vec::new(),
        }
    }

    /// `version=1,zone=a`; nothing when it is a whole service.
    pub(crate) fn subset_label(&self) -> String {
        let pairs = self
            .subset
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        pairs.collect::<Vec<_>>().join(",")
    }

    /// The same for the same target, in every process and version: clients bring it back.
    fn mark(&self) -> String {
        let Self {
            service,
            subset,
            addresses,
            ..
        } = self;
        let text = format!("{service} {subset:?} {addresses:?}");
        // FNV-1a, 64 bits.
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, mix))
    }
}

impl Backends {
    /// `None` when the route does not forward. What is wrong goes to `faults`.
    pub(crate) fn compile(route: &Route, faults: &mut Vec<String>) -> Option<Self> {
        let sole;
        let backends = match &route.service {
            Some(service) => {
                sole = [Backend::service(service.clone())];
                &sole[..]
            }
            None => &route.backends,
        };
        if let Some(sticky) = &route.sticky
            && let Err(why) = check_sticky(sticky, backends.len())
        {
            faults.push(format!("sticky: {why}"));
            return None;
        }
        if backends.len() > MOST_BACKENDS {
            faults.push(format!("more than {MOST_BACKENDS} backends"));
            return None;
        }
        let mut list: Vec<Share> = Vec::with_capacity(backends.len());
        let mut total = 0;
        for (index, backend) in backends.iter().enumerate() {
            let fault = |why: &str| format!("backend {}: {why}", index + 1);
            if backend.weight > MOST_WEIGHT {
                faults.push(fault(&format!("its weight is more than {MOST_WEIGHT}")));
                continue;
            }
            total += backend.weight;
            match backend.key() {
                Err(why) => faults.push(fault(&why)),
                Ok(key) if list.iter().any(|other| other.key == key) => {
                    faults.push(fault("it stands twice; add the weights"));
                }
                Ok(key) => {
                    let sticky = route.sticky.as_ref();
                    let mark = sticky.map_or(String::new(), |_| key.mark());
                    list.push(Share {
                        end: total,
                        weight: backend.weight,
                        set_cookie: sticky.map_or("".into(), |sticky| sticky.line(&mark)),
                        mark: mark.into(),
                        key,
                    });
                }
            }
        }
        if !backends.is_empty() && total == 0 {
            faults.push("all backends have weight 0".to_owned());
        }
        let cookie = route
            .sticky
            .as_ref()
            .map(|sticky| sticky.cookie.as_str().into());
        (!list.is_empty()).then(|| Self {
            list: list.into(),
            weight: total,
            cookie,
        })
    }

    /// The index of the backend for a request, and whether its client is to be told.
    pub(crate) fn choose(
        &self,
        fields: &dyn HeaderLines,
        draw: impl FnOnce() -> u64,
    ) -> (usize, bool) {
        if self.list.len() == 1 {
            return (0, false);
        }
        if let Some(cookie) = &self.cookie {
            let mut known = None;
            every_cookie(fields, cookie, &mut |value| {
                let same = |one: &Share| one.weight > 0 && one.mark.as_bytes() == value;
                known = self.list.iter().position(same);
                known.is_none()
            });
            if let Some(known) = known {
                return (known, false);
            }
        }
        let draw = (draw() % u64::from(self.weight)) as u32;
        let index = self.list.partition_point(|one| one.end <= draw);
        (index, self.cookie.is_some())
    }
}

impl Share {
    /// The header line that makes the client come back to this backend.
    pub(crate) fn set_cookie(&self) -> &[u8] {
        self.set_cookie.as_bytes()
    }
}

impl Sticky {
    fn line(&self, mark: &str) -> Box<str> {
        let (cookie, age) = (&self.cookie, self.max_age.as_secs());
        let secure = if self.secure { "; Secure" } else { "" };
        format!(
            "set-cookie: {cookie}={mark}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}\r\n"
        )
        .into()
    }
}

fn check_sticky(sticky: &Sticky, backends: usize) -> Result<(), &'static str> {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if sticky.cookie.is_empty() || !sticky.cookie.bytes().all(is_name) {
        return Err("the cookie needs a name of letters, digits, `-` and `_`");
    }
    if sticky.max_age < Duration::from_secs(1) {
        return Err("max_age is at least 1s");
    }
    if backends < 2 {
        return Err("there is nothing to choose from; give several `backends`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(toml: &str) -> Result<Backends, String> {
        let route: Route = toml::from_str(&format!("path = \"/\"\n{toml}")).unwrap();
        let mut faults = Vec::new();
        let backends = Backends::compile(&route, &mut faults);
        if faults.is_empty() {
            Ok(backends.unwrap())
        } else {
            Err(faults.join("; "))
        }
    }

    #[test]
    fn draws_are_shared_by_weight() {
        let backends = backends(
            r#"backends = [{ service = "a", weight = 90 }, { service = "b", weight = 0 },
                { addresses = ["10.0.0.1:80"], weight = 10 }]"#,
        )
        .unwrap();
        let mut counts = [0; 3];
        for draw in 1_000..1_100 {
            counts[backends.choose(&(), || draw).0] += 1;
        }
        assert_eq!(counts, [90, 0, 10]);
        assert_eq!(backends.list[2].key.service.as_str(), "at-10-0-0-1-80");
        let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"
            .parse()
            .unwrap();
        assert!(named_after(longest).as_str().len() <= 63);
    }

    #[test]
    fn the_cookie_decides_but_for_backends_that_take_none() {
        struct Cookie(String);
        impl HeaderLines for Cookie {
            fn every(&self, _: &str, see: &mut dyn FnMut(&[u8]) -> bool) -> bool {
                see(self.0.as_bytes())
            }
        }
        let text = |weight: u32| {
            format!(
                r#"backends = [{{ service = "a" }}, {{ service = "b", weight = {weight} }}]
                   sticky = {{ cookie = "split", max_age = "1h" }}"#
            )
        };
        let split = backends(&text(1)).unwrap();
        let cookie = Cookie(format!("x=1; split={}", split.list[1].mark));
        assert_eq!(split.choose(&cookie, || 0), (1, false));
        assert_eq!(split.choose(&(), || 1), (1, true));
        assert_eq!(
            split.choose(&Cookie("split=forged".into()), || 0),
            (0, true)
        );
        let rolled_back = backends(&text(0)).unwrap();
        assert_eq!(rolled_back.list[1].mark, split.list[1].mark);
        assert_eq!(rolled_back.choose(&cookie, || 0), (0, true));
        let line = std::str::from_utf8(split.list[0].set_cookie()).unwrap();
        assert!(
            line.starts_with("set-cookie: split=") && line.contains("Max-Age=3600;"),
            "{line}"
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (toml, part) in [
            (r#"backends = [{ weight = 1 }]"#, "either"),
            (
                r#"backends = [{ service = "a", addresses = ["1.2.3.4:5"] }]"#,
                "either",
            ),
            (r#"backends = [{ service = "a", name = "b" }]"#, "`name`"),
            (
                r#"backends = [{ service = "a", fallback = "any" }]"#,
                "`subset`",
            ),
            (
                r#"backends = [{ addresses = ["1.2.3.4:5"], subset = { a = "1" } }]"#,
                "no `subset`",
            ),
            (
                r#"backends = [{ addresses = ["1.2.3.4:0"] }]"#,
                "no address",
            ),
            (
                r#"backends = [{ addresses = ["1.2.3.4:5", "1.2.3.4:5"] }]"#,
                "twice",
            ),
            (r#"backends = [{ service = "a", weight = 0 }]"#, "weight 0"),
            (
                r#"backends = [{ service = "a" }, { service = "a" }]"#,
                "backend 2: it stands twice",
            ),
            (
                "service = \"a\"\nsticky = { cookie = \"c\", max_age = \"1h\" }",
                "nothing to choose",
            ),
        ] {
            let error = backends(toml).unwrap_err();
            assert!(error.contains(part), "{toml}: {error}");
        }
    }
}
