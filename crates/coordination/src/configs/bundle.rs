//! Items as one file, to keep or to carry elsewhere.

use serde::{Deserialize, Serialize};

use super::{Format, ItemId};

/// Items with their current contents. Encrypted values stay encrypted, under the data keys of their store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// The items, in order.
    pub items: Vec<BundleItem>,
}

/// One item of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleItem {
    /// `NAMESPACE/APPLICATION/PROFILE/LABEL`.
    pub item: ItemId,
    /// How the content is written.
    pub format: Format,
    /// The content.
    pub content: String,
    /// The JSON schema that it fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
}

/// What an import did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Items that are new.
    pub created: Vec<ItemId>,
    /// Items that have a new version.
    pub changed: Vec<ItemId>,
    /// How many said the same already.
    pub same: usize,
}
