//! Keeps the snapshot at the store's newest state: lists once, then follows the watch.

use std::{collections::HashMap, sync::Arc, time::Duration};

use sinew_core::{Backoff, Error, Kind, Result};
use sinew_engine::kv::{Batch, Event, Revision};

use super::{
    Instance,
    inner::Inner,
    keys,
    machine::{Change, Input},
};

/// Lists everything and shows it. Answers the revision to watch from.
pub(super) async fn list(inner: &Inner) -> Result<Revision> {
    let mut span = keys::all();
    let mut oldest = None;
    let mut instances: Vec<Instance> = Vec::new();
    let mut beats = HashMap::new();
    loop {
        // Each page is the newest: an older revision may be compacted away at any time, and what the
        // pages disagree about is repaired by watching from the oldest of them.
        let page = inner
            .within("list", inner.kv.range(span.clone(), usize::MAX, None))
            .await?;
        let from = *oldest.get_or_insert(page.revision);
        for entry in page.entries {
            match (keys::parse(&entry.key), entry.lease) {
                (Some((keys::Kind::Beat, service, id)), Some(lease)) => {
                    beats.insert((service, id), lease);
                }
                (Some((keys::Kind::Instance, ..)), _) => match inner.read(&entry) {
                    Some(instance) => instances.push(instance),
                    None => skipped(&entry.key),
                },
                _ => skipped(&entry.key),
            }
        }
        match page.next {
            Some(next) => span.start = next,
            None => {
                inner.observe(Input::Listed {
                    revision: from,
                    instances,
                    beats,
                });
                return Ok(from);
            }
        }
    }
}

/// Follows the store from `from` on, or from a first list that it makes itself, for ever. While the store
/// cannot be reached readers keep what they have.
pub(super) async fn follow(inner: Arc<Inner>, from: Option<Revision>) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
    let mut from = match from {
        Some(from) => from,
        None => list_at_last(&inner, &mut backoff).await,
    };
    loop {
        let error = watch(&inner, &mut from, &mut backoff).await;
        if error.kind() == Kind::OutOfRange {
            tracing::info!(
                error = error.detail(),
                "the registry's watch is too far behind; listing anew"
            );
        } else {
            tracing::warn!(
                error = error.detail(),
                "the registry's watch broke; trying again"
            );
            inner.clock.sleep(backoff.next_delay()).await;
            continue;
        }
        inner
            .counters
            .relists
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        from = list_at_last(&inner, &mut backoff).await;
    }
}

/// Lists, as often as it takes.
async fn list_at_last(inner: &Inner, backoff: &mut Backoff) -> Revision {
    loop {
        match list(inner).await {
            Ok(revision) => {
                backoff.reset();
                return revision;
            }
            Err(error) => {
                tracing::warn!(error = error.detail(), "the registry cannot be listed");
                inner.clock.sleep(backoff.next_delay()).await;
            }
        }
    }
}

async fn watch(inner: &Inner, from: &mut Revision, backoff: &mut Backoff) -> Error {
    let watch = inner
        .within("watch", inner.kv.watch(keys::all(), *from))
        .await;
    let mut watch = match watch {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    loop {
        match watch.next().await {
            Ok(batch) => {
                *from = batch.revision;
                backoff.reset();
                inner.observe(observed(inner, batch));
            }
            Err(error) => return error,
        }
    }
}

fn observed(inner: &Inner, batch: Batch) -> Input {
    let changes = batch.events.into_iter().filter_map(|event| {
        let Some((kind, service, id)) = keys::parse(event.key()) else {
            skipped(event.key());
            return None;
        };
        Some(match (kind, event) {
            (keys::Kind::Beat, Event::Put(entry)) => match entry.lease {
                Some(lease) => Change::Beats(service, id, lease),
                None => Change::Silent(service, id),
            },
            (keys::Kind::Beat, Event::Delete(_)) => Change::Silent(service, id),
            (keys::Kind::Instance, Event::Delete(_)) => Change::Gone(service, id),
            (keys::Kind::Instance, Event::Put(entry)) => match inner.read(&entry) {
                Some(instance) => Change::Put(Box::new(instance)),
                None => {
                    skipped(&entry.key);
                    // What it was before it became unreadable is no longer true.
                    Change::Gone(service, id)
                }
            },
        })
    });
    Input::Observed {
        revision: batch.revision,
        changes: changes.collect(),
    }
}

fn skipped(key: &[u8]) {
    tracing::warn!(key = %key.escape_ascii(), "an entry of the registry cannot be read; skipped");
}
