//! A closure on its way to a database thread and its answer on the way back.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::failed;
use crate::fault::{Fault, Result};

pub(super) trait Job: Send {
    /// Does the work. Answers whether what it did is to be kept.
    fn run(&mut self, connection: &Connection) -> bool;

    /// Tells the caller the result, or `failure` when the transaction around it failed.
    fn answer(self: Box<Self>, failure: Option<Fault>);
}

pub(super) struct Pending<F, T> {
    work: Option<F>,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<F, T> Pending<F, T> {
    pub(super) fn new(work: F, reply: oneshot::Sender<Result<T>>) -> Self {
        Self {
            work: Some(work),
            result: None,
            reply,
        }
    }
}

impl<F, T> Job for Pending<F, T>
where
    F: FnOnce(&Connection) -> Result<T> + Send,
    T: Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        // Whoever asked may have gone while this was queued.
        let Some(work) = self.work.take().filter(|_| !self.reply.is_closed()) else {
            return false;
        };
        // A panic fails this job alone: its savepoint is rolled back and the thread goes on. The
        // connection holds no state of ours that the unwinding could have left half done.
        let result = catch_unwind(AssertUnwindSafe(|| work(connection)))
            .unwrap_or_else(|_| Err(failed("the request's work panicked")));
        self.result.insert(result).is_ok()
    }

    fn answer(self: Box<Self>, failure: Option<Fault>) {
        // A refusal, too, may rest on what others in the same transaction did.
        let result = match (failure, self.result) {
            (Some(failure), _) => Err(failure),
            (None, Some(result)) => result,
            (None, None) => return,
        };
        // The caller may have stopped waiting, which is its right.
        let _ = self.reply.send(result);
    }
}
