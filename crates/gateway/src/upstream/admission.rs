//! Whether a request may go to its service at all: what stands before the choice of an instance, for
//! services that have any of it.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::{
    Service,
    breaker::{Breaker, Outcome, Permit, State},
    bulkhead::Bulkhead,
    limiter::Limiter,
};
use crate::{
    fault::Fault,
    policy::{Cause, Upstream},
    timer::{Millis, Timer, millis},
    worker::Worker,
};

/// What protects a service, as far as it is wanted.
#[derive(Debug, Default)]
pub(super) struct Guards {
    /// Whether there is any.
    any: Cell<bool>,
    breaker: RefCell<Option<Breaker>>,
    limiter: RefCell<Option<Limiter>>,
    bulkhead: RefCell<Option<Arc<Bulkhead>>>,
    /// Requests of this thread that may be with one instance.
    pub(super) per_instance: Cell<Option<u64>>,
    /// An instance has one request less.
    pub(super) freed: Notify,
}

/// A request that may go to its service. Held until it is answered whole.
#[derive(Debug)]
pub(crate) struct Admission {
    service: Rc<Service>,
    begun: Duration,
    permit: Option<Permit>,
    limited: bool,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Guards {
    /// Whether this is the bulkhead already.
    pub(super) fn has(&self, bulkhead: Option<&Arc<Bulkhead>>) -> bool {
        let own = self.bulkhead.borrow();
        own.as_ref().map(Arc::as_ptr) == bulkhead.map(Arc::as_ptr)
    }

    /// Goes on under this policy; what did not change keeps its state.
    pub(super) fn set(&self, policy: &Upstream, bulkhead: Option<Arc<Bulkhead>>, threads: usize) {
        let mut breaker = self.breaker.borrow_mut();
        if breaker.as_ref().map(Breaker::policy) != policy.breaker.as_ref() {
            *breaker = policy.breaker.as_ref().map(Breaker::new);
        }
        let mut limiter = self.limiter.borrow_mut();
        if limiter.as_ref().map(Limiter::policy) != policy.shedding.as_ref() {
            *limiter = policy.shedding.as_ref().map(Limiter::new);
        }
        let per_instance = bulkhead.as_ref().and_then(|one| one.policy.per_instance);
        let share = |limit: u32| u64::from(limit).div_ceil(threads as u64);
        self.per_instance.set(per_instance.map(share));
        self.any
            .set(breaker.is_some() || limiter.is_some() || bulkhead.is_some());
        *self.bulkhead.borrow_mut() = bulkhead;
    }
}

impl Service {
    /// Lets a request pass, or says why not. `None` when nothing protects the service.
    pub(crate) async fn admit(
        self: &Rc<Self>,
        worker: &Worker,
        timer: &Timer,
    ) -> Result<Option<Admission>, Fault> {
        if !self.guards.any.get() {
            return Ok(None);
        }
        let mut admission = Admission {
            service: self.clone(),
            begun: worker.clock.monotonic(),
            permit: self.pass_breaker(timer.now())?,
            limited: false,
            _slot: None,
        };
        admission.limited = self.pass_limiter()?;
        let bulkhead = self.guards.bulkhead.borrow().clone();
        if let Some(bulkhead) = bulkhead
            && let Some(slots) = bulkhead.slots()
        {
            admission._slot = match Bulkhead::enter(slots) {
                Some(slot) => Some(slot),
                None => {
                    // On the heap, because few requests ever wait.
                    let turn = Box::pin(slots.clone().acquire_owned());
                    let slot = self.wait_in_queue(&bulkhead, timer, turn).await?;
                    Some(slot.map_err(|_| self.full())?)
                }
            };
            // What it waited for is not the service's time.
            admission.begun = worker.clock.monotonic();
        }
        Ok(Some(admission))
    }

    fn pass_breaker(&self, now: Millis) -> Result<Option<Permit>, Fault> {
        let mut breaker = self.guards.breaker.borrow_mut();
        let Some(breaker) = breaker.as_mut() else {
            return Ok(None);
        };
        let before = breaker.state();
        let permit = breaker.admit(now).map_err(|wait| {
            self.counters().resilience.breaker_refused.add(1);
            Fault::breaker_open(self.name.as_str(), Duration::from_millis(wait))
        })?;
        if matches!(before, State::Open { .. }) {
            self.counters().resilience.breaker_state.set(1);
            tracing::info!(service = %self.name, "a circuit breaker is half open: some requests find out whether the service answers");
        }
        Ok(Some(permit))
    }

