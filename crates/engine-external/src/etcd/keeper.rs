//! What one node at a time does for a store: ends the leases that nobody kept alive, and forgets what is older than
//! the retention.
//!
//! Being the keeper is a key with an etcd lease. Two keepers at once, or one that is late, do no harm: each step is a
//! transaction that checks what it rests on.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use sinew_core::{Backoff, Result};
use sinew_engine::kv::{LeaseId, Retention, Revision, Span, revision_unknown};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    answer::{ENGINE, Failure},
    commit::{grouped, removed, revision_of},
    feed::{Changes, Feed, QUEUE},
    layout::{number, read_number, signed},
    lease,
    link::Link,
    wire::{Compare, Is, Operand, PutRequest, RangeRequest, Request, RequestOp, TxnRequest},
};
use crate::fault;

/// How long a store has no keeper after its keeper has vanished, at most.
const TTL: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_millis(1500);
/// How often the others look whether there is one.
const CANDIDATE: Duration = Duration::from_millis(1000);
/// How often history is forgotten, at most, and how much more than shall be kept there may be: a sixteenth.
const FORGET: Duration = Duration::from_secs(1);
const SLACK: usize = 16;
/// How often the marks of deleted keys are looked through, at most: etcd reads all of them for it.
const SWEEP: Duration = Duration::from_secs(30);
/// Marks of deleted keys that are looked at in one go.
const PAGE: i64 = 1000;
const ERASED: usize = 50;

pub(super) struct Keeper {
    pub(super) link: Arc<Link>,
    pub(super) retention: Retention,
    /// Whether etcd itself may be told to forget.
    pub(super) compacts: bool,
}

