//! How stale replicas are: the primary's positions are noted with the time; what a replica has applied tells which of those times it has
//! reached. Only this process's monotonic clock is used.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sinew_core::{Backoff, Clock};
use sinew_engine::{Health, sql::Freshness};
use tokio::{sync::watch, task::AbortHandle, time::timeout};

use super::{
    Options,
    dialect::{Connection, Dialect, Position},
    monitor::{self, SAMPLE},
    pool::Connections,
};

type ConnectOptions<D> = <Connection<D> as sqlx::Connection>::Options;

/// Positions that are kept: ten minutes. A replica that is further behind is of no use.
const KEPT: usize = 3_000;

/// When the primary was where.
pub(super) struct Samples {
    clock: Clock,
    kept: Mutex<VecDeque<(Duration, Position)>>,
}

impl Samples {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            kept: Mutex::default(),
        }
    }

    /// At `at`, or before, everything that was committed was within this position.
    pub(super) fn add(&self, at: Duration, position: Position) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // An idle primary stands still: only the newest time at a position counts.
        match kept.back_mut() {
            Some((last, same)) if *same == position => *last = at,
            _ => kept.push_back((at, position)),
        }
        if kept.len() > KEPT {
            kept.pop_front();
        }
    }

    /// The newest time that is within what a replica applied.
    fn reached(&self, applied: &Position) -> Option<Duration> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut newest_first = kept.iter().rev();
        newest_first
            .find(|(_, position)| applied.covers(position))
            .map(|(at, _)| *at)
    }
}

/// A replica, with connections of its own.
pub(super) struct Replica<D: Dialect> {
    pub(super) name: String,
    pub(super) connections: Connections<D>,
    state: Arc<State>,
}

struct State {
    samples: Arc<Samples>,
    /// The time as of which it holds everything.
    holds: Mutex<Option<Duration>>,
    turn: AtomicUsize,
}

impl<D: Dialect> Replica<D> {
    pub(super) fn new(
        name: String,
        connect: ConnectOptions<D>,
        samples: &Arc<Samples>,
        options: &Options,
        tasks: &mut Vec<AbortHandle>,
    ) -> Self {
        let state = Arc::new(State {
            samples: Arc::clone(samples),
            holds: Mutex::new(None),
            turn: AtomicUsize::new(0),
        });
        let (told, health) = watch::channel(Health::Starting);
        let watched = watch_it::<D>(connect.clone(), Arc::clone(&state), told, options.statement);
        tasks.push(tokio::spawn(watched).abort_handle());
        Self {
            name,
            connections: Connections::new(connect, options, health),
            state,
        }
    }

    /// How stale it is, when that is known and no more than allowed. Unknown while it does not answer.
    pub(super) fn fresh_enough(&self, freshness: Freshness) -> Option<Duration> {
        let Freshness::Within(most) = freshness else {
            return None;
        };
        let holds = *self
            .state
            .holds
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = self.state.samples.clock.monotonic();
        let staleness = now.saturating_sub(holds?);
        (staleness <= most).then_some(staleness)
    }

    /// A number that grows with each call.
    pub(super) fn turn(&self) -> usize {
        self.state.turn.fetch_add(1, Ordering::Relaxed)
    }
}

async fn watch_it<D: Dialect>(
    connect: ConnectOptions<D>,
    state: Arc<State>,
    health: watch::Sender<Health>,
    limit: Duration,
) {
    let patience = Duration::from_secs(2);
    let clock = &state.samples.clock;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        if let Ok(Ok(mut connection)) =
            timeout(patience, monitor::connected::<D>(&connect, limit)).await
        {
            backoff.reset();
            health.send_replace(Health::Up);
            while let Ok(Ok(applied)) = timeout(patience, D::applied(&mut connection)).await {
                let reached = state.samples.reached(&applied);
                *state.holds.lock().unwrap_or_else(PoisonError::into_inner) = reached;
                clock.sleep(SAMPLE).await;
            }
        }
        *state.holds.lock().unwrap_or_else(PoisonError::into_inner) = None;
        health.send_replace(Health::Away {
            since: clock.now(),
            reason: "the replica does not answer".to_owned(),
        });
        clock.sleep(backoff.next_delay()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_as_old_as_the_newest_position_that_it_reached() {
        let samples = Samples::new(Clock::system());
        let at = |number| Position(vec![(7, number)]);
        let second = Duration::from_secs;
        assert_eq!(samples.reached(&at(9)), None);
        samples.add(second(1), at(10));
        samples.add(second(2), at(20));
        samples.add(second(3), at(20));
        samples.add(second(4), at(30));
        assert_eq!(samples.reached(&at(9)), None);
        assert_eq!(samples.reached(&at(19)), Some(second(1)));
        assert_eq!(samples.reached(&at(20)), Some(second(3)));
        assert_eq!(samples.reached(&at(31)), Some(second(4)));
        assert_eq!(samples.reached(&Position(vec![(8, 99)])), None);
    }

    #[test]
    fn the_past_that_is_kept_is_bounded() {
        let samples = Samples::new(Clock::system());
        for number in 0..2 * KEPT as u64 {
            samples.add(Duration::from_millis(number), Position(vec![(7, number)]));
        }
        assert_eq!(samples.reached(&Position(vec![(7, 10)])), None);
        let kept = samples.kept.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(kept.len(), KEPT);
    }
}
