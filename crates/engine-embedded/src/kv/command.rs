use std::time::Duration;

use sinew_core::{Error, Result};
use sinew_engine::kv::{Condition, LeaseId, Outcome, Revision, Write};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// What waits in the writer's queue.
pub(crate) struct Command {
    pub(super) request: Request,
    /// Gives the bytes back when the command is done.
    pub(super) _budget: OwnedSemaphorePermit,
}

pub(crate) enum Request {
    Commit {
        conditions: Vec<Condition>,
        writes: Vec<Write>,
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
    to: oneshot::Sender<Result<T>>,
    prepared: Option<Result<T>>,
}

impl<T> Answer<T> {
    pub(super) fn new() -> (Self, oneshot::Receiver<Result<T>>) {
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

    /// Whoever asked may have gone; the answer then concerns nobody.
    pub(super) fn send(self) {
        if let Some(result) = self.prepared {
            let _ = self.to.send(result);
        }
    }

    pub(super) fn refuse(self, error: Error) {
        let _ = self.to.send(Err(error));
    }
}

impl Request {
    pub(super) fn send(self) {
        match self {
            Self::Commit { answer, .. } => answer.send(),
            Self::Grant { answer, .. } => answer.send(),
            Self::Revoke { answer, .. } | Self::Compact { answer, .. } => answer.send(),
        }
    }

    pub(super) fn refuse(self, error: Error) {
        match self {
            Self::Commit { answer, .. } => answer.refuse(error),
            Self::Grant { answer, .. } => answer.refuse(error),
            Self::Revoke { answer, .. } | Self::Compact { answer, .. } => answer.refuse(error),
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
