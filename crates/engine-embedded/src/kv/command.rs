use std::time::Duration;

use sinew_core::{Error, Result};
use sinew_engine::kv::{Condition, LeaseId, Outcome, Revision, Write};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::writes::Writes;

/// What waits in the writer's queue.
pub(crate) struct Command {
    pub(super) request: Request,
    /// Room in the queue.
    pub(super) room: OwnedSemaphorePermit,
}

/// What is to hold, and what is written then.
pub(super) type Transaction = (Vec<Condition>, Writes);

pub(crate) enum Request {
    Commit {
        transaction: Box<Transaction>,
        answer: Answer<Outcome>,
    },
    Grant {
        ttl: Duration,
        answer: Answer<LeaseId>,
    },
    Revoke {
        lease: LeaseId,
        answer: Answer<()>,
    },
    Compact {
        revision: Revision,
        answer: Answer<()>,
    },
}

/// Where an answer goes. It is prepared when the request is applied, and sent after the fsync.
pub(crate) struct Answer<T> {
    to: oneshot::Sender<Answered<T>>,
    prepared: Option<Result<T>>,
}

/// An answer, with what the command has held: it is given back where it came from, since letting go of it takes
/// time that the commit thread has not got.
pub(super) struct Answered<T> {
    pub(super) result: Result<T>,
    _held: Held,
}

type Held = (Option<Box<Transaction>>, OwnedSemaphorePermit);

impl<T> Answer<T> {
    pub(super) fn new() -> (Self, oneshot::Receiver<Answered<T>>) {
        let (to, answered) = oneshot::channel();
        (Self { to, prepared: None }, answered)
    }

    pub(super) fn prepare(&mut self, result: Result<T>) {
        self.prepared = Some(result);
    }

    pub(super) fn prepared(&self) -> Option<&T> {
        self.prepared
            .as_ref()
            .and_then(|result| result.as_ref().ok())
    }

    /// What was prepared, or `error` instead. Whoever asked may have gone; the answer then concerns
    /// nobody.
    fn send(self, error: Option<Error>, held: Held) {
        if let Some(result) = error.map(Err).or(self.prepared) {
            let _ = self.to.send(Answered {
                result,
                _held: held,
            });
        }
    }
}

impl Command {
    /// Answers as prepared.
    pub(super) fn send(self) {
        self.answer(None);
    }

    pub(super) fn refuse(self, error: Error) {
        self.answer(Some(error));
    }

    fn answer(self, error: Option<Error>) {
        let room = self.room;
        match self.request {
            Request::Commit {
                transaction,
                answer,
            } => answer.send(error, (Some(transaction), room)),
            Request::Grant { answer, .. } => answer.send(error, (None, room)),
            Request::Revoke { answer, .. } | Request::Compact { answer, .. } => {
                answer.send(error, (None, room));
            }
        }
    }
}

/// Roughly what a transaction takes in memory, bytes.
pub(crate) fn weight(conditions: &[Condition], writes: &[Write]) -> usize {
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
    let own = 128 + 64 * (conditions.len() + writes.len());
    own + conditions.iter().map(condition).sum::<usize>() + writes.iter().map(write).sum::<usize>()
}
