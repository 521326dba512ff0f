//! Opening a log: finding its end, and making sure that what is served from now on is durable.
//!
//! The end is the last whole record of the last segment that has one. What follows it is one of:
//! - nothing, or zeros: the log ended there;
//! - parts of one batch: power was lost while it was written. None of it was acknowledged beyond
//!   the whole records before the first broken one, and all of it is wiped, so that no later record
//!   can end where an old one begins and bring it back;
//! - a whole record of a *later* batch, which was written only because everything before it was
//!   durable: then this is no torn tail but damage, and an error.
//!
//! The last batch is written again and synced before anything else: when the process was killed, or
//! ended over a failed sync, the kernel may show bytes that the disk has not got.

use std::{path::Path, sync::Arc};

use sinew_core::Result;

use super::{
    Options, Sequence,
    checkpoint::Slots,
    error,
    fatal::Fatal,
    frame::LogId,
    header::{FIRST_FRAME, Header},
    pool::{self, Pool, Prepared, Recipe},
    scan::{self, Frame, Scanner},
    segment::{self, End, Segment, Segments},
    writer::Writer,
};
use crate::storage::{File, Storage, read_exact_at, to_usize};

/// A log that was opened.
pub(super) struct Opened {
    pub(super) segments: Arc<Segments>,
    pub(super) pool: Arc<Pool>,
    pub(super) writer: Writer,
    pub(super) slots: Slots,
    pub(super) recovery: Recovery,
}

/// What opening a log found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The oldest record that is kept; equal to `next` when there is none.
    pub oldest: Sequence,
    /// The sequence number that the next record will get.
    pub next: Sequence,
    /// The bytes of a torn batch that were cut off, about. None of it had been acknowledged.
    pub cut_bytes: u64,
}

struct Candidate {
    segment: Segment,
    file: Arc<dyn File>,
    first: Option<Frame>,
}

/// Opens the log in `folder`, or makes a new one there if it is empty.
pub(super) fn open(storage: &Arc<dyn Storage>, folder: &Path, options: &Options) -> Result<Opened> {
    options.check()?;
    let fatal = Fatal::new(options.failed_sync.clone());
    make_folder(storage, folder)?;
    tidy(storage, folder)?;
    let candidates = load(storage, folder)?;
    let Some(log) = candidates.first().map(|(_, header)| header.log) else {
        return create(storage, folder, options, fatal);
    };
    for (candidate, header) in &candidates {
        if header.log != log {
            return Err(error::corrupt(
                &candidate.segment.path,
                16,
                "it belongs to another log",
            ));
        }
    }
    let slots = Slots::open(storage, folder, log)?;
    let candidates: Vec<Candidate> = candidates
        .into_iter()
        .map(|(candidate, _)| candidate)
        .collect();

    let tail = find_tail(&candidates)?;
    // The names as they are found need not be durable either.
    sync_dir(storage, folder, &fatal)?;
    slots.make_durable(&fatal)?;
    let cut_bytes = make_durable(&candidates[tail.index..], &tail, &fatal)?;
    if cut_bytes > 0 {
        tracing::info!(
            file = %candidates[tail.index].segment.path.display(),
            offset = tail.end.offset,
            bytes = cut_bytes,
            "cut an unfinished batch off the log's end"
        );
    }

    let candidates = discard_other_sizes(storage, folder, options, &fatal, candidates, &tail)?;
    if candidates.is_empty() {
        let (segments, pool, current) = first_segment(storage, folder, options, fatal, log, 1)?;
        return Ok(finish(segments, pool, current, slots, options, cut_bytes));
    }
    let next_number = candidates.last().map_or(1, |last| last.segment.number + 1);
    let mut list = Vec::new();
    let mut ready = Vec::new();
    let mut current = None;
    for (index, candidate) in candidates.into_iter().enumerate() {
        let Candidate {
            segment,
            file,
            first,
        } = candidate;
        if let Some(first) = first {
            let _ = segment.first.set(first.sequence);
        }
        let prepared = Prepared {
            segment: Arc::new(segment),
            file,
        };
        if index <= tail.index {
            list.push(Arc::clone(&prepared.segment));
        }
        match index.cmp(&tail.index) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => current = Some(prepared),
            std::cmp::Ordering::Greater => ready.push(prepared),
        }
    }
    let current = current.ok_or_else(|| error::failed("its last segment is gone"))?;
    let capacity = options.segment_bytes;
    let recipe = Recipe {
        storage: Arc::clone(storage),
        folder: folder.into(),
        log,
        capacity,
    };
    let pool = Arc::new(Pool::new(recipe, ready, next_number, fatal.clone()));
    let segments = Arc::new(Segments::new(
        Arc::clone(storage),
        folder,
        list,
        tail.end,
        fatal,
    ));
    Ok(finish(segments, pool, current, slots, options, cut_bytes))
}

