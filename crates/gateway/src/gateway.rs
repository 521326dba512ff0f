use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use sinew_core::{Error, Kind, Result};
use tokio::sync::watch;

use crate::{
    access_log,
    addresses::Addresses,
    config::{AccessLog, GatewayConfig},
    discovery::Discovery,
    keys::Keys,
    listen::{Listeners, listen, listen_failed},
    metrics::{Metrics, Stats},
    policy, proxy,
    route::{Auth, Route},
    router::Router,
    routing::Routing,
    snapshot::{Snapshot, Surroundings},
    tls::{self, Tls},
    worker,
};

/// The running data plane. Dropping it stops it at once; [`Gateway::drain`] lets requests finish.
pub struct Gateway {
    address: SocketAddr,
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
    tls_address: Option<SocketAddr>,
    _watcher: Option<tls::Watcher>,
    workers: Mutex<Vec<JoinHandle<()>>>,
    /// Of its own, for another gateway; without them it could not be asked for any.
    sockets: Mutex<Option<Listeners>>,
    /// One change of the routes at a time; the snapshots before, for as long as somebody uses them.
    changing: Mutex<Vec<Arc<Snapshot>>>,
}

/// What all threads share. Nothing here is written on the way of a request.
pub(crate) struct Shared {
    pub(crate) config: GatewayConfig,
    pub(crate) discovery: Arc<dyn Discovery>,
    pub(crate) keys: Option<Arc<dyn Keys>>,
    pub(crate) metrics: Metrics,
    pub(crate) tls: Arc<Tls>,
    pub(crate) proxies: proxy::Counters,
    /// Counted only when there is a limit.
    pub(crate) addresses: Option<Arc<Addresses>>,
    /// The port that clients see over TLS.
    pub(crate) tls_port: u16,
    /// Requests without TLS are sent there.
    pub(crate) redirects: bool,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    /// The snapshot's, so that a thread sees at the price of one load that it has the current one.
    pub(crate) version: AtomicU64,
    pub(crate) log: Option<access_log::Sender>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    Draining,
    /// It drains, and another gateway goes on with its sockets.
    Leaving,
    Stopped,
}

impl Gateway {
    /// Listens and begins to answer. Without `keys`, routes that ask for a token answer 503.
    ///
    /// `gateway.address_in_use` (AlreadyExists) when the port is taken, `gateway.listen`
    /// (Unavailable) when it cannot listen for another reason, `gateway.config_invalid`,
    /// `gateway.routes_invalid` and `gateway.upstreams_invalid` (InvalidArgument),
    /// `gateway.access_log` (Unavailable).
    pub fn start(
        config: GatewayConfig,
        discovery: Arc<dyn Discovery>,
        keys: Option<Arc<dyn Keys>>,
    ) -> Result<Self> {
        Self::start_on(config, Listeners::default(), discovery, keys)
    }

