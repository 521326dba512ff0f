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
    /// When the last look at the beats that was answered began.
    looked: Duration,
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

    /// Whether a node may still hold what it held. Only a look that began a lease after its last beat was seen
    /// tells that it does not: a beat may be there that nobody has looked for.
    pub(super) fn lives(&self, node: &str) -> bool {
        let now = self.clock.monotonic();
        let mut state = self.state();
        let looked = state.looked;
        match state.others.get(node) {
            Some((_, seen)) => looked.saturating_sub(*seen) < self.lease,
            // It may have come since the last look.
            None => {
                state.others.insert(node.to_owned(), (0, now));
                true
            }
        }
    }

    fn beaten(&self, sent: Duration) {
        let now = self.clock.monotonic();
        let mut state = self.state();
        // It lapsed if the last beat was too old when this one was answered, whenever it was sent.
        let had = state
            .beat
            .is_some_and(|beat| now.saturating_sub(beat) < self.own());
        state.beat = Some(sent);
        if !had {
            state.epoch += 1;
            drop(state);
            self.back.send_replace(());
        }
    }

    fn seen(&self, beats: Vec<(String, u64)>, looked: Duration) {
        let now = self.clock.monotonic();
        let mut state = self.state();
        state.looked = looked;
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
            let looked = self.clock.monotonic();
            if let Ok(beats) = backend.beats().await {
                self.seen(beats, looked);
            }
            self.clock.sleep(self.lease / 5).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use sinew_core::{ManualClock, Timestamp};

    use super::*;

    const LEASE: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    fn node() -> (Node, ManualClock) {
        let clock = ManualClock::new(Timestamp(0));
        (Node::new("me".to_owned(), LEASE, clock.clock()), clock)
    }

    #[test]
    fn the_lease_counts_from_when_the_beat_was_sent() {
        let (node, clock) = node();
        assert_eq!(node.epoch(), None);
        let sent = node.clock.monotonic();
        clock.advance(SECOND * 3);
        node.beaten(sent);
        assert_eq!(node.epoch(), Some(1));
        clock.advance(SECOND * 5);
        let sent = node.clock.monotonic();
        assert_eq!(node.epoch(), Some(1));
        // Answered when the lease had lapsed: others may have taken over in between.
        clock.advance(SECOND * 2);
        assert_eq!(node.epoch(), None);
        node.beaten(sent);
        assert_eq!(node.epoch(), Some(2));
    }

    #[test]
    fn a_node_is_gone_only_when_a_look_has_shown_it() {
        let (node, clock) = node();
        node.seen(vec![("other".to_owned(), 7)], node.clock.monotonic());
        clock.advance(LEASE * 2);
        assert!(node.lives("other"), "nobody has looked");
        assert!(node.lives("new"), "it may have come just now");
        node.seen(vec![("other".to_owned(), 8)], node.clock.monotonic());
        assert!(node.lives("other"));
        clock.advance(LEASE);
        node.seen(vec![("other".to_owned(), 8)], node.clock.monotonic());
        assert!(!node.lives("other") && !node.lives("new"));
    }
}
