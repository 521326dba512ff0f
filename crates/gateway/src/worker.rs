//! One thread of the data plane: a listener of its own, connections of its own to every instance,
//! and nothing shared with the other threads on the way of a request but immutable snapshots.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::{Duration, UNIX_EPOCH},
};

use sinew_core::Clock;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::{
    access_log,
    auth::Authenticator,
    backend::TargetKey,
    edge,
    fault::Fault,
    gateway::{Phase, Shared},
    metrics::ThreadCounters,
    random::Random,
    scratch::Scratch,
    server,
    snapshot::Snapshot,
    stream::Stream,
    timer::{Millis, TICK, Ticker, millis},
    upstream::Service,
};

pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) index: usize,
    pub(crate) clock: Clock,
    pub(crate) ticker: Rc<Ticker>,
    pub(crate) random: Random,
    pub(crate) auth: Authenticator,
    pub(crate) log: Option<access_log::Sender>,
    table: RefCell<Rc<Table>>,
    /// Kept over changes of the routes, with their connections.
    services: RefCell<HashMap<TargetKey, Rc<Service>>>,
    #[expect(
        clippy::vec_box,
        reason = "tasks hold one by pointer, which keeps them small"
    )]
    spare: RefCell<Vec<Box<Scratch>>>,
    /// Copies of requests on their way.
    pub(crate) mirrors: Cell<usize>,
    draining: Cell<bool>,
    /// It drains, but not in haste: another gateway takes the new connections.
    leaving: Cell<bool>,
    stopping: Cell<bool>,
    /// TLS handshakes going on.
    pub(crate) handshakes: Cell<usize>,
    date: RefCell<String>,
    date_second: Cell<u64>,
}

/// The routes, and what this thread knows of their targets.
pub(crate) struct Table {
    pub(crate) snapshot: Arc<Snapshot>,
    /// By their index in the snapshot's targets; made when a request first needs one. Shared by the
    /// tables of snapshots with the same targets.
    services: Rc<[OnceCell<Rc<Service>>]>,
}

/// More scratch memory than this is given back.
const MOST_SPARE: usize = 256;
/// How often the other tasks get their turn before the thread ends without them.
const MOST_TURNS: usize = 10_000;

impl Worker {
    fn new(shared: Arc<Shared>, index: usize) -> Self {
        let snapshot = shared.snapshot.load_full();
        let worker = Self {
            index,
            clock: Clock::system(),
            ticker: Rc::default(),
            random: Random::new(),
            auth: Authenticator::new(shared.keys.as_deref()),
            log: shared.log.clone(),
            table: RefCell::new(Rc::new(Table {
                services: snapshot
                    .targets
                    .list
                    .iter()
                    .map(|_| OnceCell::new())
                    .collect(),
                snapshot,
            })),
            services: RefCell::default(),
            spare: RefCell::default(),
            mirrors: Cell::new(0),
            draining: Cell::new(false),
            leaving: Cell::new(false),
            stopping: Cell::new(false),
            handshakes: Cell::new(0),
            date: RefCell::default(),
            date_second: Cell::new(0),
            shared,
        };
        worker.tick();
        worker
    }

    pub(crate) fn counters(&self) -> &ThreadCounters {
        self.shared.metrics.threads.of(self.index)
    }

    /// The routes as they are now.
    pub(crate) fn table(&self) -> Rc<Table> {
        let version = self.shared.version.load(Ordering::Acquire);
        if self.table.borrow().snapshot.version != version {
            self.rebuild();
        }
        self.table.borrow().clone()
    }

    fn rebuild(&self) {
        let snapshot = self.shared.snapshot.load_full();
        let mut table = self.table.borrow_mut();
        let services = if Arc::ptr_eq(&table.snapshot.targets, &snapshot.targets) {
            table.services.clone()
        } else {
            let targets = &snapshot.targets;
            let mut known = self.services.borrow_mut();
            known.retain(|key, _| targets.contains(key));
            targets.list.iter().map(|_| OnceCell::new()).collect()
        };
        if !Arc::ptr_eq(&table.snapshot.policies, &snapshot.policies) {
            for service in self.services.borrow().values() {
                govern(service, &snapshot);
            }
        }
        *table = Rc::new(Table { snapshot, services });
    }

