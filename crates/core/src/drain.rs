//! Graceful shutdown: a signal that everyone hears, and a count of what is still in flight.

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Shared by all parts of a process. [`Drain::start`] asks everyone to finish; [`Drain::finish`]
/// waits for the work that holds a [`Guard`].
#[derive(Clone, Debug, Default)]
pub struct Drain {
    signal: CancellationToken,
    work: TaskTracker,
}

/// Held for as long as a piece of work is in flight.
#[derive(Debug)]
pub struct Guard {
    _token: tokio_util::task::task_tracker::TaskTrackerToken,
}

impl Drain {
    /// A drain that has not started.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everyone to finish. Calling it again changes nothing.
    pub fn start(&self) {
        self.signal.cancel();
        self.work.close();
    }

    /// Whether the drain has started: take no new work.
    pub fn started(&self) -> bool {
        self.signal.is_cancelled()
    }

    /// Returns when the drain starts, at once if it has. Cancel safe.
    pub async fn wait(&self) {
        self.signal.cancelled().await;
    }

    /// Counts one piece of work as in flight until the guard is dropped.
    pub fn guard(&self) -> Guard {
        Guard {
            _token: self.work.token(),
        }
    }

    /// How many pieces of work are in flight.
    pub fn in_flight(&self) -> usize {
        self.work.len()
    }

    /// Starts the drain and waits until nothing is in flight, at most `limit`.
    /// Returns how many pieces of work were abandoned.
    pub async fn finish(&self, limit: Duration) -> usize {
        self.start();
        let _ = tokio::time::timeout(limit, self.work.wait()).await;
        self.in_flight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn finish_waits_for_guards_but_not_for_ever() {
        let drain = Drain::new();
        let guard = drain.guard();
        assert_eq!(drain.finish(Duration::from_secs(1)).await, 1);
        assert!(drain.started());
        drop(guard);
        assert_eq!(drain.finish(Duration::from_secs(1)).await, 0);
    }

    #[tokio::test]
    async fn everyone_hears_the_start() {
        let drain = Drain::new();
        let other = tokio::spawn({
            let drain = drain.clone();
            async move { drain.wait().await }
        });
        drain.start();
        other.await.unwrap();
    }
}
