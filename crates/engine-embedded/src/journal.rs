//! One thread that commits for all: it takes what waits, lets each *face* of the store check and
//! stage it, writes everything as one record of the log with one sync, and has the faces answer.
//!
//! ```text
//! callers ─▶ a bounded queue a face ─▶ stage, stage, … ─▶ record ─▶ fdatasync ─▶ durable, durable, …
//! ```
//!
//! What arrives while the disk syncs is the next record. A record is durable as a whole or not at
//! all, so whatever is staged in one turn, by one face or by several, happens at once.
//!
//! A face keeps in memory what it has not made durable in files of its own yet, and a [`Hold`] on
//! the log from there on. The log lets go of what nobody holds.

mod hold;
pub(crate) mod record;
mod slot;
#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::Duration,
};

use bytes::Bytes;
use sinew_core::{Clock, Error, Kind, Result};
use tokio::{
    runtime,
    sync::{Notify, watch},
};

use self::hold::Holds;
pub(crate) use self::{
    hold::Hold,
    slot::{Outcome, Pair, Slot, Staging, Unit, UnitAnswer},
};
use crate::{
    damage::HINT,
    log::{Entry, OwnedLog, Sequence},
};

/// Bytes that a record may have: what is staged in a turn ends beyond [`TURN_BYTES`] a face, and one
/// command more may have been let in.
pub(crate) const RECORD_BYTES: usize = 32 << 20;
/// A face stages commands until its part has this size, so that none waits for very many bytes.
const TURN_BYTES: usize = 4 << 20;
/// Commands that are taken from a queue at once.
const TURN_COMMANDS: usize = 2048;
/// With nothing to wait for, the thread looks around after this.
const IDLE: Duration = Duration::from_secs(3600);

/// One face of the store: a state that is made of records of the log. It lives on the commit
/// thread.
pub(crate) trait Face: Send + 'static {
    /// What callers ask for. It carries the way to answer.
    type Command: Send + 'static;

    /// Marks this face's parts of records, for ever.
    const TAG: u8;

    /// Checks a command against the state with everything staged before it, appends to `part` what
    /// must be durable, and stages it. The answer is kept until [`Face::durable`] or
    /// [`Face::refused`], also when nothing was appended: it may rest on what was staged before.
    fn stage(&mut self, command: Self::Command, part: &mut Vec<u8>);

    /// When something is due by itself, on the monotonic clock.
    fn deadline(&self) -> Option<Duration> {
        None
    }

    /// Stages what is due. It comes before the commands of its turn.
    fn due(&mut self, _now: Duration, _part: &mut Vec<u8>) {}

    /// What was staged in this turn is durable in record `sequence`, and `part` is what this face
    /// appended to it; it is empty when there was nothing to write, and then `sequence` is that of
    /// the last record. Makes it visible and answers. `part` shares memory with the record.
    fn durable(&mut self, sequence: Sequence, part: Bytes);

    /// Nothing of what was staged in this turn was written, unless the error is `log.failed`: then
    /// nobody knows. Forgets it and answers.
    fn refused(&mut self, error: &Error);

    /// Whether what is staged leads to room being made, so that it may be written on a full disk.
    fn makes_room(&self) -> bool {
        false
    }

    /// The first record that the face has not got in files of its own.
    fn next(&self) -> Sequence;

    /// At opening: this face's part of a record that it has not got, in order.
    fn replay(&mut self, sequence: Sequence, part: Bytes) -> Result<()>;

    /// Everything was replayed: from now on it is served.
    fn replayed(&mut self) {}
}

/// All faces of a store: one [`Slot`], or a [`Pair`] of them.
pub(crate) trait Faces: Send + 'static {
    /// Ready when something waits (`true`), or when nobody is left who could ask (`false`).
    fn poll_arrival(&mut self, context: &mut Context<'_>) -> Poll<bool>;
    /// Takes nothing more from anybody; what is queued stays.
    fn close(&mut self);
    fn deadline(&self) -> Option<Duration>;
    fn stage(&mut self, now: Duration);
    /// Whether all that has something to write makes room.
    fn makes_room(&self) -> bool;
    /// Appends the parts of what is staged to a record.
    fn put_parts(&mut self, record: &mut Vec<u8>);
    fn durable(&mut self, sequence: Sequence, record: &Bytes);
    fn refused(&mut self, error: &Error);
    /// The first record that any face has not got.
    fn next(&self) -> Sequence;
    /// Whether there is a face of this tag.
    fn replay(&mut self, sequence: Sequence, tag: u8, part: Bytes) -> Result<bool>;
    /// The replay is over: from now on the log may let go of what nobody holds.
    fn replayed(&mut self);
}

