//! What the bus knows besides messages, as of the last checkpoint: a redb database.
//!
//! Each checkpoint is one two-phase transaction that also says from which record on the log has
//! more. Everything that knows redb is here.
//!
//! Without redb's quick-repair, which would write the allocator's state with every checkpoint:
//! after a kill it is rebuilt from the tables, some 0.7 ms a megabyte; these are small.

mod overlay;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::RwLock;
use redb::{
    Builder, Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition,
};
use sinew_core::{Error, Name, Result, Timestamp};
use sinew_engine::bus::{GroupConfig, TopicConfig, group::Snapshot};

use self::overlay::Overlay;
use super::{
    bytes::{Malformed, Put as _, Take},
    config, fault,
    files::{Place, Segment},
    operation::Due,
};
use crate::{
    log::{FailedSync, Sequence},
    storage::{self, Storage},
};

pub(super) const FILE: &str = "bus.redb";
const UNFINISHED: &str = "bus.redb.tmp";
/// The format that this code writes and reads.
const VERSION: u64 = 1;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Topic → [`TopicRow`].
const TOPICS: TableDefinition<u64, &[u8]> = TableDefinition::new("topics");
/// Topic, group → name, configuration, progress.
const GROUPS: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("groups");
/// Topic, partition, first offset → end, bytes of the file, since, until.
const SEGMENTS: TableDefinition<(u64, u32, u64), [u64; 4]> = TableDefinition::new("segments");
/// Topic, due time, number → body.
const SCHEDULE: TableDefinition<(u64, u64, u64), &[u8]> = TableDefinition::new("schedule");
/// Topic, id → when it was seen.
const IDS: TableDefinition<(u64, &str), u64> = TableDefinition::new("ids");
/// The same by age.
const IDS_BY_AGE: TableDefinition<(u64, u64, &str), ()> = TableDefinition::new("ids by age");

const VERSION_KEY: &str = "format version";
const NEXT_KEY: &str = "next record";
const EPOCH_KEY: &str = "epoch";
const LAST_ID_KEY: &str = "last id";

/// A topic as a checkpoint keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TopicRow {
    pub(super) name: Name,
    pub(super) config: TopicConfig,
    pub(super) counts: Counts,
    pub(super) edges: Vec<Edges>,
}

/// What a topic counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// What its messages weigh.
    pub(super) bytes: u64,
    /// Messages that are not due yet.
    pub(super) scheduled: u64,
    pub(super) scheduled_bytes: u64,
    /// The number of the last message that was scheduled.
    pub(super) last_due: u64,
    /// The partition that the last message without a key went to.
    pub(super) partition: u32,
}

/// The ends of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Edges {
    pub(super) first: u64,
    pub(super) end: u64,
    /// When the last message entered.
    pub(super) published: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupRow {
    pub(super) name: Name,
    pub(super) config: GroupConfig,
    pub(super) snapshot: Snapshot,
}

/// What the tables held when they were opened.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The first record of the log that they do not hold.
    pub(super) next: Sequence,
    /// How often they were opened.
    pub(super) epoch: u64,
    pub(super) last_id: u64,
    pub(super) topics: Vec<(u64, TopicRow)>,
    pub(super) groups: Vec<(u64, u64, GroupRow)>,
    pub(super) segments: Vec<(Place, Segment)>,
}

pub(super) type Ids = HashMap<Box<str>, Timestamp>;
pub(super) type Scheduled = std::collections::BTreeMap<Due, Option<Bytes>>;

/// What a checkpoint changes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) next: Sequence,
    pub(super) last_id: u64,
    pub(super) topics: Vec<(u64, TopicRow)>,
    pub(super) deleted_topics: Vec<u64>,
    pub(super) groups: Vec<(u64, u64, GroupRow)>,
    pub(super) deleted_groups: Vec<(u64, u64)>,
    pub(super) removed_segments: Vec<(Place, u64)>,
    pub(super) schedule: Vec<(u64, Arc<Scheduled>)>,
    /// With the time up to which the topic's ids are forgotten.
    pub(super) ids: Vec<(u64, Arc<Ids>, Timestamp)>,
}

