//! `Kv` over etcd, 3.4 or newer.
//!
//! Every commit is one transaction of etcd (`commit`), and its revision is etcd's. etcd numbers the writes of
//! the whole cluster, so a store's revisions have gaps; the store's own newest one is that of a key which
//! every commit writes. What etcd cannot say by itself is arranged with keys beside the data
//! (`layout`): which condition failed, deletions in a range, leases that end as a commit.
//!
//! Rejected: numbering the store's commits without gaps in a counter of its own, since an entry could not know its
//! number while it is written without taking turns; attaching keys to etcd's leases, since it
//! deletes them without a trace that a condition could see (`lease`).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sinew_core::{Clock, Result};
use sinew_engine::{
    Health,
    kv::{
        Batch, Capability, Condition, Entry, Event, Key, Kv, LeaseId, Limits, Outcome, Page,
        Retention, Revision, Span, Watch, Write, compacted, revision_unknown,
    },
};
use tokio::{sync::watch, time::Instant};

use crate::{Address, fault};
use answer::{ENGINE, Failure};
use commit::{plan, removed, revision_of};
use feed::{Changes, Feed, QUEUE};
use keeper::Keeper;
use layout::{Layout, read_number, signed};
use link::Link;
use wire::{RangeRequest, TxnRequest};

mod answer;
mod client;
mod commit;
mod feed;
mod keeper;
mod layout;
mod lease;
mod link;
pub mod wire;

pub use client::Client;

const PORT: u16 = 2379;

const KEY_BYTES: usize = 1024;
const VALUE_BYTES: usize = 1 << 20;

const LIMITS: Limits = Limits {
    key_bytes: KEY_BYTES,
    value_bytes: VALUE_BYTES,
    // etcd counts 128 operations; some are ours.
    transaction_operations: 100,
    // etcd takes requests of 1.5 MiB, in which keys stand several times.
    transaction_bytes: VALUE_BYTES + (64 << 10),
    page_entries: 1000,
    // With its usual timing etcd grants no shorter ones.
    lease_minimum: Duration::from_secs(2),
};

/// How a store is to be kept, beside what its URL says.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much history there is. The oldest is forgotten within seconds after either bound is passed.
    pub retention: Retention,
    /// The shortest lease that may be asked for; at least 2 s.
    pub lease_minimum: Duration,
}

impl Default for Options {
    /// 100,000 commits, at most 256 MiB.
    fn default() -> Self {
        Self {
            retention: Retention {
                commits: 100_000,
                bytes: 256 << 20,
            },
            lease_minimum: LIMITS.lease_minimum,
        }
    }
}

/// A store in an etcd cluster. Any number may be open over the same namespace, in any number of processes.
pub struct EtcdKv {
    link: Arc<Link>,
    capability: Capability,
    /// Whether etcd itself may be told to forget its history, which is that of the whole cluster.
    compacts: bool,
    /// Revisions that may wait for a watcher.
    queue: usize,
    /// Dropped with the store, which ends its tasks.
    _life: watch::Sender<()>,
}

impl EtcdKv {
    /// Reads `etcd://user@host:2379,host:2379?…`. Besides the options of every [`Address`]: `compact=on` lets
    /// the store compact the cluster up to what it has forgotten itself.
    pub fn address(url: &str) -> Result<Address> {
        Address::parse(url, PORT, &["compact"])
    }

    /// Opens the store at once with the usual options, and connects in the background. Must be called
    /// within a tokio runtime. `engine.address` (InvalidArgument) when the address is wrong.
    pub fn open(address: Address, clock: Clock) -> Result<Self> {
        Self::open_with(address, clock, Options::default())
    }