fn create(
    storage: &Arc<dyn Storage>,
    folder: &Path,
    options: &Options,
    fatal: Fatal,
) -> Result<Opened> {
    let log = options
        .identity
        .unwrap_or_else(|| *sinew_core::new_id().as_bytes());
    // First the slots: a log with segments always has them.
    let slots = Slots::create(storage, folder, log, &fatal)?;
    let (segments, pool, current) = first_segment(storage, folder, options, fatal, log, 1)?;
    Ok(finish(segments, pool, current, slots, options, 0))
}

/// Makes a log that begins with record `next` and has no checkpoint file yet: it does not open
/// until [`Slots::create`] made one.
pub(super) fn create_segments(
    storage: &Arc<dyn Storage>,
    folder: &Path,
    options: &Options,
    fatal: Fatal,
    next: Sequence,
) -> Result<Writer> {
    options.check()?;
    let log = options
        .identity
        .unwrap_or_else(|| *sinew_core::new_id().as_bytes());
    let (segments, pool, current) = first_segment(storage, folder, options, fatal, log, next)?;
    Ok(Writer::new(segments, pool, current, options))
}

fn first_segment(
    storage: &Arc<dyn Storage>,
    folder: &Path,
    options: &Options,
    fatal: Fatal,
    log: LogId,
    next: Sequence,
) -> Result<(Arc<Segments>, Arc<Pool>, Prepared)> {
    let capacity = options.segment_bytes;
    let recipe = Recipe {
        storage: Arc::clone(storage),
        folder: folder.into(),
        log,
        capacity,
    };
    let pool = Arc::new(Pool::new(recipe, Vec::new(), 1, fatal.clone()));
    let current = pool.take(options.timeout)?;
    let end = End {
        segment: current.segment.number,
        offset: FIRST_FRAME,
        next,
    };
    let list = vec![Arc::clone(&current.segment)];
    let segments = Arc::new(Segments::new(Arc::clone(storage), folder, list, end, fatal));
    Ok((segments, pool, current))
}

fn finish(
    segments: Arc<Segments>,
    pool: Arc<Pool>,
    current: Prepared,
    slots: Slots,
    options: &Options,
    cut_bytes: u64,
) -> Opened {
    let recovery = Recovery {
        oldest: segments.oldest(),
        next: segments.end().next,
        cut_bytes,
    };
    let writer = Writer::new(Arc::clone(&segments), Arc::clone(&pool), current, options);
    Opened {
        segments,
        pool,
        writer,
        slots,
        recovery,
    }
}

/// Makes the folder, durably, if it is not there.
pub(super) fn make_folder(storage: &Arc<dyn Storage>, folder: &Path) -> Result<()> {
    let failed = |cause| error::io("making the folder of", folder, cause);
    storage.create_dir(folder).map_err(failed)?;
    if let Some(above) = folder.parent() {
        let above = if above.as_os_str().is_empty() {
            Path::new(".")
        } else {
            above
        };
        storage.sync_dir(above).map_err(failed)?;
    }
    Ok(())
}

/// Removes what was not finished.
fn tidy(storage: &Arc<dyn Storage>, folder: &Path) -> Result<()> {
    let failed = |cause| error::io("tidying the folder of", folder, cause);
    for name in storage.list(folder).map_err(failed)? {
        if name.ends_with(pool::UNFINISHED) {
            storage.remove(&folder.join(&name)).map_err(failed)?;
        }
    }
    Ok(())
}

/// The segments in the folder, oldest first, with their first records.
fn load(storage: &Arc<dyn Storage>, folder: &Path) -> Result<Vec<(Candidate, Header)>> {
    let names = storage
        .list(folder)
        .map_err(|cause| error::io("listing", folder, cause))?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| segment::number_of(name))
        .collect();
    numbers.sort_unstable();
    let mut found = Vec::new();
    for (index, number) in numbers.iter().copied().enumerate() {
        let path = folder.join(segment::file_name(number));
        if index > 0 && numbers[index - 1] + 1 != number {
            let missing = folder.join(segment::file_name(number - 1));
            return Err(error::corrupt(&missing, 0, "the file is missing"));
        }
        let reading = |cause| error::io("reading", &path, cause);
        let file = storage.open(&path).map_err(reading)?;
        let (segment, header) = Segment::load(path.clone(), number, &*file)?;
        let first = Scanner::for_one(Arc::clone(&file), segment.identity, segment.capacity)
            .frame(FIRST_FRAME)
            .map_err(reading)?;
        found.push((
            Candidate {
                segment,
                file,
                first,
            },
            header,
        ));
    }
    Ok(found)
}

/// The identity of the log in a folder.
pub(super) fn identity_of(storage: &Arc<dyn Storage>, folder: &Path) -> Result<LogId> {
    let loaded = load(storage, folder)?;
    let log = loaded.first().map(|(_, header)| header.log);
    log.ok_or_else(|| error::failed("it has no segments"))
}

