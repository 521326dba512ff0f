//! Validated names. A value of these types is always well formed, so no layer below checks again.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Error, Kind};

/// The name of a service, namespace, topic or other resource: 1 to 63 characters of `a-z`, `0-9`
/// and `-`, beginning with a letter and not ending with `-` (a DNS label, RFC 1035 §2.3.1), so that
/// every name can also be asked for through DNS.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

/// The id of one instance of a service: 1 to 128 characters of `A-Z a-z 0-9 . _ : -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(Arc<str>);

impl Name {
    /// Checks `text` and makes a name of it; `core.name_invalid` (InvalidArgument) otherwise.
    pub fn new(text: &str) -> Result<Self, Error> {
        let bytes = text.as_bytes();
        let well_formed = matches!(bytes, [b'a'..=b'z', ..])
            && bytes.len() <= 63
            && bytes.last() != Some(&b'-')
            && bytes
                .iter()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if well_formed {
            Ok(Self(text.into()))
        } else {
            Err(Error::new(
                Kind::InvalidArgument,
                "core.name_invalid",
                format!(
                    "{} is not a name: use 1 to 63 characters of a-z, 0-9 and '-', beginning with \
                     a letter and not ending with '-'",
                    quoted(text)
                ),
            ))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl InstanceId {
    /// Checks `text` and makes an id of it; `core.instance_id_invalid` (InvalidArgument) otherwise.
    pub fn new(text: &str) -> Result<Self, Error> {
        let well_formed = (1..=128).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'));
        if well_formed {
            Ok(Self(text.into()))
        } else {
            Err(Error::new(
                Kind::InvalidArgument,
                "core.instance_id_invalid",
                format!(
                    "{} is not an instance id: use 1 to 128 characters of A-Z a-z 0-9 . _ : -",
                    quoted(text)
                ),
            ))
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Quotes what somebody sent, cut to a length that is safe in a message or a log line.
fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(64).collect();
    let ellipsis = if shown.len() < text.len() { "…" } else { "" };
    format!("{shown:?}{ellipsis}")
}

macro_rules! text_type {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }
        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                Self::new(&text)
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.0.as_ref().to_owned()
            }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}
text_type!(Name);
text_type!(InstanceId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "orders", "orders-2", &"a".repeat(63)] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-a",
            "a-",
            "1a",
            "Orders",
            "a_b",
            "a.b",
            "a b",
            "ä",
            &"a".repeat(64),
        ] {
            assert_eq!(
                Name::new(bad).unwrap_err().code(),
                "core.name_invalid",
                "{bad:?}"
            );
        }
    }

    #[test]
    fn instance_ids_refuse_separators() {
        assert!(InstanceId::new("orders-127.0.0.1:8081").is_ok());
        for bad in ["", "a/b", "a b", "a\n", &"a".repeat(129)] {
            assert!(InstanceId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn deserialising_checks() {
        assert!(serde_json::from_str::<Name>("\"orders\"").is_ok());
        assert!(serde_json::from_str::<Name>("\"Orders\"").is_err());
    }
}