    /// The same with other options.
    pub fn open_with(address: Address, clock: Clock, options: Options) -> Result<Self> {
        if address.scheme != "etcd" {
            return Err(fault::address("an etcd URL begins with etcd://"));
        }
        if !address.path.is_empty() {
            return Err(fault::address(
                "an etcd URL has no path; keep stores apart with ?namespace=…",
            ));
        }
        if address.user.is_some() != address.password().is_some() {
            return Err(fault::address(
                "etcd wants a user and a password, or neither: user@host with password_file or password_env",
            ));
        }
        let compacts = match address.option("compact") {
            None | Some("off") => false,
            Some("on") => true,
            Some(other) => {
                return Err(fault::address(format!(
                    "compact is on or off, not {other:?}"
                )));
            }
        };
        let layout = Layout::new(address.namespace.as_ref());
        let link = Link::new(address, layout);
        let capability = Capability {
            engine: ENGINE,
            durable: true,
            historical_reads: true,
            dense_revisions: false,
            atomic_with_bus: false,
            limits: Limits {
                lease_minimum: options.lease_minimum.max(LIMITS.lease_minimum),
                ..LIMITS
            },
        };
        let (life, ended) = watch::channel(());
        tokio::spawn(link.clone().run(clock));
        let keeper = Keeper {
            link: link.clone(),
            retention: options.retention,
            compacts,
        };
        let closing = link.clone();
        tokio::spawn(async move {
            keeper.run(ended).await;
            closing.close();
        });
        Ok(Self {
            link,
            capability,
            compacts,
            queue: QUEUE.min(options.retention.commits),
            _life: life,
        })
    }

    /// Whether etcd can be reached.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.link.health()
    }

    /// A connection without anything of ours on top, for comparisons.
    pub async fn client(&self) -> Result<Client> {
        let deadline = Instant::now() + self.link.address.timeout;
        Ok(self.link.connection(deadline).await?.client)
    }

    async fn txn(&self, txn: TxnRequest) -> Result<wire::TxnResponse, Failure> {
        self.link
            .read(|client| {
                let txn = txn.clone();
                async move { client.txn(txn).await }
            })
            .await
    }

    /// One try at a page of this many entries; `None` when it is too large to be sent.
    async fn page(&self, span: &Span, limit: usize, at: Option<Revision>) -> Result<Option<Page>> {
        let layout = &self.link.layout;
        let mut steps = vec![head(layout).op(), RangeRequest::key(layout.floor()).op()];
        let (key, range_end) = layout.keys(span);
        let mut data = RangeRequest {
            key,
            range_end,
            limit: i64::try_from(limit + 1).unwrap_or(i64::MAX),
            ..RangeRequest::default()
        };
        // The snapshot before the first commit is empty, and 0 means the newest to etcd.
        let anything = !span.is_empty() && at != Some(0);
        if anything {
            data.revision = at.map_or(0, signed);
            steps.push(data.clone().op());
        }
        let answer = match self.txn(TxnRequest::of(steps.clone())).await {
            Err(Failure::Compacted | Failure::Future) => {
                // It may be the newest of this store all the same, and that can be read as such.
                steps.pop();
                data.revision = 0;
                steps.push(data.op());
                self.txn(TxnRequest::of(steps))
                    .await
                    .map(|answer| (answer, true))
            }
            other => other.map(|answer| (answer, false)),
        };
        if let Err(Failure::TooLarge) = answer
            && limit > 1
        {
            return Ok(None);
        }
        let (answer, only_newest) = answer.map_err(|failure| self.link.error(failure))?;
        let mut ranges = answer.ranges().into_iter();
        let head = ranges.next().as_ref().map_or(0, revision_of);
        let floor = ranges.next().unwrap_or_default();
        let floor = floor.kvs.first().and_then(|kv| read_number(&kv.value));
        let floor = floor.ok_or_else(removed)?;
        let revision = at.unwrap_or(head);
        if revision > head {
            return Err(revision_unknown(revision, head));
        }
        if revision < floor || (only_newest && revision < head) {
            return Err(compacted(revision, floor.max(revision + 1)));
        }
        let mut found = ranges.next().unwrap_or_default().kvs;
        let next = (found.len() > limit).then(|| layout.own(&found[limit].key));
        found.truncate(limit);
        let entries = found.iter().map(|kv| self.entry(kv));
        Ok(Some(Page {
            entries: entries.collect::<Result<_>>()?,
            revision,
            next,
        }))
    }

    fn entry(&self, kv: &wire::KeyValue) -> Result<Entry> {
        read(&self.link.layout, kv)
    }
}

