//! The format of the folder, in a file of its own, and the way from older ones to today's.
//!
//! 1: a redb database, `store.redb`, alone. 2: a log and sorted files.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use redb::{Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use sinew_core::{Error, Kind};
use sinew_engine::kv::Key;

use super::{
    FOLDER, Stored,
    failure::{StoreError, corrupt, damaged},
    manifest::{self, Manifest},
    run::RunWriter,
};
use crate::{
    kv::{
        Options,
        change::{self, Malformed},
        leased::Leased,
        unavailable,
    },
    storage::{File, Storage, read_exact_at, to_usize},
};

/// Raise it with every change that an older Sinew would misread.
pub(super) const FORMAT: u64 = 2;
const FILE_1: &str = "store.redb";

/// The data has a format of a later version.
pub(super) fn newer(found: u64) -> StoreError {
    StoreError(Error::new(
        Kind::FailedPrecondition,
        "kv.format_newer",
        format!(
            "the data was written by a newer Sinew (format {found}, this one reads up to \
             {FORMAT}); run that version"
        ),
    ))
}

/// Makes what a store needs, or brings the files of an older format to this one. Safe at every
/// moment: the format's number is the last thing that changes, and until then the old files are all
/// that counts.
pub(super) fn prepare(storage: &Arc<dyn Storage>, dir: &Path, options: &Options) -> Stored<()> {
    let old = dir.join(FILE_1);
    match format(&**storage, dir)? {
        Some(FORMAT) => return remove_old(&**storage, dir),
        Some(newer) if newer > FORMAT => {
            return Err(self::newer(newer));
        }
        // The number is there before the log is: without it, and with a log, it was lost.
        None if has_log(&**storage, dir) => {
            return Err(damaged(&dir.join("format"), 0, "the file is missing"));
        }
        _ => {}
    }
    let folder = dir.join(FOLDER);
    storage.create_dir(&folder)?;
    storage.sync_dir(dir)?;
    for name in storage.list(&folder)? {
        storage.remove(&folder.join(name))?;
    }
    let mut manifest = Manifest {
        next: 1,
        ..Manifest::default()
    };
    let mut leased = Leased::default();
    if exists(&**storage, &old)? {
        take_over(storage, &old, &folder, &mut manifest, &mut leased)?;
        tracing::info!(
            revision = manifest.revision,
            "the store was brought from format 1 to format 2"
        );
    }
    let sync_failure = &options.sync_failure;
    manifest::write(&**storage, &folder, &manifest, &leased, sync_failure)?;
    set(&**storage, dir)?;
    remove_old(&**storage, dir)
}

fn has_log(storage: &dyn Storage, dir: &Path) -> bool {
    // No folder, no log.
    let names = storage.list(&dir.join("log")).unwrap_or_default();
    names.iter().any(|name| name.ends_with(".log"))
}

/// Removes what format 1 has left.
fn remove_old(storage: &dyn Storage, dir: &Path) -> Stored<()> {
    for name in [FILE_1, "store.redb.new"] {
        match storage.remove(&dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Key → revision u64, lease u64, value.
const ENTRIES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("entries");
/// Lease → TTL in nanoseconds.
const LEASES: TableDefinition<u64, u64> = TableDefinition::new("leases");
/// Revision, floor, bytes of the history, last lease, number of groups.
const HEAD: TableDefinition<(), [u64; 5]> = TableDefinition::new("head");

/// Writes what a database of format 1 holds as one run. Its history is left behind: whoever watched
/// or read at an older revision gets `kv.compacted`, and lists again.
fn take_over(
    storage: &Arc<dyn Storage>,
    old: &Path,
    folder: &Path,
    manifest: &mut Manifest,
    leased: &mut Leased,
) -> Stored<()> {
    let file = storage.open(old)?;
    if file.len()? == 0 {
        return Ok(());
    }
    let database: Database = Builder::new()
        .set_cache_size(8 << 20)
        .create_with_backend(Backend(file))
        .map_err(from_redb)?;
    let transaction = database.begin_read().map_err(from_redb)?;
    let Ok(head) = transaction.open_table(HEAD) else {
        // It was made, and power was lost before anything was in it.
        return Ok(());
    };
    if let Some(row) = head.get(()).map_err(from_redb)? {
        let [revision, _, _, last_lease, _] = row.value();
        manifest.revision = revision;
        manifest.floor = revision;
        manifest.last_lease = last_lease;
    }
    let leases = transaction.open_table(LEASES).map_err(from_redb)?;
    let leases = leases.iter().map_err(from_redb)?;
    let ttls = leases.map(|row| row.map(|(lease, ttl)| (lease.value(), ttl.value())));
    leased.ttls = ttls
        .collect::<Result<BTreeMap<_, _>, _>>()
        .map_err(from_redb)?;

    let entries = transaction.open_table(ENTRIES).map_err(from_redb)?;
    let keys = redb::ReadableTableMetadata::len(&entries).map_err(from_redb)?;
    let mut writer = RunWriter::new(&**storage, folder, 1, to_usize(keys))?;
    for row in entries.iter().map_err(from_redb)? {
        let (key, entry) = row.map_err(from_redb)?;
        let (key, entry) = (key.value(), entry.value());
        let (revision, rest) = entry.split_first_chunk().ok_or(Malformed)?;
        let (lease, value) = rest.split_first_chunk().ok_or(Malformed)?;
        let lease = change::lease(u64::from_le_bytes(*lease));
        if let Some(lease) = lease {
            leased.attach(&Key::copy_from_slice(key), Some(lease.0));
        }
        writer.add(key, u64::from_le_bytes(*revision), Some((value, lease)))?;
    }
    manifest.next_file = 1;
    if !writer.is_empty() {
        writer.finish()?;
        manifest.runs = vec![1];
    }
    Ok(())
}

fn from_redb(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(error) => error.into(),
        error @ (redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_)) => {
            StoreError(corrupt("the store's file is damaged").0.with_source(error))
        }
        error => StoreError(unavailable("the store's file cannot be used").with_source(error)),
    }
}

/// redb's file, on any storage.
#[derive(Debug)]
struct Backend(Arc<dyn File>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read_exact_at(&*self.0, out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(data, offset)
    }
}

fn exists(storage: &dyn Storage, path: &Path) -> Stored<bool> {
    match storage.open(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Says that the folder is of today's format.
pub(super) fn set(storage: &dyn Storage, dir: &Path) -> Stored<()> {
    // Whole or not at all, also when the power goes.
    let draft = dir.join("format.new");
    if exists(storage, &draft)? {
        storage.remove(&draft)?;
    }
    let file = storage.create(&draft)?;
    file.write_at(format!("{FORMAT}\n").as_bytes(), 0)?;
    file.sync_data()?;
    storage.rename(&draft, &dir.join("format"))?;
    Ok(storage.sync_dir(dir)?)
}

/// The number of the format; nothing when the folder has none.
pub(super) fn format(storage: &dyn Storage, dir: &Path) -> Stored<Option<u64>> {
    let file = match storage.open(&dir.join("format")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut text = vec![0; to_usize(file.len()?.min(64))];
    file.read_at(&mut text, 0)?;
    let number = std::str::from_utf8(&text)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    number
        .map(Some)
        .ok_or_else(|| damaged(&dir.join("format"), 0, "it does not hold a number"))
}
