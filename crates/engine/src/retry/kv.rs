use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sinew_core::{Backoff, Error, Kind, Result};

use super::{Retrying, is_unknown, may_pass};
use crate::kv::{
    Batch, Capability, Condition, Entry, Event, Key, Kv, LeaseId, Outcome, Page, Revision, Span,
    Watch, Write,
};

/// How long it is looked for what became of a commit, in its history.
const LOOK: Duration = Duration::from_secs(5);

/// A write of a commit that tells what became of it: the write's key is a condition of the commit, so that the
/// commit cannot happen twice, and its lease, which nobody else has, tells it from others' writes.
struct Mark {
    key: Key,
    /// The key was at this revision before; `None`: it did not exist.
    at: Option<Revision>,
    value: Bytes,
    lease: LeaseId,
}

impl Mark {
    /// The best mark of a commit, if it has one.
    fn of(conditions: &[Condition], writes: &[Write]) -> Option<Self> {
        let marks = writes.iter().filter_map(|write| {
            let Write::Put {
                key,
                value,
                lease: Some(lease),
            } = write
            else {
                return None;
            };
            let at = conditions.iter().find_map(|condition| match condition {
                Condition::KeyAt(guarded, at) if guarded == key => Some(Some(*at)),
                Condition::Absent(guarded) if guarded == key => Some(None),
                _ => None,
            })?;
            Some(Self {
                key: key.clone(),
                at,
                value: value.clone(),
                lease: *lease,
            })
        });
        // A known revision is where its history begins.
        marks.max_by_key(|mark| mark.at)
    }

    fn is(&self, entry: &Entry) -> bool {
        entry.key == self.key && entry.value == self.value && entry.lease == Some(self.lease)
    }
}

impl<K: Kv> Retrying<K> {
    /// What became of a commit whose repetition met a conflict: `Some(Some(revision))` when the first attempt
    /// happened, `Some(None)` when it did not and cannot any more, `None` when that cannot be told.
    async fn fate(&self, mark: &Mark) -> Result<Option<Option<Revision>>> {
        let now = repeat!(self, self.inner.get(&mark.key))?;
        if let Some(entry) = &now
            && mark.is(entry)
            && mark.at.is_none_or(|at| entry.revision > at)
        {
            return Ok(Some(Some(entry.revision)));
        }
        let (Some(at), Some(now)) = (mark.at, now) else {
            return Ok(None);
        };
        if now.revision == at {
            // The mark's own condition holds: another one failed, and a late first attempt may still meet all
            // of them.
            return Ok(None);
        }
        // It could happen only as the first change of this key after `at`.
        let span = Span::key(mark.key.clone());
        let watch = repeat!(self, self.inner.watch(span.clone(), at));
        let mut watch = match watch {
            Err(error) if error.kind() == Kind::OutOfRange => return Ok(None),
            watch => watch?,
        };
        let first = match tokio::time::timeout(LOOK, watch.next()).await {
            Err(_) | Ok(Err(_)) => return Ok(None),
            Ok(Ok(batch)) => batch,
        };
        let is_ours = |event: &Event| matches!(event, Event::Put(entry) if mark.is(entry));
        Ok(Some(
            first.events.iter().any(is_ours).then_some(first.revision),
        ))
    }
}

#[async_trait]
impl<K: Kv + Clone> Kv for Retrying<K> {
    fn capability(&self) -> &Capability {
        self.inner.capability()
    }

    async fn revision(&self) -> Result<Revision> {
        repeat!(self, self.inner.revision())
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        repeat!(self, self.inner.get(key))
    }

    async fn range(&self, span: Span, limit: usize, at: Option<Revision>) -> Result<Page> {
        repeat!(self, self.inner.range(span.clone(), limit, at))
    }

    /// Repeated when nothing happened. When the fate of an attempt is unknown, it is repeated only if the commit puts a
    /// key with a lease that is also one of its conditions (`Absent` or `KeyAt`): then it cannot happen twice, and what is found there
    /// tells what became of it, as long as the lease is the caller's own. Values alone do not: two callers that count up write the same.
    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Outcome> {
        if writes.is_empty() {
            return repeat!(self, self.inner.commit(conditions.clone(), Vec::new()));
        }
        let mark = Mark::of(&conditions, &writes);
        let mut trial = self.trial();
        // What an attempt answered that may have happened.
        let mut unknown: Option<Error> = None;
        loop {
            let error = match self.inner.commit(conditions.clone(), writes.clone()).await {
                Err(error) => error,
                Ok(outcome) => {
                    self.budget.succeeded();
                    return match (outcome, unknown, &mark) {
                        (Outcome::Conflict(which), Some(unknown), Some(mark)) => {
                            match self.fate(mark).await {
                                Ok(Some(Some(revision))) => Ok(Outcome::Committed(revision)),
                                Ok(Some(None)) => Ok(Outcome::Conflict(which)),
                                Ok(None) | Err(_) => Err(unknown),
                            }
                        }
                        (outcome, ..) => Ok(outcome),
                    };
                }
            };
            let may_go_on = match is_unknown(&error) {
                true => mark.is_some(),
                false => may_pass(&error),
            };
            let goes_on = may_go_on && trial.wait(&error).await;
            let told = match is_unknown(&error) {
                true => error,
                false => unknown.take().unwrap_or(error),
            };
            if !goes_on {
                return Err(told);
            }
            unknown = Some(told).filter(is_unknown);
        }
    }

    async fn watch(&self, span: Span, after: Revision) -> Result<Box<dyn Watch>> {
        let watch = repeat!(self, self.inner.watch(span.clone(), after))?;
        Ok(Box::new(RetryingWatch {
            watch: Some(watch),
            kv: Retrying::new(self.inner.clone(), self.policy),
            span,
            after,
            backoff: Backoff::new(self.policy.first_delay, self.policy.longest_delay),
        }))
    }

    /// May leave a lease that nobody knows; it expires.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        repeat!(self, self.inner.grant(ttl))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        repeat!(self, self.inner.keep_alive(lease))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        let mut may_have_happened = false;
        repeat!(self, async {
            match self.inner.revoke(lease).await {
                Err(error) if error.kind() == Kind::NotFound && may_have_happened => Ok(()),
                Err(error) => {
                    may_have_happened |= is_unknown(&error);
                    Err(error)
                }
                Ok(()) => Ok(()),
            }
        })
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        repeat!(self, self.inner.compact(revision))
    }
}

/// Goes on after the last batch when the engine's watch breaks. If that was long ago, its history may be gone, and
/// the watch ends with `kv.compacted`: the caller lists again, as always.
struct RetryingWatch<K> {
    watch: Option<Box<dyn Watch>>,
    kv: Retrying<K>,
    span: Span,
    after: Revision,
    backoff: Backoff,
}

#[async_trait]
impl<K: Kv + Clone> Watch for RetryingWatch<K> {
    async fn next(&mut self) -> Result<Batch> {
        loop {
            let watch = match &mut self.watch {
                Some(watch) => watch,
                None => {
                    let (kv, span) = (&self.kv, &self.span);
                    let watch = repeat!(kv, kv.inner.watch(span.clone(), self.after))?;
                    self.watch.insert(watch)
                }
            };
            match watch.next().await {
                Ok(batch) => {
                    self.after = batch.revision;
                    self.backoff.reset();
                    return Ok(batch);
                }
                Err(error) if is_unknown(&error) => {
                    self.watch = None;
                    tokio::time::sleep(self.backoff.next_delay()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests;
