//! The instances of a service as one thread sees them: which are up, how busy they are with this
//! thread's requests, which failed lately, and the connections that wait for use.
//!
//! Each thread learns by itself: nothing is shared on a request's way, and what one thread finds out
//! about an instance the others find out as fast, since each of them has its part of the requests.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use sinew_core::{InstanceId, Name};

use crate::{
    discovery::EndpointStatus,
    endpoints::Endpoints,
    metrics::{PerThread, ServiceCounters},
    policy::Upstream,
    protocol::Protocol,
    random::Random,
    timer::{Millis, millis},
    tls::UpstreamTls,
};

mod admission;
mod balance;
mod breaker;
mod budget;
mod bulkhead;
mod health;
mod instance;
mod limiter;

use admission::Guards;
use balance::{Balancer, Ewma};
use budget::Budget;
use health::Change;

pub(crate) use balance::Draw;
pub(crate) use bulkhead::Bulkhead;
pub(crate) use instance::{Instance, Lease};

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: Name,
    thread: usize,
    counters: Arc<PerThread<ServiceCounters>>,
    policy: RefCell<Arc<Upstream>>,
    /// It is not the default.
    has_policy: Cell<bool>,
    endpoints: RefCell<Endpoints>,
    /// How its instances are connected to, if not plainly.
    tls: Option<Arc<UpstreamTls>>,
    up: RefCell<Vec<Rc<Instance>>>,
    /// Those of them that get requests like any other.
    serving: RefCell<Vec<Rc<Instance>>>,
    /// Those that are out, one way or another. Some may be serving nevertheless, when too many are.
    out: RefCell<Vec<Rc<Instance>>>,
    /// Ejected instances get requests because too many are ejected.
    panicking: Cell<bool>,
    /// When the last of the instances whose share grows has its full share.
    growing_until: Cell<Millis>,
    balancer: RefCell<Balancer>,
    /// Instances came or went since the balancer was made.
    members_changed: Cell<bool>,
    /// The weight of the heaviest instance.
    heaviest: Cell<u32>,
    /// The weights of all that serve.
    weights: Cell<u64>,
    /// Requests of this thread that are with an instance.
    outstanding: Cell<u64>,
    random: Random,
    pub(crate) budget: Budget,
    guards: Guards,
}

impl Service {
    pub(crate) fn new(
        name: Name,
        thread: usize,
        counters: Arc<PerThread<ServiceCounters>>,
        endpoints: impl Into<Endpoints>,
        tls: Option<Arc<UpstreamTls>>,
    ) -> Self {
        let mut endpoints = endpoints.into();
        endpoints.mark_changed();
        Self {
            policy: RefCell::new(Arc::new(Upstream::new(name.clone()))),
            has_policy: Cell::new(false),
            name,
            thread,
            counters,
            endpoints: RefCell::new(endpoints),
            tls,
            up: RefCell::default(),
            serving: RefCell::default(),
            out: RefCell::default(),
            panicking: Cell::new(false),
            growing_until: Cell::new(0),
            balancer: RefCell::default(),
            members_changed: Cell::new(true),
            heaviest: Cell::new(1),
            weights: Cell::new(0),
            outstanding: Cell::new(0),
            random: Random::new(),
            budget: Budget::default(),
            guards: Guards::default(),
        }
    }

    pub(crate) fn counters(&self) -> &ServiceCounters {
        self.counters.of(self.thread)
    }

    /// Goes on under this policy; without one under the default, which is what it begins with. What
    /// was learnt of the instances stays.
    pub(crate) fn set_policy(
        &self,
        policy: Option<&Arc<Upstream>>,
        bulkhead: Option<&Arc<Bulkhead>>,
    ) {
        let default = || Arc::new(Upstream::new(self.name.clone()));
        let same = match policy {
            Some(policy) => **policy == **self.policy.borrow(),
            None => !self.has_policy.get(),
        };
        if same && self.guards.has(bulkhead) {
            return;
        }
        let policy = policy.cloned();
        self.has_policy.set(policy.is_some());
        let policy = policy.unwrap_or_else(default);
        let threads = self.counters.len();
        self.guards.set(&policy, bulkhead.cloned(), threads);
        *self.policy.borrow_mut() = policy;
        self.arrange();
    }