    /// As [`Gateway::start`], but on sockets that listen already ([`Gateway::listeners`]). There are at least as many
    /// threads as sockets: one that is closed would reset the connections that wait on it.
    ///
    /// Besides, `gateway.listeners_differ` (FailedPrecondition) when they listen elsewhere than the configuration says.
    pub fn start_on(
        config: GatewayConfig,
        listeners: Listeners,
        discovery: Arc<dyn Discovery>,
        keys: Option<Arc<dyn Keys>>,
    ) -> Result<Self> {
        listeners.check(&config)?;
        let threads = thread_count(&config)?.max(listeners.plain.len());
        let metrics = Metrics::new(threads);
        policy::check(&config.routing.upstreams)?;
        let router = Router::build(config.routing.routes.clone())?;
        check_proofs(&config, &config.routing.routes)?;
        let with = Surroundings {
            metrics: &metrics,
            discovery: &*discovery,
            zone: config.zone.as_deref(),
        };
        let snapshot = Snapshot::new(1, router, &config.routing.upstreams, None, &with);
        let (tls, watched) = tls::open(&config).map_err(|misfit| {
            Error::new(
                Kind::InvalidArgument,
                "gateway.config_invalid",
                misfit.to_string(),
            )
        })?;
        let tls = Arc::new(tls);
        let (address, plain) = listen(config.address, threads, listeners.plain)?;
        let over_tls = match &config.tls {
            Some(config) => Some(listen(config.address, threads, listeners.tls)?),
            None => None,
        };
        let (tls_address, tls_listeners) = over_tls.unzip();
        let listeners = Listeners {
            plain,
            tls: tls_listeners.unwrap_or_default(),
        };
        let sockets = listeners
            .try_clone()
            .map_err(|error| listen_failed(address, error))?;
        let public_port = config.tls.as_ref().and_then(|tls| tls.public_port);
        let tls_port = public_port.or(tls_address.map(|address| address.port()));
        let tls_port = tls_port.unwrap_or_default();
        let redirects = config.tls.as_ref().is_some_and(|tls| tls.redirect);
        let mut tls_listeners = listeners.tls.into_iter();
        let watcher = watched
            .watch(tls.clone())
            .map_err(|error| listen_failed(address, error))?;
        let log = access_log::start(&config.access_log, &config.logging)?;
        let shared = Arc::new(Shared {
            addresses: Addresses::of(&config),
            config,
            discovery,
            keys,
            metrics,
            tls,
            proxies: proxy::Counters::default(),
            tls_port,
            redirects,
            snapshot: ArcSwap::from_pointee(snapshot),
            version: AtomicU64::new(1),
            log,
        });
        let (phase, _) = watch::channel(Phase::Serving);
        let gateway = Self {
            address,
            shared,
            phase,
            tls_address,
            _watcher: watcher,
            workers: Mutex::default(),
            sockets: Mutex::new(Some(sockets)),
            changing: Mutex::default(),
        };
        if let Some(address) = tls_address {
            tracing::info!(%address, "clients may connect over TLS");
        }
        for (index, listener) in listeners.plain.into_iter().enumerate() {
            gateway.spawn(index, [Some(listener), tls_listeners.next()])?;
        }
        Ok(gateway)
    }

