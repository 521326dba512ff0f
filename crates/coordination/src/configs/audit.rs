//! Who did what: one entry for each change, written by the commit that makes it.

use serde::{Deserialize, Serialize};
use sinew_core::Timestamp;

use super::ItemId;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A content was written.
    Put,
    /// An earlier content was brought back.
    RollBack,
    /// A version went into gray release.
    Gray,
    /// The rule of a gray release was changed.
    Widen,
    /// A gray release ended with its version in force.
    Promote,
    /// A gray release ended without it.
    Abort,
    /// An item was deleted.
    Delete,
    /// An item was deleted with its history.
    Purge,
    /// A draft was written.
    Draft,
    /// A draft was thrown away.
    Discard,
    /// Keys were rotated.
    Rotate,
    /// Somebody was shown decrypted values.
    Reveal,
}

/// One entry of the audit log. It holds no content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    pub time: Timestamp,
    /// Who, as they say themselves.
    pub author: String,
    /// What.
    pub action: Action,
    /// To which item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<ItemId>,
    /// To which version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Why, if they said it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}
