use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sinew_core::{Result, Timestamp};
use sinew_engine::kv::Revision;

use super::{Client, Format, ItemId, Rule, error, format};

/// The longest author and the longest note, bytes.
pub(super) const AUTHOR_BYTES: usize = 128;
pub(super) const NOTE_BYTES: usize = 1024;

/// Who changes something, why, and on what condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct By {
    /// Who, as they say themselves; up to 128 bytes.
    pub author: String,
    /// Why; up to 1024 bytes.
    pub note: String,
    /// The version that must be the current one; 0 when there must be none; any without it.
    pub expected: Option<u64>,
}

/// A content for an item.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// What it says.
    pub content: String,
    /// How it is written. Without it that of the version before, or what the name's ending promises, or text.
    pub format: Option<Format>,
    /// A JSON schema that it must fit. Without it that of the version before stays; an empty one takes it away.
    pub schema: Option<String>,
}

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
    /// Whether it was made for a gray release.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_gray: bool,
    /// Whether it is the deletion of the item.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_deletion: bool,
    /// How its content is written.
    pub format: Format,
    /// The JSON schema that its content fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Its content's length in bytes.
    pub bytes: usize,
    /// The SHA-256 of its content in hexadecimal.
    pub hash: String,
}

/// A version with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionContent {
    /// What is known of it.
    pub version: Version,
    /// The content, encrypted values as they are.
    pub content: String,
}

/// What is being prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The item it is for.
    pub id: ItemId,
    /// The version that was current when it was written; 0 when there was none.
    pub based_on: u64,
    /// Who wrote it last.
    pub author: String,
    /// What they said of it.
    pub note: String,
    /// When.
    pub time: Timestamp,
    /// What it says.
    pub content: Content,
}

/// A version that only some see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gray {
    /// The version.
    pub version: Version,
    /// Who sees it.
    pub rule: Rule,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The version that holds it.
    pub version: Version,
    /// Whether anything changed; it was so already otherwise.
    pub is_new: bool,
    /// The revision of the store that holds it.
    pub revision: Revision,
}

/// What a rotation of keys did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotated {
    /// The data key that is now in use.
    pub key: u64,
    /// Data keys that were wrapped anew, by the master key in use.
    pub wrapped: usize,
    /// Items whose values were encrypted anew, each as a new version.
    pub items: usize,
    /// Items that were left as they are, because a version of theirs is in gray release.
    pub skipped: usize,
}

/// What the config centre of a node holds and has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Items that have a current version.
    pub items: usize,
    /// Items with a version in gray release.
    pub gray: usize,
    /// Bytes of content in memory.
    pub bytes: usize,
    /// Changes that this node made.
    pub changes: u64,
    /// Answers with decrypted values.
    pub reveals: u64,
    /// Times that all was listed anew.
    pub relists: u64,
    /// The newest revision that readers see.
    pub revision: Revision,
    /// Whether the store is out of reach, so that there may be a newer one.
    pub is_stale: bool,
}

/// An item as it is in force.
#[derive(Debug)]
pub struct Item {
    /// Its name.
    pub id: ItemId,
    /// The revision of the store that last changed it.
    pub revision: Revision,
    pub(super) head: Head,
    current: Body,
    gray: Body,
}

/// A content, and its settings once they were asked for.
#[derive(Debug, Default)]
struct Body {
    content: Bytes,
    settings: OnceLock<Option<Settings>>,
}

/// Settings by their names.
pub(super) type Settings = Arc<BTreeMap<String, Value>>;

/// The description of an item as it is stored, before the contents of the current version and of the one in
/// gray release.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The newest number that was given.
    pub(super) newest: u64,
    /// The version in force; its deletion after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) current: Option<Version>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) gray: Option<Gray>,
    /// The versions that are kept with their lengths, the oldest first.
    pub(super) kept: Vec<(u64, usize)>,
}

/// A head with its contents.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Stored {
    pub(super) head: Head,
    pub(super) current: Bytes,
    pub(super) gray: Bytes,
}

impl Stored {
    pub(super) fn encode(&self) -> Bytes {
        encode(&self.head, &[&self.current, &self.gray])
    }

    pub(super) fn decode(value: &Bytes) -> Option<Self> {
        let (head, contents) = split::<Head>(value)?;
        let (current, gray) = head.lengths();
        if contents.len() != current + gray {
            return None;
        }
        Some(Self {
            current: contents.slice(..current),
            gray: contents.slice(current..),
            head,
        })
    }
}

impl Head {
    fn lengths(&self) -> (usize, usize) {
        (
            self.current.as_ref().map_or(0, |version| version.bytes),
            self.gray.as_ref().map_or(0, |gray| gray.version.bytes),
        )
    }

    /// The version in force, unless it is deleted.
    pub(super) fn in_force(&self) -> Option<&Version> {
        self.current.as_ref().filter(|version| !version.is_deletion)
    }