    fn spawn(&self, index: usize, listeners: [Option<TcpListener>; 2]) -> Result<()> {
        let failed = |error: io::Error| listen_failed(self.address, error);
        let (shared, phase) = (self.shared.clone(), self.phase.subscribe());
        let run = move || -> io::Result<()> {
            // Made in its thread: nothing in it ever leaves it, so nothing in it is ever locked.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build_local(tokio::runtime::LocalOptions::default())?;
            runtime.block_on(async move {
                let [plain, tls] = listeners
                    .map(|listener| listener.map(tokio::net::TcpListener::from_std).transpose());
                worker::run(shared, index, [plain?, tls?], phase).await;
                Ok(())
            })
        };
        let logged = move || {
            if let Err(error) = run() {
                tracing::error!(%error, "a thread of the gateway cannot start");
            }
        };
        let thread = std::thread::Builder::new()
            .name(format!("gateway-{index}"))
            .spawn(logged);
        self.workers.lock().push(thread.map_err(failed)?);
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for TLS, if it does.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// The sockets that it listens on, for another gateway to go on with; none when it drains. It listens on them, too,
    /// until it is told to leave ([`Gateway::leave`]).
    ///
    /// `gateway.listen` (Unavailable) when the system gives no more file descriptors.
    pub fn listeners(&self) -> Result<Option<Listeners>> {
        let sockets = self.sockets.lock();
        let clones = sockets.as_ref().map(Listeners::try_clone).transpose();
        clones.map_err(|error| listen_failed(self.address, error))
    }

    /// Replaces the routes; requests that come in from now on see the new ones, connections and
    /// pools stay. `gateway.routes_invalid` and `gateway.upstreams_invalid` (InvalidArgument) leave
    /// everything as it was. Returns the version of the new routes.
    pub fn set_routing(&self, routing: Routing) -> Result<u64> {
        policy::check(&routing.upstreams)?;
        check_proofs(&self.shared.config, &routing.routes)?;
        let mut retired = self.changing.lock();
        let old = self.shared.snapshot.load_full();
        let router = Router::rebuild(routing.routes, &old.router)?;
        let version = old.version + 1;
        let with = Surroundings {
            metrics: &self.shared.metrics,
            discovery: &*self.shared.discovery,
            zone: self.shared.config.zone.as_deref(),
        };
        let snapshot = Snapshot::new(version, router, &routing.upstreams, Some(&old), &with);
        self.shared.snapshot.store(Arc::new(snapshot));
        self.shared.version.store(version, Ordering::Release);
        // What a thread is the last to let go it has to take apart, and requests would wait for it.
        retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
        retired.push(old);
        Ok(version)
    }

    /// The version of the routes and the routes, in the order they were given.
    pub fn routes(&self) -> (u64, Vec<Arc<Route>>) {
        let snapshot = self.shared.snapshot.load();
        (
            snapshot.version,
            snapshot.router.routes().cloned().collect(),
        )
    }

    /// All metrics in the Prometheus text format.
    pub fn metrics_text(&self) -> String {
        let mut text = self.shared.metrics.text();
        self.shared.tls.text(&mut text);
        if !self.shared.config.proxy_protocol_from.is_empty() {
            self.shared.proxies.text(&mut text);
        }
        if let Some(addresses) = &self.shared.addresses {
            addresses.text(&mut text);
        }
        text
    }

    /// Figures of this moment.
    pub fn stats(&self) -> Stats {
        self.shared.metrics.stats()
    }

    /// Accepts no more, lets what is in flight finish, at most `limit`, with `Connection: close` on
    /// the responses, then stops. Returns how many requests were cut off.
    pub async fn drain(&self, limit: Duration) -> u64 {
        self.end(Phase::Draining, limit).await
    }

    /// As [`Gateway::drain`], when another gateway goes on with its sockets. There is no haste then: a connection on
    /// which a client may just be sending its next request is not closed, but gets one more response, with
    /// `Connection: close`, if the request comes within `limit`.
    pub async fn leave(&self, limit: Duration) -> u64 {
        self.end(Phase::Leaving, limit).await
    }

    async fn end(&self, phase: Phase, limit: Duration) -> u64 {
        // Open, they would hold connections that nobody accepts.
        drop(self.sockets.lock().take());
        self.phase.send_replace(phase);
        let finished = async {
            while self.stats().connections > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(limit, finished).await;
        let cut_off = self.stats().in_flight;
        self.phase.send_replace(Phase::Stopped);
        // What is left is dropping; after it every socket is closed.
        for _ in 0..100 {
            if self.workers.lock().iter().all(JoinHandle::is_finished) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cut_off
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Stopped);
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

fn thread_count(config: &GatewayConfig) -> Result<usize> {
    let invalid = |message: &str| {
        Err(Error::new(
            Kind::InvalidArgument,
            "gateway.config_invalid",
            message,
        ))
    };
    let limits = &config.limits;
    match config.threads {
        Some(0) => return invalid("threads must be at least 1"),
        Some(1_025..) => return invalid("threads must be at most 1024"),
        _ => {}
    }
    if !(1..=crate::h1::MOST_HEADERS).contains(&limits.headers) {
        return invalid("limits.headers must be 1 to 256");
    }
    if !(1 << 10..=1 << 20).contains(&limits.head_bytes) {
        return invalid("limits.head_bytes must be 1KiB to 1MiB");
    }
    if !(1..=1_000).contains(&limits.streams) {
        return invalid("limits.streams must be 1 to 1000");
    }
    if !(64 << 10..=16 << 20).contains(&limits.stream_window) {
        return invalid("limits.stream_window must be 64KiB to 16MiB");
    }
    if !(limits.stream_window..=1 << 30).contains(&limits.connection_window) {
        return invalid("limits.connection_window must be from limits.stream_window to 1GiB");
    }
    if limits.connections == 0 {
        return invalid("limits.connections must be at least 1");
    }
    if limits.connections_per_address == Some(0) {
        return invalid("limits.connections_per_address must be at least 1, or absent");
    }
    if limits.connections_per_address.is_none() && !limits.uncounted_addresses.is_empty() {
        return invalid(
            "limits.uncounted_addresses means nothing without limits.connections_per_address",
        );
    }
    if matches!(&config.access_log, AccessLog::File(path) if path.as_os_str().is_empty()) {
        return invalid("access_log must be \"off\", \"stdout\", \"stderr\" or a file");
    }
    if let Some(fault) = config.logging.fault() {
        return invalid(fault);
    }
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    Ok(config.threads.unwrap_or_else(cores))
}

/// A route cannot ask for what no client could have.
fn check_proofs(config: &GatewayConfig, routes: &[Route]) -> Result<()> {
    let client_ca = config.tls.as_ref().and_then(|tls| tls.client_ca.as_ref());
    let asks = |route: &&Route| route.auth.contains(&Auth::ClientCertificate);
    match routes.iter().find(asks) {
        Some(route) if client_ca.is_none() => Err(Error::new(
            Kind::InvalidArgument,
            "gateway.routes_invalid",
            format!(
                "route {} asks for auth = [\"client_certificate\"], and there is no \
                 [gateway.tls] client_ca that says whose certificates",
                route.label()
            ),
        )),
        _ => Ok(()),
    }
}