pub(super) struct Tables {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    cache_bytes: usize,
    failed_sync: FailedSync,
    /// Nothing while it is opened anew.
    database: RwLock<Option<Database>>,
}

/// The tables that are asked between checkpoints, as the last one left them.
pub(super) struct View {
    ids: ReadOnlyTable<(u64, &'static str), u64>,
    schedule: ReadOnlyTable<(u64, u64, u64), &'static [u8]>,
}

impl Tables {
    /// Opens the tables in `folder`, which exists, or makes them.
    pub(super) fn open(
        storage: Arc<dyn Storage>,
        folder: &Path,
        cache_bytes: usize,
        failed_sync: FailedSync,
    ) -> Result<Self> {
        let path = folder.join(FILE);
        let tables = Self {
            storage,
            path,
            cache_bytes,
            failed_sync,
            database: RwLock::new(None),
        };
        let unfinished = folder.join(UNFINISHED);
        let exists = tables
            .storage
            .list(folder)
            .map_err(|cause| fault::io("listing", folder, cause))?
            .iter()
            .any(|name| name == FILE);
        if !exists {
            tables.make(&unfinished, folder)?;
        }
        *tables.database.write() = Some(tables.open_file(&tables.path)?);
        tables.check_version()?;
        Ok(tables)
    }

    /// The file gets its name when it is whole.
    fn make(&self, unfinished: &Path, folder: &Path) -> Result<()> {
        let making = |cause| fault::io("making", unfinished, cause);
        match self.storage.remove(unfinished) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(making(cause)),
            _ => {}
        }
        self.storage.create(unfinished).map_err(making)?;
        let database = self.open_file(unfinished)?;
        make_tables(&database).map_err(|error| self.failed("making", error))?;
        drop(database);
        self.storage
            .rename(unfinished, &self.path)
            .map_err(making)?;
        self.storage
            .sync_dir(folder)
            .map_err(|cause| fault::failed_sync(&self.failed_sync, folder, cause))
    }

    fn open_file(&self, path: &Path) -> Result<Database> {
        let file = self
            .storage
            .open(path)
            .map_err(|cause| fault::io("opening", path, cause))?;
        let backend = Backend {
            file,
            path: path.into(),
            failed_sync: self.failed_sync.clone(),
        };
        let mut builder = Builder::new();
        builder.set_cache_size(self.cache_bytes);
        let opened = caught(path, || builder.create_with_backend(backend))?;
        opened.map_err(|error| self.failed("opening", redb::Error::from(error)))
    }

    fn check_version(&self) -> Result<()> {
        let version = self.read(|database| {
            let meta = database.begin_read()?.open_table(META)?;
            Ok(meta.get(VERSION_KEY)?.map(|version| version.value()))
        })?;
        match version {
            Some(VERSION) => Ok(()),
            Some(newer) if newer > VERSION => Err(fault::newer(newer)),
            _ => Err(fault::malformed("its tables have no format")),
        }
    }

