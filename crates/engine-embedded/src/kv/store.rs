//! The file under the store: a redb database. Everything that knows redb is here and in the modules
//! below. Group commit, watches, leases and conditions live above, so another index, or a log
//! before the index, replaces this module alone.
//!
//! A trap: redb keeps a large value in one leaf with small neighbours, and copies the leaf whenever
//! a neighbour is written. Values near the limit of 1 MiB make writes beside them slow.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use redb::{
    Builder, Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, Table,
    TableDefinition, WriteTransaction,
};
use sinew_core::Result;
use sinew_engine::kv::{Entry, Key, LeaseId, Page, Revision, Span, compacted, revision_unknown};

use super::{
    Options,
    change::{self, Change, Commit, Malformed},
};
use disk::Disk;
pub(super) use disk::Faults;
pub(super) use error::{StoreError, disk_full};
use format::{check_format, sync_dir};

mod disk;
mod error;
mod format;

/// Key → entry, as in [`change`].
const ENTRIES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("entries");
/// Revision → commit, as in [`change`].
const HISTORY: TableDefinition<u64, &[u8]> = TableDefinition::new("history");
/// Lease → TTL in nanoseconds.
const LEASES: TableDefinition<u64, u64> = TableDefinition::new("leases");
/// (lease, key) for every key that goes with a lease.
const ATTACHED: TableDefinition<(u64, &[u8]), ()> = TableDefinition::new("attached");
/// One row, the [`Head`].
const HEAD: TableDefinition<(), [u64; 5]> = TableDefinition::new("head");

/// A page holds no more than about this, whatever the number of its entries.
const PAGE_BYTES: usize = 4 << 20;

type Stored<T> = Result<T, StoreError>;

/// The numbers that the store goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) revision: Revision,
    /// History holds exactly the commits after this one.
    pub(super) floor: Revision,
    pub(super) history_bytes: u64,
    pub(super) last_lease: u64,
    /// Counts groups, so that one whose fate is unknown can be looked up.
    pub(super) group: u64,
}

impl Head {
    /// Whether everything after `revision` is still known.
    pub(super) fn check_history(&self, revision: Revision) -> Result<()> {
        if revision > self.revision {
            Err(revision_unknown(revision, self.revision))
        } else if revision < self.floor {
            Err(compacted(revision, self.floor))
        } else {
            Ok(())
        }
    }

    pub(super) fn history_commits(&self) -> u64 {
        self.revision - self.floor
    }
}

pub(super) struct Store {
    database: Database,
}

impl Store {
    pub(super) fn open(dir: &Path, options: &Options) -> Stored<Self> {
        let context = |StoreError(error)| StoreError(error.with_context(dir.display().to_string()));
        Self::open_inner(dir, options).map_err(context)
    }

    fn open_inner(dir: &Path, options: &Options) -> Stored<Self> {
        fs::create_dir_all(dir)?;
        check_format(dir)?;
        let path = dir.join("store.redb");
        // A new file gets its name when it is whole: one that the power cut short in its making
        // would be taken for damage.
        let draft = dir.join("store.redb.new");
        let new = !path.try_exists()?;
        let file = File::options()
            .read(true)
            .write(true)
            .create(new)
            .truncate(new)
            .open(if new { &draft } else { &path })?;
        let disk = Disk::new(file, options.sync_failure.clone(), options.faults.clone())?;
        let database = Builder::new()
            .set_cache_size(options.cache_bytes)
            .create_with_backend(disk)?;
        let store = Self { database };
        // Makes the tables, so that readers always find them.
        store.write(true, |tables| {
            tables.changed = tables.fresh;
            Ok(())
        })?;
        if new {
            fs::rename(&draft, &path)?;
        }
        // The file's name must survive a power cut as its content does.
        sync_dir(dir)?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_dir(parent)?;
        }
        Ok(store)
    }

    pub(super) fn snapshot(&self) -> Stored<Snapshot> {
        Ok(Snapshot {
            transaction: self.database.begin_read()?,
        })
    }

    pub(super) fn head(&self) -> Stored<Head> {
        self.snapshot()?.head()
    }

    /// Every lease and its TTL.
    pub(super) fn leases(&self) -> Stored<Vec<(LeaseId, Duration)>> {
        let leases = self.database.begin_read()?.open_table(LEASES)?;
        let mut found = Vec::new();
        for row in leases.iter()? {
            let (lease, ttl) = row?;
            found.push((LeaseId(lease.value()), Duration::from_nanos(ttl.value())));
        }
        Ok(found)
    }

    /// Runs `change` and writes what it changed, if anything: on stable storage before it returns
    /// if `durable`, else with the next write that is. After an error, nothing or all of it was written.
    pub(super) fn write<T>(
        &self,
        durable: bool,
        change: impl FnOnce(&mut Tables<'_>) -> Stored<T>,
    ) -> Stored<T> {
        let mut transaction = self.database.begin_write()?;
        if durable {
            transaction.set_two_phase_commit(true);
            transaction.set_quick_repair(true);
        } else {
            transaction.set_durability(Durability::None)?;
        }
        let mut tables = Tables::open(&transaction)?;
        let result = change(&mut tables)?;
        if !tables.changed {
            drop(tables);
            transaction.abort()?;
            return Ok(result);
        }
        tables.close()?;
        transaction.commit()?;
        Ok(result)
    }
}

