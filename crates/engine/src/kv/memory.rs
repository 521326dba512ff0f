use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use sinew_core::{Clock, Result};
use tokio::sync::watch;

use super::{
    Batch, Capability, Condition, Entry, Kv, LeaseId, Limits, Outcome, Page, Retention, Revision,
    Span, Watch, Write,
};
use state::State;

mod state;

/// The reference engine: everything in memory under one lock, written to be obviously right. For
/// tests, the simulator, and nodes that shall forget. Clones are the same store.
///
/// It has no task of its own. Leases that are due expire at the beginning of every operation, and a
/// waiting watcher wakes at the next deadline, so nobody can see a lease past its time.
#[derive(Clone)]
pub struct MemoryKv {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    state: Mutex<State>,
    /// Told of every change of the state, so that watchers look again.
    changed: watch::Sender<()>,
}

/// A watcher looks again at the latest after this; clocks cannot count to the end of time.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

const CAPABILITY: Capability = Capability {
    engine: "memory",
    durable: false,
    historical_reads: true,
    dense_revisions: true,
    atomic_with_bus: false,
    limits: Limits {
        key_bytes: 1024,
        value_bytes: 1 << 20,
        transaction_operations: 1024,
        transaction_bytes: 8 << 20,
        page_entries: 1024,
        lease_minimum: Duration::from_millis(100),
    },
};

impl MemoryKv {
    /// An empty store that keeps the last 10,000 commits, at most 64 MiB, as history.
    pub fn new(clock: Clock) -> Self {
        Self::with_retention(
            clock,
            Retention {
                commits: 10_000,
                bytes: 64 << 20,
            },
        )
    }

    /// An empty store that keeps this much history.
    pub fn with_retention(clock: Clock, retention: Retention) -> Self {
        let state = Mutex::new(State::new(retention));
        let (changed, _) = watch::channel(());
        Self {
            shared: Arc::new(Shared {
                clock,
                state,
                changed,
            }),
        }
    }
}

impl Shared {
    /// The state, with every lease that is due expired.
    fn current(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.expire(self.clock.monotonic()) {
            self.changed.send_replace(());
        }
        state
    }
}

#[async_trait]
impl Kv for MemoryKv {
    fn capability(&self) -> &Capability {
        &CAPABILITY
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(self.shared.current().revision())
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        Ok(self.shared.current().get(key).cloned())
    }

    async fn range(&self, span: Span, limit: usize, at: Option<Revision>) -> Result<Page> {
        let state = self.shared.current();
        state.range(
            &span,
            CAPABILITY.limits.page_size(limit),
            at.unwrap_or(state.revision()),
        )
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Outcome> {
        CAPABILITY.limits.check_transaction(&conditions, &writes)?;
        let outcome = self.shared.current().commit(&conditions, writes)?;
        self.shared.changed.send_replace(());
        Ok(outcome)
    }

    async fn watch(&self, span: Span, after: Revision) -> Result<Box<dyn Watch>> {
        let state = self.shared.current();
        state.check_history(after)?;
        let changed = self.shared.changed.subscribe();
        Ok(Box::new(MemoryWatch {
            shared: self.shared.clone(),
            changed,
            span,
            seen: after,
        }))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        CAPABILITY.limits.check_ttl(ttl)?;
        let now = self.shared.clock.monotonic();
        let lease = self.shared.current().grant(ttl, now);
        // Waiting watchers may have a new next deadline.
        self.shared.changed.send_replace(());
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        let now = self.shared.clock.monotonic();
        self.shared.current().keep_alive(lease, now)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.shared.current().revoke(lease)?;
        self.shared.changed.send_replace(());
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.shared.current().compact(revision)?;
        self.shared.changed.send_replace(());
        Ok(())
    }
}

/// A place in the shared history. The history is the queue: a watcher that falls out of it has been
/// too slow, and no watcher costs memory of its own.
struct MemoryWatch {
    shared: Arc<Shared>,
    changed: watch::Receiver<()>,
    span: Span,
    /// Everything up to here was delivered or does not concern the span.
    seen: Revision,
}

#[async_trait]
impl Watch for MemoryWatch {
    async fn next(&mut self) -> Result<Batch> {
        loop {
            self.changed.mark_unchanged();
            let deadline = {
                let state = self.shared.current();
                state.check_history(self.seen)?;
                if let Some(batch) = state.first_batch(&self.span, self.seen) {
                    self.seen = batch.revision;
                    return Ok(batch);
                }
                self.seen = state.revision();
                state.next_deadline()
            };
            let now = self.shared.clock.monotonic();
            let until = deadline.map(|at| at.min(now + LONGEST_SLEEP));
            tokio::select! {
                // The sender lives in `shared`, so this cannot fail.
                _ = self.changed.changed() => {}
                () = self.shared.clock.sleep_until(until.unwrap_or_default()), if until.is_some() => {}
            }
        }
    }
}