    fn read<T>(&self, read: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T> {
        let database = self.database.read();
        let database = database
            .as_ref()
            .ok_or_else(|| fault::unavailable("the tables of the bus are not open"))?;
        read(database).map_err(|error| self.failed("reading", error))
    }

    /// After a failed write redb answers nothing more until its file is opened anew.
    fn open_again(&self) -> Result<()> {
        let mut database = self.database.write();
        *database = None;
        *database = Some(self.open_file(&self.path)?);
        Ok(())
    }

    /// Lets go of the file, whoever still holds these tables: closing writes to it, and another may
    /// open it next.
    pub(super) fn close(&self) {
        *self.database.write() = None;
    }

    fn failed(&self, doing: &str, error: redb::Error) -> Error {
        match error {
            redb::Error::Io(cause) if is_damage(&cause) => {
                fault::corrupt(&self.path, 0, &cause.to_string())
            }
            redb::Error::Io(cause) => fault::io(doing, &self.path, cause),
            redb::Error::Corrupted(what) => fault::corrupt(&self.path, 0, &what),
            error => fault::unavailable(&format!("{doing} the tables of the bus failed"))
                .with_source(error),
        }
    }

    /// Everything but ids and the schedule; counts the opening.
    pub(super) fn load(&self) -> Result<Found> {
        let found = found(caught(&self.path, || self.read(load))??)?;
        let epoch = found.epoch;
        self.write(|write| {
            write.open_table(META)?.insert(EPOCH_KEY, epoch)?;
            Ok(())
        })?;
        Ok(found)
    }

    /// Makes changes durable, all or none, with the segments that were written for them.
    pub(super) fn apply(&self, changes: &Changes, segments: &[(Place, Segment)]) -> Result<()> {
        self.write(|write| apply(write, changes, segments))
    }

    fn write(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<()> {
        let written = self.read(|database| {
            let mut write = database.begin_write()?;
            write.set_durability(Durability::Immediate)?;
            write.set_two_phase_commit(true);
            change(&write)?;
            write.commit()?;
            Ok(())
        });
        written.inspect_err(|_| {
            if let Err(error) = self.open_again() {
                tracing::warn!(error = error.detail(), "the tables of the bus stay closed");
            }
        })
    }

    /// What is asked between checkpoints.
    pub(super) fn view(&self) -> Result<View> {
        if self.database.read().is_none() {
            self.open_again()?;
        }
        self.read(|database| {
            let read = database.begin_read()?;
            Ok(View {
                ids: read.open_table(IDS)?,
                schedule: read.open_table(SCHEDULE)?,
            })
        })
    }
}

impl View {
    /// When an id of a topic was seen.
    pub(super) fn seen(&self, topic: u64, id: &str) -> Result<Option<Timestamp>> {
        let seen = self.ids.get((topic, id)).map_err(unreadable)?;
        Ok(seen.map(|seen| Timestamp(seen.value())))
    }

    /// What a topic has scheduled from a place on, in order; `visit` tells whether to go on.
    pub(super) fn scheduled(
        &self,
        topic: u64,
        from: Due,
        mut visit: impl FnMut(Due, &[u8]) -> bool,
    ) -> Result<()> {
        let range = (topic, from.at.0, from.number)..=(topic, u64::MAX, u64::MAX);
        for row in self.schedule.range(range).map_err(unreadable)? {
            let (key, body) = row.map_err(unreadable)?;
            let (_, at, number) = key.value();
            let at = Timestamp(at);
            if !visit(Due { at, number }, body.value()) {
                break;
            }
        }
        Ok(())
    }
}

fn found(rows: Rows) -> Result<Found> {
    let mut found = Found {
        next: rows.next,
        epoch: rows.epoch + 1,
        last_id: rows.last_id,
        segments: rows.segments,
        ..Found::default()
    };
    let malformed = |_| fault::malformed("a row of its tables");
    for (topic, row) in rows.topics {
        let row = take_topic(&mut Take(&row)).map_err(malformed)?;
        found.topics.push((topic, row));
    }
    for (topic, group, row) in rows.groups {
        let row = take_group(&mut Take(&row)).map_err(malformed)?;
        found.groups.push((topic, group, row));
    }
    Ok(found)
}

fn unreadable(error: redb::StorageError) -> Error {
    fault::unavailable("reading the tables of the bus failed").with_source(error)
}

fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        meta.insert(VERSION_KEY, VERSION)?;
        meta.insert(NEXT_KEY, 1)?;
        write.open_table(TOPICS)?;
        write.open_table(GROUPS)?;
        write.open_table(SEGMENTS)?;
        write.open_table(SCHEDULE)?;
        write.open_table(IDS)?;
        write.open_table(IDS_BY_AGE)?;
    }
    write.commit()?;
    Ok(())
}

/// What lies in the tables, not decoded yet.
struct Rows {
    next: Sequence,
    epoch: u64,
    last_id: u64,
    topics: Vec<(u64, Vec<u8>)>,
    groups: Vec<(u64, u64, Vec<u8>)>,
    segments: Vec<(Place, Segment)>,
}

