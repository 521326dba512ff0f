//! Reading what is provably whole of a log, damaged or not, without changing anything.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use sinew_core::{Error, Result};

use super::{
    Sequence, error,
    frame::{self, Identity, LogId},
    header::{self, FIRST_FRAME},
    repair::Dropped,
    scan::{Frame, Scanner},
    segment::{self, Segment},
};
use crate::{
    damage::Damage,
    storage::{File, Storage, read_exact_at},
};

/// What lies in a log, in order.
pub(crate) enum Whole {
    Record(Sequence, Bytes),
    /// The records of this range are not there.
    Gap(Sequence, Sequence),
}

/// What a walk through a log found besides its records.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    pub(crate) segments: Vec<SegmentState>,
    /// What was not a record, in order.
    pub(crate) dropped: Vec<Dropped>,
    /// What keeps the log from being opened, or read.
    pub(crate) damage: Vec<Damage>,
    /// The record that comes after the last; nothing when there is no record.
    pub(crate) next: Option<Sequence>,
    /// Whether records may have been before the first.
    pub(crate) front_is_lost: bool,
}

/// One file of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentState {
    /// The file.
    pub file: PathBuf,
    /// Its length, bytes.
    pub bytes: u64,
    /// How much of it is written.
    pub used: u64,
    /// Its whole records.
    pub records: u64,
    /// The first of them.
    pub first: Option<Sequence>,
    /// The last of them.
    pub last: Option<Sequence>,
}

struct Source {
    path: PathBuf,
    number: u64,
    file: Arc<dyn File>,
    identity: Identity,
    len: u64,
}

/// Visits what is whole in `folder`, which must not be open. `log.version` (FailedPrecondition)
/// when a newer Sinew wrote it.
pub(crate) fn walk(
    storage: &Arc<dyn Storage>,
    folder: &Path,
    visit: &mut dyn FnMut(Whole) -> Result<()>,
) -> Result<Walked> {
    let mut walk = Walk {
        folder,
        visit,
        expected: None,
        walked: Walked::default(),
    };
    let sources = walk.sources(storage)?;
    if let Some(first) = sources.first().filter(|first| first.number == 1) {
        // A log begins with record 1, unless a repair has made it begin later.
        let frame = first.scanner().frame(FIRST_FRAME);
        let frame = frame.map_err(first.reading())?;
        walk.expected = Some(frame.map_or(1, |frame| frame.sequence));
    }
    let knew_first = walk.expected;
    walk.run(&sources)?;
    let Walk {
        expected,
        mut walked,
        ..
    } = walk;
    walked.next = expected;
    let lost = walked.dropped.iter().filter(|dropped| dropped.is_damage());
    let lost = lost.map(Dropped::damage).collect::<Vec<_>>();
    // What begins the oldest file is the first that is kept, unless it is not a record.
    let front = sources.first().map(|first| &first.path);
    walked.front_is_lost = knew_first.is_none()
        && walked.dropped.iter().any(|dropped| {
            Some(&dropped.file) == front && dropped.from == FIRST_FRAME && dropped.is_damage()
        });
    walked.damage.extend(lost);
    Ok(walked)
}

/// What tells the log from others, proved by a record, of a file whose header is broken.
fn identity_by_record(file: &Arc<dyn File>, number: u64, len: u64) -> Option<LogId> {
    let mut header = [0; header::SIZE];
    read_exact_at(&**file, &mut header, 0).ok()?;
    let log: LogId = header[16..32].try_into().ok()?;
    let identity = Identity::new(log, number);
    let proof = Scanner::new(Arc::clone(file), identity, len).frame(FIRST_FRAME);
    proof.ok()?.map(|_| log)
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

struct Walk<'w> {
    folder: &'w Path,
    visit: &'w mut dyn FnMut(Whole) -> Result<()>,
    /// The record that comes next, when that is known.
    expected: Option<Sequence>,
    walked: Walked,
}

