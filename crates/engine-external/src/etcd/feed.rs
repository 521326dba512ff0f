//! What happens to a range of etcd's keys, revision by revision, over broken connections.
//!
//! One task a feed reads etcd's stream as fast as it comes, so etcd never keeps anything for us. The queue
//! to the reader is bounded, by revisions and by bytes; a reader who lets it fill has been too slow.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use sinew_core::{Backoff, Error, Kind, Result};
use sinew_engine::kv::{Revision, compacted};
use tokio::sync::mpsc;

use super::{
    answer::{ENGINE, Failure},
    commit::revision_of,
    layout::signed,
    link::{Connection, Link},
    wire::{KeyValue, RangeRequest, WatchCreateRequest, WatchResponse},
};
use crate::fault;

/// Revisions that may wait for a reader, unless less is asked for.
pub(super) const QUEUE: usize = 1024;
const QUEUE_BYTES: usize = 16 << 20;

/// All changes of one revision.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) revision: Revision,
    /// Key by key: as it is now, and whether it was deleted.
    pub(super) keys: Vec<(KeyValue, bool)>,
}

impl Changes {
    fn bytes(&self) -> usize {
        let one = |(kv, _): &(KeyValue, bool)| kv.key.len() + kv.value.len();
        self.keys.iter().map(one).sum()
    }
}

/// The reader's side. Dropping it ends the task.
pub(super) struct Feed {
    queue: mpsc::Receiver<Changes>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    bytes: AtomicUsize,
    /// Why there is no more.
    end: Mutex<Option<(Kind, &'static str, String, String)>>,
}

impl Feed {
    /// Everything from the revision `from` on in the range. `queue` revisions may wait. `commits` says that only
    /// commits write to the range, so that nothing is missed while the head does not move.
    pub(super) fn begin(
        link: Arc<Link>,
        range: (Bytes, Bytes),
        from: Revision,
        queue: usize,
        commits: bool,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(queue.clamp(1, QUEUE));
        let shared = Arc::new(Shared::default());
        let source = Source {
            link,
            range,
            next: from,
            commits,
            pending: VecDeque::new(),
            queue: sender,
            shared: shared.clone(),
        };
        tokio::spawn(source.run());
        Self {
            queue: receiver,
            shared,
        }
    }

    /// The next revision that changed something. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Changes> {
        if let Some(changes) = self.queue.recv().await {
            self.shared
                .bytes
                .fetch_sub(changes.bytes(), Ordering::Relaxed);
            return Ok(changes);
        }
        let end = self
            .shared
            .end
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Err(match &*end {
            Some((kind, code, message, context)) => {
                Error::new(*kind, code, message.clone()).with_context(context.clone())
            }
            None => fault::unavailable(ENGINE, "the watch ended with the process"),
        })
    }
}

struct Source {
    link: Arc<Link>,
    range: (Bytes, Bytes),
    /// Everything before it was delivered, or does not concern the range.
    next: Revision,
    commits: bool,
    /// The changes of the newest revision, while more of it may come.
    pending: VecDeque<(KeyValue, bool)>,
    queue: mpsc::Sender<Changes>,
    shared: Arc<Shared>,
}

/// How one stream of etcd's ended.
enum Ended {
    /// Go on with another.
    Broken,
    /// The history from `next` on is gone.
    Compacted(Revision),
    /// For good.
    For(Error),
}

impl Source {
    async fn run(mut self) {
        let queue = self.queue.clone();
        let end = tokio::select! {
            () = queue.closed() => return,
            end = self.follow() => end,
        };
        let context = end.detail();
        let code = match end.code() {
            "kv.compacted" => "kv.compacted",
            "engine.denied" => "engine.denied",
            "engine.unexpected" => "engine.unexpected",
            _ => "engine.unavailable",
        };
        let told = (end.kind(), code, end.message().to_owned(), context);
        *self
            .shared
            .end
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(told);
    }