fn load(database: &Database) -> Result<Rows, redb::Error> {
    let read = database.begin_read()?;
    let meta = read.open_table(META)?;
    let number =
        |key| -> Result<u64, redb::Error> { Ok(meta.get(key)?.map_or(0, |number| number.value())) };
    let mut rows = Rows {
        next: number(NEXT_KEY)?,
        epoch: number(EPOCH_KEY)?,
        last_id: number(LAST_ID_KEY)?,
        topics: Vec::new(),
        groups: Vec::new(),
        segments: Vec::new(),
    };
    for row in read.open_table(TOPICS)?.iter()? {
        let (topic, row) = row?;
        rows.topics.push((topic.value(), row.value().to_vec()));
    }
    for row in read.open_table(GROUPS)?.iter()? {
        let (key, row) = row?;
        let (topic, group) = key.value();
        rows.groups.push((topic, group, row.value().to_vec()));
    }
    for row in read.open_table(SEGMENTS)?.iter()? {
        let (key, row) = row?;
        let (topic, partition, first) = key.value();
        let [end, length, since, until] = row.value();
        let segment = Segment {
            first,
            end,
            length,
            since: Timestamp(since),
            until: Timestamp(until),
        };
        rows.segments.push((Place { topic, partition }, segment));
    }
    Ok(rows)
}

fn apply(
    write: &redb::WriteTransaction,
    changes: &Changes,
    written: &[(Place, Segment)],
) -> Result<(), redb::Error> {
    let mut meta = write.open_table(META)?;
    meta.insert(NEXT_KEY, changes.next)?;
    meta.insert(LAST_ID_KEY, changes.last_id)?;
    let mut topics = write.open_table(TOPICS)?;
    let mut groups = write.open_table(GROUPS)?;
    let mut segments = write.open_table(SEGMENTS)?;
    let mut schedule = write.open_table(SCHEDULE)?;
    let mut ids = write.open_table(IDS)?;
    let mut by_age = write.open_table(IDS_BY_AGE)?;
    let mut row = Vec::new();
    for (topic, topic_row) in &changes.topics {
        row.clear();
        put_topic(&mut row, topic_row);
        topics.insert(topic, &row[..])?;
    }
    for (topic, group, group_row) in &changes.groups {
        row.clear();
        put_group(&mut row, group_row);
        groups.insert((*topic, *group), &row[..])?;
    }
    for (Place { topic, partition }, segment) in written {
        let Segment {
            first,
            end,
            length,
            since,
            until,
        } = segment;
        segments.insert(
            (*topic, *partition, *first),
            [*end, *length, since.0, until.0],
        )?;
    }
    for (Place { topic, partition }, first) in &changes.removed_segments {
        segments.remove((*topic, *partition, *first))?;
    }
    for (topic, entries) in &changes.schedule {
        for (due, body) in entries.iter() {
            let key = (*topic, due.at.0, due.number);
            match body {
                Some(body) => drop(schedule.insert(key, &body[..])?),
                None => drop(schedule.remove(key)?),
            }
        }
    }
    for (topic, seen, forget) in &changes.ids {
        // In order, so that pages are written once.
        let mut sorted: Vec<_> = seen.iter().filter(|(_, at)| **at > *forget).collect();
        sorted.sort_unstable();
        for (id, at) in &sorted {
            ids.insert((*topic, &***id), at.0)?;
        }
        sorted.sort_unstable_by_key(|(id, at)| (**at, *id));
        for (id, at) in sorted {
            by_age.insert((*topic, at.0, &**id), ())?;
        }
        let old = (*topic, 0, "")..(*topic, forget.0.saturating_add(1), "");
        for row in by_age.extract_from_if(old, |_, ()| true)? {
            let (key, _) = row?;
            let (topic, at, id) = key.value();
            // It may have been seen again.
            let is_current = ids.get((topic, id))?.is_some_and(|seen| seen.value() == at);
            if is_current {
                ids.remove((topic, id))?;
            }
        }
    }
    for (topic, group) in &changes.deleted_groups {
        groups.remove((*topic, *group))?;
    }
    for topic in &changes.deleted_topics {
        let next = topic + 1;
        topics.remove(topic)?;
        groups.retain_in((*topic, 0)..(next, 0), |_, _| false)?;
        segments.retain_in((*topic, 0, 0)..(next, 0, 0), |_, _| false)?;
        schedule.retain_in((*topic, 0, 0)..(next, 0, 0), |_, _| false)?;
        ids.retain_in((*topic, "")..(next, ""), |_, _| false)?;
        by_age.retain_in((*topic, 0, "")..(next, 0, ""), |_, ()| false)?;
    }
    Ok(())
}

