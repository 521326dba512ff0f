//! Time is asked for, never taken: the same logic runs on the machine's clock, in tests that move
//! time by hand, and in the simulator.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// A moment of wall-clock time: milliseconds since 1970-01-01T00:00:00Z. Wall time can jump in
/// either direction; measure intervals with [`Clock::monotonic`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Milliseconds since the epoch.
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// This moment and `by` more; saturates at the end of time.
    pub fn plus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// The time from `earlier` to this moment; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A source of time. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System { anchor: Instant },
    Manual(ManualClock),
}

impl Clock {
    /// The machine's clock.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that asks the machine"
    )]
    pub fn system() -> Self {
        Self(Source::System {
            anchor: Instant::now(),
        })
    }

    /// The wall-clock time.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that asks the machine"
    )]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System { .. } => {
                let since = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            Source::Manual(manual) => manual.state.borrow().wall,
        }
    }

    /// Time since some fixed moment of this process; never goes backwards.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that asks the machine"
    )]
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Source::System { anchor } => Instant::now().duration_since(*anchor),
            Source::Manual(manual) => manual.state.borrow().monotonic,
        }
    }

    /// Returns when `duration` of monotonic time has passed. Cancel safe.
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.monotonic().saturating_add(duration))
            .await;
    }

    /// Returns when the monotonic clock has reached `due`. Cancel safe. Whoever waits for a moment asks for it so: a time span
    /// that was measured before some time passed ends too late.
    pub async fn sleep_until(&self, due: Duration) {
        match &self.0 {
            Source::System { .. } => {
                tokio::time::sleep(due.saturating_sub(self.monotonic())).await;
            }
            Source::Manual(manual) => {
                let mut state = manual.state.subscribe();
                // The sender lives in `manual`, so waiting cannot fail.
                let _ = state.wait_for(|state| state.monotonic >= due).await;
            }
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::System { .. } => "Clock(system)",
            Source::Manual(_) => "Clock(manual)",
        })
    }
}

/// A clock that stands still until it is moved. For tests and the simulator.
#[derive(Clone)]
pub struct ManualClock {
    state: Arc<watch::Sender<ManualState>>,
}

#[derive(Clone, Copy)]
struct ManualState {
    wall: Timestamp,
    monotonic: Duration,
}

impl ManualClock {
    /// A clock that shows `start`.
    pub fn new(start: Timestamp) -> Self {
        let (state, _) = watch::channel(ManualState {
            wall: start,
            monotonic: Duration::ZERO,
        });
        Self {
            state: Arc::new(state),
        }
    }

    /// The clock to hand to the code under test.
    pub fn clock(&self) -> Clock {
        Clock(Source::Manual(self.clone()))
    }

    /// Lets `by` pass, on both the wall clock and the monotonic one; wakes sleepers that are due.
    pub fn advance(&self, by: Duration) {
        self.state.send_modify(|state| {
            state.wall = state.wall.plus(by);
            state.monotonic += by;
        });
    }

    /// Sets the wall clock alone, forwards or backwards, as NTP or an operator might.
    pub fn set_wall(&self, to: Timestamp) {
        self.state.send_modify(|state| state.wall = to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_moves_only_by_hand() {
        let manual = ManualClock::new(Timestamp(1_000));
        let clock = manual.clock();
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep(Duration::from_secs(5)).await }
        });
        tokio::task::yield_now().await;
        manual.advance(Duration::from_secs(4));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        manual.advance(Duration::from_secs(1));
        sleeper.await.unwrap();
        assert_eq!(clock.now(), Timestamp(6_000));
    }

    #[tokio::test]
    async fn a_moment_that_has_passed_is_not_waited_for() {
        let manual = ManualClock::new(Timestamp(0));
        let clock = manual.clock();
        let due = clock.monotonic() + Duration::from_secs(5);
        // As when the clock moves between a look at it and the wait.
        manual.advance(Duration::from_secs(5));
        clock.sleep_until(due).await;
        Clock::system().sleep_until(Duration::ZERO).await;
    }

    #[test]
    fn a_wall_clock_jump_leaves_monotonic_time_alone() {
        let manual = ManualClock::new(Timestamp(10_000));
        let clock = manual.clock();
        manual.set_wall(Timestamp(1));
        assert_eq!(
            (clock.now(), clock.monotonic()),
            (Timestamp(1), Duration::ZERO)
        );
    }
}
