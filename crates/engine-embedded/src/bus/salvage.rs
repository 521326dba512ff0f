//! Reading a bus that may be damaged, and writing what was read as a new one. Nothing here changes
//! the files that are read.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use sinew_core::{Kind, Name, Result, Timestamp};
use sinew_engine::bus::{Message, TopicConfig};

use super::{
    fault,
    files::{self, Files, Piece, Place, Segment},
    message::{self, Stored},
    operation::{Operation, operations},
    tables::{self, Changes, Counts, Edges, Found, Tables, TopicRow},
};
use crate::{
    damage::Damage,
    log::{FailedSync, Sequence},
    storage::Storage,
};

/// The header of a message that stands for one that was lost.
const LOST: &str = "sinew-lost";
/// How large a file is that holds what a repair has written, at most.
const WHOLE_FILE: u64 = u64::MAX;

/// What can be read of a bus.
pub(crate) struct BusSalvage {
    storage: Arc<dyn Storage>,
    folder: PathBuf,
    files: Files,
    /// Nothing when the tables cannot be read.
    found: Option<Found>,
    damage: Vec<Damage>,
    holes: Vec<Hole>,
}

/// Messages that cannot be read.
struct Hole {
    place: Place,
    segment: u64,
    from: u64,
    until: u64,
}

/// A topic, as of the last checkpoint.
#[derive(Clone, Debug)]
pub struct TopicSummary {
    /// Its name.
    pub name: String,
    /// Of each partition, the first offset and the one behind the last.
    pub partitions: Vec<(u64, u64)>,
    /// What its messages weigh, bytes.
    pub bytes: u64,
    /// Messages that are not due yet.
    pub scheduled: u64,
    /// Its files.
    pub files: u64,
    /// Bytes of them.
    pub file_bytes: u64,
    /// Its groups.
    pub groups: Vec<GroupSummary>,
}

/// A group of a topic.
#[derive(Clone, Debug)]
pub struct GroupSummary {
    /// Its name.
    pub name: String,
    /// For each partition, the offset below which everything is settled.
    pub cursors: Vec<u64>,
    /// Messages that it owes.
    pub lag: u64,
}

