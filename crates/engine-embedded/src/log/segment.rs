//! One file of the log, and the list of them.

use std::{
    collections::VecDeque,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use parking_lot::{Mutex, RwLock};
use sinew_core::Result;

use super::{
    Sequence, error,
    fatal::Fatal,
    frame::Identity,
    header::{self, Header},
};
use crate::storage::{File, Storage, read_exact_at};

/// A segment. What is fixed is here; where the log ends is told by [`End`].
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) number: u64,
    pub(super) capacity: u64,
    pub(super) identity: Identity,
    /// Its first record, once there is one.
    pub(super) first: OnceLock<Sequence>,
    /// Every so often, where a record lies: in order, so that a reader need not begin at the front.
    marks: Mutex<Vec<Mark>>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    sequence: Sequence,
    offset: u64,
}

impl Segment {
    pub(super) fn new(path: PathBuf, header: &Header) -> Self {
        Self {
            path,
            number: header.segment,
            capacity: header.capacity,
            identity: header.identity(),
            first: OnceLock::new(),
            marks: Mutex::default(),
        }
    }

    /// Reads a segment's header and checks that it is what its name says.
    pub(super) fn load(path: PathBuf, number: u64, file: &dyn File) -> Result<(Self, Header)> {
        let mut bytes = [0; header::SIZE];
        read_exact_at(file, &mut bytes, 0).map_err(|cause| match cause.kind() {
            io::ErrorKind::UnexpectedEof => {
                error::corrupt(&path, 0, "the file ends within its header")
            }
            _ => error::io("reading", &path, cause),
        })?;
        let header = Header::decode(&bytes, &path)?;
        if header.segment != number {
            let what = format!("it is segment {} under another's name", header.segment);
            return Err(error::corrupt(&path, 32, &what));
        }
        let len = file
            .len()
            .map_err(|cause| error::io("reading", &path, cause))?;
        if len < header.capacity {
            return Err(error::corrupt(
                &path,
                len,
                "the file is shorter than it was made",
            ));
        }
        Ok((Self::new(path, &header), header))
    }

    /// Remembers a place, unless one close by is remembered.
    pub(super) fn mark(&self, sequence: Sequence, offset: u64) {
        const APART: u64 = 256 << 10;
        let mut marks = self.marks.lock();
        let at = marks.partition_point(|mark| mark.offset <= offset);
        let before = at
            .checked_sub(1)
            .map_or(header::FIRST_FRAME, |at| marks[at].offset);
        let after = marks.get(at).map_or(u64::MAX, |mark| mark.offset);
        if offset - before >= APART && after - offset >= APART {
            marks.insert(at, Mark { sequence, offset });
        }
    }

    /// Where to begin reading to come upon `sequence`.
    pub(super) fn offset_before(&self, sequence: Sequence) -> u64 {
        let marks = self.marks.lock();
        let at = marks.partition_point(|mark| mark.sequence <= sequence);
        at.checked_sub(1)
            .map_or(header::FIRST_FRAME, |at| marks[at].offset)
    }
}

/// The name of a segment's file.
pub(super) fn file_name(number: u64) -> String {
    format!("{number:010}.log")
}

/// The number in a segment's name, if it is one.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".log")?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

/// Up to where the log is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// The segment that is written, or will be.
    pub(super) segment: u64,
    /// Where its next frame will begin.
    pub(super) offset: u64,
    /// The sequence number of the next record.
    pub(super) next: Sequence,
}

/// The segments of a log, as its readers and its writer share them.
pub(super) struct Segments {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) folder: PathBuf,
    state: RwLock<State>,
    /// Files that were read not long ago.
    open: Mutex<VecDeque<(u64, Arc<dyn File>)>>,
    /// Held while segments are removed.
    releasing: Mutex<()>,
    pub(super) fatal: Fatal,
}

struct State {
    /// Those with records, oldest first, and the one that is written even while it has none.
    list: VecDeque<Arc<Segment>>,
    end: End,
}

impl fmt::Debug for Segments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.read();
        f.debug_struct("Segments")
            .field("folder", &self.folder)
            .field("segments", &state.list.len())
            .field("end", &state.end)
            .finish()
    }
}