fn put_topic(to: &mut Vec<u8>, row: &TopicRow) {
    to.string(row.name.as_str().as_bytes());
    config::put_topic(to, &row.config);
    let Counts {
        bytes,
        scheduled,
        scheduled_bytes,
        last_due,
        partition,
    } = row.counts;
    for number in [
        bytes,
        scheduled,
        scheduled_bytes,
        last_due,
        u64::from(partition),
    ] {
        to.number(number);
    }
    for edges in &row.edges {
        to.number(edges.first);
        to.number(edges.end);
        to.number(edges.published.0);
    }
}

fn take_topic(take: &mut Take<'_>) -> Result<TopicRow, Malformed> {
    let name = config::take_name(take)?;
    let config = config::take_topic(take)?;
    let counts = Counts {
        bytes: take.number()?,
        scheduled: take.number()?,
        scheduled_bytes: take.number()?,
        last_due: take.number()?,
        partition: take.small()?,
    };
    let edges = (0..config.partitions).map(|_| {
        Ok(Edges {
            first: take.number()?,
            end: take.number()?,
            published: Timestamp(take.number()?),
        })
    });
    let edges = edges.collect::<Result<_, Malformed>>()?;
    Ok(TopicRow {
        name,
        config,
        counts,
        edges,
    })
}

fn put_group(to: &mut Vec<u8>, row: &GroupRow) {
    to.string(row.name.as_str().as_bytes());
    config::put_group(to, &row.config);
    config::put_snapshot(to, &row.snapshot);
}

fn take_group(take: &mut Take<'_>) -> Result<GroupRow, Malformed> {
    Ok(GroupRow {
        name: config::take_name(take)?,
        config: config::take_group(take)?,
        snapshot: config::take_snapshot(take)?,
    })
}

/// Reads tables that may be damaged, to the last page, and changes nothing.
pub(super) fn look(storage: &Arc<dyn Storage>, folder: &Path) -> Result<Found> {
    let path = folder.join(FILE);
    let file = storage.open(&path).map_err(|cause| match cause.kind() {
        io::ErrorKind::NotFound => fault::corrupt(&path, 0, "the file is missing"),
        _ => fault::io("opening", &path, cause),
    })?;
    let overlay = Overlay::new(file).map_err(|cause| fault::io("reading", &path, cause))?;
    let rows = caught(&path, || {
        let mut database = Builder::new()
            .set_cache_size(8 << 20)
            .create_with_backend(overlay)
            .map_err(redb::Error::from)?;
        if !database.check_integrity().map_err(redb::Error::from)? {
            return Err(redb::Error::Corrupted(
                "its pages contradict each other".to_owned(),
            ));
        }
        load(&database)
    })?;
    let rows = rows.map_err(|error| match error {
        redb::Error::Io(cause) if !is_damage(&cause) => fault::io("reading", &path, cause),
        error => fault::corrupt(&path, 0, &format!("the tables cannot be read ({error})")),
    })?;
    found(rows)
}

/// What the disk answered was not what was written.
fn is_damage(cause: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    matches!(cause.kind(), InvalidData | UnexpectedEof)
}

/// redb panics over some of what a damaged file says.
fn caught<T>(path: &Path, work: impl FnOnce() -> T) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .map_err(|_| fault::corrupt(path, 0, "the tables contradict themselves"))
}

/// redb's file on the file layer, so that tests can take its power.
#[derive(Debug)]
struct Backend {
    file: Arc<dyn storage::File>,
    path: PathBuf,
    failed_sync: FailedSync,
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        storage::read_exact_at(&*self.file, out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data().inspect_err(|cause| {
            self.failed_sync.react(&format!(
                "making {} durable failed ({cause}): the process ends rather than trust what may \
                 be lost; check the disk, then start again",
                self.path.display()
            ));
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(data, offset)
    }
}

#[cfg(test)]
mod tests;
