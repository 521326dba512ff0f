use std::{fmt::Write, sync::Arc};

use bytes::Bytes;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use sinew_core::{Result, Timestamp};

use super::error;

/// The longest author and the longest note, bytes.
pub(super) const AUTHOR_BYTES: usize = 128;
pub(super) const NOTE_BYTES: usize = 1024;

/// What is known of a version besides its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its number; the first is 1.
    pub version: u64,
    /// When it was made.
    pub time: Timestamp,
    /// Who made it, as they say themselves.
    pub author: String,
    /// Why, if they said it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// The version whose content it brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<u64>,
    /// Its content's length in bytes.
    pub bytes: usize,
    /// Its content's SHA-256 in hexadecimal.
    pub hash: String,
}

/// A version with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What is known of it.
    pub version: Version,
    /// The content.
    pub content: Bytes,
}

/// A new content for a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The content.
    pub content: Bytes,
    /// Who changes it; up to 128 bytes.
    pub author: String,
    /// Why; up to 1024 bytes.
    pub note: String,
    /// The version that must be the current one; 0 when there must be none; any without it.
    pub expected: Option<u64>,
    /// The version whose content this is, when it goes back to one.
    pub restores: Option<u64>,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The version that holds the content.
    pub version: Version,
    /// Whether it is new; the content was the current one already otherwise.
    pub is_new: bool,
}

/// What a follower knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// The newest version that was read; `None` when there is none, or none was read yet.
    pub document: Option<Arc<Document>>,
    /// Whether the store was reached at all.
    pub is_known: bool,
    /// Whether the store is reached at the moment, so that `document` is the newest.
    pub is_in_touch: bool,
}

/// A version as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    #[serde(flatten)]
    pub(super) version: Version,
    /// Names the write among those that may have tried to make this version.
    pub(super) writer: String,
    pub(super) parts: usize,
}

impl Stored {
    pub(super) fn encode(&self) -> Bytes {
        let text = serde_json::to_vec(self).expect("strings and numbers serialise");
        text.into()
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }
}

impl Change {
    pub(super) fn check(&self) -> Result<()> {
        let is_good = |text: &str, most| text.len() <= most && !text.chars().any(char::is_control);
        if self.author.is_empty() || !is_good(&self.author, AUTHOR_BYTES) {
            return Err(error::label_invalid("author", AUTHOR_BYTES));
        }
        if !is_good(&self.note, NOTE_BYTES) {
            return Err(error::label_invalid("note", NOTE_BYTES));
        }
        Ok(())
    }
}

/// SHA-256 in hexadecimal.
pub fn hash(content: &[u8]) -> String {
    let digest = digest(&SHA256, content);
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
