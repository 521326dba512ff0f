//! Kv as a face of the journal: it checks transactions, one after the other, and stages them.

mod conditions;
mod staged;

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use sinew_core::{Error, Kind, Result};
use sinew_engine::kv::{
    Condition, Key, LeaseId, Outcome, Revision, Write, lease_unknown, revision_unknown,
};

use self::staged::{Staged, StagedKeys};
use super::{
    Options, Shared,
    change::{self, Commit, Malformed, Operation},
    command::{Command, Request},
    index::{self, Head, Index, Opened, Snapshot, StoreError, disk_full},
    leased::Leased,
    unavailable,
    writes::Writes,
};
use crate::{journal::Face, log::Sequence};

type Stored<T> = Result<T, StoreError>;

/// After a failure to end leases, the time until the next attempt.
const RETRY: Duration = Duration::from_secs(1);

/// The state of the store on the commit thread.
pub(crate) struct KvFace {
    shared: Arc<Shared>,
    index: Index,
    options: Options,
    dir: PathBuf,
    leased: Leased,
    /// The sizes of the commits after the floor.
    sizes: VecDeque<u32>,
    history_bytes: u64,
    /// The first record that the files did not hold when they were opened.
    next: Sequence,
    /// What is durable.
    now: Numbers,
    turn: Turn,
    staged: StagedKeys,
    /// Leases that are due are not ended before this moment.
    retry_at: Duration,
}

#[derive(Clone, Copy, Default)]
struct Numbers {
    revision: Revision,
    /// History holds exactly the commits after this one.
    floor: Revision,
    last_lease: u64,
}

/// What was staged since the last record.
#[derive(Default)]
struct Turn {
    numbers: Numbers,
    snapshot: Option<Snapshot>,
    /// The sizes of its commits.
    sizes: Vec<u32>,
    history_bytes: u64,
    /// Whether leases are there, of those that were granted or ended.
    leases: BTreeMap<u64, bool>,
    commands: Vec<Command>,
    ended: Vec<LeaseId>,
    /// Why nothing can be staged in this turn.
    trouble: Option<Error>,
}

impl KvFace {
    pub(super) fn new(shared: Arc<Shared>, opened: Opened, options: Options, dir: PathBuf) -> Self {
        let now = Numbers {
            revision: opened.revision,
            floor: opened.floor,
            last_lease: opened.last_lease,
        };
        let history_bytes = opened.sizes.iter().copied().map(u64::from).sum();
        let mut face = Self {
            shared,
            index: opened.index,
            options,
            dir,
            leased: opened.leased,
            sizes: opened.sizes.into(),
            history_bytes,
            next: opened.next,
            now,
            turn: Turn::default(),
            staged: StagedKeys::default(),
            retry_at: Duration::ZERO,
        };
        face.begin_turn();
        face
    }

    fn begin_turn(&mut self) {
        self.staged.clear();
        self.turn = Turn {
            numbers: self.now,
            history_bytes: self.history_bytes,
            ..Turn::default()
        };
    }

    fn snapshot(&mut self) -> &Snapshot {
        let shared = &self.shared;
        self.turn
            .snapshot
            .get_or_insert_with(|| shared.state.snapshot())
    }

    /// Whether it can be staged at all now.
    fn check_room(&mut self) -> Result<()> {
        let is_first = self.turn.commands.is_empty() && self.staged.is_empty();
        if is_first && self.is_nearly_full() {
            self.turn.trouble = Some(disk_full());
        }
        match &self.turn.trouble {
            Some(trouble) => Err(copy(trouble)),
            None => Ok(()),
        }
    }

    /// Whether there is so little space left that a checkpoint might not find enough. If the file
    /// system does not tell, the write itself will.
    fn is_nearly_full(&self) -> bool {
        if self.options.reserve_bytes == 0 {
            return false;
        }
        // The types of the two numbers differ between systems.
        let free = nix::sys::statvfs::statvfs(&self.dir)
            .map(|stat| u128::from(stat.blocks_available()) * u128::from(stat.fragment_size()));
        free.is_ok_and(|free| free < u128::from(self.options.reserve_bytes))
    }

    /// Checks a transaction against everything before it and, if all conditions hold, stages it.
    /// After an error nothing of it is staged.
    pub(super) fn commit(
        &mut self,
        conditions: &[Condition],
        writes: &Writes,
        part: &mut Vec<u8>,
    ) -> Result<Outcome> {
        match self.check(conditions, writes, part)? {
            Some(conflict) => Ok(Outcome::Conflict(conflict)),
            None => self.write(writes, part).map(Outcome::Committed),
        }
    }

    /// Checks a transaction against everything before it: the first condition that does not hold.
    pub(crate) fn check(
        &mut self,
        conditions: &[Condition],
        writes: &Writes,
        part: &[u8],
    ) -> Result<Option<usize>> {
        self.check_room()?;
        for (index, condition) in conditions.iter().enumerate() {
            if !self.holds(condition, part)? {
                return Ok(Some(index));
            }
        }
        match writes.leases().find(|lease| !self.has_lease(*lease)) {
            Some(lease) => Err(lease_unknown(lease)),
            None => Ok(None),
        }
    }

