use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sinew_core::Result;
use sinew_engine::kv::{LeaseId, lease_unknown};

/// The deadlines of all leases, on the monotonic clock. Which leases there are is in the file; a
/// lease is here from its grant until its end is written.
#[derive(Default)]
pub(super) struct Leases {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    leases: HashMap<LeaseId, Lease>,
    /// The leases that live, by deadline.
    queue: BTreeSet<(Duration, LeaseId)>,
}

#[derive(Clone, Copy)]
struct Lease {
    ttl: Duration,
    deadline: Duration,
    /// Its time has come: nobody can keep it alive any more, the writer is about to end it.
    due: bool,
}

impl Leases {
    /// The leases that were found on opening, each with its full TTL from `now` on.
    pub(super) fn set(&self, leases: impl Iterator<Item = (LeaseId, Duration)>, now: Duration) {
        for (id, ttl) in leases {
            self.granted(id, ttl, now);
        }
    }

    pub(super) fn granted(&self, id: LeaseId, ttl: Duration, now: Duration) {
        self.lock().insert(
            id,
            Lease {
                ttl,
                deadline: now.saturating_add(ttl),
                due: false,
            },
        );
    }

    pub(super) fn keep_alive(&self, id: LeaseId, now: Duration) -> Result<Duration> {
        let mut state = self.lock();
        let live = |lease: &&Lease| !lease.due && lease.deadline > now;
        let lease = *state
            .leases
            .get(&id)
            .filter(live)
            .ok_or_else(|| lease_unknown(id))?;
        state.remove(id);
        state.insert(
            id,
            Lease {
                deadline: now.saturating_add(lease.ttl),
                ..lease
            },
        );
        Ok(lease.ttl)
    }

    /// The leases whose time has come, in the order of their deadlines. They cannot be kept alive
    /// any more, and stay until [`Leases::ended`], so a failed attempt to end them is repeated.
    pub(super) fn due(&self, now: Duration) -> Vec<LeaseId> {
        let mut state = self.lock();
        let due: Vec<(Duration, LeaseId)> = state
            .queue
            .iter()
            .take_while(|(deadline, _)| *deadline <= now)
            .copied()
            .collect();
        for (_, id) in &due {
            if let Some(lease) = state.leases.get_mut(id) {
                lease.due = true;
            }
        }
        due.into_iter().map(|(_, id)| id).collect()
    }

    pub(super) fn ended(&self, id: LeaseId) {
        self.lock().remove(id);
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.lock().queue.first().map(|(deadline, _)| *deadline)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn insert(&mut self, id: LeaseId, lease: Lease) {
        self.remove(id);
        self.leases.insert(id, lease);
        self.queue.insert((lease.deadline, id));
    }

    fn remove(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.remove(&id) {
            self.queue.remove(&(lease.deadline, id));
        }
    }
}