impl Segments {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        folder: &Path,
        list: Vec<Arc<Segment>>,
        end: End,
        fatal: Fatal,
    ) -> Self {
        Self {
            storage,
            folder: folder.into(),
            state: RwLock::new(State {
                list: list.into(),
                end,
            }),
            open: Mutex::default(),
            releasing: Mutex::default(),
            fatal,
        }
    }

    pub(super) fn end(&self) -> End {
        self.state.read().end
    }

    /// Makes what the writer has made durable visible to readers. `segment` is the one that it
    /// wrote to.
    pub(super) fn advance(&self, segment: &Arc<Segment>, end: End) {
        let mut state = self.state.write();
        if state
            .list
            .back()
            .is_none_or(|last| last.number != segment.number)
        {
            state.list.push_back(Arc::clone(segment));
        }
        state.end = end;
    }

    /// The oldest record that is kept; the next one to come when there is none.
    pub(super) fn oldest(&self) -> Sequence {
        let state = self.state.read();
        state
            .list
            .front()
            .and_then(|segment| segment.first.get().copied())
            .unwrap_or(state.end.next)
    }

    /// The segment that holds `sequence`, which is not beyond the end.
    pub(super) fn holding(&self, sequence: Sequence) -> Option<Arc<Segment>> {
        let state = self.state.read();
        let starts_before =
            |segment: &Arc<Segment>| segment.first.get().is_some_and(|first| *first <= sequence);
        let at = state.list.partition_point(starts_before).checked_sub(1)?;
        state.list.get(at).cloned()
    }

    pub(super) fn numbered(&self, number: u64) -> Option<Arc<Segment>> {
        let state = self.state.read();
        let oldest = state.list.front()?.number;
        let at = usize::try_from(number.checked_sub(oldest)?).ok()?;
        state.list.get(at).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Segment>> {
        self.state.read().list.iter().cloned().collect()
    }

    /// Up to where a segment may be read now.
    pub(super) fn limit(&self, segment: &Segment) -> u64 {
        let end = self.end();
        if end.segment == segment.number {
            end.offset
        } else {
            segment.capacity
        }
    }

    pub(super) fn file(&self, segment: &Segment) -> Result<Arc<dyn File>> {
        const KEPT: usize = 32;
        let mut open = self.open.lock();
        if let Some((_, file)) = open.iter().find(|(number, _)| *number == segment.number) {
            return Ok(Arc::clone(file));
        }
        let file = self
            .storage
            .open(&segment.path)
            .map_err(|cause| match cause.kind() {
                io::ErrorKind::NotFound => error::released(
                    segment.first.get().copied().unwrap_or_default(),
                    self.oldest(),
                ),
                _ => error::io("opening", &segment.path, cause),
            })?;
        open.truncate(KEPT - 1);
        open.push_front((segment.number, Arc::clone(&file)));
        Ok(file)
    }

    /// Removes whole segments, oldest first, as long as all their records lie before `before`. The
    /// newest record always stays: it tells where the sequence goes on.
    ///
    /// One is gone for good before the next goes, so that a loss of power leaves no hole.
    pub(super) fn release(&self, before: Sequence) -> Result<usize> {
        let _releasing = self.releasing.lock();
        let mut removed = 0;
        while let Some(segment) = self.take_oldest(before) {
            self.open
                .lock()
                .retain(|(number, _)| *number != segment.number);
            if let Err(cause) = self.storage.remove(&segment.path) {
                let error = error::io("removing a segment of", &segment.path, cause);
                self.state.write().list.push_front(segment);
                return Err(error);
            }
            if let Err(cause) = self.storage.sync_dir(&self.folder) {
                return Err(self.fatal.failed_sync(&self.folder, &cause));
            }
            removed += 1;
        }
        Ok(removed)
    }

    fn take_oldest(&self, before: Sequence) -> Option<Arc<Segment>> {
        let mut state = self.state.write();
        let second = *state.list.get(1)?.first.get()?;
        if second <= before {
            state.list.pop_front()
        } else {
            None
        }
    }
}
