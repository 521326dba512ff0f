//! How the names of other registries become names of this one.
//!
//! A service is known by its namespace and its name, both [`Name`]s, which are DNS labels: so every
//! service can be routed to and asked for through DNS, whoever registered it. Other registries allow
//! more: Eureka's are upper case, Nacos puts a group before them (`group@@name`), Consul takes nearly
//! anything. The rule, the same for every dialect, so that what one registers the others find:
//!
//! 1. Letter case does not count, as in Eureka, Consul and DNS: `ORDERS` is `orders`.
//! 2. A name that then is a [`Name`], in no group (or the default one), is that name.
//! 3. Any other becomes what of it fits a label, `--`, and ten characters of the SHA-256 of
//!    `group@@name`: `order_service` is `order-service--` and so on. Fifty bits keep apart what
//!    differs; who could search for a collision may register under any name anyway.
//!
//! Nothing is lost: every instance keeps how its names were written ([`Spelling`]), and its dialect
//! shows that. Of services whose names differ in letter case alone, each instance keeps its own.
//! Ids of instances are treated alike, but keep their letter case.

use std::sync::Arc;

use ring::digest;
use serde::{Deserialize, Serialize};
use sinew_core::{InstanceId, Name, Result};

use super::{ServiceId, error};

const NAME_BYTES: usize = 512;
/// Of the readable part; with `--` and the hash it fits a label.
const NAME_SLUG: usize = 48;
const ID_SLUG: usize = 100;

/// How names were written where they are not written as they are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spelling {
    /// The namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
    /// The group of the service, when it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Arc<str>>,
    /// The service, without its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Arc<str>>,
    /// The instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Arc<str>>,
}

impl Spelling {
    /// Whether all is written as it is kept.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// The service that a dialect means: its namespace (empty: `default`), its group (empty: none; what
/// a dialect calls its default group is to be given as empty) and its name.
///
/// InvalidArgument `registry.name_invalid`: empty, longer than 512 bytes, or with control characters.
pub fn service(namespace: &str, group: &str, name: &str) -> Result<(ServiceId, Spelling)> {
    let mut spelling = Spelling::default();
    let space = if namespace.is_empty() {
        super::default_namespace()
    } else {
        let (space, written) = label("", namespace)?;
        spelling.namespace = written;
        space
    };
    let (known, written) = label(group, name)?;
    spelling.service = written;
    if !group.is_empty() {
        spelling.group = Some(group.into());
        // A name in a group is another than the same without.
        spelling.service = Some(name.into());
    }
    Ok((ServiceId::new(space, known), spelling))
}

/// The id of an instance that a dialect means, and how it was written if that differs.
///
/// InvalidArgument `registry.name_invalid`: empty, longer than 512 bytes, or with control characters.
pub fn instance(text: &str) -> Result<(InstanceId, Option<Arc<str>>)> {
    if let Ok(id) = InstanceId::new(text) {
        return Ok((id, None));
    }
    check(text)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
    let slug: String = text
        .chars()
        .map(|c| if fits(c) { c } else { '-' })
        .take(ID_SLUG)
        .collect();
    let id = InstanceId::new(&format!("{slug}--{}", hash(text)))?;
    Ok((id, Some(text.into())))
}

fn label(group: &str, name: &str) -> Result<(Name, Option<Arc<str>>)> {
    check(name)?;
    let folded = name.to_lowercase();
    let written = || Some(Arc::from(name));
    if group.is_empty()
        && let Ok(plain) = Name::new(&folded)
    {
        return Ok((plain, (folded != name).then(written).flatten()));
    }
    let whole = if group.is_empty() {
        folded
    } else {
        check(group)?;
        format!("{}@@{folded}", group.to_lowercase())
    };
    let mut slug = String::new();
    for c in whole.chars() {
        let c = if c.is_ascii_alphanumeric() { c } else { '-' };
        let starts = !slug.is_empty() || c.is_ascii_lowercase();
        let repeats = c == '-' && slug.ends_with('-');
        if starts && !repeats && slug.len() < NAME_SLUG {
            slug.push(c);
        }
    }
    let slug = match slug.trim_end_matches('-') {
        "" => "service",
        slug => slug,
    };
    let name = Name::new(&format!("{slug}--{}", hash(&whole)))?;
    Ok((name, written()))
}

fn check(text: &str) -> Result<()> {
    if text.is_empty() || text.len() > NAME_BYTES || text.chars().any(char::is_control) {
        return Err(error::name_invalid(NAME_BYTES));
    }
    Ok(())
}

fn hash(text: &str) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    let (head, _) = digest.as_ref().split_at(8);
    let bits = head
        .iter()
        .fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    (0..10)
        .map(|at| char::from(DIGITS[(bits >> (5 * at) & 31) as usize]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(namespace: &str, group: &str, name: &str) -> (String, Spelling) {
        let (id, spelling) = service(namespace, group, name).unwrap();
        (id.to_string(), spelling)
    }

    #[test]
    fn letter_case_does_not_count() {
        let (id, spelling) = named("", "", "orders");
        assert_eq!(id, "orders");
        assert!(spelling.is_plain());
        let (id, spelling) = named("", "", "ORDERS");
        assert_eq!(id, "orders");
        assert_eq!(spelling.service.as_deref(), Some("ORDERS"));
        assert_eq!(named("Team-A", "", "orders").0, "team-a/orders");
    }

    #[test]
    fn what_no_label_can_hold_is_hashed() {
        let names = [
            ("", "order_service"),
            ("", "order.service"),
            ("", "order-service-"),
            ("pay", "order-service"),
            ("", "pay@@order-service"),
            ("", "1"),
            ("", "服务"),
            (
                "",
                "providers:com.example.a.very.long.name.of.a.Class:1.0.0:group",
            ),
        ];
        let mut seen = std::collections::BTreeSet::from(["order-service".to_owned()]);
        for (group, name) in names {
            let (id, spelling) = named("", group, name);
            assert_eq!(spelling.service.as_deref(), Some(name));
            assert_eq!(spelling.group.as_deref().unwrap_or_default(), group);
            assert_eq!(named("", group, &name.to_uppercase()).0, id);
            // What was found by its new name is found again.
            assert_eq!(named("", "", &id).0, id);
            // A group and a name are what they are together, as Nacos has it.
            if name != "pay@@order-service" {
                assert!(seen.insert(id.clone()), "{id}");
            }
        }
        assert!(
            named("", "", "order_service")
                .0
                .starts_with("order-service--")
        );
    }

    #[test]
    fn ids_keep_their_letter_case() {
        assert_eq!(instance("Web:80").unwrap().0.as_str(), "Web:80");
        let (id, written) = instance("10.0.0.1#80#DEFAULT#g@@orders").unwrap();
        assert!(id.as_str().starts_with("10.0.0.1-80-DEFAULT-g--orders--"));
        assert_eq!(written.as_deref(), Some("10.0.0.1#80#DEFAULT#g@@orders"));
        assert_ne!(instance("a/b").unwrap().0, instance("A/b").unwrap().0);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "a\nb", &"a".repeat(513)] {
            for result in [service("", "", bad).map(drop), instance(bad).map(drop)] {
                assert_eq!(result.unwrap_err().code(), "registry.name_invalid");
            }
        }
    }
}
