//! What waits to be written.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sinew_core::Result;
use sinew_engine::kv::{Condition, LeaseId, Outcome, Write};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

#[derive(Debug)]
pub(super) enum Request {
    Commit {
        conditions: Vec<Condition>,
        writes: Vec<Write>,
    },
    /// A new lease with this TTL in microseconds.
    Grant(i64),
    Revoke(LeaseId),
    /// Ends a lease that was kept alive this often and no more.
    Expire(LeaseId, i64),
    /// Counts a lease's renewals again: the table of renewals does not know it.
    Revive(LeaseId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Outcome(Outcome),
    Granted(LeaseId),
    /// The lease is there, with this TTL.
    Alive(Duration),
    /// It was ended, or (for an expiry) there was nothing to end.
    Ended,
}

pub(super) struct Command {
    pub(super) request: Request,
    answer: oneshot::Sender<Result<Reply>>,
    /// Whether it was given to the server: then its fate is unknown until the answer is there.
    sent: Arc<AtomicBool>,
    pub(super) bytes: usize,
    _budget: OwnedSemaphorePermit,
}

/// The other end of a command.
pub(super) struct Pending {
    pub(super) answer: oneshot::Receiver<Result<Reply>>,
    sent: Arc<AtomicBool>,
}

impl Pending {
    pub(super) fn was_sent(&self) -> bool {
        self.sent.load(Ordering::Acquire)
    }
}

impl Command {
    pub(super) fn new(
        request: Request,
        bytes: usize,
        budget: OwnedSemaphorePermit,
    ) -> (Self, Pending) {
        let (answer, answered) = oneshot::channel();
        let sent = Arc::new(AtomicBool::new(false));
        let pending = Pending {
            answer: answered,
            sent: Arc::clone(&sent),
        };
        let command = Self {
            request,
            answer,
            sent,
            bytes,
            _budget: budget,
        };
        (command, pending)
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_given_up(&self) -> bool {
        self.answer.is_closed()
    }

    pub(super) fn set_sent(&self, sent: bool) {
        self.sent.store(sent, Ordering::Release);
    }

    pub(super) fn answer(self, reply: Result<Reply>) {
        // Whoever asked may have gone.
        let _ = self.answer.send(reply);
    }

    /// How many rows it may touch, roughly.
    pub(super) fn operations(&self) -> usize {
        match &self.request {
            Request::Commit { conditions, writes } => conditions.len() + writes.len(),
            _ => 1,
        }
    }
}

/// What a transaction takes in the queue, bytes.
pub(super) fn weight(conditions: &[Condition], writes: &[Write]) -> usize {
    let condition = |condition: &Condition| match condition {
        Condition::KeyAt(key, _) | Condition::Absent(key) | Condition::Present(key) => key.len(),
        Condition::Unchanged(span, _) => {
            span.start.len() + span.end.as_ref().map_or(0, |end| end.len())
        }
    };
    let write = |write: &Write| match write {
        Write::Put { key, value, .. } => key.len() + value.len(),
        Write::Delete { key } => key.len(),
    };
    64 + conditions.iter().map(|c| 64 + condition(c)).sum::<usize>()
        + writes.iter().map(|w| 64 + write(w)).sum::<usize>()
}