impl BusSalvage {
    /// Reads the tables and all files of topics in `folder`. `bus.format_newer` (FailedPrecondition).
    pub(crate) fn open(storage: &Arc<dyn Storage>, folder: &Path) -> Result<Self> {
        let mut damage = Vec::new();
        let found = match tables::look(storage, folder) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == Kind::DataLoss => {
                let mut place = Damage::of(&error);
                if place.file.as_os_str().is_empty() {
                    place.file = folder.join(tables::FILE);
                }
                damage.push(place);
                None
            }
            Err(error) => return Err(error),
        };
        let files = Files::new(Arc::clone(storage), folder, 0, FailedSync::default());
        let mut salvage = Self {
            storage: Arc::clone(storage),
            folder: folder.into(),
            files,
            found,
            damage,
            holes: Vec::new(),
        };
        salvage.check_files()?;
        Ok(salvage)
    }

    fn check_files(&mut self) -> Result<()> {
        let Some(found) = &self.found else {
            return Ok(());
        };
        for (place, segment) in &found.segments {
            let path = self.folder.join(files::name(*place, segment.first));
            self.files
                .walk(*place, segment.first, Some(segment), |piece| {
                    if let Piece::Hole(at, from, until) = piece {
                        let what = format!("messages {from} to {} cannot be read", until - 1);
                        self.damage.push(Damage::new(&path, at, what));
                        self.holes.push(Hole {
                            place: *place,
                            segment: segment.first,
                            from,
                            until,
                        });
                    }
                    Ok(())
                })?;
        }
        Ok(())
    }

    /// What keeps the bus from being opened, or read.
    pub(crate) fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// The first record of the log that the tables do not hold; nothing when nobody knows.
    pub(crate) fn next(&self) -> Option<Sequence> {
        Some(self.found.as_ref()?.next)
    }

    /// Whether it never held anything.
    pub(crate) fn is_empty(&self) -> bool {
        let found = self.found.as_ref();
        found.is_some_and(|found| found.topics.is_empty() && found.last_id == 0)
    }

    /// The topics as of the last checkpoint.
    pub(crate) fn topics(&self) -> Vec<TopicSummary> {
        let Some(found) = &self.found else {
            return Vec::new();
        };
        let topics = found.topics.iter().map(|(id, row)| {
            let segments = || {
                found
                    .segments
                    .iter()
                    .filter(|(place, _)| place.topic == *id)
            };
            let groups = found.groups.iter().filter(|(topic, ..)| topic == id);
            let groups = groups.map(|(_, _, group)| {
                let partitions = &group.snapshot.partitions;
                let owed = row.edges.iter().zip(partitions).map(|(edges, progress)| {
                    let from = progress.cursor.max(edges.first);
                    let settled = progress.settled.iter();
                    let above: u64 = settled
                        .filter(|(_, end)| **end > from)
                        .map(|(start, end)| end - (*start).max(from))
                        .sum();
                    edges.end.saturating_sub(from).saturating_sub(above)
                });
                GroupSummary {
                    name: group.name.to_string(),
                    cursors: partitions.iter().map(|progress| progress.cursor).collect(),
                    lag: owed.sum(),
                }
            });
            TopicSummary {
                name: row.name.to_string(),
                partitions: row
                    .edges
                    .iter()
                    .map(|edges| (edges.first, edges.end))
                    .collect(),
                bytes: row.counts.bytes,
                scheduled: row.counts.scheduled,
                files: segments().count() as u64,
                file_bytes: segments().map(|(_, segment)| segment.length).sum(),
                groups: groups.collect(),
            }
        });
        topics.collect()
    }

    /// Writes the bus into `target`, which exists and is empty. `parts` are those of the records that
    /// the tables may not hold, for the names of topics. Answers what was lost, in words.
    pub(crate) fn write(
        &self,
        target: &Path,
        next: Sequence,
        parts: &[&Bytes],
    ) -> Result<Vec<String>> {
        match &self.found {
            Some(found) => self.copy(found, target),
            None => self.build(target, next, parts),
        }
    }

    /// Copies everything; what is lost is replaced by empty messages, which groups pass over.
    fn copy(&self, found: &Found, target: &Path) -> Result<Vec<String>> {
        let copying = |cause| fault::io("copying", target, cause);
        let tables = target.join(tables::FILE);
        self.copy_file(&self.folder.join(tables::FILE), &tables)?;
        let new_files = Files::new(Arc::clone(&self.storage), target, 0, FailedSync::default());
        let mut changed = Vec::new();
        let mut lost = Vec::new();
        for (place, segment) in &found.segments {
            let holes = self.holes.iter();
            let is_whole = !holes
                .clone()
                .any(|hole| hole.place == *place && hole.segment == segment.first);
            if is_whole {
                let name = files::name(*place, segment.first);
                self.copy_file(&self.folder.join(&name), &target.join(&name))?;
                continue;
            }
            let mut messages = Vec::new();
            self.files
                .walk(*place, segment.first, Some(segment), |piece| {
                    match piece {
                        Piece::Whole(block) => messages.extend(block.messages),
                        Piece::Hole(_, from, until) => {
                            let published = messages
                                .last()
                                .map_or(segment.since, |last: &Stored| last.published);
                            messages.extend((from..until).map(|_| stand_in(published)));
                        }
                    }
                    Ok(())
                })?;
            let written = new_files.append(
                *place,
                None,
                segment.first,
                messages.into_iter(),
                WHOLE_FILE,
            )?;
            changed.extend(written.into_iter().map(|segment| (*place, segment)));
        }
        new_files.sync_folder()?;
        self.storage.sync_dir(target).map_err(copying)?;
        let mut changes = Changes {
            next: found.next,
            last_id: found.last_id,
            ..Changes::default()
        };
        let mut groups = found.groups.clone();
        let mut touched = BTreeSet::new();
        for hole in &self.holes {
            let Hole {
                place, from, until, ..
            } = hole;
            let topic = found.topics.iter().find(|(id, _)| *id == place.topic);
            let name = topic.map_or("?", |(_, row)| row.name.as_str());
            lost.push(format!(
                "messages {from} to {} of partition {} of the topic {name}: empty ones with the header {LOST} are in their place, \
                 and groups that there were do not get them",
                until - 1,
                place.partition
            ));
            for (index, (topic, _, row)) in groups.iter_mut().enumerate() {
                let progress = row.snapshot.partitions.get_mut(place.partition as usize);
                if let Some(progress) = progress.filter(|_| *topic == place.topic) {
                    progress.lost += until.saturating_sub((*from).max(progress.cursor));
                    progress.settle_range(*from, *until);
                    touched.insert(index);
                }
            }
        }
        changes.groups = touched
            .into_iter()
            .map(|index| groups[index].clone())
            .collect();
        if !self.holes.is_empty() {
            let tables = self.open_tables(target)?;
            tables.apply(&changes, &changed)?;
        }
        Ok(lost)
    }

    fn open_tables(&self, target: &Path) -> Result<Tables> {
        let storage = Arc::clone(&self.storage);
        Tables::open(storage, target, 8 << 20, FailedSync::default())
    }

    fn copy_file(&self, from: &Path, to: &Path) -> Result<()> {
        let failed = |cause| fault::io("copying", from, cause);
        let source = self.storage.open(from).map_err(failed)?;
        let copy = self.storage.create(to).map_err(failed)?;
        let mut chunk = vec![0; 1 << 20];
        let mut at = 0;
        loop {
            let read = source.read_at(&mut chunk, at).map_err(failed)?;
            if read == 0 {
                return copy.sync_data().map_err(failed);
            }
            copy.write_at(&chunk[..read], at).map_err(failed)?;
            at += read as u64;
        }
    }

    /// Makes tables from what the files of topics say by themselves.
    fn build(&self, target: &Path, next: Sequence, parts: &[&Bytes]) -> Result<Vec<String>> {
        let names = self.storage.list(&self.folder);
        let names = names.map_err(|cause| fault::io("listing", &self.folder, cause))?;
        let mut found: Vec<(Place, u64)> =
            names.iter().filter_map(|name| files::parse(name)).collect();
        found.sort_unstable();
        let known = topics_made(parts);
        let new_files = Files::new(Arc::clone(&self.storage), target, 0, FailedSync::default());
        let mut segments: Vec<(Place, Segment)> = Vec::new();
        let mut topics: BTreeMap<u64, (Vec<Edges>, u64)> = BTreeMap::new();
        for (place, first) in found {
            let (edges, bytes) = topics.entry(place.topic).or_default();
            let count = place.partition as usize + 1;
            if edges.len() < count {
                edges.resize(count, Edges::default());
            }
            let mut end = edges[place.partition as usize];
            let mut messages = Vec::new();
            let mut from = first.max(end.end);
            self.files.walk(place, first, None, |piece| {
                match piece {
                    Piece::Whole(block) if block.first >= from => messages.extend(block.messages),
                    Piece::Hole(_, start, until) if start >= from => {
                        let published = messages
                            .last()
                            .map_or(Timestamp(0), |last: &Stored| last.published);
                        messages.extend((start..until).map(|_| stand_in(published)));
                    }
                    _ => {}
                }
                Ok(())
            })?;
            if end.end == 0 {
                end.first = first;
            } else if first > end.end {
                // A file is missing: nobody knows what was in it, and offsets have no holes.
                let published = end.published;
                let missing = (end.end..first).map(|_| stand_in(published));
                messages.splice(0..0, missing);
                from = end.end;
            }
            *bytes += messages.iter().map(Stored::weight).sum::<u64>();
            let written = new_files.append(place, None, from, messages.into_iter(), WHOLE_FILE)?;
            for segment in written {
                end.end = segment.end;
                end.published = segment.until;
                segments.push((place, segment));
            }
            edges[place.partition as usize] = end;
        }
        new_files.sync_folder()?;
        let mut changes = Changes {
            next,
            last_id: topics.keys().max().copied().unwrap_or_default() + (1 << 20),
            ..Changes::default()
        };
        let mut lost = vec![format!(
            "groups and their progress, scheduled messages, the ids that messages are de-duplicated by, and the \
             configuration of topics: they were in {}",
            tables::FILE
        )];
        for (id, (edges, bytes)) in topics {
            let name = match known.get(&id) {
                Some(name) => name.clone(),
                None => Name::new(&format!("recovered-{id}"))?,
            };
            lost.push(format!(
                "the name of topic {id}, if it was another than {name}"
            ));
            let partitions = u32::try_from(edges.len()).unwrap_or(u32::MAX);
            let row = TopicRow {
                name,
                config: TopicConfig {
                    partitions,
                    ..TopicConfig::default()
                },
                counts: Counts {
                    bytes,
                    ..Counts::default()
                },
                edges,
            };
            changes.topics.push((id, row));
        }
        self.open_tables(target)?.apply(&changes, &segments)?;
        Ok(lost)
    }
}

fn topics_made(parts: &[&Bytes]) -> BTreeMap<u64, Name> {
    let operations = parts.iter().flat_map(|part| operations(part));
    let made = operations.filter_map(|operation| match operation {
        Ok(Operation::TopicMade { topic, name, .. }) => Some((topic, name)),
        _ => None,
    });
    made.collect()
}

/// What is delivered in the place of a message that was lost.
fn stand_in(published: Timestamp) -> Stored {
    let message = Message::new("").header(LOST, "by damage of the disk");
    let draft = message::drafts(&[message]).into_iter().next();
    Stored {
        body: draft.map(|draft| draft.body).unwrap_or_default(),
        published,
    }
}
