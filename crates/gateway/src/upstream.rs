//! The instances of a service as one thread sees them: which are up, how busy they are with this
//! thread's requests, which failed to connect lately, and the connections that wait for use.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use sinew_core::{Backoff, InstanceId, Name, least_loaded_of_two};
use tokio::sync::watch;

use crate::{
    discovery::{Endpoint, EndpointStatus},
    metrics::{PerThread, ServiceCounters},
    random::Random,
    stream::Stream,
    timer::{Millis, millis},
};

mod budget;

use budget::Budget;

/// How long an instance that could not be connected to is set aside: at first, and at most.
const ASIDE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// How long the outcome of a first try after that is waited for.
const PROBE: Millis = 1_000;

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: Name,
    thread: usize,
    counters: Arc<PerThread<ServiceCounters>>,
    endpoints: RefCell<watch::Receiver<Arc<[Endpoint]>>>,
    up: RefCell<Vec<Rc<Instance>>>,
    pub(crate) budget: Budget,
}

#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) address: SocketAddr,
    /// Requests of this thread that are with it.
    outstanding: Cell<u64>,
    /// The latest used is last, and is used first, so that the others may grow old and go.
    idle: RefCell<Vec<Idle>>,
    aside: RefCell<Backoff>,
    aside_until: Cell<Millis>,
    /// It is no longer up: connections that come back are closed.
    gone: Cell<bool>,
}

#[derive(Debug)]
struct Idle {
    stream: Stream,
    since: Millis,
}

/// One request being with one instance.
#[derive(Debug)]
pub(crate) struct Lease {
    service: Rc<Service>,
    pub(crate) instance: Rc<Instance>,
    /// It finds out whether the instance takes connections again.
    probe: bool,
}

impl Service {
    pub(crate) fn new(
        name: Name,
        thread: usize,
        counters: Arc<PerThread<ServiceCounters>>,
        mut endpoints: watch::Receiver<Arc<[Endpoint]>>,
    ) -> Self {
        endpoints.mark_changed();
        let (endpoints, up) = (RefCell::new(endpoints), RefCell::default());
        Self {
            name,
            thread,
            counters,
            endpoints,
            up,
            budget: Budget::default(),
        }
    }

    pub(crate) fn counters(&self) -> &ServiceCounters {
        self.counters.of(self.thread)
    }

    /// Takes over what discovery says, if it says anything new. When discovery is gone, what was
    /// last known stays in use.
    pub(crate) fn refresh(&self) {
        let mut endpoints = self.endpoints.borrow_mut();
        if !endpoints.has_changed().unwrap_or(false) {
            return;
        }
        let list = endpoints.borrow_and_update().clone();
        let mut up = self.up.borrow_mut();
        let old = std::mem::take(&mut *up);
        for endpoint in list
            .iter()
            .filter(|endpoint| endpoint.status == EndpointStatus::Up)
        {
            let same = |instance: &&Rc<Instance>| {
                instance.id == endpoint.id && instance.address == endpoint.address
            };
            let known = old.iter().find(same).cloned();
            up.push(known.unwrap_or_else(|| Rc::new(Instance::new(endpoint))));
        }
        for instance in old {
            if !up.iter().any(|kept| Rc::ptr_eq(kept, &instance)) {
                instance.gone.set(true);
                self.counters()
                    .idle
                    .sub(instance.idle.borrow().len() as u64);
                instance.idle.borrow_mut().clear();
            }
        }
    }

    /// The less busy of two random instances. Those that were `tried` are left out; those that are
    /// set aside come in only when there is no other, and a second try avoids whoever failed lately,
    /// because one of those has just failed again. `None` when there is nobody left.
    pub(crate) fn pick(
        self: &Rc<Self>,
        tried: &[Rc<Instance>],
        now: Millis,
        random: &Random,
    ) -> Option<Lease> {
        let up = self.up.borrow();
        let chosen = if tried.is_empty() && up.iter().all(|instance| instance.is_healthy()) {
            let load = |index: usize| up[index].outstanding.get();
            least_loaded_of_two(up.len(), || random.next(), load).map(|index| &up[index])
        } else {
            let fresh = |one: &&Rc<Instance>| !tried.iter().any(|other| Rc::ptr_eq(other, one));
            let (healthy, failed): (Vec<_>, Vec<_>) = up
                .iter()
                .filter(fresh)
                .partition(|instance| instance.is_healthy());
            let due = failed
                .iter()
                .filter(|one| one.aside_until.get() <= now)
                .copied();
            let mut candidates = healthy;
            if tried.is_empty() || candidates.is_empty() {
                candidates.extend(due);
            }
            if candidates.is_empty() {
                candidates = failed;
            }
            let load = |index: usize| candidates[index].outstanding.get();
            let index = least_loaded_of_two(candidates.len(), || random.next(), load);
            index.map(|index| candidates[index])
        };
        let instance = chosen?.clone();
        let probe = !instance.is_healthy() && instance.aside_until.get() <= now;
        if probe {
            // One request finds out whether it is back; the others go on avoiding it meanwhile.
            instance.aside_until.set(now + PROBE);
        }
        instance.outstanding.set(instance.outstanding.get() + 1);
        self.counters().active.add(1);
        Some(Lease {
            service: self.clone(),
            instance,
            probe,
        })
    }