fn read(layout: &Layout, kv: &wire::KeyValue) -> Result<Entry> {
    layout.entry(kv).ok_or_else(|| {
        fault::unsuitable(
            ENGINE,
            "a key under its namespace was written by somebody else",
        )
    })
}

/// The read that tells the store's revision.
fn head(layout: &Layout) -> RangeRequest {
    RangeRequest {
        keys_only: true,
        ..RangeRequest::key(layout.head())
    }
}

#[async_trait]
impl Kv for EtcdKv {
    fn capability(&self) -> &Capability {
        &self.capability
    }

    async fn revision(&self) -> Result<Revision> {
        let head = head(&self.link.layout);
        let answer = self
            .link
            .read(|client| {
                let head = head.clone();
                async move { client.range(head).await }
            })
            .await
            .map_err(|failure| self.link.error(failure))?;
        Ok(revision_of(&answer))
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        let key = RangeRequest::key(self.link.layout.key(key));
        let answer = self
            .link
            .read(|client| {
                let key = key.clone();
                async move { client.range(key).await }
            })
            .await
            .map_err(|failure| self.link.error(failure))?;
        answer.kvs.first().map(|kv| self.entry(kv)).transpose()
    }

    async fn range(&self, span: Span, limit: usize, at: Option<Revision>) -> Result<Page> {
        let mut limit = self.capability.limits.page_size(limit);
        loop {
            match self.page(&span, limit, at).await? {
                Some(page) => return Ok(page),
                None => limit = (limit / 8).max(1),
            }
        }
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Outcome> {
        self.capability
            .limits
            .check_transaction(&conditions, &writes)?;
        let mut plan = plan(&self.link.layout, conditions, &writes)?;
        let request = std::mem::take(&mut plan.request);
        let answer = if writes.is_empty() {
            self.txn(request).await
        } else {
            let send = |client: Client| {
                let request = request.clone();
                async move { client.txn(request).await }
            };
            self.link.write(send).await
        };
        plan.outcome(answer.map_err(|failure| self.link.error(failure))?)
    }

    async fn watch(&self, span: Span, after: Revision) -> Result<Box<dyn Watch>> {
        let layout = &self.link.layout;
        let steps = vec![head(layout).op(), RangeRequest::key(layout.floor()).op()];
        let answer = self.txn(TxnRequest::of(steps)).await;
        let answer = answer.map_err(|failure| self.link.error(failure))?;
        let now = answer.revision().unsigned_abs();
        let mut ranges = answer.ranges().into_iter();
        let head = ranges.next().as_ref().map_or(0, revision_of);
        let floor = ranges.next().unwrap_or_default();
        let floor = floor.kvs.first().and_then(|kv| read_number(&kv.value));
        let floor = floor.ok_or_else(removed)?;
        if after > head {
            return Err(revision_unknown(after, head));
        }
        if after < floor {
            return Err(compacted(after, floor));
        }
        // Others may have compacted what came between the last commit of this store and now.
        let from = if after == head { now } else { after } + 1;
        let feed = (!span.is_empty()).then(|| {
            Feed::begin(
                self.link.clone(),
                layout.keys(&span),
                from,
                self.queue,
                true,
            )
        });
        Ok(Box::new(EtcdWatch {
            layout: layout.clone(),
            feed,
        }))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.capability.limits.check_ttl(ttl)?;
        lease::grant(&self.link, ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        lease::keep_alive(&self.link, lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        lease::revoke(&self.link, lease).await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        keeper::raise(&self.link, revision, self.compacts).await
    }
}

struct EtcdWatch {
    layout: Layout,
    /// None for a span that no key can belong to.
    feed: Option<Feed>,
}

#[async_trait]
impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<Batch> {
        let Some(feed) = &mut self.feed else {
            return std::future::pending().await;
        };
        let Changes { revision, keys } = feed.next().await?;
        let events = keys.into_iter().map(|(kv, deleted)| {
            if deleted {
                return Ok(Event::Delete(Key::clone(&self.layout.own(&kv.key))));
            }
            read(&self.layout, &kv).map(Event::Put)
        });
        Ok(Batch {
            revision,
            events: events.collect::<Result<_>>()?,
        })
    }
}
