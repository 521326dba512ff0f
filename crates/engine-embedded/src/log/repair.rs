//! Saving what can be saved of a damaged log.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use sinew_core::{Error, Kind, Result};

use super::{
    Options, Sequence,
    checkpoint::Slots,
    error,
    fatal::Fatal,
    recovery,
    segment::{self, Segment},
    walk::{Walked, Whole, walk},
    writer::{Staged, Writer},
};
use crate::{damage::Damage, storage::Storage};

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Records that were copied.
    pub records: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// The first record that was copied, if there is one.
    pub oldest: Option<Sequence>,
    /// What was not copied, in order.
    pub dropped: Vec<Dropped>,
}

/// Something that a repair could not copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The file; the folder when a whole file is missing.
    pub file: PathBuf,
    /// The first byte that is not part of a whole record.
    pub from: u64,
    /// The first byte that is again, or the end of the file.
    pub until: u64,
    /// The sequence numbers of the records that are lost, `first..end`; none when there were none to
    /// lose.
    pub records: Option<(Sequence, Sequence)>,
    /// In words.
    pub why: &'static str,
}

impl Dropped {
    pub(super) const DAMAGED: &str = "damaged";
    pub(super) const TORN: &str = "an unfinished batch, never acknowledged";
    pub(super) const MISSING: &str = "their segment is missing";

    /// Whether it was durable once.
    pub(super) fn is_damage(&self) -> bool {
        self.why != Self::TORN
    }

    pub(super) fn damage(&self) -> Damage {
        let what = match self.records {
            Some((first, end)) if end == first + 1 => format!("record {first} is {}", self.why),
            Some((first, end)) => {
                format!("records {first} to {} are lost: {}", end - 1, self.why)
            }
            None => format!("{} up to byte {}", self.why, self.until),
        };
        Damage {
            file: self.file.clone(),
            offset: self.from,
            what,
        }
    }
}

/// Copies what is provably whole of the log in `folder` into a new one in `target`, which must not
/// hold anything, and tells what was dropped. The old log is only read, and must not be open.
///
/// Records keep their sequence numbers; where some are lost the new log has an
/// [`Entry::Gap`](super::Entry::Gap). A repair that did not finish leaves a target that does not open.
/// `log.not_empty` (FailedPrecondition) when the target holds files.
pub fn repair(
    storage: &Arc<dyn Storage>,
    folder: &Path,
    target: &Path,
    options: &Options,
) -> Result<Repaired> {
    let mut copy = Copy::into(storage, target, options)?;
    let log = identity_in(storage, folder)?;
    let checkpoint = Slots::open(storage, folder, log)
        .ok()
        .and_then(|slots| slots.newest());
    let mut repaired = Repaired::default();
    let mut visit = |whole| match whole {
        Whole::Gap(from, until) => copy.gap(from, until),
        Whole::Record(sequence, payload) => {
            repaired.oldest.get_or_insert(sequence);
            repaired.records += 1;
            repaired.bytes += payload.len() as u64;
            copy.record(sequence, &payload)
        }
    };
    let Walked { dropped, next, .. } = walk(storage, folder, &mut visit)?;
    copy.finish(next.unwrap_or(1), checkpoint)?;
    repaired.dropped = dropped;
    Ok(repaired)
}

/// Writes a log into `target` that holds these records, the first of which is `first`.
pub(crate) fn write(
    storage: &Arc<dyn Storage>,
    target: &Path,
    options: &Options,
    first: Sequence,
    records: impl Iterator<Item = Bytes>,
) -> Result<()> {
    let mut copy = Copy::into(storage, target, options)?;
    let mut next = first;
    for payload in records {
        copy.record(next, &payload)?;
        next += 1;
    }
    copy.finish(next, None)
}

/// What tells the log in a folder from others, by the first header that is whole.
fn identity_in(storage: &Arc<dyn Storage>, folder: &Path) -> Result<super::frame::LogId> {
    let names = storage
        .list(folder)
        .map_err(|cause| error::io("listing", folder, cause))?;
    for number in names.iter().filter_map(|name| segment::number_of(name)) {
        let path = folder.join(segment::file_name(number));
        let file = storage
            .open(&path)
            .map_err(|cause| error::io("opening", &path, cause))?;
        match Segment::load(path, number, &*file) {
            Ok((_, header)) => return Ok(header.log),
            Err(error) if error.code() == "log.version" => return Err(error),
            Err(_) => {}
        }
    }
    Err(error::corrupt(folder, 0, "no segment has a whole header"))
}

struct Copy {
    storage: Arc<dyn Storage>,
    target: PathBuf,
    options: Options,
    /// Made when the first sequence number is known.
    writer: Option<Writer>,
}

impl Copy {
    fn into(storage: &Arc<dyn Storage>, target: &Path, options: &Options) -> Result<Self> {
        recovery::make_folder(storage, target)?;
        let listed = storage.list(target);
        if !listed
            .map_err(|cause| error::io("listing", target, cause))?
            .is_empty()
        {
            return Err(Error::new(
                Kind::FailedPrecondition,
                "log.not_empty",
                "a log is repaired into an empty folder",
            )
            .with_context(format!("folder {}", target.display())));
        }
        Ok(Self {
            storage: Arc::clone(storage),
            target: target.into(),
            options: options.clone(),
            writer: None,
        })
    }

    fn record(&mut self, sequence: Sequence, payload: &Bytes) -> Result<()> {
        let writer = self.writer(sequence)?;
        if writer.stage(payload, true)? == Staged::CommitFirst {
            writer.commit()?;
            writer.stage(payload, true)?;
        }
        Ok(())
    }

    fn gap(&mut self, first: Sequence, until: Sequence) -> Result<()> {
        let writer = self.writer(first)?;
        writer.commit()?;
        writer.stage_gap(until)?;
        writer.commit()
    }

    fn writer(&mut self, first: Sequence) -> Result<&mut Writer> {
        if self.writer.is_none() {
            let fatal = Fatal::new(self.options.failed_sync.clone());
            let made = recovery::create_segments(
                &self.storage,
                &self.target,
                &self.options,
                fatal,
                first,
            )?;
            self.writer = Some(made);
        }
        self.writer
            .as_mut()
            .ok_or_else(|| error::failed("its copy has no writer"))
    }

    /// Makes the target a log by giving it its checkpoint file last.
    fn finish(mut self, next: Sequence, checkpoint: Option<super::Checkpoint>) -> Result<()> {
        self.writer(next)?.commit()?;
        let fatal = Fatal::new(self.options.failed_sync.clone());
        let log = recovery::identity_of(&self.storage, &self.target)?;
        let slots = Slots::create(&self.storage, &self.target, log, &fatal)?;
        if let Some(checkpoint) = checkpoint {
            slots.set(checkpoint, &fatal)?;
        }
        Ok(())
    }
}