    /// What this thread knows of a target.
    pub(crate) fn service<'a>(&self, table: &'a Table, target: usize) -> &'a Rc<Service> {
        table.services[target].get_or_init(|| {
            let target = &table.snapshot.targets.list[target];
            let make = || {
                let service = Rc::new(Service::new(
                    target.key.service.clone(),
                    self.index,
                    target.counters.clone(),
                    target.endpoints.clone(),
                    self.shared.tls.upstream(&target.key.service),
                ));
                govern(&service, &table.snapshot);
                service
            };
            let mut known = self.services.borrow_mut();
            known.entry(target.key.clone()).or_insert_with(make).clone()
        })
    }

    /// Whether connections should end.
    pub(crate) fn draining(&self) -> bool {
        self.draining.get()
    }

    /// Whether connections should end even where a client may just be sending something.
    pub(crate) fn hurries(&self) -> bool {
        self.draining.get() && !self.leaving.get()
    }

    /// Whether the thread ends: what has no end of its own should end now.
    pub(crate) fn stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Lets upgraded connections end, so that they are logged: they would only be dropped otherwise.
    async fn stop(&self) {
        self.stopping.set(true);
        self.ticker.wake_all();
        for _ in 0..MOST_TURNS {
            if self.counters().upgraded.get() == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn scratch(&self) -> Box<Scratch> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn give_back(&self, mut scratch: Box<Scratch>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < MOST_SPARE {
            scratch.reset();
            spare.push(scratch);
        }
    }

    /// Appends the `Date` line of this second.
    pub(crate) fn push_date(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.date.borrow().as_bytes());
    }

    fn tick(&self) {
        self.ticker.tick(millis(self.clock.monotonic()));
        let now = self.clock.now();
        if self.date_second.replace(now.as_secs()) != now.as_secs() {
            let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now.as_secs()));
            *self.date.borrow_mut() = format!("date: {date}\r\n");
            self.sweep(self.ticker.now());
        }
    }

    /// Once a second: what nobody asks for grows old here.
    fn sweep(&self, now: Millis) {
        let timeout = millis(self.shared.config.limits.upstream_idle_timeout);
        for service in self.services.borrow().values() {
            service.sweep(now, timeout);
        }
    }

    /// Whether another handshake may begin. The connections wait in the system meanwhile.
    fn takes_handshakes(&self) -> bool {
        let tls = self.shared.tls.server.as_ref();
        tls.is_some_and(|tls| self.handshakes.get() < tls.config.handshakes)
    }

    fn accept(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, tls: bool) {
        let counters = self.counters();
        if counters.connections.get() == 0 {
            self.tick();
        }
        if counters.connections.get() >= self.shared.config.limits.connections as u64 {
            counters.refused.add(1);
            if tls {
                return;
            }
            let mut reply = Vec::new();
            Fault::too_many_connections().render(false, true, &mut reply, |to| self.push_date(to));
            // Best effort: a new connection's send buffer is empty, so this never waits.
            let _ = stream.try_write(&reply);
            return;
        }
        counters.accepted.add(1);
        // Only an optimisation; without it the kernel may hold small packets back.
        let _ = stream.set_nodelay(true);
        let open = OpenConnection::new(self.clone());
        if edge::is_needed(self, peer, tls) {
            tokio::task::spawn_local(async move { edge::enter(&open.0, stream, peer, tls).await });
        } else {
            tokio::task::spawn_local(async move {
                server::serve(&open.0, Stream::Plain(stream), peer).await;
            });
        }
    }
}

/// Puts a service under the policy that the snapshot has for it.
fn govern(service: &Service, snapshot: &Snapshot) {
    let policy = snapshot.policies.of(&service.name);
    let upstream = policy.map(|policy| &policy.upstream);
    service.set_policy(upstream, policy.and_then(|policy| policy.bulkhead.as_ref()));
}

/// Counts a connection for as long as it is open.
struct OpenConnection(Rc<Worker>);

impl OpenConnection {
    fn new(worker: Rc<Worker>) -> Self {
        worker.counters().connections.add(1);
        Self(worker)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.counters().connections.sub(1);
    }
}

/// Runs the thread until the gateway is stopped.
pub(crate) async fn run(
    shared: Arc<Shared>,
    index: usize,
    listeners: [Option<TcpListener>; 2],
    mut phase: watch::Receiver<Phase>,
) {
    let worker = Rc::new(Worker::new(shared, index));
    let [mut plain, mut tls] = listeners;
    // With no connection there is nothing to time but the pools.
    let pause = |worker: &Worker| {
        if worker.counters().connections.get() > 0 {
            TICK
        } else {
            Duration::from_secs(1)
        }
    };
    let tick = tokio::time::sleep(TICK);
    tokio::pin!(tick);
    loop {
        let (accepted, over_tls) = tokio::select! {
            accepted = accept(plain.as_ref()) => (accepted, false),
            // Looked at again with the next tick, if nothing else happens.
            accepted = accept(tls.as_ref()), if worker.takes_handshakes() => (accepted, true),
            () = &mut tick => {
                worker.tick();
                tick.as_mut().reset(tokio::time::Instant::now() + pause(&worker));
                continue;
            }
            changed = phase.changed() => {
                let now = if changed.is_ok() { *phase.borrow_and_update() } else { Phase::Stopped };
                match now {
                    Phase::Serving => {}
                    Phase::Draining => {
                        for (listener, over_tls) in [(plain.take(), false), (tls.take(), true)] {
                            if let Some(listener) = listener {
                                accept_waiting(&worker, &listener, over_tls).await;
                            }
                        }
                        worker.draining.set(true);
                        worker.ticker.wake_all();
                    }
                    Phase::Leaving => {
                        // What waits to be accepted is the other gateway's.
                        (plain, tls) = (None, None);
                        worker.leaving.set(true);
                        worker.draining.set(true);
                        worker.ticker.wake_all();
                    }
                    Phase::Stopped => return worker.stop().await,
                }
                continue;
            }
        };
        match accepted {
            Ok((stream, peer)) => {
                let first = worker.counters().connections.get() == 0;
                worker.accept(stream, peer, over_tls);
                if first {
                    tick.as_mut().reset(tokio::time::Instant::now() + TICK);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the gateway cannot accept a connection");
                // Out of file descriptors, most likely: some will be given back.
                tokio::time::sleep(TICK).await;
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> std::io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// Takes the connections that the system has completed already: closing the listener would reset
/// them.
async fn accept_waiting(worker: &Rc<Worker>, listener: &TcpListener, tls: bool) {
    std::future::poll_fn(|cx| {
        while let std::task::Poll::Ready(Ok((stream, peer))) = listener.poll_accept(cx) {
            worker.accept(stream, peer, tls);
        }
        std::task::Poll::Ready(())
    })
    .await;
}
