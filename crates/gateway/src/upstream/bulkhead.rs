//! How many requests one service may have at once, and how many wait for their turn.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::policy;

/// Shared by all threads, so that the limit is what the operator wrote, however connections are
/// spread. Whoever waits is served in order.
#[derive(Debug)]
pub(crate) struct Bulkhead {
    pub(crate) policy: policy::Bulkhead,
    slots: Option<Arc<Semaphore>>,
    waiting: AtomicU32,
}

/// A place in the queue.
#[derive(Debug)]
pub(crate) struct Place<'a>(&'a Bulkhead);

impl Bulkhead {
    pub(crate) fn new(policy: &policy::Bulkhead) -> Arc<Self> {
        let slots = |requests| Arc::new(Semaphore::new(requests as usize));
        Arc::new(Self {
            slots: policy.requests.map(slots),
            policy: policy.clone(),
            waiting: AtomicU32::new(0),
        })
    }

    /// The slots, if their number is limited.
    pub(crate) fn slots(&self) -> Option<&Arc<Semaphore>> {
        self.slots.as_ref()
    }

    /// A slot that is free. Never before those who wait.
    pub(crate) fn enter(slots: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        slots.clone().try_acquire_owned().ok()
    }

    /// A place in the queue, if it is not full.
    pub(crate) fn queue(&self) -> Option<Place<'_>> {
        let room = |waiting| (waiting < self.policy.queue).then_some(waiting + 1);
        let taken = self.waiting.fetch_update(Relaxed, Relaxed, room);
        taken.is_ok().then(|| Place(self))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_places_are_bounded_and_given_back() {
        let bulkhead = Bulkhead::new(&policy::Bulkhead {
            requests: Some(2),
            queue: 1,
            ..policy::Bulkhead::default()
        });
        let slots = bulkhead.slots().unwrap();
        let held = (Bulkhead::enter(slots), Bulkhead::enter(slots));
        assert!(held.0.is_some() && held.1.is_some());
        assert!(Bulkhead::enter(slots).is_none());
        let place = bulkhead.queue();
        assert!(place.is_some() && bulkhead.queue().is_none());
        drop((held, place));
        assert!(Bulkhead::enter(slots).is_some() && bulkhead.queue().is_some());
    }
}