impl Walk<'_> {
    /// The segments, oldest first, with the identity that they share; none when nothing tells it.
    fn sources(&mut self, storage: &Arc<dyn Storage>) -> Result<Vec<Source>> {
        let mut numbers: Vec<u64> = storage
            .list(self.folder)
            .map_err(|cause| error::io("listing", self.folder, cause))?
            .iter()
            .filter_map(|name| segment::number_of(name))
            .collect();
        numbers.sort_unstable();
        let mut log = None;
        let mut files = Vec::new();
        let mut before = None;
        for number in numbers {
            if before.is_some_and(|before| before + 1 != number) {
                let missing = self.folder.join(segment::file_name(number - 1));
                self.note(&missing, 0, "the file is missing");
            }
            before = Some(number);
            let path = self.folder.join(segment::file_name(number));
            let reading = |cause| error::io("reading", &path, cause);
            let file = storage.open(&path).map_err(reading)?;
            let len = file.len().map_err(reading)?;
            // A header that is broken costs nothing: the name tells the number, the others the log.
            match Segment::load(path.clone(), number, &*file) {
                Ok((_, header)) => log = log.or(Some(header.log)),
                Err(error) if error.code() == "log.corrupt" => {
                    log = log.or_else(|| identity_by_record(&file, number, len));
                    let at = if len < header::SIZE as u64 { len } else { 0 };
                    self.note(&path, at, "the header is broken, or the file is too short");
                }
                Err(error) => return Err(error),
            }
            files.push((number, path, file, len));
        }
        let Some(log) = log else {
            return Ok(Vec::new());
        };
        let source = |(number, path, file, len)| Source {
            path,
            number,
            file,
            identity: Identity::new(log, number),
            len,
        };
        Ok(files.into_iter().map(source).collect())
    }

    fn note(&mut self, file: &Path, offset: u64, what: &str) {
        self.walked.damage.push(Damage {
            file: file.into(),
            offset,
            what: what.to_owned(),
        });
    }

    fn run(&mut self, sources: &[Source]) -> Result<()> {
        for (index, source) in sources.iter().enumerate() {
            self.walked.segments.push(SegmentState {
                file: source.path.clone(),
                bytes: source.len,
                used: FIRST_FRAME,
                records: 0,
                first: None,
                last: None,
            });
            let mut scanner = source.scanner();
            let mut offset = FIRST_FRAME;
            loop {
                let at_offset = scanner.frame(offset).map_err(source.reading())?;
                let expected = self.expected;
                let follows = |frame: &Frame| expected.is_none_or(|next| frame.sequence == next);
                if let Some(frame) = at_offset.filter(follows) {
                    offset = frame.end();
                    self.take(&frame)?;
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
                    self.walked.dropped.push(Dropped {
                        file: source.path.clone(),
                        from: offset,
                        until: frame.offset,
                        records: None,
                        why: Dropped::DAMAGED,
                    });
                }
                offset = frame.end();
                self.take(&frame)?;
            }
        }
        Ok(())
    }

    /// Reports what follows the last whole record of a segment, if anything does.
    fn drop_rest(&mut self, source: &Source, offset: u64, is_torn: bool) -> Result<()> {
        if source.has_remains(offset).map_err(source.reading())? {
            self.walked.dropped.push(Dropped {
                file: source.path.clone(),
                from: offset,
                until: source.len,
                records: None,
                why: if is_torn {
                    Dropped::TORN
                } else {
                    Dropped::DAMAGED
                },
            });
        }
        Ok(())
    }

    fn take(&mut self, frame: &Frame) -> Result<()> {
        if let Some(first) = self.expected.filter(|first| *first < frame.sequence) {
            self.note_gap(first, frame.sequence)?;
        }
        if frame.kind == frame::Kind::Gap {
            // One of an earlier repair.
            (self.visit)(Whole::Gap(frame.sequence, frame.next()))?;
        } else {
            (self.visit)(Whole::Record(frame.sequence, frame.payload.clone()))?;
        }
        if let Some(segment) = self.walked.segments.last_mut() {
            segment.used = frame.end();
            segment.records += u64::from(frame.kind == frame::Kind::Record);
            segment.first.get_or_insert(frame.sequence);
            segment.last = Some(frame.next() - 1);
        }
        self.expected = Some(frame.next());
        Ok(())
    }

    /// Says which records were lost with the bytes that were dropped last, or else with a segment.
    fn note_gap(&mut self, first: Sequence, until: Sequence) -> Result<()> {
        let records = Some((first, until));
        match self.walked.dropped.last_mut() {
            Some(last) if last.records.is_none() => last.records = records,
            _ => self.walked.dropped.push(Dropped {
                file: self.folder.into(),
                from: 0,
                until: 0,
                records,
                why: Dropped::MISSING,
            }),
        }
        (self.visit)(Whole::Gap(first, until))
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
