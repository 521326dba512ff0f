//! Bringing the index up to date, behind the writer's back.

use std::{sync::Arc, thread, time::Duration};

use parking_lot::{Condvar, Mutex};
use sinew_core::Kind;

use super::{
    Frozen, State, Stored,
    failure::{StoreError, disk_full},
};
use crate::{
    kv::unavailable,
    log::{Releaser, Sequence},
};

/// After a failed checkpoint, the time until the next attempt.
const RETRY: Duration = Duration::from_secs(1);
/// How long the writer waits for a checkpoint when both layers are full.
const PATIENCE: Duration = Duration::from_secs(20);
/// While the checkpoint lags, each group is held up a little.
const SLOWED: Duration = Duration::from_millis(2);

pub(super) struct Checkpointer {
    shared: Arc<Shared>,
    /// Size of a layer that is frozen, bytes.
    layer_bytes: usize,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    ends: bool,
    /// Checkpoints that were tried.
    attempts: u64,
    /// How the last one failed.
    trouble: Option<Kind>,
    /// Somebody waits for another attempt.
    is_wanted: bool,
}

impl Checkpointer {
    pub(super) fn start(state: Arc<State>, log: Releaser, layer_bytes: usize) -> Stored<Self> {
        let shared = Arc::new(Shared::default());
        let thread = thread::Builder::new()
            .name("kv-checkpoint".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run(&state, &log)
            });
        let thread = thread.map_err(|error| {
            StoreError(unavailable("the checkpoint thread could not start").with_source(error))
        })?;
        Ok(Self {
            shared,
            layer_bytes,
            thread: Some(thread),
        })
    }

    /// Freezes the active layer when it is full and the one before is in the index.
    pub(super) fn freeze_if_full(&self, state: &State, next: Sequence) {
        let mut view = state.view.write();
        if view.active.bytes() >= self.layer_bytes && view.frozen.is_none() {
            let layer = std::mem::take(&mut view.active);
            view.frozen = Some(Arc::new(Frozen {
                layer,
                head: view.head,
                next,
            }));
            drop(view);
            let _progress = self.shared.progress.lock();
            self.shared.changed.notify_all();
        }
    }

    /// Holds up the writer while the checkpoint cannot keep up with it: a little at first, so that
    /// nobody meets a wall. When the layers are full and the index cannot be written, the error says
    /// why.
    pub(super) fn wait_for_room(&self, state: &State) -> Stored<()> {
        let lag = || {
            let view = state.view.read();
            let frozen = view
                .frozen
                .as_ref()
                .map_or(0, |frozen| frozen.layer.bytes());
            if frozen == 0 {
                0
            } else {
                frozen + view.active.bytes()
            }
        };
        let (slow, most) = (self.layer_bytes * 7 / 4, self.layer_bytes * 5 / 2);
        let mut progress = self.shared.progress.lock();
        if (slow..most).contains(&lag()) {
            self.shared.changed.wait_for(&mut progress, SLOWED);
        }
        let attempts = progress.attempts;
        while lag() >= most {
            if let Some(trouble) = progress.trouble.filter(|_| progress.attempts > attempts) {
                return Err(StoreError(match trouble {
                    Kind::ResourceExhausted => disk_full(),
                    _ => unavailable("the store's index cannot be written"),
                }));
            }
            progress.is_wanted = true;
            self.shared.changed.notify_all();
            if self
                .shared
                .changed
                .wait_for(&mut progress, PATIENCE)
                .timed_out()
            {
                return Err(StoreError(unavailable(
                    "the store's index is not written in time",
                )));
            }
        }
        Ok(())
    }
}

impl Shared {
    fn run(&self, state: &State, log: &Releaser) {
        while let Some(frozen) = self.next(state) {
            let mut applied = state.index.apply(&frozen);
            if applied.is_err()
                && let Err(error) = state.index.open_again()
            {
                applied = Err(error);
            }
            if applied.is_ok() {
                state.view.write().frozen = None;
            }
            {
                let mut progress = self.progress.lock();
                progress.attempts += 1;
                progress.is_wanted = false;
                progress.trouble = applied.as_ref().err().map(|StoreError(error)| error.kind());
                self.changed.notify_all();
            }
            let released = match applied {
                Ok(()) => log.release(frozen.next),
                Err(StoreError(error)) => Err(error),
            };
            if let Err(error) = released {
                tracing::warn!(
                    error = error.detail(),
                    "a checkpoint failed; it is tried again"
                );
            }
        }
    }

    /// The layer that is to be written now; nothing when the store is closed.
    fn next(&self, state: &State) -> Option<Arc<Frozen>> {
        let mut progress = self.progress.lock();
        if progress.trouble.is_some() && !progress.ends && !progress.is_wanted {
            self.changed.wait_for(&mut progress, RETRY);
        }
        loop {
            if progress.ends {
                return None;
            }
            if let Some(frozen) = state.view.read().frozen.clone() {
                return Some(frozen);
            }
            // The time-out is only a belt: whoever freezes a layer wakes this thread.
            self.changed
                .wait_for(&mut progress, Duration::from_secs(60));
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.shared.progress.lock().ends = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}
