//! The redb database under the layers. Everything that knows redb is here, in `failure` and in
//! `disk`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use parking_lot::RwLock;
use redb::{Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use sinew_engine::kv::{Entry, Key, LeaseId, Revision, Span};

use super::{
    Frozen, Head, Stored,
    disk::{self, Disk},
    failure::StoreError,
    format,
};
use crate::{
    kv::{
        Options,
        change::{self, Commit, Malformed},
        unavailable,
    },
    log::Sequence,
};

pub(super) const FILE: &str = "store.redb";

/// Key → entry, as in [`change`].
const ENTRIES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("entries");
/// Revision → commit, as in [`change`].
const HISTORY: TableDefinition<u64, &[u8]> = TableDefinition::new("history");
/// Lease → TTL in nanoseconds.
const LEASES: TableDefinition<u64, u64> = TableDefinition::new("leases");
/// (lease, key) for every key that goes with a lease.
const ATTACHED: TableDefinition<(u64, &[u8]), ()> = TableDefinition::new("attached");
/// One row: the [`Head`], and the log's first record that is not in here.
const HEAD: TableDefinition<(), [u64; 6]> = TableDefinition::new("head and log");
/// The same of format 1, which had no log.
const HEAD_1: TableDefinition<(), [u64; 5]> = TableDefinition::new("head");

pub(super) struct Index {
    dir: PathBuf,
    options: Options,
    /// Nothing while it is opened anew. Held for an instant, but for that.
    database: RwLock<Option<Database>>,
}

impl Index {
    pub(super) fn open(dir: &Path, options: &Options) -> Stored<Self> {
        let storage = disk::storage(options);
        storage.create_dir(dir)?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            storage.sync_dir(parent)?;
        }
        format::check(&*storage, dir)?;
        let database = open_database(dir, options)?;
        // The file's name must survive a power cut as its content does.
        storage.sync_dir(dir)?;
        make_tables(&database)?;
        format::set(&*storage, dir)?;
        let database = RwLock::new(Some(database));
        Ok(Self {
            dir: dir.to_owned(),
            options: options.clone(),
            database,
        })
    }

    /// After a failed write redb answers nothing more until its file is opened anew.
    pub(super) fn open_again(&self) -> Stored<()> {
        let mut database = self.database.write();
        // The old one must have let go of the file.
        *database = None;
        *database = Some(open_database(&self.dir, &self.options)?);
        Ok(())
    }

    pub(super) fn begin_read(&self) -> Stored<ReadTransaction> {
        Ok(self
            .database
            .read()
            .as_ref()
            .ok_or_else(away)?
            .begin_read()?)
    }

    pub(super) fn head(&self) -> Stored<(Head, Sequence)> {
        let row = self
            .begin_read()?
            .open_table(HEAD)?
            .get(())?
            .ok_or(Malformed)?;
        let [revision, floor, history_bytes, last_lease, group, next] = row.value();
        Ok((
            Head {
                revision,
                floor,
                history_bytes,
                last_lease,
                group,
            },
            next,
        ))
    }

    pub(super) fn leases(&self) -> Stored<BTreeMap<u64, u64>> {
        let leases = self.begin_read()?.open_table(LEASES)?;
        let mut found = BTreeMap::new();
        for row in leases.iter()? {
            let (lease, ttl) = row?;
            found.insert(lease.value(), ttl.value());
        }
        Ok(found)
    }

    /// Brings the index to where a frozen layer ends, in one durable transaction.
    pub(super) fn apply(&self, frozen: &Frozen) -> Stored<()> {
        let Frozen { layer, head, next } = frozen;
        let mut transaction = self
            .database
            .read()
            .as_ref()
            .ok_or_else(away)?
            .begin_write()?;
        transaction.set_two_phase_commit(true);
        // Then opening after a crash takes no look at the whole file.
        transaction.set_quick_repair(true);
        {
            let mut entries = transaction.open_table(ENTRIES)?;
            for (key, entry) in layer.newest() {
                match entry {
                    Some(entry) => entries.insert(&key[..], &change::encode_entry(&entry)[..])?,
                    None => entries.remove(&key[..])?,
                };
            }
            let mut history = transaction.open_table(HISTORY)?;
            for (revision, commit) in layer.commits() {
                if revision > head.floor {
                    history.insert(revision, &commit[..])?;
                }
            }
            loop {
                let oldest = history.first()?.map(|(revision, _)| revision.value());
                match oldest.filter(|oldest| *oldest <= head.floor) {
                    Some(oldest) => history.remove(oldest)?,
                    None => break,
                };
            }
            let mut leases = transaction.open_table(LEASES)?;
            let mut attached = transaction.open_table(ATTACHED)?;
            layer.with_leased(|leased| -> Stored<()> {
                for (lease, ttl) in &leased.leases {
                    match ttl {
                        Some(ttl) => leases.insert(*lease, *ttl)?,
                        None => leases.remove(*lease)?,
                    };
                }
                for ((lease, key), goes) in &leased.attached {
                    if *goes {
                        attached.insert((*lease, &key[..]), ())?;
                    } else {
                        attached.remove((*lease, &key[..]))?;
                    }
                }
                Ok(())
            })?;
            let Head {
                revision,
                floor,
                history_bytes,
                last_lease,
                group,
            } = *head;
            let row = [revision, floor, history_bytes, last_lease, group, *next];
            transaction.open_table(HEAD)?.insert((), row)?;
        }
        Ok(transaction.commit()?)
    }
}

