use std::sync::Arc;

use parking_lot::Mutex;
use sinew_core::Result;

use crate::log::{Releaser, Sequence};

/// What each face still needs of the log.
pub(super) struct Holds {
    log: Releaser,
    faces: Mutex<Vec<Needs>>,
}

struct Needs {
    /// The first record that is needed; `MAX` when none is.
    first: Sequence,
    /// The last record with a part of this face.
    last: Sequence,
}

/// One face's hold on the log.
pub(crate) struct Hold {
    holds: Arc<Holds>,
    index: usize,
}

impl Holds {
    pub(super) fn new(log: Releaser) -> Self {
        Self {
            log,
            faces: Mutex::default(),
        }
    }
}

impl Hold {
    pub(super) fn new(holds: &Arc<Holds>) -> Self {
        let mut faces = holds.faces.lock();
        faces.push(Needs { first: 0, last: 0 });
        Self {
            holds: Arc::clone(holds),
            index: faces.len() - 1,
        }
    }

    /// The same hold, for the thread that makes checkpoints.
    pub(crate) fn share(&self) -> Self {
        Self {
            holds: Arc::clone(&self.holds),
            index: self.index,
        }
    }

    /// A record was written that holds a part of this face.
    pub(super) fn wrote(&self, sequence: Sequence) {
        let needs = &mut self.holds.faces.lock()[self.index];
        needs.last = sequence;
        needs.first = needs.first.min(sequence);
    }

    /// After the replay, which began at `next`.
    pub(super) fn settle(&self, next: Sequence) {
        let needs = &mut self.holds.faces.lock()[self.index];
        needs.first = if needs.last < next {
            Sequence::MAX
        } else {
            next
        };
    }

    /// The face needs nothing before `before` any more. Blocks on the disk while segments are
    /// removed that nobody needs. Not for the commit thread.
    pub(crate) fn let_go(&self, before: Sequence) -> Result<()> {
        let needed = {
            let mut faces = self.holds.faces.lock();
            let needs = &mut faces[self.index];
            needs.first = if needs.last < before {
                Sequence::MAX
            } else {
                needs.first.max(before)
            };
            // Not beyond what is known to be written: until the log lets go, more may be.
            let written = faces.iter().map(|needs| needs.last + 1).max();
            let first = faces.iter().map(|needs| needs.first).min();
            first.min(written)
        };
        self.holds.log.release(needed.unwrap_or_default()).map(drop)
    }
}
