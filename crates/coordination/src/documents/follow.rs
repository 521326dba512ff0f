//! Keeps a channel at the newest version of a document.

use std::{sync::Arc, time::Duration};

use sinew_core::{Backoff, Error, Kind, Name, Result};
use sinew_engine::kv::{Event, Revision, Span};
use tokio::sync::watch;

use super::{Followed, keys, model::Stored, service::Inner};

/// Follows the document until nobody listens. While the store cannot be reached the channel keeps the
/// last version and says that it is out of touch.
pub(super) async fn follow(inner: Arc<Inner>, name: Name, sender: watch::Sender<Followed>) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
    loop {
        let error = tokio::select! {
            biased;
            () = sender.closed() => return,
            error = read_and_watch(&inner, &name, &sender, &mut backoff) => error,
        };
        if error.kind() == Kind::OutOfRange {
            tracing::info!(
                document = %name,
                error = error.detail(),
                "the watch of a document is too far behind; reading it anew"
            );
            continue;
        }
        tracing::warn!(
            document = %name,
            error = error.detail(),
            "a document cannot be followed; trying again"
        );
        sender.send_if_modified(|followed| std::mem::take(&mut followed.is_in_touch));
        tokio::select! {
            biased;
            () = sender.closed() => return,
            () = inner.clock.sleep(backoff.next_delay()) => {}
        }
    }
}

/// Returns only with what ended it.
async fn read_and_watch(
    inner: &Inner,
    name: &Name,
    sender: &watch::Sender<Followed>,
    backoff: &mut Backoff,
) -> Error {
    match read(inner, name, sender).await {
        Ok(from) => watch(inner, name, from, sender, backoff).await,
        Err(error) => error,
    }
}

/// Reads the newest version. Answers the revision to watch from.
async fn read(inner: &Inner, name: &Name, sender: &watch::Sender<Followed>) -> Result<Revision> {
    let span = Span::key(keys::current(name));
    let page = inner.within("read", inner.kv.range(span, 1, None)).await?;
    let value = page.entries.first().map(|entry| entry.value.as_ref());
    show(inner, name, value, sender).await?;
    Ok(page.revision)
}

async fn watch(
    inner: &Inner,
    name: &Name,
    from: Revision,
    sender: &watch::Sender<Followed>,
    backoff: &mut Backoff,
) -> Error {
    let span = Span::key(keys::current(name));
    let mut watch = match inner.within("watch", inner.kv.watch(span, from)).await {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    loop {
        let mut batch = match watch.next().await {
            Ok(batch) => batch,
            Err(error) => return error,
        };
        // Not before: a store that takes watches and breaks them at once is to be left in peace.
        backoff.reset();
        let shown = match batch.events.pop() {
            Some(Event::Put(entry)) => show(inner, name, Some(&entry.value), sender).await,
            Some(Event::Delete(_)) => show(inner, name, None, sender).await,
            None => Ok(()),
        };
        if let Err(error) = shown {
            return error;
        }
    }
}

/// Shows the version that this value of the current key describes.
async fn show(
    inner: &Inner,
    name: &Name,
    value: Option<&[u8]>,
    sender: &watch::Sender<Followed>,
) -> Result<()> {
    let document = match value {
        None => None,
        Some(value) => match Stored::decode(value) {
            Some(stored) => match inner.content(name, stored).await {
                Ok(document) => Some(Arc::new(document)),
                Err(error) if error.kind() == Kind::DataLoss => {
                    tracing::error!(document = %name, error = error.detail(), "a version is damaged; the one before stays");
                    return Ok(());
                }
                Err(error) => return Err(error),
            },
            None => {
                tracing::error!(document = %name, "the current version is described in a way that this binary does not know; the one before stays");
                return Ok(());
            }
        },
    };
    sender.send_replace(Followed {
        document,
        is_known: true,
        is_in_touch: true,
    });
    Ok(())
}
