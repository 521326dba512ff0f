//! One instance, and one request being with it.

use std::{
    cell::{Cell, Ref, RefCell, RefMut},
    io,
    net::SocketAddr,
    rc::Rc,
};

use sinew_core::InstanceId;

use super::{Ewma, Service, balance::Balancer, health::Health};
use crate::{
    discovery::Endpoint, h2::Connections, metrics::ServiceCounters, policy::Cause,
    protocol::Protocol, stream::Stream, timer::Millis, worker::Worker,
};

#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) address: SocketAddr,
    /// Requests of this thread that are with it.
    pub(super) outstanding: Cell<u64>,
    health: RefCell<Health>,
    /// It gets requests like any other.
    pub(super) serving: Cell<bool>,
    pub(super) weight: Cell<u32>,
    pub(super) latency: Cell<Ewma>,
    /// When it has its full share of the requests.
    pub(super) full_at: Cell<Millis>,
    /// The latest used is last, and is used first, so that the others may grow old and go.
    idle: RefCell<Vec<Idle>>,
    /// What it says that it speaks.
    pub(super) protocol: Protocol,
    shared: Connections,
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
    /// It finds out whether the instance is back.
    probe: bool,
}

/// The smallest share of an instance whose share grows, in hundredths.
const LEAST_SHARE: u64 = 10;

impl Instance {
    pub(super) fn new(endpoint: &Endpoint) -> Self {
        Self {
            id: endpoint.id.clone(),
            address: endpoint.address,
            outstanding: Cell::new(0),
            health: RefCell::default(),
            serving: Cell::new(false),
            weight: Cell::new(1),
            latency: Cell::default(),
            full_at: Cell::new(0),
            idle: RefCell::default(),
            protocol: Protocol::of_metadata(endpoint.metadata.get("protocol")),
            shared: Connections::default(),
            gone: Cell::new(false),
        }
    }

    pub(super) fn health(&self) -> Ref<'_, Health> {
        self.health.borrow()
    }

    pub(super) fn health_mut(&self) -> RefMut<'_, Health> {
        self.health.borrow_mut()
    }

    /// Its share in hundredths of a full one: it grows evenly over the time that a slow start takes.
    pub(super) fn share(&self, now: Millis, slow_start: Millis) -> u64 {
        let left = self.full_at.get().saturating_sub(now);
        (100 - (left * 100 / slow_start.max(1)).min(100)).max(LEAST_SHARE)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// It gets no more requests. Returns how many connections waited.
    pub(super) fn leave(&self) -> u64 {
        self.gone.set(true);
        self.shared.clear();
        std::mem::take(&mut *self.idle.borrow_mut()).len() as u64
    }

    /// Closes connections that waited too long or that it closed; returns how many.
    pub(super) fn sweep(&self, now: Millis, idle_timeout: Millis) -> u64 {
        self.shared.sweep(now, idle_timeout);
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain_mut(|idle| {
            now.saturating_sub(idle.since) < idle_timeout && idle.stream.is_quiet()
        });
        (before - idle.len()) as u64
    }
}

impl Lease {
    pub(super) fn new(service: Rc<Service>, instance: Rc<Instance>, probe: bool) -> Self {
        for count in [&instance.outstanding, &service.outstanding] {
            count.set(count.get() + 1);
        }
        service.counters().active.add(1);
        Self {
            service,
            instance,
            probe,
        }
    }

    pub(crate) fn counters(&self) -> &ServiceCounters {
        self.service.counters()
    }

    /// A new connection, TLS included, or a stream of one that requests share, for a request that must
    /// be answered by `due`. `route` says what the route knows of the protocol. The caller limits the
    /// time.
    pub(crate) async fn connect(
        &self,
        worker: &Worker,
        route: Option<Protocol>,
        due: Millis,
    ) -> io::Result<Stream> {
        let instance = &self.instance;
        let protocol = route.unwrap_or(instance.protocol);
        let connect = Stream::connect(instance.address, self.service.tls.as_deref(), protocol);
        match protocol {
            Protocol::Http1 => connect.await,
            Protocol::H2 => instance.shared.open(worker, connect, due).await,
        }
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
    pub(crate) fn connected(&self, now: Millis) {
        self.counters().connects.add(1);
        let change = self.instance.health_mut().connected(now);
        self.service.changed(&self.instance, change, now);
    }

    /// The instance took no connection: it is left alone for a while.
    pub(crate) fn connect_failed(&self, now: Millis, random: u64) {
        self.counters().connect_failures.add(1);
        let change = self.instance.health_mut().refused(now, self.probe, random);
        self.service.changed(&self.instance, change, now);
    }

    /// Whether it matters how long the instance takes to answer.
    pub(crate) fn is_timed(&self) -> bool {
        matches!(*self.service.balancer.borrow(), Balancer::PeakEwma)
    }

    /// It took so long to answer, or not to.
    pub(crate) fn took(&self, micros: u64, now: Millis) {
        let latency = &self.instance.latency;
        latency.set(latency.get().heard(micros, now));
    }

    /// The instance answered with this status.
    pub(crate) fn answered(&self, status: u16, now: Millis) {
        if status >= 400 {
            return self.failed(Cause::Status(status), now);
        }
        let policy = self.service.policy.borrow();
        let mut health = self.instance.health_mut();
        let change = health.succeeded(now, self.probe, &policy.ejection);
        drop((health, policy));
        self.service.changed(&self.instance, change, now);
    }

    /// It answered with a status that may be a failure, or not at all.
    pub(crate) fn failed(&self, cause: Cause, now: Millis) {
        let policy = self.service.policy.borrow();
        let mut health = self.instance.health_mut();
        let change = health.failed(now, cause, self.probe, &policy.ejection);
        drop((health, policy));
        self.service.changed(&self.instance, change, now);
    }

    /// Keeps a connection whose last message was read to its end.
    pub(crate) fn keep(&self, stream: Stream, now: Millis, most: usize) {
        let mut idle = self.instance.idle.borrow_mut();
        if !self.instance.gone.get() && idle.len() < most && !stream.is_one_of_many() {
            idle.push(Idle { stream, since: now });
            self.counters().idle.add(1);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        for count in [&self.instance.outstanding, &self.service.outstanding] {
            count.set(count.get() - 1);
        }
        self.counters().active.sub(1);
        if self.service.guards.per_instance.get().is_some() {
            self.service.guards.freed.notify_one();
        }
        if self.probe {
            self.instance.health_mut().end_probe();
        }
    }
}