/// Removes segments without records that were made with another size than is wanted now, with what
/// follows them: a record that is allowed now might not fit into one.
fn discard_other_sizes(
    storage: &Arc<dyn Storage>,
    folder: &Path,
    options: &Options,
    fatal: &Fatal,
    mut candidates: Vec<Candidate>,
    tail: &Tail,
) -> Result<Vec<Candidate>> {
    let is_empty = |candidate: &Candidate| candidate.first.is_none();
    let is_other = |candidate: &Candidate| candidate.segment.capacity != options.segment_bytes;
    let kept = candidates[tail.index..]
        .iter()
        .position(|candidate| is_empty(candidate) && is_other(candidate))
        .map_or(candidates.len(), |at| tail.index + at);
    // The newest first, so that a loss of power leaves no hole.
    while candidates.len() > kept
        && let Some(Candidate { segment, .. }) = candidates.pop()
    {
        storage
            .remove(&segment.path)
            .map_err(|cause| error::io("removing a segment of", &segment.path, cause))?;
        sync_dir(storage, folder, fatal)?;
    }
    Ok(candidates)
}

struct Tail {
    index: usize,
    end: End,
    /// Where the last batch begins.
    batch: u64,
}

fn find_tail(candidates: &[Candidate]) -> Result<Tail> {
    let index = candidates
        .iter()
        .rposition(|candidate| candidate.first.is_some())
        .unwrap_or(0);
    let mut before = None;
    for Candidate { segment, first, .. } in &candidates[..index] {
        let first = first.as_ref().map(|first| first.sequence);
        if first.is_none() || first <= before {
            return Err(error::corrupt(
                &segment.path,
                FIRST_FRAME,
                "its first record is broken",
            ));
        }
        before = first;
    }
    let Candidate {
        segment,
        file,
        first,
    } = &candidates[index];
    let expected = match first {
        Some(first) if Some(first.sequence) > before => first.sequence,
        None if segment.number == 1 => 1,
        // The newest record is never released, so there was one here.
        _ => {
            return Err(error::corrupt(
                &segment.path,
                FIRST_FRAME,
                "its first record is broken",
            ));
        }
    };
    let mut scanner = Scanner::new(Arc::clone(file), segment.identity, segment.capacity);
    let reading = |cause| error::io("reading", &segment.path, cause);
    let mut end = End {
        segment: segment.number,
        offset: FIRST_FRAME,
        next: expected,
    };
    let mut batch = FIRST_FRAME;
    while let Some(frame) = scanner.frame(end.offset).map_err(reading)? {
        if frame.sequence != end.next {
            break;
        }
        if frame.batch == frame.sequence {
            batch = frame.offset;
        }
        segment.mark(frame.sequence, frame.offset);
        end = End {
            offset: frame.end(),
            next: frame.next(),
            ..end
        };
    }
    for (nth, candidate) in candidates[index..].iter().enumerate() {
        let Segment {
            path,
            identity,
            capacity,
            ..
        } = &candidate.segment;
        let from = if nth == 0 { end.offset } else { FIRST_FRAME };
        let later = Scanner::new(Arc::clone(&candidate.file), *identity, *capacity)
            .find_later_batch(from, end.next)
            .map_err(|cause| error::io("reading", path, cause))?;
        let Some(later) = later else { continue };
        let what = format!(
            "record {} is broken, but record {} in {} at byte {} was written after it was durable",
            end.next,
            later.sequence,
            path.file_name().unwrap_or_default().to_string_lossy(),
            later.offset
        );
        // Where nothing was written the segment had ended, and the record was the next one's first.
        let was_next = nth > 0 && scanner.is_blank(end.offset).map_err(reading)?;
        let (path, offset) = match candidates.get(index + 1) {
            Some(next) if was_next => (&next.segment.path, FIRST_FRAME),
            _ => (&segment.path, end.offset),
        };
        return Err(error::corrupt(path, offset, &what));
    }
    Ok(Tail { index, end, batch })
}

/// Writes the last batch once more, wipes what follows it, and syncs. Answers the bytes wiped.
fn make_durable(candidates: &[Candidate], tail: &Tail, fatal: &Fatal) -> Result<u64> {
    let mut wiped = 0;
    for (nth, Candidate { segment, file, .. }) in candidates.iter().enumerate() {
        let writing = |cause| error::io("recovering", &segment.path, cause);
        let from = if nth == 0 {
            let mut last = vec![0; to_usize(tail.end.offset - tail.batch)];
            read_exact_at(&**file, &mut last, tail.batch).map_err(writing)?;
            file.write_at(&last, tail.batch).map_err(writing)?;
            tail.end.offset
        } else {
            FIRST_FRAME
        };
        wiped += scan::wipe(&**file, from, segment.capacity).map_err(writing)?;
        if let Err(cause) = file.sync_data() {
            return Err(fatal.failed_sync(&segment.path, &cause));
        }
    }
    Ok(wiped)
}

fn sync_dir(storage: &Arc<dyn Storage>, folder: &Path, fatal: &Fatal) -> Result<()> {
    storage
        .sync_dir(folder)
        .map_err(|cause| fatal.failed_sync(folder, &cause))
}
