//! Saving what can be saved of a damaged log.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use sinew_core::{Error, Kind, Result};

use super::{
    Options, Sequence,
    checkpoint::Slots,
    error,
    fatal::Fatal,
    frame::{self, Identity, LogId},
    header::FIRST_FRAME,
    recovery,
    scan::{Frame, Scanner},
    segment::{self, Segment},
    writer::{Staged, Writer},
};
use crate::storage::{File, Storage};

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

struct Sources {
    log: LogId,
    /// Oldest first.
    segments: Vec<Source>,
}

struct Source {
    number: u64,
    path: PathBuf,
    file: Arc<dyn File>,
    identity: Identity,
    len: u64,
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
    recovery::make_folder(storage, target)?;
    if !storage
        .list(target)
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
    let Sources { log, segments } = sources(storage, folder)?;
    let checkpoint = Slots::open(storage, folder, log)
        .ok()
        .and_then(|slots| slots.newest());
    let mut copy = Copy {
        storage: Arc::clone(storage),
        source: folder.into(),
        target: target.into(),
        options: options.clone(),
        writer: None,
        expected: segments
            .first()
            .filter(|first| first.number == 1)
            .map(|_| 1),
        repaired: Repaired::default(),
    };
    copy.run(&segments)?;
    copy.finish(checkpoint)
}

/// The segments that can be read at all, and the identity that they share.
fn sources(storage: &Arc<dyn Storage>, folder: &Path) -> Result<Sources> {
    let mut numbers: Vec<u64> = storage
        .list(folder)
        .map_err(|cause| error::io("listing", folder, cause))?
        .iter()
        .filter_map(|name| segment::number_of(name))
        .collect();
    numbers.sort_unstable();
    let mut log = None;
    let mut files = Vec::new();
    for number in numbers {
        let path = folder.join(segment::file_name(number));
        let file = storage
            .open(&path)
            .map_err(|cause| error::io("opening", &path, cause))?;
        // A header that is broken costs nothing: the name tells the number, the others the log.
        match Segment::load(path.clone(), number, &*file) {
            Ok((_, header)) => log = log.or(Some(header.log)),
            Err(error) if error.code() == "log.version" => return Err(error),
            Err(_) => {}
        }
        files.push((number, path, file));
    }
    let log = log.ok_or_else(|| error::corrupt(folder, 0, "no segment has a whole header"))?;
    let mut segments = Vec::new();
    for (number, path, file) in files {
        let len = file
            .len()
            .map_err(|cause| error::io("reading", &path, cause))?;
        let identity = Identity::new(log, number);
        segments.push(Source {
            number,
            path,
            file,
            identity,
            len,
        });
    }
    Ok(Sources { log, segments })
}

impl Source {
    fn scanner(&self) -> Scanner {
        Scanner::new(Arc::clone(&self.file), self.identity, self.len)
    }

    fn reading(&self) -> impl Fn(io::Error) -> Error {
        |cause| error::io("reading", &self.path, cause)
    }

    /// Whether there is anything but zeros from `offset` on.
    fn has_remains(&self, mut offset: u64) -> io::Result<bool> {
        let mut chunk = vec![0; 64 << 10];
        loop {
            match self.file.read_at(&mut chunk, offset)? {
                0 => return Ok(false),
                read if chunk[..read].iter().any(|byte| *byte != 0) => return Ok(true),
                read => offset += read as u64,
            }
        }
    }
}

struct Copy {
    storage: Arc<dyn Storage>,
    source: PathBuf,
    target: PathBuf,
    options: Options,
    /// Made when the first sequence number is known.
    writer: Option<Writer>,
    /// The record that comes next, when that is known.
    expected: Option<Sequence>,
    repaired: Repaired,
}

