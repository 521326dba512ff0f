//! Pages: entries of a span in key order, merged from the layers and the index.

use std::{collections::BTreeMap, iter::Peekable};

use sinew_core::Result;
use sinew_engine::kv::{Entry, Key, Page, Revision, Span};

use super::{Snapshot, Stored, index};
use crate::kv::change::Change;

/// A page holds no more than about this, whatever the number of its entries.
const PAGE_BYTES: usize = 4 << 20;

/// The inner error is the caller's: there is no such snapshot.
pub(super) fn range(
    snapshot: &Snapshot,
    span: &Span,
    limit: usize,
    at: Option<Revision>,
) -> Stored<Result<Page>> {
    let head = snapshot.view.head;
    let at = at.unwrap_or(head.revision);
    if let Err(error) = head.check_history(at) {
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
    let mut stored = index::range(&snapshot.transaction, span)?;
    let mut failure = None;
    // The first source that knows a key knows it best.
    let mut sources: Vec<Source<'_>> = vec![boxed(undone(snapshot, span, at)?.into_iter())];
    for layer in snapshot.view.layers() {
        sources.push(boxed(layer.range(span, head.revision)));
    }
    sources.push(boxed(std::iter::from_fn(|| match stored.next()? {
        Ok(entry) => Some((entry.key.clone(), Some(entry))),
        Err(error) => {
            failure = Some(error);
            None
        }
    })));
    let mut bytes = 0;
    while let Some(entry) = next(&mut sources) {
        if page.entries.len() == limit || bytes > PAGE_BYTES {
            page.next = Some(entry.key);
            break;
        }
        bytes += entry.key.len() + entry.value.len();
        page.entries.push(entry);
    }
    drop(sources);
    failure.map_or(Ok(Ok(page)), Err)
}

type Source<'s> = Peekable<Box<dyn Iterator<Item = (Key, Option<Entry>)> + 's>>;

fn boxed<'s>(source: impl Iterator<Item = (Key, Option<Entry>)> + 's) -> Source<'s> {
    (Box::new(source) as Box<dyn Iterator<Item = _> + 's>).peekable()
}

/// The next entry that exists.
fn next(sources: &mut [Source<'_>]) -> Option<Entry> {
    loop {
        let first = sources
            .iter_mut()
            .filter_map(|source| Some(source.peek()?.0.clone()))
            .min()?;
        let mut best = None;
        for source in sources.iter_mut() {
            if let Some((_, entry)) = source.next_if(|(key, _)| *key == first) {
                best.get_or_insert(entry);
            }
        }
        if let Some(Some(entry)) = best {
            return Some(entry);
        }
    }
}

/// What the keys of the span that changed after `at` held then.
fn undone(snapshot: &Snapshot, span: &Span, at: Revision) -> Stored<BTreeMap<Key, Option<Entry>>> {
    let mut before = BTreeMap::new();
    let newest = snapshot.view.head.revision;
    let mut place = at;
    while place < newest {
        let commits = snapshot.history(place, 256)?;
        place = commits.last().map_or(newest, |commit| commit.revision);
        for Change {
            key, before: entry, ..
        } in commits.into_iter().flat_map(|c| c.changes)
        {
            if span.contains(&key) {
                // Of several changes the first knows what the key held at `at`.
                before.entry(key).or_insert(entry);
            }
        }
    }
    Ok(before)
}
