//! Which nodes live, by their beats.
//!
//! A node holds partitions as long as its last beat that was answered is younger than the lease, counted from when
//! it was *sent*. The others take it for gone when they have seen no new beat for a whole lease, counted
//! from when they *saw* the last one, so it has always stopped by then. No clocks are compared.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sinew_core::Clock;
use tokio::sync::watch;

use super::backend::Backend;

/// This node, and what it knows of the others.
pub(super) struct Node {
    pub(super) id: String,
    lease: Duration,
    clock: Clock,
    state: Mutex<State>,
    /// Told when the lease is held again.
    back: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    /// When the last beat that was answered was sent.
    beat: Option<Duration>,
    /// Grows whenever the lease had lapsed.
    epoch: u64,
    /// Of each node the last beat, and when it was first seen.
    others: HashMap<String, (u64, Duration)>,
}

impl Node {
    pub(super) fn new(id: String, lease: Duration, clock: Clock) -> Self {
        Self {
            id,
            lease,
            clock,
            state: Mutex::default(),
            back: watch::channel(()).0,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tenth of the lease is kept for clocks that run at different speeds.
    fn own(&self) -> Duration {
        self.lease / 10 * 9
    }

    /// While the lease is held: a number that changes when it was not held in between.
    pub(super) fn epoch(&self) -> Option<u64> {
        let state = self.state();
        let age = self.clock.monotonic().checked_sub(state.beat?)?;
        (age < self.own()).then_some(state.epoch)
    }

    /// How often to look after things.
    pub(super) fn tick(&self) -> Duration {
        (self.lease / 5).min(Duration::from_secs(1))
    }

    pub(super) fn back(&self) -> watch::Receiver<()> {
        self.back.subscribe()
    }

    /// Whether a node may still hold what it held.
    pub(super) fn lives(&self, node: &str) -> bool {
        let now = self.clock.monotonic();
        let mut state = self.state();
        match state.others.get(node) {
            Some((_, seen)) => now.saturating_sub(*seen) < self.lease,
            // It may have come since the last look.
            None => {
                state.others.insert(node.to_owned(), (0, now));
                true
            }
        }
    }

    fn beaten(&self, sent: Duration) {
        let mut state = self.state();
        let had = state
            .beat
            .is_some_and(|beat| sent.saturating_sub(beat) < self.own());
        state.beat = Some(sent);
        if !had {
            state.epoch += 1;
            drop(state);
            self.back.send_replace(());
        }
    }

    fn seen(&self, beats: Vec<(String, u64)>) {
        let now = self.clock.monotonic();
        let mut state = self.state();
        for (node, beat) in beats {
            match state.others.get_mut(&node) {
                Some((last, _)) if *last == beat => {}
                Some(known) => *known = (beat, now),
                None => drop(state.others.insert(node, (beat, now))),
            }
        }
        let long = self.lease * 20;
        state
            .others
            .retain(|_, (_, seen)| now.saturating_sub(*seen) < long);
    }

    /// Beats for ever.
    pub(super) async fn run(&self, backend: &dyn Backend) {
        loop {
            let sent = self.clock.monotonic();
            match backend.beat(&self.id).await {
                Ok(()) => self.beaten(sent),
                Err(error) => tracing::debug!(error = %error.detail(), "a beat was not answered"),
            }
            if let Ok(beats) = backend.beats().await {
                self.seen(beats);
            }
            self.clock.sleep(self.lease / 5).await;
        }
    }
}