impl Copy {
    fn run(&mut self, sources: &[Source]) -> Result<()> {
        for (index, source) in sources.iter().enumerate() {
            let mut scanner = source.scanner();
            let mut offset = FIRST_FRAME;
            loop {
                let at_offset = scanner.frame(offset).map_err(source.reading())?;
                let expected = self.expected;
                let follows = |frame: &Frame| expected.is_none_or(|next| frame.sequence == next);
                if let Some(frame) = at_offset.filter(follows) {
                    offset = frame.end();
                    self.copy(&frame)?;
                    continue;
                }
                let minimum = expected.unwrap_or(1);
                let next = scanner.find(offset, minimum).map_err(source.reading())?;
                let is_torn = !proves_loss(&sources[index..], offset, minimum)?;
                let Some(frame) = next.filter(|_| !is_torn) else {
                    self.drop_rest(source, offset, is_torn)?;
                    break;
                };
                if frame.offset > offset {
                    self.repaired.dropped.push(Dropped {
                        file: source.path.clone(),
                        from: offset,
                        until: frame.offset,
                        records: None,
                        why: "damaged",
                    });
                }
                offset = frame.end();
                self.copy(&frame)?;
            }
        }
        Ok(())
    }

    /// Reports what follows the last whole record of a segment, if anything does.
    fn drop_rest(&mut self, source: &Source, offset: u64, is_torn: bool) -> Result<()> {
        if source.has_remains(offset).map_err(source.reading())? {
            self.repaired.dropped.push(Dropped {
                file: source.path.clone(),
                from: offset,
                until: source.len,
                records: None,
                why: if is_torn {
                    "an unfinished batch, never acknowledged"
                } else {
                    "damaged"
                },
            });
        }
        Ok(())
    }

    fn copy(&mut self, frame: &Frame) -> Result<()> {
        if let Some(first) = self.expected.filter(|first| *first < frame.sequence) {
            self.note_gap(first, frame.sequence)?;
        }
        if frame.kind == frame::Kind::Gap {
            // One of an earlier repair.
            self.gap(frame.next(), frame.sequence)?;
        } else {
            self.repaired.oldest.get_or_insert(frame.sequence);
            self.repaired.records += 1;
            self.repaired.bytes += frame.payload.len() as u64;
            let writer = self.writer(frame.sequence)?;
            if writer.stage(&frame.payload, true)? == Staged::CommitFirst {
                writer.commit()?;
                writer.stage(&frame.payload, true)?;
            }
        }
        self.expected = Some(frame.next());
        Ok(())
    }

    /// Says which records were lost with the bytes that were dropped last, or else with a segment.
    fn note_gap(&mut self, first: Sequence, until: Sequence) -> Result<()> {
        let records = Some((first, until));
        match self.repaired.dropped.last_mut() {
            Some(last) if last.records.is_none() => last.records = records,
            _ => self.repaired.dropped.push(Dropped {
                file: self.source.clone(),
                from: 0,
                until: 0,
                records,
                why: "their segment is missing",
            }),
        }
        self.gap(until, first)
    }

    fn gap(&mut self, until: Sequence, first: Sequence) -> Result<()> {
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
    fn finish(mut self, checkpoint: Option<super::Checkpoint>) -> Result<Repaired> {
        let first = self.expected.unwrap_or(1);
        self.writer(first)?.commit()?;
        let fatal = Fatal::new(self.options.failed_sync.clone());
        let log = recovery::identity_of(&self.storage, &self.target)?;
        let slots = Slots::create(&self.storage, &self.target, log, &fatal)?;
        if let Some(checkpoint) = checkpoint {
            slots.set(checkpoint, &fatal)?;
        }
        Ok(self.repaired)
    }
}

/// Whether some record from there on was written after record `missing` had been durable.
fn proves_loss(sources: &[Source], from: u64, missing: Sequence) -> Result<bool> {
    for (nth, source) in sources.iter().enumerate() {
        let offset = if nth == 0 { from } else { FIRST_FRAME };
        let later = source.scanner().find_later_batch(offset, missing);
        if later.map_err(source.reading())?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