impl Keeper {
    /// Works until `life` ends.
    pub(super) async fn run(self, mut life: watch::Receiver<()>) {
        let mut backoff = Backoff::new(CANDIDATE / 4, CANDIDATE);
        loop {
            let mut elected = None;
            tokio::select! {
                () = self.term(&mut elected) => {}
                // The sender never sends; it is dropped.
                _ = life.changed() => {
                    if let Some(id) = elected {
                        let revoking = self.link.write(|client| async move { client.lease_revoke(id).await });
                        let _ = timeout(Duration::from_secs(1), revoking).await;
                    }
                    return;
                }
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// Stands for keeper, and is it as long as it goes well.
    async fn term(&self, elected: &mut Option<i64>) {
        if self.link.connection_at_last().await.is_none() {
            return;
        }
        match self.stand().await {
            Ok(Some(id)) => {
                *elected = Some(id);
                if let Err(error) = self.keep(id).await {
                    tracing::debug!(error = error.detail(), "no longer the keeper of the store");
                }
            }
            Ok(None) => {}
            Err(failure) => {
                let error = self.link.error(failure).detail();
                tracing::debug!(error, "cannot become the keeper of the store");
            }
        }
    }

    /// The etcd lease under which this is the keeper now, if there was none.
    async fn stand(&self) -> Result<Option<i64>, Failure> {
        let key = self.link.layout.keeper();
        let there = RangeRequest {
            keys_only: true,
            ..RangeRequest::key(key.clone())
        };
        let found = self
            .link
            .read(|client| {
                let there = there.clone();
                async move { client.range(there).await }
            })
            .await?;
        if !found.kvs.is_empty() {
            return Ok(None);
        }
        let id = rand::random_range(1..i64::MAX);
        let seconds = i64::try_from(TTL.as_secs()).unwrap_or(5);
        self.link
            .write(|client| async move { client.lease_grant(id, seconds).await })
            .await?;
        let put = PutRequest {
            key: key.clone(),
            lease: id,
            ..PutRequest::default()
        };
        let txn = TxnRequest {
            compare: vec![Compare::key(key, Is::Equal, Operand::Version(0))],
            success: vec![RequestOp {
                request: Some(Request::Put(put)),
            }],
            failure: Vec::new(),
        };
        let answer = self.write(txn).await?;
        if !answer {
            self.link
                .write(|client| async move { client.lease_revoke(id).await })
                .await?;
            return Ok(None);
        }
        Ok(Some(id))
    }

    async fn write(&self, txn: TxnRequest) -> Result<bool, Failure> {
        let answer = self
            .link
            .write(|client| {
                let txn = txn.clone();
                async move { client.txn(txn).await }
            })
            .await?;
        Ok(answer.succeeded)
    }

    async fn keep(&self, id: i64) -> Result<()> {
        tokio::select! {
            ended = self.beat(id) => ended,
            ended = self.end_leases() => ended,
            ended = self.forget() => ended,
        }
    }

    /// Stays the keeper; an error when it is no longer.
    async fn beat(&self, id: i64) -> Result<()> {
        let mut beats = interval(HEARTBEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut kept = Instant::now();
        loop {
            beats.tick().await;
            match self
                .link
                .read(|client| async move { client.lease_keep_alive(id).await })
                .await
            {
                Ok(1..) => kept = Instant::now(),
                Ok(_) | Err(Failure::NoLease) => {
                    return Err(fault::unavailable(ENGINE, "the keeper's lease has ended"));
                }
                Err(failure) if kept.elapsed() > TTL => return Err(self.link.error(failure)),
                Err(_) => {}
            }
        }
    }

    /// Ends every lease whose key has gone: first those from before, then as it happens.
    async fn end_leases(&self) -> Result<()> {
        let layout = &self.link.layout;
        let now = self.names((layout.format(), Bytes::new()), 1).await?;
        let mut gone = Feed::begin(self.link.clone(), layout.leases(), now.0 + 1, QUEUE, false);
        let mut from = LeaseId(0);
        loop {
            let (_, names) = self.names(layout.attachments_from(from), 1).await?;
            let Some((lease, _)) = names.first().and_then(|name| layout.attached(name)) else {
                break;
            };
            self.end_lease(lease).await?;
            from = LeaseId(lease.0.saturating_add(1));
        }
        loop {
            let Changes { keys, .. } = gone.next().await?;
            for (kv, deleted) in keys {
                if let (true, Some(lease)) = (deleted, layout.lease_of(&kv.key)) {
                    self.end_lease(lease).await?;
                }
            }
        }
    }

    /// Until it is done: an expired lease that stayed would be a lock that nobody holds.
    async fn end_lease(&self, lease: LeaseId) -> Result<()> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        while let Err(error) = lease::end(&self.link, lease, false).await {
            if backoff.attempts() >= 20 {
                return Err(error);
            }
            sleep(backoff.next_delay()).await;
        }
        Ok(())
    }

    /// The revision now, and the first names of a range.
    async fn names(&self, range: (Bytes, Bytes), limit: i64) -> Result<(Revision, Vec<Bytes>)> {
        let range = RangeRequest::names(range.0, range.1, limit);
        let answer = self
            .link
            .read(|client| {
                let range = range.clone();
                async move { client.range(range).await }
            })
            .await
            .map_err(|failure| self.link.error(failure))?;
        let now = answer.header.as_ref().map_or(0, |header| header.revision);
        let names = answer.kvs.into_iter().map(|kv| kv.key).collect();
        Ok((now.unsigned_abs(), names))
    }

    /// Counts the commits, and raises the floor when there are more than shall be kept.
    async fn forget(&self) -> Result<()> {
        let (mut floor, _) = floor_and_head(&self.link).await?;
        let mut commits = self.commits(floor);
        let mut kept = Kept::default();
        let mut ticks = interval(FORGET);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A keeper may have ended between raising the floor and removing the marks before it.
        self.sweep(floor).await?;
        let mut swept = (floor, Instant::now());
        loop {
            tokio::select! {
                changes = commits.next() => match changes {
                    Ok(Changes { revision, keys }) => {
                        let bytes = keys.first().and_then(|(kv, _)| read_number(&kv.value));
                        kept.add(revision, bytes.unwrap_or(0), self.retention);
                    }
                    // etcd was compacted further than the store has forgotten, or has written faster than we read.
                    // What was not counted is forgotten with what comes next.
                    Err(error) if error.code() == "kv.compacted" => {
                        let (_, head) = floor_and_head(&self.link).await?;
                        commits = self.commits(head);
                    }
                    Err(error) => return Err(error),
                },
                _ = ticks.tick() => {
                    if let Some(to) = kept.passed(self.retention) {
                        floor = to;
                        raise(&self.link, floor, self.compacts).await?;
                    }
                    if swept.0 < floor && swept.1.elapsed() > SWEEP {
                        self.sweep(floor).await?;
                        swept = (floor, Instant::now());
                    }
                }
            }
        }
    }

    /// Every commit after this one.
    fn commits(&self, after: Revision) -> Feed {
        let head = (self.link.layout.head(), Bytes::new());
        Feed::begin(self.link.clone(), head, after + 1, QUEUE, true)
    }

    /// Removes the marks of keys that were deleted up to the floor: nobody may ask about them any more.
    async fn sweep(&self, floor: Revision) -> Result<()> {
        let layout = &self.link.layout;
        let (mut first, beyond) = layout.tombs(&Span::all());
        loop {
            let old = RangeRequest {
                max_mod_revision: signed(floor),
                ..RangeRequest::names(first.clone(), beyond.clone(), PAGE)
            };
            // A maximum of 0 would mean none.
            if floor == 0 {
                return Ok(());
            }
            let answer = self
                .link
                .read(|client| {
                    let old = old.clone();
                    async move { client.range(old).await }
                })
                .await
                .map_err(|failure| self.link.error(failure))?;
            for some in answer.kvs.chunks(ERASED) {
                let steps = some.iter().map(|kv| {
                    let unchanged =
                        Compare::key(kv.key.clone(), Is::Equal, Operand::Mod(kv.mod_revision));
                    RequestOp::txn(TxnRequest {
                        compare: vec![unchanged],
                        success: vec![RequestOp::delete(kv.key.clone(), Bytes::new())],
                        failure: Vec::new(),
                    })
                });
                self.write(TxnRequest::of(grouped(steps.collect())))
                    .await
                    .map_err(|failure| self.link.error(failure))?;
            }
            match answer.kvs.last() {
                Some(last) if answer.more => first = [&last.key[..], b"\0"].concat().into(),
                _ => return Ok(()),
            }
        }
    }
}

/// The floor and the head of the store.
pub(super) async fn floor_and_head(link: &Link) -> Result<(Revision, Revision)> {
    let head = RangeRequest {
        keys_only: true,
        ..RangeRequest::key(link.layout.head())
    };
    let txn = TxnRequest::of(vec![RangeRequest::key(link.layout.floor()).op(), head.op()]);
    let answer = link
        .read(|client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        })
        .await
        .map_err(|failure| link.error(failure))?;
    let mut ranges = answer.ranges().into_iter();
    let floor = ranges.next().unwrap_or_default();
    let floor = floor.kvs.first().and_then(|kv| read_number(&kv.value));
    let head = ranges.next().as_ref().map_or(0, revision_of);
    Ok((floor.ok_or_else(removed)?, head))
}

/// Forgets the history before `to`; `kv.revision_unknown` when that does not exist yet.
pub(super) async fn raise(link: &Link, to: Revision, compacts: bool) -> Result<()> {
    let (floor, head) = floor_and_head(link).await?;
    if to > head {
        return Err(revision_unknown(to, head));
    }
    if to <= floor {
        return Ok(());
    }
    let txn = TxnRequest {
        compare: vec![Compare::key(
            link.layout.floor(),
            Is::Less,
            Operand::Value(number(to)),
        )],
        success: vec![RequestOp::put(link.layout.floor(), number(to))],
        failure: Vec::new(),
    };
    link.write(|client| {
        let txn = txn.clone();
        async move { client.txn(txn).await }
    })
    .await
    .map_err(|failure| link.error(failure))?;
    if compacts {
        match link
            .write(|client| async move { client.compact(signed(to)).await })
            .await
        {
            // Somebody else has compacted further.
            Ok(_) | Err(Failure::Compacted) => {}
            Err(failure) => return Err(link.error(failure)),
        }
    }
    Ok(())
}

/// The commits of the history, oldest first, neighbours counted together when there are many.
#[derive(Default)]
struct Kept {
    runs: VecDeque<Run>,
    commits: usize,
    bytes: u64,
}

struct Run {
    last: Revision,
    commits: usize,
    bytes: u64,
}

impl Kept {
    fn add(&mut self, revision: Revision, bytes: u64, retention: Retention) {
        self.commits += 1;
        self.bytes += bytes;
        match self.runs.back_mut() {
            Some(run)
                if run.commits < retention.commits / 256
                    && run.bytes + bytes < retention.bytes as u64 / 256 =>
            {
                run.last = revision;
                run.commits += 1;
                run.bytes += bytes;
            }
            _ => self.runs.push_back(Run {
                last: revision,
                commits: 1,
                bytes,
            }),
        }
    }

    /// Forgets what is too much, when it is enough to be worth it; answers the last revision of that.
    fn passed(&mut self, retention: Retention) -> Option<Revision> {
        let mut last = None;
        let most = retention.commits.saturating_add(retention.commits / SLACK);
        let bytes = retention.bytes.saturating_add(retention.bytes / SLACK);
        if self.commits <= most && self.bytes <= bytes as u64 {
            return None;
        }
        while self.commits > retention.commits || self.bytes > retention.bytes as u64 {
            let Some(run) = self.runs.pop_front() else {
                break;
            };
            self.commits -= run.commits;
            self.bytes -= run.bytes;
            last = Some(run.last);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_memory_stays_small() {
        let few = Retention {
            commits: 3,
            bytes: usize::MAX,
        };
        let mut kept = Kept::default();
        for revision in [2, 4, 5, 9, 11] {
            kept.add(revision, 10, few);
        }
        assert_eq!(kept.passed(few), Some(4));
        assert_eq!(kept.passed(few), None);
        let many = Retention {
            commits: 100_000,
            bytes: 1 << 40,
        };
        let mut kept = Kept::default();
        for revision in 1..=200_000 {
            kept.add(revision, 10, many);
            kept.passed(many);
        }
        assert!(kept.runs.len() < 300);
        assert!((99_000..107_000).contains(&kept.commits));
        let light = Retention {
            commits: usize::MAX,
            bytes: 25,
        };
        let mut kept = Kept::default();
        for revision in 1..=4 {
            kept.add(revision, 10, light);
        }
        assert_eq!(kept.passed(light), Some(2));
    }
}
