//! The index: a redb database. Everything that knows redb is here and in `disk`.

mod tables;

use std::{collections::BTreeMap, io, ops::Bound, path::PathBuf, sync::Arc};

use parking_lot::{Mutex, RwLock};
use redb::{
    Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};
use sinew_core::Result;
use sinew_engine::blob::{
    Key, Limits, List, Listed, Page, Part, Pending, Upload, page, upload_unknown,
};

use super::{
    Options,
    disk::Disk,
    fault,
    files::{FileId, Layout},
    record::{PartRecord, Record, UploadRecord},
};
use crate::storage::Storage;

pub(super) use tables::Tables;

/// Key → [`Record`].
const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");
/// Content file → how many entries name it; never 0.
const FILES: TableDefinition<u128, u32> = TableDefinition::new("files");
/// (key, upload) → [`UploadRecord`].
const UPLOADS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("uploads");
/// (key, upload, number) → [`PartRecord`].
const PARTS: TableDefinition<(&str, &str, u32), &[u8]> = TableDefinition::new("parts");
/// Numbers that the store goes by.
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");

/// The format of the folder. Raise it with every change that an older Sinew would misread.
const FORMAT: u64 = 1;

pub(super) struct Index {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    options: Options,
    /// None when it is closed, or was found broken and could not be opened again.
    database: RwLock<Option<Database>>,
    /// On the folder; held as long as the database may be open, so it comes after it.
    lock: Mutex<Option<Box<dyn Send>>>,
}

/// What a start found.
pub(super) struct Start {
    /// The number of this run.
    pub(super) run: u64,
    /// Whether the run before it was closed.
    pub(super) was_closed: bool,
}

impl Index {
    pub(super) fn open(
        storage: &Arc<dyn Storage>,
        layout: &Layout,
        options: Options,
    ) -> Result<Self> {
        let folder = layout.folder();
        storage.create_dir(folder).map_err(fault::disk)?;
        let lock = storage.lock(&folder.join("lock")).map_err(|cause| {
            if cause.kind() == io::ErrorKind::WouldBlock {
                fault::locked()
            } else {
                fault::disk(cause)
            }
        })?;
        let path = folder.join("index.redb");
        let names = storage.list(folder).map_err(fault::disk)?;
        if !names.iter().any(|name| name == "index.redb") {
            layout.create(&**storage).map_err(fault::disk)?;
            Self::create(storage, layout, options, names)?;
        }
        let index = Self {
            storage: storage.clone(),
            path,
            options,
            database: RwLock::new(None),
            lock: Mutex::new(Some(lock)),
        };
        index.reopen()?;
        Ok(index)
    }

    /// Makes an empty index under another name first: a crash leaves a whole one or none.
    fn create(
        storage: &Arc<dyn Storage>,
        layout: &Layout,
        options: Options,
        names: Vec<String>,
    ) -> Result<()> {
        for folder in layout.object_folders() {
            if !storage.list(&folder).map_err(fault::disk)?.is_empty() {
                return Err(fault::malformed(
                    "the index of the store is missing although it has contents",
                ));
            }
        }
        let draft = layout.folder().join("index.draft");
        if names.iter().any(|name| name == "index.draft") {
            storage.remove(&draft).map_err(fault::disk)?;
        }
        let file = storage.create(&draft).map_err(fault::disk)?;
        let database = Builder::new()
            .set_cache_size(options.cache_bytes)
            .create_with_backend(Disk::new(file, options.sync_failure))
            .map_err(fault::index)?;
        let transaction = begin(&database)?;
        Tables::open(&transaction)?.set_number("format", FORMAT)?;
        transaction.commit().map_err(fault::index)?;
        drop(database);
        storage
            .rename(&draft, &layout.folder().join("index.redb"))
            .map_err(fault::disk)?;
        storage.sync_dir(layout.folder()).map_err(fault::disk)
    }

    /// Opens the file anew, which forgets what a failed write has left in memory.
    pub(super) fn reopen(&self) -> Result<()> {
        let mut database = self.database.write();
        // First the old one goes: two must never write to one file.
        *database = None;
        let file = self.storage.open(&self.path).map_err(fault::disk)?;
        let opened = Builder::new()
            .set_cache_size(self.options.cache_bytes)
            .create_with_backend(Disk::new(file, self.options.sync_failure))
            .map_err(fault::index)?;
        let numbers = opened
            .begin_read()
            .map_err(fault::index)?
            .open_table(NUMBERS)
            .map_err(fault::index)?;
        let format = numbers
            .get("format")
            .map_err(fault::index)?
            .map(|row| row.value());
        if format != Some(FORMAT) {
            return Err(fault::malformed(format!(
                "the store has format {format:?}; this version of Sinew knows {FORMAT}"
            )));
        }
        *database = Some(opened);
        Ok(())
    }

    pub(super) fn close(&self) {
        *self.database.write() = None;
        *self.lock.lock() = None;
    }

    pub(super) fn is_open(&self) -> bool {
        self.database.read().is_some()
    }

    /// Begins a run.
    pub(super) fn start(&self) -> Result<Start> {
        self.write(|tables| {
            let run = tables.number("run")? + 1;
            tables.set_number("run", run)?;
            let was_closed = tables.number("closed")? + 1 == run;
            Ok(Start { run, was_closed })
        })
    }

    /// Says that the run was closed with everything in order.
    pub(super) fn finish(&self) -> Result<()> {
        self.write(|tables| {
            let run = tables.number("run")?;
            tables.set_number("closed", run)
        })
    }

