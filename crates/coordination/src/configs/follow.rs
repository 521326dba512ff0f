//! Keeps the snapshot at the store's newest state: lists once, then follows the watch.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use sinew_core::{Backoff, Error, Kind, Result};
use sinew_engine::kv::{Batch, Event, Revision};

use super::{keys, service::Inner, state};

/// Lists everything and shows it. Answers the revision to watch from.
pub(super) async fn list(inner: &Inner) -> Result<Revision> {
    let mut span = keys::shown();
    let mut oldest = None;
    let mut all = Vec::new();
    loop {
        // Each page is the newest: an older revision may be compacted away at any time, and what the
        // pages disagree about is repaired by watching from the oldest of them.
        let range = inner.kv.range(span.clone(), usize::MAX, None);
        let page = inner.within("list", range).await?;
        let from = *oldest.get_or_insert(page.revision);
        for entry in page.entries {
            match state::read(&entry.key, Some(&entry.value), entry.revision) {
                Some(seen) => all.push(seen),
                None => skipped(&entry.key),
            }
        }
        match page.next {
            Some(next) => span.start = next,
            None => {
                inner.show(|state| state.replace(from, all));
                return Ok(from);
            }
        }
    }
}

/// Follows the store from `from` on, or from a first list that it makes itself, for ever. While the store
/// cannot be reached readers keep what they have.
pub(super) async fn follow(inner: Arc<Inner>, mut from: Option<Revision>) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
    loop {
        let error = match from {
            Some(mut after) => {
                let error = watch(&inner, &mut after, &mut backoff).await;
                from = (error.kind() != Kind::OutOfRange).then_some(after);
                error
            }
            None => match list(&inner).await {
                Ok(after) => {
                    inner.counters.relists.fetch_add(1, Relaxed);
                    from = Some(after);
                    continue;
                }
                Err(error) => error,
            },
        };
        if error.kind() == Kind::OutOfRange {
            tracing::info!(
                error = error.detail(),
                "the watch of the configurations is too far behind; listing anew"
            );
            continue;
        }
        if !inner.counters.is_stale.swap(true, Relaxed) {
            tracing::warn!(
                error = error.detail(),
                "the configurations cannot be followed; trying again"
            );
        }
        inner.clock.sleep(backoff.next_delay()).await;
    }
}

async fn watch(inner: &Inner, from: &mut Revision, backoff: &mut Backoff) -> Error {
    let watch = inner.kv.watch(keys::shown(), *from);
    let mut watch = match inner.within("watch", watch).await {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    inner.counters.is_stale.store(false, Relaxed);
    loop {
        let Batch { revision, events } = match watch.next().await {
            Ok(batch) => batch,
            Err(error) => return error,
        };
        *from = revision;
        backoff.reset();
        let read = |event: Event| {
            let value = match &event {
                Event::Put(entry) => Some(&entry.value),
                Event::Delete(_) => None,
            };
            let seen = state::read(event.key(), value, revision);
            if seen.is_none() {
                skipped(event.key());
            }
            seen
        };
        let changes = events.into_iter().filter_map(read).collect();
        inner.show(|state| state.apply(revision, changes));
    }
}

fn skipped(key: &[u8]) {
    tracing::warn!(key = %key.escape_ascii(), "an entry of the configurations cannot be read; skipped");
}
