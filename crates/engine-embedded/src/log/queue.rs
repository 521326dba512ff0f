//! From many callers to the one writer thread.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use sinew_core::{Error, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    Appended, Options, Sequence, error, frame,
    writer::{Staged, Writer},
};

/// A record that waits to be written.
struct Request {
    payload: Bytes,
    from_reserve: bool,
    answer: oneshot::Sender<Result<Appended>>,
    /// Given back when the request is answered.
    _room: OwnedSemaphorePermit,
}

pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    /// Room in units of [`UNIT`] bytes.
    room: Arc<Semaphore>,
    capacity: u32,
    record_bytes: usize,
    queue_timeout: Duration,
    timeout: Duration,
}

#[derive(Default)]
struct State {
    requests: VecDeque<Request>,
    is_closed: bool,
}

/// Also what an empty record counts for: requests take memory themselves.
const UNIT: usize = 256;

impl Queue {
    pub(super) fn new(options: &Options) -> Self {
        let capacity = (options.queue_bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS >> 1);
        Self {
            state: Mutex::default(),
            arrived: Condvar::new(),
            room: Arc::new(Semaphore::new(capacity)),
            capacity: u32::try_from(capacity).unwrap_or(u32::MAX),
            record_bytes: options.record_bytes,
            queue_timeout: options.queue_timeout,
            timeout: options.timeout,
        }
    }

    pub(super) async fn append(&self, payload: Bytes, from_reserve: bool) -> Result<Appended> {
        if payload.len() > self.record_bytes {
            return Err(error::too_large(payload.len(), self.record_bytes));
        }
        let units = 1 + frame::size(payload.len()) / UNIT;
        // A record that is larger than the queue goes through it alone.
        let units = u32::try_from(units).unwrap_or(u32::MAX).min(self.capacity);
        let room = match Arc::clone(&self.room).try_acquire_many_owned(units) {
            Ok(room) => room,
            Err(_) => {
                let room = Arc::clone(&self.room).acquire_many_owned(units);
                let room = tokio::time::timeout(self.queue_timeout, room).await;
                room.map_err(|_| error::busy())?.map_err(|_| closed())?
            }
        };
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.state.lock();
            if state.is_closed {
                return Err(closed());
            }
            state.requests.push_back(Request {
                payload,
                from_reserve,
                answer,
                _room: room,
            });
        }
        self.arrived.notify_one();
        let answered = tokio::time::timeout(self.timeout, answered).await;
        answered
            .map_err(|_| error::timeout())?
            .map_err(|_| closed())?
    }

    /// Refuses what comes from now on; what is queued is still written.
    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.room.close();
        self.arrived.notify_all();
    }

    /// Takes all that waits; waits for something if `wait`. Nothing when closed and empty.
    fn take(&self, into: &mut VecDeque<Request>) -> bool {
        let mut state = self.state.lock();
        loop {
            if !state.requests.is_empty() {
                std::mem::swap(&mut state.requests, into);
                return true;
            }
            if state.is_closed {
                return false;
            }
            // The time-out is only a belt: every arrival wakes this thread.
            self.arrived.wait_for(&mut state, Duration::from_secs(60));
        }
    }

    /// Writes what is queued until the queue is closed. `durable` is told the next sequence number
    /// after each batch, before its callers are answered.
    pub(super) fn drain(&self, writer: &mut Writer, mut durable: impl FnMut(Sequence)) {
        let _ending = Ending(self);
        let mut requests = VecDeque::new();
        let mut batch = Vec::new();
        while self.take(&mut requests) {
            for request in requests.drain(..) {
                let staged = match writer.stage(&request.payload, request.from_reserve) {
                    Ok(Staged::CommitFirst) => {
                        commit(writer, &mut batch, &mut durable);
                        writer.stage(&request.payload, request.from_reserve)
                    }
                    staged => staged,
                };
                match staged {
                    Ok(Staged::Yes(appended)) => batch.push((request, appended)),
                    Ok(Staged::CommitFirst) => {
                        let _ = request
                            .answer
                            .send(Err(error::failed("an empty batch is full")));
                    }
                    Err(error) => {
                        let _ = request.answer.send(Err(error));
                    }
                }
            }
            commit(writer, &mut batch, &mut durable);
        }
    }
}

/// Nothing is left to wait for a thread that has ended, not even by a panic.
struct Ending<'a>(&'a Queue);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.close();
        self.0.state.lock().requests.clear();
    }
}

fn commit(
    writer: &mut Writer,
    batch: &mut Vec<(Request, Appended)>,
    durable: &mut impl FnMut(Sequence),
) {
    let Some((_, last)) = batch.last() else {
        return;
    };
    let next = last.sequence + 1;
    let outcome = writer.commit();
    if outcome.is_ok() {
        durable(next);
    }
    for (request, appended) in batch.drain(..) {
        let answer = match &outcome {
            Ok(()) => Ok(appended),
            Err(error) => Err(copy(error)),
        };
        // Who does not wait any more does not want to know.
        let _ = request.answer.send(answer);
    }
}

/// The same error for each of the batch.
fn copy(error: &Error) -> Error {
    let code = match error.code() {
        "log.full" => "log.full",
        "log.io" => "log.io",
        _ => "log.failed",
    };
    Error::new(error.kind(), code, error.message())
        .with_retry(error.retry())
        .with_context(error.detail())
}

fn closed() -> Error {
    error::failed("it is closed")
}
