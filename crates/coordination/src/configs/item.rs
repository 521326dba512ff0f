//! The name of an item, and its two views.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sinew_core::{Error, Result};

use super::error;

/// The namespace when none is named.
pub const DEFAULT_NAMESPACE: &str = "default";
/// The profile that always counts.
pub const DEFAULT_PROFILE: &str = "default";
/// The label when none is named.
pub const MAIN_LABEL: &str = "main";
/// What clients with groups call [`MAIN_LABEL`].
const DEFAULT_GROUP: &str = "DEFAULT_GROUP";

const MOST_BYTES: usize = 128;

/// Names an item: 1 to 128 characters of `A-Z a-z 0-9 . _ : -` for each part; no `:` in a profile, and
/// `/` within a label, as in the name of a branch. In order: by namespace, application, profile, label.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ItemId {
    namespace: String,
    application: String,
    profile: String,
    label: String,
}

impl ItemId {
    /// Checks the parts; `configs.item_invalid` (InvalidArgument).
    pub fn new(namespace: &str, application: &str, profile: &str, label: &str) -> Result<Self> {
        check("namespace", namespace, "")?;
        check("application", application, "")?;
        check("profile", profile, "")?;
        check_label(label)?;
        if profile.contains(':') {
            return Err(error::item_invalid("profile", profile, "no ':'"));
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            application: application.to_owned(),
            profile: profile.to_owned(),
            label: label.to_owned(),
        })
    }

    /// The item that a client with data ids and groups means. An empty tenant is the namespace
    /// [`DEFAULT_NAMESPACE`]. `configs.item_invalid`.
    pub fn from_data_id(tenant: &str, group: &str, data_id: &str) -> Result<Self> {
        let namespace = match tenant {
            "" => DEFAULT_NAMESPACE,
            tenant => tenant,
        };
        let (application, profile) = match data_id.rsplit_once(':') {
            Some((application, profile)) if !application.is_empty() && !profile.is_empty() => {
                (application, profile)
            }
            _ => (data_id, DEFAULT_PROFILE),
        };
        Self::new(namespace, application, profile, swap(group))
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The application.
    pub fn application(&self) -> &str {
        &self.application
    }

    /// The profile.
    pub fn profile(&self) -> &str {
        &self.profile
    }

    /// The label.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What clients with groups call it within its namespace.
    pub fn data_id(&self) -> String {
        // A name that would read as another's with a profile says its own.
        let reads_as_two = self
            .application
            .rsplit_once(':')
            .is_some_and(|(left, right)| !left.is_empty() && !right.is_empty());
        match self.profile.as_str() {
            DEFAULT_PROFILE if !reads_as_two => self.application.clone(),
            profile => format!("{}:{profile}", self.application),
        }
    }

    /// The group that its label is for clients with groups.
    pub fn group(&self) -> &str {
        swap(&self.label)
    }
}

fn swap(name: &str) -> &str {
    match name {
        MAIN_LABEL => DEFAULT_GROUP,
        DEFAULT_GROUP => MAIN_LABEL,
        other => other,
    }
}

pub(super) fn check(what: &'static str, text: &str, also: &str) -> Result<()> {
    let is_good = (1..=MOST_BYTES).contains(&text.len())
        && text.bytes().all(|b| {
            b.is_ascii_alphanumeric()
                || matches!(b, b'.' | b'_' | b':' | b'-')
                || also.as_bytes().contains(&b)
        });
    match is_good {
        true => Ok(()),
        false => Err(error::item_invalid(
            what,
            text,
            "1 to 128 characters of A-Z a-z 0-9 . _ : -",
        )),
    }
}

/// Checks a label.
pub(super) fn check_label(label: &str) -> Result<()> {
    check("label", label, "/")?;
    match label.split('/').any(str::is_empty) {
        true => Err(error::item_invalid(
            "label",
            label,
            "no empty part between slashes",
        )),
        false => Ok(()),
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            application,
            profile,
            label,
        } = self;
        write!(f, "{namespace}/{application}/{profile}/{label}")
    }
}

impl fmt::Debug for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for ItemId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.splitn(4, '/');
        match [parts.next(), parts.next(), parts.next(), parts.next()] {
            [
                Some(namespace),
                Some(application),
                Some(profile),
                Some(label),
            ] => Self::new(namespace, application, profile, label),
            _ => Err(error::item_invalid(
                "item",
                text,
                "NAMESPACE/APPLICATION/PROFILE/LABEL",
            )),
        }
    }
}

impl TryFrom<String> for ItemId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ItemId> for String {
    fn from(id: ItemId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_are_checked() {
        for good in ["orders", "Orders_2.x:y-z", &"a".repeat(128)] {
            assert!(
                ItemId::new("default", good, "prod", "main").is_ok(),
                "{good}"
            );
        }
        for bad in ["", "a/b", "a b", "ä", "a\n", "a%2Fb", &"a".repeat(129)] {
            let error = ItemId::new("default", bad, "prod", "main").unwrap_err();
            assert_eq!(error.code(), "configs.item_invalid", "{bad:?}");
        }
        assert!(ItemId::new("default", "a", "p:q", "main").is_err());
        assert!(ItemId::new("default", "a", "p", "feature/x").is_ok());
        for bad in ["/x", "x/", "a//b"] {
            assert!(ItemId::new("default", "a", "p", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_views_are_as_their_users_expect() {
        let id = ItemId::new("default", "orders", "default", "main").unwrap();
        assert_eq!(
            (id.data_id().as_str(), id.group()),
            ("orders", "DEFAULT_GROUP")
        );
        assert_eq!(
            ItemId::from_data_id("", "DEFAULT_GROUP", "orders").unwrap(),
            id
        );
        let prod = ItemId::new("team", "orders", "prod", "EU").unwrap();
        assert_eq!(
            (prod.data_id().as_str(), prod.group()),
            ("orders:prod", "EU")
        );
    }

    proptest! {
        #[test]
        fn both_views_are_one_to_one(
            application in "[a-z:.]{1,8}", profile in "[a-z.]{1,4}|default",
            label in "main|DEFAULT_GROUP|[a-z]{1,3}", data_id in "[a-z:.]{1,9}",
        ) {
            let id = ItemId::new("n", &application, &profile, &label).unwrap();
            let back = ItemId::from_data_id("n", id.group(), &id.data_id()).unwrap();
            prop_assert_eq!(&back, &id);
            prop_assert_eq!(id.to_string().parse::<ItemId>().unwrap(), id);
            // The other way round: two data ids are the same item only when one spells out the default.
            let item = ItemId::from_data_id("n", &label, &data_id).unwrap();
            let spelt = format!("{}:default", item.data_id());
            prop_assert!(item.data_id() == data_id || spelt == data_id);
        }
    }
}