/// A state of the store that stands still.
pub(super) struct Snapshot {
    transaction: ReadTransaction,
}

impl Snapshot {
    pub(super) fn head(&self) -> Stored<Head> {
        load_head(&self.transaction.open_table(HEAD)?)
    }

    pub(super) fn get(&self, key: &[u8]) -> Stored<Option<Entry>> {
        load_entry(&self.transaction.open_table(ENTRIES)?, key)
    }

    /// At most `count` commits after `revision`, in order.
    pub(super) fn history(&self, revision: Revision, count: usize) -> Stored<Vec<Commit>> {
        load_history(&self.transaction.open_table(HISTORY)?, revision, count)
    }

    /// The inner error is the caller's: there is no such snapshot.
    pub(super) fn range(
        &self,
        span: &Span,
        limit: usize,
        at: Option<Revision>,
    ) -> Stored<Result<Page>> {
        let head = self.head()?;
        let at = at.unwrap_or(head.revision);
        if let Err(error) = head.check_history(at) {
            return Ok(Err(error));
        }
        let mut page = PageBuilder {
            page: Page {
                entries: Vec::new(),
                revision: at,
                next: None,
            },
            limit,
            bytes: 0,
        };
        if !span.is_empty() {
            self.fill(&mut page, span, self.undone(span, at, head)?)?;
        }
        Ok(Ok(page.page))
    }

    /// Walks through what is stored and what has been in the past, in the order of the keys; the past,
    /// where it says something of a key, is what counts.
    fn fill(
        &self,
        page: &mut PageBuilder,
        span: &Span,
        mut past: BTreeMap<Key, Option<Entry>>,
    ) -> Stored<()> {
        let entries = self.transaction.open_table(ENTRIES)?;
        for row in entries.range::<&[u8]>(span.bounds())? {
            let (key, bytes) = row?;
            let key = Key::copy_from_slice(key.value());
            while let Some(gone) = past.first_entry().filter(|first| *first.key() < key) {
                if !page.push(gone.remove()) {
                    return Ok(());
                }
            }
            let entry = match past.remove(&key) {
                Some(before) => before,
                None => Some(change::decode_entry(key, bytes.value())?),
            };
            if !page.push(entry) {
                return Ok(());
            }
        }
        let _all_fit = past.into_values().all(|gone| page.push(gone));
        Ok(())
    }

    /// What the keys of the span that changed after `at` held then.
    fn undone(
        &self,
        span: &Span,
        at: Revision,
        head: Head,
    ) -> Stored<BTreeMap<Key, Option<Entry>>> {
        let mut before = BTreeMap::new();
        if at == head.revision {
            return Ok(before);
        }
        let history = self.transaction.open_table(HISTORY)?;
        let mut place = at;
        while place < head.revision {
            let commits = load_history(&history, place, 256)?;
            place = commits
                .last()
                .map_or(head.revision, |commit| commit.revision);
            for Change {
                key, before: entry, ..
            } in commits.into_iter().flat_map(|c| c.changes)
            {
                if span.contains(&key) {
                    // Of several changes the first knows what the key held at `at`.
                    before.entry(key).or_insert(entry);
                }
            }
        }
        Ok(before)
    }
}

struct PageBuilder {
    page: Page,
    limit: usize,
    bytes: usize,
}

impl PageBuilder {
    /// Whether there was room. Otherwise the page is complete, and the next one starts here.
    fn push(&mut self, entry: Option<Entry>) -> bool {
        let Some(entry) = entry else { return true };
        if self.page.entries.len() == self.limit || self.bytes > PAGE_BYTES {
            self.page.next = Some(entry.key);
            return false;
        }
        self.bytes += entry.key.len() + entry.value.len();
        self.page.entries.push(entry);
        true
    }
}

