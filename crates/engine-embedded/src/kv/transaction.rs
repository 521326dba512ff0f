use std::time::Duration;

use sinew_core::Result;
use sinew_engine::kv::{
    Condition, Entry, LeaseId, Outcome, Revision, Span, Write, lease_unknown, revision_unknown,
};

use super::{
    change::{Change, Commit},
    feed::Feed,
    store::{Head, StoreError, Tables},
};

/// One group: transactions that are written with one fsync, each seeing those before it. The outer
/// errors are the file's and end the group; the inner ones belong to a single caller.
pub(super) struct Group<'g, 't> {
    tables: &'g mut Tables<'t>,
    /// The commits before this group.
    feed: &'g Feed,
    /// The commits of this group.
    commits: Vec<Commit>,
}

type Stored<T> = Result<T, StoreError>;

/// How many commits of the history are looked at together.
const STRETCH: usize = 256;

impl<'g, 't> Group<'g, 't> {
    pub(super) fn new(tables: &'g mut Tables<'t>, feed: &'g Feed) -> Self {
        Self {
            tables,
            feed,
            commits: Vec::new(),
        }
    }

    /// The head as the group leaves it, and the group's commits.
    pub(super) fn finish(self) -> (Head, Vec<Commit>) {
        (self.tables.head, self.commits)
    }

    pub(super) fn grant(&mut self, ttl: Duration) -> Stored<LeaseId> {
        self.tables.grant(ttl)
    }

    pub(super) fn commit(
        &mut self,
        conditions: &[Condition],
        writes: &[Write],
    ) -> Stored<Result<Outcome>> {
        for (index, condition) in conditions.iter().enumerate() {
            match self.holds(condition)? {
                Ok(true) => {}
                Ok(false) => return Ok(Ok(Outcome::Conflict(index))),
                Err(error) => return Ok(Err(error)),
            }
        }
        for write in writes {
            if let Write::Put {
                lease: Some(lease), ..
            } = write
                && !self.tables.has_lease(*lease)?
            {
                return Ok(Err(lease_unknown(*lease)));
            }
        }
        self.write(writes)?;
        Ok(Ok(Outcome::Committed(self.tables.head.revision)))
    }

    /// Ends a lease and deletes its keys in one commit.
    pub(super) fn end(&mut self, lease: LeaseId) -> Stored<Result<()>> {
        if !self.tables.remove_lease(lease)? {
            return Ok(Err(lease_unknown(lease)));
        }
        let keys = self.tables.attached(lease)?.into_iter();
        let deletes: Vec<Write> = keys.map(|key| Write::Delete { key }).collect();
        self.write(&deletes)?;
        Ok(Ok(()))
    }

    pub(super) fn compact(&mut self, revision: Revision) -> Stored<Result<()>> {
        if revision > self.tables.head.revision {
            return Ok(Err(revision_unknown(revision, self.tables.head.revision)));
        }
        while self.tables.head.floor < revision {
            self.tables.forget_oldest()?;
        }
        Ok(Ok(()))
    }

    fn holds(&self, condition: &Condition) -> Stored<Result<bool>> {
        Ok(Ok(match condition {
            Condition::KeyAt(key, revision) => self.tables.revision_of(key)? == Some(*revision),
            Condition::Absent(key) => self.tables.revision_of(key)?.is_none(),
            Condition::Present(key) => self.tables.revision_of(key)?.is_some(),
            Condition::Unchanged(span, revision) => return self.unchanged(span, *revision),
        }))
    }

    /// Newest first, since most conditions are about the last few commits: this group, then memory,
    /// then the file.
    fn unchanged(&self, span: &Span, revision: Revision) -> Stored<Result<bool>> {
        if let Err(error) = self.tables.head.check_history(revision) {
            return Ok(Err(error));
        }
        let mut later = self
            .commits
            .iter()
            .filter(|commit| commit.revision > revision);
        if later.any(|commit| commit.touches(span)) {
            return Ok(Ok(false));
        }
        let (touched, floor) = self.feed.touched(span, revision);
        if touched {
            return Ok(Ok(false));
        }
        let mut place = revision;
        while place < floor {
            let commits = self.tables.history(place, STRETCH)?;
            if commits.iter().any(|commit| commit.touches(span)) {
                return Ok(Ok(false));
            }
            place = commits.last().map_or(floor, |commit| commit.revision);
        }
        Ok(Ok(true))
    }

    /// Writes with the next revision, unless nothing changes.
    fn write(&mut self, writes: &[Write]) -> Stored<()> {
        let revision = self.tables.head.revision + 1;
        let mut changes = Vec::with_capacity(writes.len());
        for write in writes {
            let key = write.key();
            let before = self.tables.get(key)?;
            let after = match write {
                Write::Put { value, lease, .. } => Some(Entry {
                    key: key.clone(),
                    value: value.clone(),
                    revision,
                    lease: *lease,
                }),
                Write::Delete { .. } => None,
            };
            if before.is_some() || after.is_some() {
                changes.push(Change {
                    key: key.clone(),
                    before,
                    after,
                });
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        for change in &changes {
            self.tables.set(change)?;
        }
        self.commits.push(self.tables.append(&changes)?);
        Ok(())
    }
}
