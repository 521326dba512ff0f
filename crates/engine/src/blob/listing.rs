use std::ops::Bound;

use sinew_core::Timestamp;

use super::{Key, Limits};

/// Which objects to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Only keys that begin with this text.
    pub prefix: String,
    /// Only entries after this one; [`Page::next`] of the page before, or any text.
    pub after: Option<String>,
    /// Whether keys that have a `/` after the prefix are listed as one [`Entry::Folder`] for each
    /// text up to the first such `/`.
    pub folders: bool,
    /// Entries in the page, at most (capped by [`Limits::page_entries`], at least 1).
    pub limit: usize,
}

impl List {
    /// The first page of the objects whose keys begin with `prefix`, as long as the engine makes it.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            limit: usize::MAX,
            ..Self::default()
        }
    }
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: Key,
    /// Its length, bytes.
    pub size: u64,
    /// As [`Object::tag`](super::Object::tag).
    pub tag: String,
    /// As [`Object::modified`](super::Object::modified).
    pub modified: Timestamp,
}

/// One entry of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// An object.
    Object(Listed),
    /// Objects whose keys all begin with this text, which ends in `/`.
    Folder(String),
}

impl Entry {
    /// What it is ordered by: the key, or the folder's text.
    pub fn name(&self) -> &str {
        match self {
            Self::Object(listed) => listed.key.as_str(),
            Self::Folder(text) => text,
        }
    }
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The entries, in bytewise order. There may be fewer than asked for although there are more.
    pub entries: Vec<Entry>,
    /// Where the next page begins ([`List::after`]), when there is more.
    pub next: Option<String>,
}

/// Makes a page, for engines that can find the first object at or after a key: `first(bound)`.
pub fn page<E>(
    list: &List,
    limits: &Limits,
    mut first: impl FnMut(Bound<&str>) -> Result<Option<Listed>, E>,
) -> Result<Page, E> {
    let limit = limits.page_size(list.limit);
    let mut page = Page::default();
    let mut bound = match list.after.clone() {
        Some(after) if after >= list.prefix => Bound::Excluded(after),
        _ => Bound::Included(list.prefix.clone()),
    };
    while let Some(listed) = first(bound.as_ref().map(String::as_str))? {
        let Some(rest) = listed.key.as_str().strip_prefix(&list.prefix) else {
            break;
        };
        let entry = match rest.find('/').filter(|_| list.folders) {
            Some(at) => {
                let end = list.prefix.len() + at;
                // '0' follows '/': the first key behind the folder.
                bound = Bound::Included(format!("{}0", &listed.key.as_str()[..end]));
                Entry::Folder(listed.key.as_str()[..=end].to_owned())
            }
            None => {
                bound = Bound::Excluded(listed.key.as_str().to_owned());
                Entry::Object(listed)
            }
        };
        // A page that began inside a folder does not show the folder once more.
        if list
            .after
            .as_deref()
            .is_some_and(|after| entry.name() <= after)
        {
            continue;
        }
        if page.entries.len() == limit {
            page.next = page.entries.last().map(|entry| entry.name().to_owned());
            break;
        }
        page.entries.push(entry);
    }
    Ok(page)
}
