//! Reading a store that is not open, damaged or not, without changing anything.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use sinew_core::{Error, Kind, Result};

use crate::{
    bus::{face::BusFace, salvage::BusSalvage},
    damage::Damage,
    journal::{Face, record},
    kv::{
        KvFace,
        index::salvage::{Head, Salvage, Survey},
    },
    log::{self, Sequence, Walked, Whole},
    storage::{RealStorage, Storage},
};

/// Everything that can be read of a store. Nobody else has it open as long as this lives.
pub(crate) struct Examined {
    pub(crate) folder: PathBuf,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) kv: Salvage,
    /// Nothing when it never had one.
    pub(crate) bus: Option<BusSalvage>,
    pub(crate) log: Walked,
    /// The records that are whole, in order, from the first that anything needs.
    pub(crate) records: Vec<(Sequence, Bytes)>,
    /// The first record that must follow on what the files hold, and is not there.
    pub(crate) cut: Option<Sequence>,
    _lock: Box<dyn Send>,
}

impl Examined {
    /// `repair.unknown` (NotFound) when there is no store, `kv.locked` (FailedPrecondition) when it
    /// is open, what [`Salvage::open`], [`BusSalvage::open`] and [`log::walk`] answer.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let folder = find(folder)?;
        let storage: Arc<dyn Storage> = Arc::new(RealStorage);
        let lock = lock(&*storage, &folder)?;
        let kv = Salvage::open(&storage, &folder)?;
        let bus_folder = folder.join("bus");
        let bus = bus_folder
            .is_dir()
            .then(|| BusSalvage::open(&storage, &bus_folder))
            .transpose()?;
        let needed = needed(&kv, bus.as_ref());
        let mut records = Vec::new();
        let mut gap = None;
        let log_folder = folder.join("log");
        let mut visit = |whole| {
            match whole {
                Whole::Record(sequence, payload) if sequence >= needed => {
                    records.push((sequence, Bytes::copy_from_slice(&payload)));
                }
                Whole::Gap(from, until) if until > needed && gap.is_none() => {
                    gap = Some(from.max(needed));
                }
                _ => {}
            }
            Ok(())
        };
        let mut walked = if log_folder.is_dir() {
            log::walk(&storage, &log_folder, &mut visit)?
        } else {
            Walked::default()
        };
        let first = walked.segments.iter().find_map(|segment| segment.first);
        if walked.front_is_lost && first.is_none_or(|first| first > needed) {
            gap = Some(needed);
        }
        let end = walked.next.unwrap_or(1);
        if end < needed || (needed > 1 && walked.next.is_none()) {
            let what = format!("it ends before record {needed}, which was durable once");
            walked.damage.push(Damage::new(&log_folder, 0, what));
            gap = Some(needed);
        }
        if walked.next.is_none() && !walked.damage.is_empty() {
            gap = Some(needed);
        }
        Ok(Self {
            folder,
            storage,
            kv,
            bus,
            log: walked,
            records,
            cut: gap,
            _lock: lock,
        })
    }

    /// Up to which record the store can be brought.
    pub(crate) fn end(&self) -> Sequence {
        let end = self.log.next.unwrap_or(1);
        self.cut.unwrap_or(end)
    }

    /// The parts of the records before the end that concern keys.
    pub(crate) fn kv_parts(&self) -> Result<Vec<(Sequence, Bytes)>> {
        let end = self.end();
        let records = self.records.iter().filter(|(sequence, _)| *sequence < end);
        parts(records, KvFace::TAG)
    }

    /// The same for the bus.
    pub(crate) fn bus_parts(&self) -> Result<Vec<(Sequence, Bytes)>> {
        let end = self.end();
        let records = self.records.iter().filter(|(sequence, _)| *sequence < end);
        parts(records, BusFace::TAG)
    }

    /// The parts that concern keys of the records that come after a gap.
    pub(crate) fn left_out(&self) -> Result<Vec<(Sequence, Bytes)>> {
        let end = self.end();
        let records = self.records.iter().filter(|(sequence, _)| *sequence >= end);
        parts(records, KvFace::TAG)
    }

    /// All that is damaged, with what a walk over the keys has found.
    pub(crate) fn damage(&self, survey: &Survey) -> Vec<Damage> {
        let bus = self.bus.iter().flat_map(BusSalvage::damage);
        let kv = self.kv.damage().iter().chain(&survey.damage);
        let all = self.log.damage.iter().chain(kv).chain(bus);
        all.cloned().collect()
    }

    /// The numbers of the store, with what is only in the log.
    pub(crate) fn head(&self) -> Result<Head> {
        let parts = self.kv_parts()?;
        self.kv
            .head(parts.iter().map(|(sequence, part)| (*sequence, part)))
    }
}

/// The first record that the files of the store do not hold.
fn needed(kv: &Salvage, bus: Option<&BusSalvage>) -> Sequence {
    // Where nobody knows, everything there is may be needed.
    let kv = kv.next().unwrap_or(1);
    let bus = bus.filter(|bus| !bus.is_empty());
    bus.map_or(kv, |bus| kv.min(bus.next().unwrap_or(kv)))
}

fn parts<'r>(
    records: impl Iterator<Item = &'r (Sequence, Bytes)>,
    wanted: u8,
) -> Result<Vec<(Sequence, Bytes)>> {
    let mut found = Vec::new();
    for (sequence, record) in records {
        for part in record::parts(record, *sequence) {
            let (tag, part) = part?;
            if tag == wanted {
                found.push((*sequence, part));
            } else if tag != KvFace::TAG && tag != BusFace::TAG {
                return Err(record::unknown_part(tag, *sequence));
            }
        }
    }
    Ok(found)
}

/// The store in a folder: the folder itself, or `kv` in the data folder of a node.
fn find(folder: &Path) -> Result<PathBuf> {
    let is_store = |folder: &Path| {
        folder.join("log").is_dir()
            || folder.join("kv").join("manifest").is_file()
            || folder.join("store.redb").is_file()
    };
    let inner = folder.join("kv");
    let found = [inner.as_path(), folder].into_iter().find(|f| is_store(f));
    let found = found.ok_or_else(|| {
        Error::new(
            Kind::NotFound,
            "repair.unknown",
            format!(
                "{} holds no embedded store; name the data folder of a node, or the folder of \
                 `kv = \"embedded:FOLDER\"`",
                folder.display()
            ),
        )
    })?;
    Ok(found.to_owned())
}

fn lock(storage: &dyn Storage, folder: &Path) -> Result<Box<dyn Send>> {
    storage.lock(&folder.join("lock")).map_err(|cause| {
        if cause.kind() == io::ErrorKind::WouldBlock {
            let message = "another process has the store open; stop it first";
            return Error::new(Kind::FailedPrecondition, "kv.locked", message)
                .with_context(format!("folder {}", folder.display()));
        }
        failed("locking", folder, cause)
    })
}

/// An input/output error of a tool.
pub(crate) fn failed(doing: &str, path: &Path, cause: io::Error) -> Error {
    let message = format!("{doing} {} failed: {cause}", path.display());
    Error::new(Kind::Unavailable, "repair.failed", message).with_source(cause)
}