    /// Stages writes whose conditions hold; answers the revision that they make.
    pub(crate) fn write(&mut self, writes: &Writes, part: &mut Vec<u8>) -> Result<Revision> {
        let mut effective = Vec::with_capacity(writes.each().len());
        for write in writes.each() {
            let is_put = write.place.lease.is_some();
            let key = writes.key(write);
            if is_put
                || self
                    .version(key, write.hash, part)
                    .map_err(plain)?
                    .is_some()
            {
                effective.push(write);
            }
        }
        if effective.is_empty() {
            return Ok(self.turn.numbers.revision);
        }
        let revision = self.turn.numbers.revision + 1;
        let start = change::begin_commit(part, revision);
        for write in effective {
            let key = part.len() + 4;
            part.extend_from_slice(writes.change(write));
            let staged = Staged {
                hash: write.hash,
                key: key..key + writes.key(write).len(),
                revision,
                is_there: write.place.lease.is_some(),
                lease: write.place.lease.flatten(),
            };
            self.staged.insert(staged, part);
        }
        let size = change::end_commit(part, start);
        self.turn.numbers.revision = revision;
        self.turn.sizes.push(size);
        self.turn.history_bytes += u64::from(size);
        self.trim(part);
        Ok(revision)
    }

    /// Keeps the history within its bounds, in strokes.
    fn trim(&mut self, part: &mut Vec<u8>) {
        let keep = self.options.retention;
        let (commits, bytes) = (keep.commits as u64, keep.bytes as u64);
        let has = |turn: &Turn| turn.numbers.revision - turn.numbers.floor;
        if has(&self.turn) <= commits.saturating_add(commits / 16)
            && self.turn.history_bytes <= bytes.saturating_add(bytes / 16)
        {
            return;
        }
        while has(&self.turn) > commits || self.turn.history_bytes > bytes {
            self.forget_oldest();
        }
        change::put_floor(part, self.turn.numbers.floor);
    }

    fn forget_oldest(&mut self) {
        let forgotten = self.turn.numbers.floor - self.now.floor;
        let index = usize::try_from(forgotten).unwrap_or(usize::MAX);
        let own = index.saturating_sub(self.sizes.len());
        let size = self.sizes.get(index).or(self.turn.sizes.get(own)).copied();
        self.turn.history_bytes -= u64::from(size.unwrap_or_default());
        self.turn.numbers.floor += 1;
    }

    fn has_lease(&self, lease: LeaseId) -> bool {
        match self.turn.leases.get(&lease.0) {
            Some(is_there) => *is_there,
            None => self.leased.ttls.contains_key(&lease.0),
        }
    }

    fn grant(&mut self, ttl: Duration, part: &mut Vec<u8>) -> Result<LeaseId> {
        self.check_room()?;
        self.turn.numbers.last_lease += 1;
        let lease = self.turn.numbers.last_lease;
        let ttl = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
        change::put_granted(part, lease, ttl);
        self.turn.leases.insert(lease, true);
        Ok(LeaseId(lease))
    }

    /// Ends a lease and deletes its keys in one commit.
    fn end(&mut self, lease: LeaseId, part: &mut Vec<u8>) -> Result<()> {
        self.check_room()?;
        if !self.has_lease(lease) {
            return Err(lease_unknown(lease));
        }
        let before = self.leased.keys(lease.0);
        let untouched = |key: &&Key| self.staged.get(key, index::hash(key), part).is_none();
        let mut keys: Vec<Key> = before.filter(untouched).cloned().collect();
        let own = self.staged.with_lease(lease, part);
        keys.extend(own.map(Key::copy_from_slice));
        let deletes: Vec<Write> = keys.into_iter().map(|key| Write::Delete { key }).collect();
        self.write(&Writes::new(&deletes), part)?;
        change::put_ended(part, lease.0);
        self.turn.leases.insert(lease.0, false);
        Ok(())
    }

    fn compact(&mut self, revision: Revision, part: &mut Vec<u8>) -> Result<()> {
        let newest = self.turn.numbers.revision;
        if revision > newest {
            return Err(revision_unknown(revision, newest));
        }
        if self.turn.numbers.floor < revision {
            while self.turn.numbers.floor < revision {
                self.forget_oldest();
            }
            change::put_floor(part, revision);
        }
        Ok(())
    }