    async fn follow(&mut self) -> Error {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            let Some(connection) = self.link.connection_at_last().await else {
                return fault::unavailable(ENGINE, "the store was closed");
            };
            let before = self.next;
            let ended = self.stream(&connection).await;
            // What came of a revision that is not whole comes again.
            self.pending.clear();
            if self.next > before {
                backoff.reset();
            }
            match ended {
                Ended::For(error) => return error,
                Ended::Compacted(oldest) => match self.skip().await {
                    Ok(true) => {}
                    Ok(false) => return compacted(self.next.saturating_sub(1), oldest),
                    Err(_) => tokio::time::sleep(backoff.next_delay()).await,
                },
                Ended::Broken => tokio::time::sleep(backoff.next_delay()).await,
            }
        }
    }

    /// When the history that is gone held no commit of ours, nothing was missed: goes on behind it.
    async fn skip(&mut self) -> Result<bool, Failure> {
        if !self.commits {
            return Ok(false);
        }
        let head = RangeRequest {
            keys_only: true,
            ..RangeRequest::key(self.link.layout.head())
        };
        let answer = self
            .link
            .read(|client| {
                let head = head.clone();
                async move { client.range(head).await }
            })
            .await?;
        let now = answer.header.as_ref().map_or(0, |header| header.revision);
        let nothing = revision_of(&answer) < self.next;
        if nothing {
            self.next = now.unsigned_abs() + 1;
        }
        Ok(nothing)
    }

    async fn stream(&mut self, connection: &Connection) -> Ended {
        let create = WatchCreateRequest {
            key: self.range.0.clone(),
            range_end: self.range.1.clone(),
            start_revision: signed(self.next),
            progress_notify: true,
            fragment: true,
        };
        let mut stream = match connection.client.watch(create).await {
            Ok(stream) => stream,
            Err(status) => return self.broken(Failure::from(status)),
        };
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                () = self.link.replaced(connection.number) => return Ended::Broken,
            };
            match message {
                Ok(Some(answer)) => {
                    if let Err(ended) = self.take(answer) {
                        return ended;
                    }
                }
                Ok(None) => return Ended::Broken,
                Err(status) => return self.broken(Failure::from(status)),
            }
        }
    }

    fn broken(&self, failure: Failure) -> Ended {
        match failure {
            Failure::Refused(..) => Ended::For(self.link.error(failure)),
            _ => {
                self.link.suspect();
                Ended::Broken
            }
        }
    }

    fn take(&mut self, answer: WatchResponse) -> Result<(), Ended> {
        if answer.canceled {
            if answer.compact_revision > 0 {
                return Err(Ended::Compacted(answer.compact_revision.unsigned_abs()));
            }
            if answer.cancel_reason.contains("permission denied") {
                return Err(Ended::For(fault::denied(ENGINE, answer.cancel_reason)));
            }
            self.link.suspect();
            return Err(Ended::Broken);
        }
        if answer.created {
            return Ok(());
        }
        if answer.events.is_empty() {
            // Progress: nothing is before it that was not sent.
            if self.pending.is_empty() && !answer.fragment {
                let now = answer.header.map_or(0, |header| header.revision);
                self.next = self.next.max(now.unsigned_abs() + 1);
            }
            return Ok(());
        }
        for event in answer.events {
            let Some(kv) = event.kv else { continue };
            let other = self
                .pending
                .front()
                .is_some_and(|(first, _)| first.mod_revision != kv.mod_revision);
            if other {
                self.deliver()?;
            }
            self.pending.push_back((kv, event.kind == 1));
        }
        // A revision may be split over the parts of one answer, but not over answers.
        if answer.fragment {
            Ok(())
        } else {
            self.deliver()
        }
    }

    /// Hands over the pending revision.
    fn deliver(&mut self) -> Result<(), Ended> {
        let Some((first, _)) = self.pending.front() else {
            return Ok(());
        };
        let revision = first.mod_revision.unsigned_abs();
        let mut keys: Vec<_> = self.pending.drain(..).collect();
        if revision < self.next {
            return Ok(());
        }
        keys.sort_by(|(a, _), (b, _)| a.key.cmp(&b.key));
        let changes = Changes { revision, keys };
        let bytes = changes.bytes();
        let waiting = self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = waiting == 0 || waiting + bytes <= QUEUE_BYTES;
        if !fits || self.queue.try_send(changes).is_err() {
            return Err(Ended::For(compacted(self.next.saturating_sub(1), revision)));
        }
        self.next = revision + 1;
        Ok(())
    }
}
