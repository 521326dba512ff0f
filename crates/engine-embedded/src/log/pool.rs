//! Segments made ahead: zero-filled and durable, header and name included, so that going on in the
//! next segment costs the writer nothing but the first write to it.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use sinew_core::{Error, Result};

use super::{
    error,
    fatal::Fatal,
    frame::LogId,
    header::Header,
    segment::{self, Segment},
};
use crate::storage::{File, Storage};

/// Ends the names of files that are not finished; what bears it is removed when the log is opened.
pub(super) const UNFINISHED: &str = ".tmp";

/// How new segments are made.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) folder: PathBuf,
    pub(super) log: LogId,
    pub(super) capacity: u64,
}

/// A segment and its file, ready to be written.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) segment: Arc<Segment>,
    pub(super) file: Arc<dyn File>,
}

#[derive(Debug)]
pub(super) struct Pool {
    recipe: Recipe,
    fatal: Fatal,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    ready: VecDeque<Prepared>,
    next_number: u64,
    /// Why the last attempt failed.
    trouble: Option<Trouble>,
    /// Whether a thread makes segments; otherwise whoever needs one does.
    has_thread: bool,
    is_closed: bool,
}

#[derive(Debug)]
struct Trouble {
    is_full: bool,
    what: String,
}

impl Trouble {
    fn error(&self) -> Error {
        if self.is_full {
            return error::full(self.what.clone());
        }
        Error::new(
            sinew_core::Kind::Unavailable,
            "log.io",
            "making room for the log failed; it is tried again",
        )
        .with_context(self.what.clone())
    }
}

impl Pool {
    pub(super) fn new(
        recipe: Recipe,
        ready: Vec<Prepared>,
        next_number: u64,
        fatal: Fatal,
    ) -> Self {
        let state = State {
            ready: ready.into(),
            next_number,
            trouble: None,
            has_thread: false,
            is_closed: false,
        };
        Self {
            recipe,
            fatal,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Whether a segment is ready: then the room in the one before need not be kept back.
    pub(super) fn is_ready(&self) -> bool {
        !self.state.lock().ready.is_empty()
    }

    /// The next segment. Waits for the thread that makes it for at most `patience`, unless that
    /// thread is known to be in trouble.
    pub(super) fn take(&self, patience: Duration) -> Result<Prepared> {
        loop {
            self.wait_ready(patience)?;
            if let Some(prepared) = self.state.lock().ready.pop_front() {
                self.changed.notify_all();
                return Ok(prepared);
            }
        }
    }

    /// Waits, as [`Pool::take`] does, until a segment is ready.
    pub(super) fn wait_ready(&self, patience: Duration) -> Result<()> {
        let mut state = self.state.lock();
        if !state.has_thread && state.ready.is_empty() {
            drop(state);
            return self.make();
        }
        loop {
            if !state.ready.is_empty() {
                return Ok(());
            }
            if let Some(trouble) = &state.trouble {
                return Err(trouble.error());
            }
            self.fatal.check()?;
            if self.changed.wait_for(&mut state, patience).timed_out() {
                let what = format!("no new segment within {} s", patience.as_secs());
                return Err(Trouble {
                    is_full: false,
                    what,
                }
                .error());
            }
        }
    }

    /// Makes one segment now, unless one is ready.
    pub(super) fn make(&self) -> Result<()> {
        let number = {
            let state = self.state.lock();
            if !state.ready.is_empty() {
                return Ok(());
            }
            state.next_number
        };
        let made = self.recipe.make(number, &self.fatal);
        let mut state = self.state.lock();
        match made {
            Ok(prepared) => {
                if let Some(trouble) = state.trouble.take() {
                    tracing::info!(after = trouble.what, "the log has room again");
                }
                state.next_number += 1;
                state.ready.push_back(prepared);
                self.changed.notify_all();
                Ok(())
            }
            Err(trouble) => {
                self.fatal.check()?;
                if state.trouble.is_none() {
                    tracing::warn!(
                        cause = trouble.what,
                        "the log cannot make room; appends are refused once its segment is full"
                    );
                }
                let error = trouble.error();
                state.trouble = Some(trouble);
                self.changed.notify_all();
                Err(error)
            }
        }
    }

    /// From now on a thread runs [`Pool::keep_ready`].
    pub(super) fn hand_over_to_thread(&self) {
        self.state.lock().has_thread = true;
    }

    /// Keeps a segment ready until the pool is closed. After a failure it tries again every
    /// `retry`, and when room was made.
    pub(super) fn keep_ready(&self, retry: Duration) {
        loop {
            let failed = self.make().is_err();
            let mut state = self.state.lock();
            if state.is_closed || self.fatal.check().is_err() {
                return;
            }
            if failed && state.trouble.is_some() {
                self.changed.wait_for(&mut state, retry);
            } else if !state.ready.is_empty() {
                // The time-out is only a belt: whoever takes a segment wakes this thread.
                self.changed.wait_for(&mut state, Duration::from_secs(60));
            }
            if state.is_closed {
                return;
            }
        }
    }

    /// Tells that there may be room now.
    pub(super) fn room_was_made(&self) {
        let mut state = self.state.lock();
        if state.has_thread {
            state.trouble = None;
        }
        self.changed.notify_all();
    }

    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.changed.notify_all();
    }
}

impl Recipe {
    fn make(&self, number: u64, fatal: &Fatal) -> Result<Prepared, Trouble> {
        let header = Header {
            log: self.log,
            segment: number,
            capacity: self.capacity,
        };
        let name = segment::file_name(number);
        let path = self.folder.join(&name);
        let unfinished = self.folder.join(name + UNFINISHED);
        let filled = self.fill(&unfinished, &header);
        let renamed = filled.and_then(|file| {
            self.storage.rename(&unfinished, &path)?;
            Ok(file)
        });
        let file = renamed.map_err(|cause| {
            // Whether or not this works, a file of that name is removed before the next attempt.
            let _ = self.storage.remove(&unfinished);
            Trouble {
                is_full: error::is_out_of_room(&cause),
                what: format!("making {}: {cause}", path.display()),
            }
        })?;
        if let Err(cause) = self.storage.sync_dir(&self.folder) {
            let error = fatal.failed_sync(&self.folder, &cause);
            return Err(Trouble {
                is_full: false,
                what: error.detail(),
            });
        }
        Ok(Prepared {
            segment: Arc::new(Segment::new(path, &header)),
            file,
        })
    }

    /// A failed sync is no reason to end here: nothing that anyone relies on is in the file, and it
    /// is thrown away.
    fn fill(&self, path: &Path, header: &Header) -> io::Result<Arc<dyn File>> {
        match self.storage.remove(path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
        let file = self.storage.create(path)?;
        file.write_at(&header.encode(), 0)?;
        // This makes the header durable, too.
        file.allocate_zeroed(self.capacity)?;
        Ok(file)
    }
}
