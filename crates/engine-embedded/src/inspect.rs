//! What lies in the folder of a store that is not open, for people.

use std::path::{Path, PathBuf};

use sinew_core::{Error, Kind, Result};

use crate::{bus::salvage::TopicSummary, damage::Damage, examine::Examined, log::SegmentState};

/// What to show of the keys.
#[derive(Clone, Debug, Default)]
pub struct InspectOptions {
    /// Of the keys that begin with this; without, no keys are shown.
    pub keys: Option<Vec<u8>>,
    /// At most so many.
    pub limit: usize,
}

/// What a folder holds.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The store's folder.
    pub folder: PathBuf,
    /// The version of its format; nothing when that cannot be read.
    pub format: Option<u64>,
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// The files of the log, oldest first.
    pub segments: Vec<SegmentState>,
    /// The keys.
    pub kv: KvState,
    /// The topics as of the last checkpoint; nothing when the store never had a bus.
    pub bus: Option<Vec<TopicSummary>>,
    /// How many records of the log hold what no checkpoint of the bus has.
    pub bus_records: u64,
}

/// What is stored under keys.
#[derive(Clone, Debug)]
pub struct KvState {
    /// The last revision.
    pub revision: u64,
    /// Watches and reads of the past reach back to this one.
    pub compacted: u64,
    /// Keys.
    pub keys: u64,
    /// Bytes of them.
    pub key_bytes: u64,
    /// Bytes of their values.
    pub value_bytes: u64,
    /// Leases.
    pub leases: u64,
    /// The files, and their bytes; the newest run first, then the history.
    pub files: Vec<(PathBuf, u64)>,
    /// Those that were asked for.
    pub shown: Vec<ShownKey>,
}

/// A key.
#[derive(Clone, Debug)]
pub struct ShownKey {
    /// The key.
    pub key: Vec<u8>,
    /// The revision that last wrote it.
    pub revision: u64,
    /// The lease that it goes with.
    pub lease: Option<u64>,
    /// Its value.
    pub value: Vec<u8>,
}

/// Reads all of the store in `folder`, or in `kv` in it, which must not be open, and changes nothing.
///
/// Errors: those of [`repair_store`](crate::repair_store); damage is none.
pub fn inspect(folder: &Path, options: &InspectOptions) -> Result<Inspection> {
    let examined = Examined::open(folder)?;
    let head = examined.head()?;
    let mut shown = Vec::new();
    let survey = examined.kv.survey(&head, false, |current| {
        let prefix = options.keys.as_ref();
        if shown.len() < options.limit && prefix.is_some_and(|p| current.key.starts_with(p)) {
            shown.push(ShownKey {
                key: current.key.to_vec(),
                revision: current.revision,
                lease: current.lease.map(|lease| lease.0),
                value: current.value.to_vec(),
            });
        }
        Ok::<_, Error>(())
    })?;
    let damage = examined.damage(&survey);
    let bus_next = examined.bus.as_ref().and_then(|bus| bus.next());
    let bus_records = examined.bus_parts()?;
    let bus_records = bus_records
        .iter()
        .filter(|(sequence, _)| Some(*sequence) >= bus_next);
    Ok(Inspection {
        folder: examined.folder.clone(),
        format: examined.kv.format(),
        damage,
        kv: KvState {
            revision: head.revision,
            compacted: head.floor,
            keys: survey.keys,
            key_bytes: survey.key_bytes,
            value_bytes: survey.value_bytes,
            leases: head.leases as u64,
            files: examined
                .kv
                .files()
                .map(|file| (file.file, file.bytes))
                .collect(),
            shown,
        },
        bus: examined.bus.as_ref().map(|bus| bus.topics()),
        bus_records: bus_records.count() as u64,
        segments: examined.log.segments,
    })
}

impl TopicSummary {
    /// The messages that it holds.
    pub fn messages(&self) -> u64 {
        self.partitions.iter().map(|(first, end)| end - first).sum()
    }
}

impl Inspection {
    /// `store.corrupt` (DataLoss) when something is damaged.
    pub fn check(&self) -> Result<()> {
        let Some(first) = self.damage.first() else {
            return Ok(());
        };
        let message = format!("the store is damaged in {}", first.brief());
        Err(Error::new(Kind::DataLoss, "store.corrupt", message))
    }
}