    /// Closes connections that waited too long or that the instance closed.
    pub(crate) fn sweep(&self, now: Millis, idle_timeout: Millis) {
        self.refresh();
        for instance in &*self.up.borrow() {
            let mut idle = instance.idle.borrow_mut();
            let before = idle.len();
            idle.retain_mut(|idle| {
                now.saturating_sub(idle.since) < idle_timeout && idle.stream.is_quiet()
            });
            self.counters().idle.sub((before - idle.len()) as u64);
        }
    }

    /// Whether there is no instance but those `tried` and that of `lease`.
    pub(crate) fn nobody_else(&self, tried: &[Rc<Instance>], lease: &Lease) -> bool {
        let known = |instance: &Rc<Instance>| {
            Rc::ptr_eq(instance, &lease.instance)
                || tried.iter().any(|other| Rc::ptr_eq(other, instance))
        };
        self.up.borrow().iter().all(known)
    }

    /// Whether nobody is up, as last known.
    pub(crate) fn nobody_up(&self) -> bool {
        self.up.borrow().is_empty()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let up = self.up.borrow();
        let idle: usize = up.iter().map(|instance| instance.idle.borrow().len()).sum();
        self.counters().idle.sub(idle as u64);
    }
}

impl Instance {
    fn new(endpoint: &Endpoint) -> Self {
        Self {
            id: endpoint.id.clone(),
            address: endpoint.address,
            outstanding: Cell::new(0),
            idle: RefCell::default(),
            aside: RefCell::new(Backoff::new(ASIDE.0, ASIDE.1)),
            aside_until: Cell::new(0),
            gone: Cell::new(false),
        }
    }

    /// Whether it took a connection since one failed.
    fn is_healthy(&self) -> bool {
        self.aside.borrow().attempts() == 0
    }
}

impl Lease {
    pub(crate) fn counters(&self) -> &ServiceCounters {
        self.service.counters()
    }

    /// A connection that waits for use. `certain` asks the system whether it is still open, for
    /// requests that must not be sent twice; otherwise what the event loop knows is good enough.
    pub(crate) fn reuse(&self, certain: bool) -> Option<Stream> {
        let mut idle = self.instance.idle.borrow_mut();
        while let Some(Idle { mut stream, .. }) = idle.pop() {
            self.counters().idle.sub(1);
            if stream.is_quiet() && !(certain && stream.has_news()) {
                return Some(stream);
            }
        }
        None
    }

    /// The instance took a connection.
    pub(crate) fn connected(&self) {
        self.counters().connects.add(1);
        self.instance.aside.borrow_mut().reset();
        self.instance.aside_until.set(0);
    }

    /// The instance took no connection: it is left alone for a while.
    pub(crate) fn connect_failed(&self, now: Millis) {
        self.counters().connect_failures.add(1);
        // Requests that were on their way together failed once, not many times.
        if self.probe || self.instance.is_healthy() {
            let wait = self.instance.aside.borrow_mut().next_delay();
            self.instance.aside_until.set(now + millis(wait));
        }
    }

    /// Keeps a connection whose last message was read to its end.
    pub(crate) fn keep(&self, stream: Stream, now: Millis, most: usize) {
        let mut idle = self.instance.idle.borrow_mut();
        if !self.instance.gone.get() && idle.len() < most {
            idle.push(Idle { stream, since: now });
            self.counters().idle.add(1);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.instance
            .outstanding
            .set(self.instance.outstanding.get() - 1);
        self.counters().active.sub(1);
    }
}

#[cfg(test)]
mod tests;