/// The tables as a write sees and changes them.
pub(super) struct Tables<'t> {
    pub(super) head: Head,
    /// Whether there is anything to write.
    changed: bool,
    /// Whether the store was made just now.
    fresh: bool,
    entries: Table<'t, &'static [u8], &'static [u8]>,
    history: Table<'t, u64, &'static [u8]>,
    leases: Table<'t, u64, u64>,
    attached: Table<'t, (u64, &'static [u8]), ()>,
    head_row: Table<'t, (), [u64; 5]>,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> Stored<Self> {
        let head_row = transaction.open_table(HEAD)?;
        let fresh = head_row.get(())?.is_none();
        Ok(Self {
            head: if fresh {
                Head::default()
            } else {
                load_head(&head_row)?
            },
            changed: false,
            fresh,
            entries: transaction.open_table(ENTRIES)?,
            history: transaction.open_table(HISTORY)?,
            leases: transaction.open_table(LEASES)?,
            attached: transaction.open_table(ATTACHED)?,
            head_row,
        })
    }

    fn close(mut self) -> Stored<()> {
        let Head {
            revision,
            floor,
            history_bytes,
            last_lease,
            group,
        } = self.head;
        self.head_row
            .insert((), [revision, floor, history_bytes, last_lease, group + 1])?;
        Ok(())
    }

    pub(super) fn get(&self, key: &[u8]) -> Stored<Option<Entry>> {
        load_entry(&self.entries, key)
    }

    /// The revision of a key, without its value.
    pub(super) fn revision_of(&self, key: &[u8]) -> Stored<Option<Revision>> {
        let Some(row) = self.entries.get(key)? else {
            return Ok(None);
        };
        let bytes = row.value().first_chunk().ok_or(Malformed)?;
        Ok(Some(Revision::from_le_bytes(*bytes)))
    }

    /// Sets or deletes a key, whose entry before is known.
    pub(super) fn set(&mut self, change: &Change) -> Stored<()> {
        self.changed = true;
        let (before, after) = (lease_of(&change.before), lease_of(&change.after));
        let key = &change.key[..];
        match &change.after {
            Some(entry) => self.entries.insert(key, &change::encode_entry(entry)[..])?,
            None => self.entries.remove(key)?,
        };
        if let Some(lease) = before.filter(|_| before != after) {
            self.attached.remove((lease.0, key))?;
        }
        if let Some(lease) = after.filter(|_| before != after) {
            self.attached.insert((lease.0, key), ())?;
        }
        Ok(())
    }

    /// Appends a commit with the next revision to the history.
    pub(super) fn append(&mut self, changes: &[Change]) -> Stored<Commit> {
        let bytes = change::encode_changes(changes);
        self.head.revision += 1;
        self.head.history_bytes += bytes.len() as u64;
        self.history.insert(self.head.revision, &bytes[..])?;
        Ok(Commit::decode(self.head.revision, Bytes::from(bytes))?)
    }

    /// At most `count` commits after `revision`, in order.
    pub(super) fn history(&self, revision: Revision, count: usize) -> Stored<Vec<Commit>> {
        load_history(&self.history, revision, count)
    }

    /// Forgets the oldest commit of the history.
    pub(super) fn forget_oldest(&mut self) -> Stored<()> {
        self.changed = true;
        let Some((revision, bytes)) = self.history.pop_first()? else {
            self.head.floor = self.head.revision;
            return Ok(());
        };
        self.head.floor = revision.value();
        self.head.history_bytes = self
            .head
            .history_bytes
            .saturating_sub(bytes.value().len() as u64);
        Ok(())
    }

    pub(super) fn grant(&mut self, ttl: Duration) -> Stored<LeaseId> {
        self.changed = true;
        self.head.last_lease += 1;
        let ttl = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
        self.leases.insert(self.head.last_lease, ttl)?;
        Ok(LeaseId(self.head.last_lease))
    }

    pub(super) fn has_lease(&self, lease: LeaseId) -> Stored<bool> {
        Ok(self.leases.get(lease.0)?.is_some())
    }

    pub(super) fn remove_lease(&mut self, lease: LeaseId) -> Stored<bool> {
        let there = self.leases.remove(lease.0)?.is_some();
        self.changed |= there;
        Ok(there)
    }

    /// The keys that go with a lease, in order.
    pub(super) fn attached(&self, lease: LeaseId) -> Stored<Vec<Key>> {
        let rows = self.attached.range((lease.0, &[][..])..)?;
        let mut found = Vec::new();
        for row in rows {
            let (row, ()) = row.map(|(row, unit)| (row, unit.value()))?;
            let (owner, key) = row.value();
            if owner != lease.0 {
                break;
            }
            found.push(Key::copy_from_slice(key));
        }
        Ok(found)
    }
}

fn lease_of(entry: &Option<Entry>) -> Option<LeaseId> {
    entry.as_ref().and_then(|entry| entry.lease)
}

fn load_head(table: &impl ReadableTable<(), [u64; 5]>) -> Stored<Head> {
    let row = table.get(())?.ok_or(Malformed)?;
    let [revision, floor, history_bytes, last_lease, group] = row.value();
    Ok(Head {
        revision,
        floor,
        history_bytes,
        last_lease,
        group,
    })
}

fn load_entry(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
) -> Stored<Option<Entry>> {
    match table.get(key)? {
        Some(row) => Ok(Some(change::decode_entry(
            Key::copy_from_slice(key),
            row.value(),
        )?)),
        None => Ok(None),
    }
}

fn load_history(
    table: &impl ReadableTable<u64, &'static [u8]>,
    revision: Revision,
    count: usize,
) -> Stored<Vec<Commit>> {
    let mut commits = Vec::new();
    for row in table.range(revision.saturating_add(1)..)?.take(count) {
        let (revision, bytes) = row?;
        commits.push(Commit::decode(
            revision.value(),
            Bytes::copy_from_slice(bytes.value()),
        )?);
    }
    Ok(commits)
}