/// A log that is open, and not served yet.
pub(crate) struct Opening {
    log: OwnedLog,
    holds: Arc<Holds>,
}

/// The way to end a running journal. It also ends when nobody is left who could ask.
#[derive(Clone)]
pub(crate) struct Journal {
    closing: Arc<Notify>,
    ended: watch::Receiver<()>,
}

impl Opening {
    pub(crate) fn new(log: OwnedLog) -> Self {
        let holds = Arc::new(Holds::new(log.releaser()));
        Self { log, holds }
    }

    /// A face's hold on the log; to begin with, on all of it.
    pub(crate) fn hold(&self) -> Hold {
        Hold::new(&self.holds)
    }

    /// Replays what the faces have not got yet, and starts the thread. `keep` is dropped as the
    /// last thing when it ends, after the log: the lock of the folder.
    pub(crate) fn start(
        self,
        mut faces: impl Faces,
        clock: Clock,
        keep: impl Send + 'static,
    ) -> Result<Journal> {
        self.replay(&mut faces)?;
        faces.replayed();
        let runtime = runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|cause| unavailable("the commit thread could not start").with_source(cause))?;
        let closing = Arc::new(Notify::new());
        let (end, ended) = watch::channel(());
        let mut work = Thread {
            faces,
            log: self.log,
            clock,
            closing: Arc::clone(&closing),
        };
        let run = move || {
            work.run(&runtime);
            drop(work);
            drop(keep);
            drop(end);
        };
        thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(run)
            .map_err(|cause| unavailable("the commit thread could not start").with_source(cause))?;
        Ok(Journal { closing, ended })
    }

    fn replay(&self, faces: &mut impl Faces) -> Result<()> {
        // Whatever is older is held by nobody, so nobody has anything in it.
        let from = faces.next().max(self.log.recovery().oldest);
        if from > self.log.next() {
            return Err(corrupt(format!(
                "the log ends before record {from}, which was durable once"
            )));
        }
        let mut reader = self.log.reader(from)?;
        while let Some(entry) = reader.next()? {
            let Entry::Record(found) = entry else {
                return Err(corrupt(
                    "the log has a gap that a repair has left".to_owned(),
                ));
            };
            for part in record::parts(&found.payload, found.sequence) {
                let (tag, part) = part?;
                if !faces.replay(found.sequence, tag, part)? {
                    return Err(record::unknown_part(tag, found.sequence));
                }
            }
        }
        Ok(())
    }
}

impl Journal {
    /// Refuses what comes from now on, writes what is queued, and lets go of all files.
    pub(crate) async fn close(&self) {
        self.closing.notify_one();
        let mut ended = self.ended.clone();
        // It answers only by ending.
        while ended.changed().await.is_ok() {}
    }
}

struct Thread<F: Faces> {
    // Before the log: they let go of their files while it is still there.
    faces: F,
    log: OwnedLog,
    clock: Clock,
    closing: Arc<Notify>,
}

impl<F: Faces> Thread<F> {
    fn run(&mut self, runtime: &runtime::Runtime) {
        while runtime.block_on(self.wait()) {
            self.turn();
        }
    }

    /// Waits for commands, for time to pass or for the end; tells whether to go on.
    async fn wait(&mut self) -> bool {
        let now = self.clock.monotonic();
        let deadline = self.faces.deadline().unwrap_or(Duration::MAX);
        let until = deadline.min(now + IDLE);
        tokio::select! {
            biased;
            arrived = poll_fn(|context| self.faces.poll_arrival(context)) => arrived,
            () = self.closing.notified() => {
                self.faces.close();
                true
            }
            () = self.clock.sleep_until(until) => true,
        }
    }

    fn turn(&mut self) {
        self.faces.stage(self.clock.monotonic());
        let makes_room = self.faces.makes_room();
        let mut record = record::begin();
        let empty = record.len();
        self.faces.put_parts(&mut record);
        if record.len() == empty {
            let last = self.log.next() - 1;
            return self.faces.durable(last, &Bytes::new());
        }
        match self.log.append(&record, makes_room) {
            Ok(sequence) => self.faces.durable(sequence, &Bytes::from(record)),
            Err(error) => self.faces.refused(&error),
        }
    }
}

fn unavailable(message: &str) -> Error {
    Error::new(Kind::Unavailable, "store.unavailable", message)
}

fn corrupt(what: String) -> Error {
    Error::new(Kind::DataLoss, "store.corrupt", format!("{what}; {HINT}"))
}
