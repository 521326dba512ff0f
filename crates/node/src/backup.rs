//! Backups of the key-value store, taken while it is used, and their return into an empty one.
//!
//! They are logical: keys and values as any engine holds them, so what was taken from one engine can go into another.
//! A *full* backup is the pages of a listing and then every commit since its first page; a reader that applies both in this order has
//! the state at the last commit, whatever happened meanwhile. A *further* one is the commits since the one before.
//!
//! Keys that go with a lease are left out: they tell who is alive, and that must be found out anew. Revisions
//! are not kept, but a store that was restored goes on above them, so that no fencing token is given twice.

mod frame;
mod place;
mod restore;

use std::{io::Read, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use sinew_core::{Clock, Error, Kind, Result};
use sinew_engine::kv::{Batch, Event, Key, Kv, Outcome, Revision, Span, Watch, Write};
use tokio::sync::mpsc;

pub use place::{Backup, Place};
pub use restore::{Restored, Summary, check};

use restore::restore;

use crate::{Config, DataFolder, engines::KvEngine};
use frame::{Change, Frame};

/// Frames that wait for the reader.
const QUEUE: usize = 16;
/// Commits that happen while the pages are listed wait in memory, up to these bytes.
const BEHIND: usize = 64 << 20;
/// How long the store may take for a page, or to show a commit that it has.
const PATIENCE: Duration = Duration::from_secs(30);
/// Entries asked for at once.
const PAGE: usize = 1000;

/// Writes a full backup and those that follow it, in their order, into the empty engine that `url` names, whose node would
/// have its data in `data`; no node may run on that. `backup.not_empty` (FailedPrecondition) when the engine holds something,
/// `backup.chain` (InvalidArgument) when a backup does not follow on the one before, `backup.damaged` (DataLoss) when one is
/// not whole.
pub async fn restore_into<R: Read + Send>(
    data: &Path,
    url: &str,
    backups: impl IntoIterator<Item = R>,
) -> Result<Restored> {
    let folder = DataFolder::open(data)?;
    let engine = KvEngine::open(
        url,
        folder.path(),
        Config::default().memory,
        Clock::system(),
    )
    .await?;
    let restored = restore(&*engine.kv(), backups).await;
    engine.close().await?;
    restored
}

/// Streams a backup: a full one, or what came after revision `since`. The last frame says that it is whole.
///
/// `kv.compacted` (OutOfRange) when the store no longer knows what came after `since`: take a full one.
/// `backup.behind` (ResourceExhausted) when more is written meanwhile than can wait.
pub(crate) fn stream(kv: Arc<dyn Kv>, since: Option<Revision>) -> mpsc::Receiver<Result<Bytes>> {
    let (to, from) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut writer = Writer {
            to,
            entries: 0,
            commits: 0,
        };
        if let Err(error) = writer.write(&*kv, since).await {
            // The reader may be gone; then nobody wants to know.
            let _ = writer.to.send(Err(error)).await;
        }
    });
    from
}

struct Writer {
    to: mpsc::Sender<Result<Bytes>>,
    entries: u64,
    commits: u64,
}

impl Writer {
    async fn write(&mut self, kv: &dyn Kv, since: Option<Revision>) -> Result<()> {
        let engine = kv.capability().engine.to_owned();
        let (mut watch, mut waiting): (_, Vec<Batch>) = match since {
            Some(since) => {
                let watch = within(kv.watch(Span::all(), since)).await?;
                self.frame(&Frame::Begin { since, engine }).await?;
                (watch, Vec::new())
            }
            None => {
                self.frame(&Frame::Begin { since: 0, engine }).await?;
                self.pages(kv).await?
            }
        };
        let end = mark(kv).await?;
        let mut last = 0;
        for batch in waiting.drain(..) {
            last = self.commit(batch).await?;
        }
        while last < end {
            let Ok(batch) = tokio::time::timeout(PATIENCE, watch.next()).await else {
                return Err(late(&format!("the commits up to revision {end}")));
            };
            last = self.commit(batch?).await?;
        }
        let (entries, commits) = (self.entries, self.commits);
        let revision = last;
        self.frame(&Frame::End {
            revision,
            entries,
            commits,
        })
        .await
    }

    /// Lists everything. Answers a watch from the first page on, and what it has brought so far.
    async fn pages(&mut self, kv: &dyn Kv) -> Result<(Box<dyn Watch>, Vec<Batch>)> {
        let mut span = Span::all();
        let mut page = within(kv.range(span.clone(), PAGE, None)).await?;
        let mut watch = within(kv.watch(Span::all(), page.revision)).await?;
        let (mut waiting, mut bytes) = (Vec::new(), 0);
        loop {
            for entry in page.entries.drain(..).filter(|entry| entry.lease.is_none()) {
                self.entries += 1;
                let (key, value) = (entry.key, entry.value);
                self.frame(&Frame::Entry { key, value }).await?;
            }
            let Some(next) = page.next.take() else {
                return Ok((watch, waiting));
            };
            span.start = next;
            while let Ok(batch) = tokio::time::timeout(Duration::ZERO, watch.next()).await {
                let batch = batch?;
                bytes += batch.events.iter().map(weight).sum::<usize>();
                if bytes > BEHIND {
                    return Err(behind());
                }
                waiting.push(batch);
            }
            page = within(kv.range(span.clone(), PAGE, None)).await?;
        }
    }

    async fn commit(&mut self, batch: Batch) -> Result<Revision> {
        let changes = batch.events.into_iter().map(|event| match event {
            Event::Put(entry) if entry.lease.is_none() => Change::Put(entry.key, entry.value),
            // It may have stood there without a lease before.
            Event::Put(entry) => Change::Delete(entry.key),
            Event::Delete(key) => Change::Delete(key),
        });
        let changes = changes.collect();
        self.commits += 1;
        let revision = batch.revision;
        self.frame(&Frame::Commit { revision, changes }).await?;
        Ok(revision)
    }

    async fn frame(&mut self, frame: &Frame) -> Result<()> {
        let sent = self.to.send(Ok(frame.encode())).await;
        sent.map_err(|_| {
            Error::new(
                Kind::Unavailable,
                "backup.cut_off",
                "the one who asked for the backup went away",
            )
        })
    }
}

/// Makes a commit that the backup ends with. Where others' commits count too, the newest revision alone does not tell that all
/// of the store's own have been seen.
async fn mark(kv: &dyn Kv) -> Result<Revision> {
    let write = Write::Put {
        key: Key::from_static(b"backup/end"),
        value: Bytes::new(),
        lease: None,
    };
    match within(kv.commit(Vec::new(), vec![write])).await? {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Conflict(_) => unreachable!("without conditions there is no conflict"),
    }
}

fn weight(event: &Event) -> usize {
    match event {
        Event::Put(entry) => entry.key.len() + entry.value.len() + 64,
        Event::Delete(key) => key.len() + 64,
    }
}

async fn within<T>(request: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(answer) => answer,
        Err(_) => Err(late("what was asked")),
    }
}

fn late(what: &str) -> Error {
    Error::new(
        Kind::DeadlineExceeded,
        "backup.late",
        format!("the store did not show {what} within {PATIENCE:?}"),
    )
}

fn behind() -> Error {
    Error::new(
        Kind::ResourceExhausted,
        "backup.behind",
        "more is written to the store than a backup can follow; take it when there is less to do",
    )
}

#[cfg(test)]
mod tests;