    /// Takes over a part that is durable; answers its commits.
    fn take(&mut self, sequence: Sequence, part: &Bytes) -> Stored<Vec<Commit>> {
        let mut commits = Vec::new();
        let mut numbers = self.now;
        for operation in change::operations(part) {
            let operation = operation?;
            self.leased.apply(&operation)?;
            match operation {
                Operation::Commit(commit) => {
                    if commit.revision != numbers.revision + 1 {
                        return Err(Malformed.into());
                    }
                    numbers.revision = commit.revision;
                    let size = u32::try_from(commit.changes.len()).unwrap_or(u32::MAX);
                    self.sizes.push_back(size);
                    self.history_bytes += u64::from(size);
                    commits.push(commit);
                }
                Operation::Granted { lease, .. } => numbers.last_lease = lease,
                Operation::Ended { .. } => {}
                Operation::Floor(floor) => numbers.floor = floor,
            }
        }
        for _ in self.now.floor..numbers.floor {
            let size = self.sizes.pop_front().unwrap_or_default();
            self.history_bytes -= u64::from(size);
        }
        self.now = numbers;
        let head = Head {
            revision: numbers.revision,
            floor: numbers.floor,
            last_lease: numbers.last_lease,
            next: sequence + 1,
        };
        self.index.add(part, &commits, &head)?;
        Ok(commits)
    }

    /// Makes known what is durable. Only then may anybody be answered.
    fn settle(&mut self, turn: Turn) {
        let now = self.shared.clock.monotonic();
        for lease in turn.ended {
            self.shared.leases.ended(lease);
        }
        for command in turn.commands {
            if let Request::Grant { ttl, answer } = &command.request
                && let Some(lease) = answer.prepared()
            {
                self.shared.leases.granted(*lease, *ttl, now);
            }
            command.send();
        }
    }
}

impl Face for KvFace {
    type Command = Command;

    const TAG: u8 = 1;

    fn stage(&mut self, mut command: Command, part: &mut Vec<u8>) {
        match &mut command.request {
            Request::Commit {
                transaction,
                answer,
            } => {
                let (conditions, writes) = &**transaction;
                answer.prepare(self.commit(conditions, writes, part));
            }
            Request::Grant { ttl, answer } => answer.prepare(self.grant(*ttl, part)),
            Request::Revoke { lease, answer } => {
                let ended = self.end(*lease, part);
                if ended.is_ok() {
                    self.turn.ended.push(*lease);
                }
                answer.prepare(ended);
            }
            Request::Compact { revision, answer } => {
                answer.prepare(self.compact(*revision, part));
            }
        }
        self.turn.commands.push(command);
    }

    fn deadline(&self) -> Option<Duration> {
        let deadline = self.shared.leases.next_deadline();
        deadline.map(|deadline| deadline.max(self.retry_at))
    }

    fn due(&mut self, now: Duration, part: &mut Vec<u8>) {
        for lease in self.shared.leases.due(now) {
            // One that is not there any more has ended, too.
            match self.end(lease, part) {
                Err(error) if error.kind() != Kind::NotFound => {
                    self.retry_at = now + RETRY;
                    return;
                }
                _ => self.turn.ended.push(lease),
            }
        }
    }

    fn durable(&mut self, sequence: Sequence, part: Bytes) {
        let turn = std::mem::take(&mut self.turn);
        if !part.is_empty() {
            match self.take(sequence, &part) {
                Ok(commits) => self.shared.feed.publish(commits, self.options.recent),
                Err(StoreError(error)) => {
                    // It was written by this very thread.
                    tracing::error!(
                        error = error.detail(),
                        "a part that was staged is malformed"
                    );
                }
            }
        }
        self.settle(turn);
        self.begin_turn();
    }

    fn refused(&mut self, error: &Error) {
        let turn = std::mem::take(&mut self.turn);
        for command in turn.commands {
            command.refuse(refusal(error));
        }
        self.retry_at = self.shared.clock.monotonic() + RETRY;
        self.begin_turn();
    }

    fn next(&self) -> Sequence {
        self.next
    }

    fn replay(&mut self, sequence: Sequence, part: Bytes) -> Result<()> {
        self.take(sequence, &part).map_err(plain)?;
        // Those of the files were known when it was opened; nobody looks at a deadline yet.
        self.begin_turn();
        Ok(())
    }

    fn replayed(&mut self) {
        let ttls = self.leased.ttls.iter();
        let leases = ttls.map(|(lease, ttl)| (LeaseId(*lease), Duration::from_nanos(*ttl)));
        let now = self.shared.clock.monotonic();
        self.shared.leases.set(leases, now);
        self.shared.feed.start(self.now.revision);
    }
}

impl Drop for KvFace {
    /// However the commit thread ends, nobody waits for it in vain.
    fn drop(&mut self) {
        self.shared.feed.close();
    }
}

fn plain(StoreError(error): StoreError) -> Error {
    error
}

/// The same error for each of several.
fn copy(error: &Error) -> Error {
    match error.kind() {
        Kind::ResourceExhausted => disk_full(),
        _ => unavailable(error.message()),
    }
}

/// The log's error, as callers of the store see it.
pub(crate) fn refusal(error: &Error) -> Error {
    match error.code() {
        "log.full" => disk_full(),
        "log.failed" => {
            unavailable("the store's disk does not work; the transaction may or may not be written")
        }
        _ => unavailable("the store's disk does not work"),
    }
}