    /// Its number for conditions; 0 when there is none.
    pub(super) fn number(&self) -> u64 {
        self.in_force().map_or(0, |version| version.version)
    }
}

/// JSON in one line, then the contents as they are.
pub(super) fn encode<T: Serialize>(description: &T, contents: &[&[u8]]) -> Bytes {
    let mut bytes = serde_json::to_vec(description).expect("strings and numbers serialise");
    bytes.push(b'\n');
    for content in contents {
        bytes.extend_from_slice(content);
    }
    bytes.into()
}

fn split<T: for<'de> Deserialize<'de>>(value: &Bytes) -> Option<(T, Bytes)> {
    let end = value.iter().position(|byte| *byte == b'\n')?;
    let description = serde_json::from_slice(&value[..end]).ok()?;
    Some((description, value.slice(end + 1..)))
}

/// A draft's description as it is stored, before its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DraftHead {
    based_on: u64,
    author: String,
    note: String,
    time: Timestamp,
    format: Option<Format>,
    schema: Option<String>,
}

impl Draft {
    pub(super) fn encode(&self) -> Bytes {
        let head = DraftHead {
            based_on: self.based_on,
            author: self.author.clone(),
            note: self.note.clone(),
            time: self.time,
            format: self.content.format,
            schema: self.content.schema.clone(),
        };
        encode(&head, &[self.content.content.as_bytes()])
    }

    pub(super) fn decode(id: ItemId, value: &Bytes) -> Option<Self> {
        let (head, content) = split::<DraftHead>(value)?;
        Some(Self {
            id,
            based_on: head.based_on,
            author: head.author,
            note: head.note,
            time: head.time,
            content: Content {
                content: text(&content)?.to_owned(),
                format: head.format,
                schema: head.schema,
            },
        })
    }
}

impl VersionContent {
    pub(super) fn decode(value: &Bytes) -> Option<Self> {
        let (version, content) = split::<Version>(value)?;
        let content = text(&content)?.to_owned();
        let is_whole = crate::documents::hash(content.as_bytes()) == version.hash;
        is_whole.then_some(Self { version, content })
    }
}

fn text(content: &Bytes) -> Option<&str> {
    std::str::from_utf8(content).ok()
}

impl Item {
    /// `None` for what this binary does not know.
    pub(super) fn decode(id: ItemId, value: &Bytes, revision: Revision) -> Option<Self> {
        let Stored {
            head,
            current,
            gray,
        } = Stored::decode(value)?;
        text(&current)?;
        text(&gray)?;
        let body = |content| Body {
            content,
            settings: OnceLock::new(),
        };
        Some(Self {
            id,
            revision,
            head,
            current: body(current),
            gray: body(gray),
        })
    }

    /// The version in force for all but those who see the one in gray release.
    pub fn current(&self) -> Option<&Version> {
        self.head.in_force()
    }

    /// The version in gray release.
    pub fn gray(&self) -> Option<&Gray> {
        self.head.gray.as_ref()
    }

    /// The content of the current version.
    pub fn content(&self) -> &str {
        text(&self.current.content).unwrap_or_default()
    }

    /// What `client` sees: the version, its content, and whether it is in gray release.
    pub fn seen_by(&self, client: &Client) -> Option<(&Version, &str, bool)> {
        if self.is_gray_for(client) {
            let gray = self.head.gray.as_ref()?;
            return Some((&gray.version, text(&self.gray.content)?, true));
        }
        Some((self.current()?, self.content(), false))
    }

    fn is_gray_for(&self, client: &Client) -> bool {
        let named = |gray: &Gray| gray.rule.names(client, &self.id, gray.version.version);
        self.head.gray.as_ref().is_some_and(named)
    }

    /// The settings that `client` sees; `None` for text.
    pub(super) fn settings(&self, client: &Client) -> Option<Settings> {
        let (version, content, is_gray) = self.seen_by(client)?;
        let body = if is_gray { &self.gray } else { &self.current };
        let read = || {
            // It was readable when it was written.
            let value = version.format.parse(content).ok()??;
            format::flatten(&value).ok().map(Arc::new)
        };
        body.settings.get_or_init(read).clone()
    }

    pub(super) fn bytes(&self) -> usize {
        self.current.content.len() + self.gray.content.len()
    }
}

impl By {
    pub(super) fn check(&self) -> Result<()> {
        let is_good = |text: &str, most| text.len() <= most && !text.chars().any(char::is_control);
        if self.author.is_empty() || !is_good(&self.author, AUTHOR_BYTES) {
            return Err(error::text_invalid("author", AUTHOR_BYTES));
        }
        if !is_good(&self.note, NOTE_BYTES) {
            return Err(error::text_invalid("note", NOTE_BYTES));
        }
        Ok(())
    }
}