    /// Takes over what discovery says, if it says anything new. When discovery is gone, what was
    /// last known stays in use.
    pub(crate) fn refresh(&self, now: Millis) {
        let mut endpoints = self.endpoints.borrow_mut();
        if !endpoints.has_changed() {
            return;
        }
        let list = endpoints.take();
        let old = std::mem::take(&mut *self.up.borrow_mut());
        // When there was nobody before, nobody is new.
        let slow_start = !old.is_empty();
        let mut known: HashMap<InstanceId, Rc<Instance>> = old
            .into_iter()
            .map(|instance| (instance.id.clone(), instance))
            .collect();
        for endpoint in list
            .iter()
            .filter(|endpoint| endpoint.status == EndpointStatus::Up)
        {
            let same = |instance: &Rc<Instance>| {
                let protocol = Protocol::of_metadata(endpoint.metadata.get("protocol"));
                instance.address == endpoint.address && instance.protocol == protocol
            };
            let instance = known
                .get(&endpoint.id)
                .is_some_and(same)
                .then(|| known.remove(&endpoint.id))
                .flatten()
                .unwrap_or_else(|| {
                    let instance = Rc::new(Instance::new(endpoint));
                    if slow_start {
                        self.start_slowly(&instance, now);
                    }
                    instance
                });
            instance
                .weight
                .set(balance::weight(endpoint.metadata.get("weight")));
            self.up.borrow_mut().push(instance);
        }
        for instance in known.values() {
            self.counters().idle.sub(instance.leave());
        }
        self.members_changed.set(true);
        self.arrange();
    }

    fn start_slowly(&self, instance: &Instance, now: Millis) {
        let policy = self.policy.borrow();
        if !policy.slow_start.is_zero() {
            let full = now + millis(policy.slow_start);
            instance.full_at.set(full);
            self.growing_until.set(full);
        }
    }

    /// Sorts the instances into those that get requests and those that are out.
    fn arrange(&self) {
        let (up, policy) = (self.up.borrow(), self.policy.borrow());
        let (mut serving, mut out) = (self.serving.borrow_mut(), self.out.borrow_mut());
        serving.clear();
        out.clear();
        let ejected = up.iter().filter(|one| one.health().is_ejected()).count();
        let panicking = ejected * 100 > up.len() * usize::from(policy.ejection.most_percent);
        for instance in &*up {
            let health = instance.health();
            if !health.is_in() {
                out.push(instance.clone());
            }
            let serves = health.is_in() || (panicking && health.is_ejected());
            if serves {
                serving.push(instance.clone());
            }
            instance.serving.set(serves);
        }
        let weights = up.iter().map(|one| one.weight.get());
        self.heaviest.set(weights.max().unwrap_or(1));
        let weights = serving.iter().map(|one| u64::from(one.weight.get()));
        self.weights.set(weights.sum());
        let mut balancer = self.balancer.borrow_mut();
        let old = (std::mem::take(&mut *balancer), &self.random);
        let members = (&up[..], self.members_changed.replace(false));
        let new = Balancer::new(&policy.balance, members, &serving, old);
        *balancer = new;
        let counters = &self.counters().resilience;
        counters.instances.set(up.len() as u64);
        counters.ejected.set(ejected as u64);
        counters.panicking.set(u64::from(panicking));
        if self.panicking.replace(panicking) != panicking {
            let (service, instances) = (&self.name, up.len());
            if panicking {
                tracing::warn!(%service, ejected, instances, "too many instances of a service are ejected: requests go to all of them");
            } else {
                tracing::info!(%service, ejected, instances, "enough instances of a service are well: requests go to those");
            }
        }
    }

