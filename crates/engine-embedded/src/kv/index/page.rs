//! Pages: entries of a span in key order, merged from the layers and the runs.

use sinew_core::Result;
use sinew_engine::kv::{Key, Page, Revision, Span};

use super::{
    Snapshot, Stored,
    source::{Merged, Source},
};

/// A page holds no more than about this, whatever the number of its entries.
const PAGE_BYTES: usize = 4 << 20;

/// The inner error is the caller's: there is no such snapshot.
pub(super) fn range(
    snapshot: &Snapshot,
    span: &Span,
    limit: usize,
    at: Option<Revision>,
) -> Stored<Result<Page>> {
    let at = at.unwrap_or(snapshot.revision);
    if let Err(error) = snapshot.check_history(at) {
        return Ok(Err(error));
    }
    let mut page = Page {
        entries: Vec::new(),
        revision: at,
        next: None,
    };
    if span.is_empty() {
        return Ok(Ok(page));
    }
    let mut versions = Merged::new(snapshot.sources(span)?);
    let mut last = Vec::new();
    let mut bytes = 0;
    while let Some(key) = versions.key() {
        // Of the versions that are old enough, the first of each key counts.
        if versions.revision() <= at && last != key {
            key.clone_into(&mut last);
            if versions.value().is_some() {
                if page.entries.len() == limit || bytes > PAGE_BYTES {
                    page.next = Some(Key::copy_from_slice(key));
                    break;
                }
                if let Some(entry) = versions.entry() {
                    bytes += entry.key.len() + entry.value.len();
                    page.entries.push(entry);
                }
            }
        }
        versions.advance()?;
    }
    Ok(Ok(page))
}