fn away() -> StoreError {
    StoreError(unavailable("the store's index cannot be opened"))
}

fn open_database(dir: &Path, options: &Options) -> Stored<Database> {
    let path = dir.join(FILE);
    let mut builder = Builder::new();
    builder.set_cache_size(options.cache_bytes);
    #[cfg(test)]
    if let Some(simulated) = &options.simulated {
        let disk = disk::Simulated::open(simulated, &path, options.sync_failure.clone())?;
        return Ok(builder.create_with_backend(disk)?);
    }
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)?;
    let disk = Disk::new(file, options.sync_failure.clone(), options.faults.clone())?;
    Ok(builder.create_with_backend(disk)?)
}

/// So that readers always find them.
fn make_tables(database: &Database) -> Stored<()> {
    if database.begin_read()?.open_table(HEAD).is_ok() {
        return Ok(());
    }
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    transaction.open_table(ENTRIES)?;
    transaction.open_table(HISTORY)?;
    transaction.open_table(LEASES)?;
    transaction.open_table(ATTACHED)?;
    let [revision, floor, history_bytes, last_lease, group] = transaction
        .open_table(HEAD_1)?
        .get(())?
        .map_or([0; 5], |row| row.value());
    transaction.delete_table(HEAD_1)?;
    let row = [revision, floor, history_bytes, last_lease, group, 1];
    transaction.open_table(HEAD)?.insert((), row)?;
    Ok(transaction.commit()?)
}

pub(super) fn entry(transaction: &ReadTransaction, key: &[u8]) -> Stored<Option<Entry>> {
    match transaction.open_table(ENTRIES)?.get(key)? {
        Some(row) => Ok(Some(change::decode_entry(
            Key::copy_from_slice(key),
            row.value(),
        )?)),
        None => Ok(None),
    }
}

/// The entries of a span, in key order.
pub(super) fn range(
    transaction: &ReadTransaction,
    span: &Span,
) -> Stored<impl Iterator<Item = Stored<Entry>> + use<>> {
    let rows = transaction
        .open_table(ENTRIES)?
        .range::<&[u8]>(span.bounds())?;
    Ok(rows.map(|row| {
        let (key, bytes) = row?;
        Ok(change::decode_entry(
            Key::copy_from_slice(key.value()),
            bytes.value(),
        )?)
    }))
}

pub(super) fn history(
    transaction: &ReadTransaction,
    revision: Revision,
    count: usize,
) -> Stored<Vec<Commit>> {
    let table = transaction.open_table(HISTORY)?;
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

/// The size of one commit of the history; 0 when it is not there.
pub(super) fn commit_bytes(transaction: &ReadTransaction, revision: Revision) -> Stored<u64> {
    let row = transaction.open_table(HISTORY)?.get(revision)?;
    Ok(row.map_or(0, |bytes| bytes.value().len() as u64))
}

/// The keys that go with a lease.
pub(super) fn attached(transaction: &ReadTransaction, lease: LeaseId) -> Stored<BTreeSet<Key>> {
    let table = transaction.open_table(ATTACHED)?;
    let mut found = BTreeSet::new();
    for row in table.range((lease.0, &[][..])..(lease.0 + 1, &[][..]))? {
        let (row, _) = row?;
        found.insert(Key::copy_from_slice(row.value().1));
    }
    Ok(found)
}