    /// An instance for one request. Those that were `tried` are left out, and those that are out come
    /// in only when there is no other, or when it is time to find out whether one is back. `None` when
    /// there is nobody left.
    pub(crate) fn pick(self: &Rc<Self>, tried: &[Rc<Instance>], draw: Draw<'_>) -> Option<Lease> {
        let now = draw.now;
        let out = self.out.borrow();
        let probe = tried.is_empty() && !out.is_empty();
        let due = out.iter().find(|one| probe && one.health().is_due(now));
        let instance = match due {
            Some(instance) => instance.clone(),
            None => self.choose(tried, &out, draw)?,
        };
        let probe = instance.health().is_due(now);
        if probe {
            instance.health_mut().begin_probe();
        }
        Some(Lease::new(self.clone(), instance, probe))
    }

    /// Another instance for a request that is with the one of `lease`, if there is one that gets
    /// requests like any other and the budget allows it.
    pub(crate) fn second(self: &Rc<Self>, lease: &Lease, draw: Draw<'_>) -> Option<Lease> {
        let other = self.pick(std::slice::from_ref(&lease.instance), draw)?;
        let serves = other.instance.serving.get();
        (serves && self.budget.withdraw(draw.now)).then_some(other)
    }

    fn choose(
        &self,
        tried: &[Rc<Instance>],
        out: &[Rc<Instance>],
        draw: Draw<'_>,
    ) -> Option<Rc<Instance>> {
        let serving = self.serving.borrow();
        let most = self.guards.per_instance.get().unwrap_or(u64::MAX);
        let has_room = |one: &Rc<Instance>| one.outstanding.get() < most;
        if tried.is_empty() && !serving.is_empty() {
            let chosen = self.balance(&serving, false, draw);
            return chosen.filter(has_room).or_else(|| {
                let others = serving.iter().filter(|one| has_room(one));
                others.min_by_key(|one| one.outstanding.get()).cloned()
            });
        }
        let fresh = |list: &[Rc<Instance>]| -> Vec<Rc<Instance>> {
            let untried = |one: &&Rc<Instance>| !tried.iter().any(|other| Rc::ptr_eq(other, one));
            list.iter().filter(untried).cloned().collect()
        };
        let mut candidates = fresh(&serving);
        if candidates.is_empty() {
            candidates = fresh(out);
        }
        let due = |one: &Rc<Instance>| one.health().is_due(draw.now);
        if candidates.iter().any(due) {
            candidates.retain(due);
        }
        candidates.retain(has_room);
        self.balance(&candidates, true, draw)
    }

    /// A report changed the state of an instance.
    fn changed(&self, instance: &Instance, change: Change, now: Millis) {
        let (service, id) = (&self.name, &instance.id);
        match change {
            Change::Nothing => return,
            // It has left, and nobody minds how.
            _ if instance.is_gone() => return,
            Change::SetAside => {}
            Change::Ejected(lasts) => {
                self.counters().resilience.ejections.add(1);
                tracing::warn!(%service, instance = %id, lasts_ms = lasts, "an instance fails too often and is ejected");
            }
            Change::Returned { ejected } => {
                self.start_slowly(instance, now);
                if ejected {
                    tracing::info!(%service, instance = %id, "an ejected instance is back");
                }
            }
        }
        self.arrange();
    }

    /// Closes connections that waited too long or that the instance closed.
    pub(crate) fn sweep(&self, now: Millis, idle_timeout: Millis) {
        self.refresh(now);
        for instance in &*self.up.borrow() {
            self.counters().idle.sub(instance.sweep(now, idle_timeout));
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

    /// Whether an instance has as many requests as it may have.
    pub(crate) fn has_full_instances(&self) -> bool {
        self.guards.per_instance.get().is_some_and(|most| {
            let up = self.up.borrow();
            up.iter().any(|one| one.outstanding.get() >= most)
        })
    }

    /// Whether nobody is up, as last known.
    pub(crate) fn nobody_up(&self) -> bool {
        self.up.borrow().is_empty()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let idle: u64 = self.up.borrow().iter().map(|one| one.leave()).sum();
        self.counters().idle.sub(idle);
        let resilience = &self.counters().resilience;
        for gauge in [
            &resilience.instances,
            &resilience.ejected,
            &resilience.panicking,
            &resilience.breaker_state,
            &resilience.concurrency_limit,
        ] {
            gauge.set(0);
        }
    }
}

#[cfg(test)]
mod tests;