    fn pass_limiter(&self) -> Result<bool, Fault> {
        let mut limiter = self.guards.limiter.borrow_mut();
        let Some(limiter) = limiter.as_mut() else {
            return Ok(false);
        };
        let counters = &self.counters().resilience;
        counters.concurrency_limit.set(u64::from(limiter.limit()));
        if limiter.admit() {
            return Ok(true);
        }
        counters.shed.add(1);
        Err(Fault::overloaded(self.name.as_str()))
    }

    /// Waits for a turn, if there is a place to wait.
    async fn wait_in_queue<T>(
        &self,
        bulkhead: &Bulkhead,
        timer: &Timer,
        turn: impl Future<Output = T>,
    ) -> Result<T, Fault> {
        let place = bulkhead.queue().ok_or_else(|| self.full())?;
        let queued = &self.counters().resilience.queued;
        queued.add(1);
        let due = timer.now() + millis(bulkhead.policy.queue_wait);
        let turn = timer.before(due, turn).await;
        queued.sub(1);
        drop(place);
        turn.map_err(|_| self.full())
    }

    fn full(&self) -> Fault {
        self.counters().resilience.bulkhead_refused.add(1);
        Fault::bulkhead_full(self.name.as_str())
    }

    /// Waits until an instance has room, when none has.
    pub(crate) async fn room(&self, timer: &Timer, began: Millis) -> Result<(), Fault> {
        let bulkhead = self.guards.bulkhead.borrow().clone();
        let Some(bulkhead) = bulkhead else {
            return Ok(());
        };
        if timer.now() >= began + millis(bulkhead.policy.queue_wait) {
            return Err(self.full());
        }
        let freed = Box::pin(self.guards.freed.notified());
        self.wait_in_queue(&bulkhead, timer, freed).await
    }

    fn report(&self, permit: Permit, outcome: Outcome, now: Millis) {
        let mut breaker = self.guards.breaker.borrow_mut();
        let Some(breaker) = breaker.as_mut() else {
            return;
        };
        if !breaker.report(now, permit, outcome) {
            return;
        }
        let (service, counters) = (&self.name, &self.counters().resilience);
        if let State::Open { until } = breaker.state() {
            counters.breaker_state.set(2);
            counters.breaker_opened.add(1);
            let for_ms = until.saturating_sub(now);
            tracing::warn!(%service, for_ms, "a circuit breaker opens: too many requests to the service fail or are slow");
        } else {
            counters.breaker_state.set(0);
            tracing::info!(%service, "a circuit breaker closes: the service answers again");
        }
    }
}

impl Admission {
    /// What became of the request in the end. `None` is a success.
    pub(crate) fn ended(&mut self, worker: &Worker, failure: Option<Cause>) {
        let (took, now) = (
            worker.clock.monotonic().saturating_sub(self.begun),
            worker.ticker.now(),
        );
        let guards = &self.service.guards;
        if let Some(permit) = self.permit.take() {
            let outcome = guards.breaker.borrow().as_ref().map(|breaker| {
                let policy = breaker.policy();
                Outcome {
                    failed: failure.is_some_and(|cause| policy.on.has(cause)),
                    slow: policy.slow.is_some_and(|slow| took >= slow),
                }
            });
            if let Some(outcome) = outcome {
                self.service.report(permit, outcome, now);
            }
        }
        if self.limited
            && let Some(limiter) = guards.limiter.borrow_mut().as_mut()
        {
            match failure {
                Some(Cause::Timeout) => limiter.late(now),
                // Who fails at once is not fast.
                Some(_) => {}
                None => limiter.answered(now, u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
            }
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let guards = &self.service.guards;
        if let (Some(permit), Some(breaker)) = (self.permit, guards.breaker.borrow_mut().as_mut()) {
            breaker.forget(permit);
        }
        if self.limited
            && let Some(limiter) = guards.limiter.borrow_mut().as_mut()
        {
            limiter.done();
        }
    }
}