    /// Runs `change` in one transaction; durable when it answers.
    pub(super) fn write<T>(&self, change: impl FnOnce(&mut Tables<'_>) -> Result<T>) -> Result<T> {
        let database = self.database.read();
        let transaction = begin(database.as_ref().ok_or_else(fault::closed)?)?;
        let answer = change(&mut Tables::open(&transaction)?)?;
        transaction.commit().map_err(fault::index)?;
        Ok(answer)
    }

    fn read<T>(&self, look: impl FnOnce(&ReadTransaction) -> Result<T>) -> Result<T> {
        let database = self.database.read();
        let database = database.as_ref().ok_or_else(fault::closed)?;
        look(&database.begin_read().map_err(fault::index)?)
    }

    pub(super) fn group(&self) -> Result<u64> {
        self.read(|snapshot| {
            let numbers = snapshot.open_table(NUMBERS).map_err(fault::index)?;
            let row = numbers.get("group").map_err(fault::index)?;
            Ok(row.map_or(0, |row| row.value()))
        })
    }

    pub(super) fn object(&self, key: &Key) -> Result<Option<Record>> {
        self.read(|snapshot| {
            let objects = snapshot.open_table(OBJECTS).map_err(fault::index)?;
            object(&objects, key)
        })
    }

    /// The first object after a key, or the first of all.
    pub(super) fn next_object(&self, after: Option<&Key>) -> Result<Option<Record>> {
        self.read(|snapshot| {
            let objects = snapshot.open_table(OBJECTS).map_err(fault::index)?;
            let bound = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_str()));
            first(&objects, bound)
        })
    }

    pub(super) fn list(&self, list: &List, limits: &Limits) -> Result<Page> {
        self.read(|snapshot| {
            let objects = snapshot.open_table(OBJECTS).map_err(fault::index)?;
            page(list, limits, |bound| {
                Ok(first(&objects, bound)?.map(|record| Listed {
                    key: record.object.key,
                    size: record.object.size,
                    tag: record.object.tag,
                    modified: record.object.modified,
                }))
            })
        })
    }

    pub(super) fn upload(&self, upload: &Upload) -> Result<UploadRecord> {
        self.read(|snapshot| {
            let uploads = snapshot.open_table(UPLOADS).map_err(fault::index)?;
            pending(&uploads, upload)
        })
    }

    pub(super) fn parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        self.read(|snapshot| {
            let uploads = snapshot.open_table(UPLOADS).map_err(fault::index)?;
            pending(&uploads, upload)?;
            let parts = snapshot.open_table(PARTS).map_err(fault::index)?;
            Ok(parts_of(&parts, upload)?
                .into_values()
                .map(|record| record.part)
                .collect())
        })
    }

    pub(super) fn uploads(&self, after: Option<&Upload>, limit: usize) -> Result<Vec<Pending>> {
        self.read(|snapshot| {
            let uploads = snapshot.open_table(UPLOADS).map_err(fault::index)?;
            let bound = after.map_or(Bound::Unbounded, |upload| {
                Bound::Excluded((upload.key.as_str(), upload.id.as_str()))
            });
            let rows = uploads
                .range::<(&str, &str)>((bound, Bound::Unbounded))
                .map_err(fault::index)?;
            rows.take(limit)
                .map(|row| {
                    let (place, record) = row.map_err(fault::index)?;
                    let (key, id) = place.value();
                    let upload = Upload {
                        key: Key::new(key)?,
                        id: id.to_owned(),
                    };
                    Ok(Pending {
                        upload,
                        begun: UploadRecord::decode(record.value())?.begun,
                    })
                })
                .collect()
        })
    }

    /// Those of the files that no entry names.
    pub(super) fn without_entry(&self, files: Vec<FileId>) -> Result<Vec<FileId>> {
        self.read(|snapshot| {
            let known = snapshot.open_table(FILES).map_err(fault::index)?;
            let mut orphans = Vec::new();
            for file in files {
                if known.get(file.to_u128()).map_err(fault::index)?.is_none() {
                    orphans.push(file);
                }
            }
            Ok(orphans)
        })
    }
}

fn begin(database: &Database) -> Result<WriteTransaction> {
    // Without redb's quick repair: in 4.4 a file that a transaction had grown when it was cut off could
    // not be opened any more. After a crash the index is read whole instead.
    database.begin_write().map_err(fault::index)
}

fn object(
    objects: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &Key,
) -> Result<Option<Record>> {
    let row = objects.get(key.as_str()).map_err(fault::index)?;
    row.map(|row| Record::decode(key.as_str(), row.value()))
        .transpose()
}

fn first(
    objects: &impl ReadableTable<&'static str, &'static [u8]>,
    bound: Bound<&str>,
) -> Result<Option<Record>> {
    let mut rows = objects
        .range::<&str>((bound, Bound::Unbounded))
        .map_err(fault::index)?;
    rows.next()
        .map(|row| {
            let (key, record) = row.map_err(fault::index)?;
            Record::decode(key.value(), record.value())
        })
        .transpose()
}

fn pending(
    uploads: &impl ReadableTable<(&'static str, &'static str), &'static [u8]>,
    upload: &Upload,
) -> Result<UploadRecord> {
    let place = (upload.key.as_str(), upload.id.as_str());
    let row = uploads.get(place).map_err(fault::index)?;
    UploadRecord::decode(row.ok_or_else(|| upload_unknown(upload))?.value())
}

fn parts_of(
    parts: &impl ReadableTable<(&'static str, &'static str, u32), &'static [u8]>,
    upload: &Upload,
) -> Result<BTreeMap<u32, PartRecord>> {
    let (key, id) = (upload.key.as_str(), upload.id.as_str());
    let rows = parts
        .range((key, id, 0)..=(key, id, u32::MAX))
        .map_err(fault::index)?;
    rows.map(|row| {
        let (place, record) = row.map_err(fault::index)?;
        let number = place.value().2;
        Ok((number, PartRecord::decode(number, record.value())?))
    })
    .collect()
}
