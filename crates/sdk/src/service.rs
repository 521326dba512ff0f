use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::DefaultBodyLimit, middleware};
use serde::de::DeserializeOwned;
use sinew_core::{Clock, Drain, InstanceId, Name, Result};
use tokio::task::JoinHandle;

use crate::{
    Client, Environment, Metrics,
    auth::Auth,
    client::Transport,
    config,
    discovery::{Discovery, Instance},
    environment::Place,
    logs,
    node::Node,
    registration::Registration,
    server::{self, Guard, Limits},
    service_key::Secret,
    settings,
    signals::{self, Stop},
    status::{self, Status},
};

/// A service in the making. See the crate's text for an example and for what it gets.
pub struct Service {
    place: Place,
    environment: Environment,
    clock: Clock,
    metrics: Metrics,
    node: Option<Arc<Node>>,
    client: Client,
    secret: Option<Secret>,
    router: Router,
    auth: Option<Auth>,
    status: Status,
    limits: Limits,
    drain: Drain,
    grace: Duration,
    drain_limit: Duration,
    metadata: BTreeMap<String, String>,
}

impl Service {
    /// A service of this name, configured by the process's environment. Starts the logs.
    ///
    /// Errors: `core.name_invalid`, `core.instance_id_invalid`, `sdk.config_invalid`.
    pub fn new(name: &str) -> Result<Self> {
        let environment = Environment::of_process();
        logs::start(&environment);
        Self::with_environment(name, environment)
    }

    /// As [`Service::new`], with variables of one's own and without logs; for tests.
    pub fn with_environment(name: &str, environment: Environment) -> Result<Self> {
        let place = Place::read(name, &environment)?;
        let transport = Transport::new();
        let node = match &place.node {
            Some(address) => Some(Arc::new(Node::new(address, transport.clone())?)),
            None => None,
        };
        let secret = place.service_key.as_deref().map(Secret::new).transpose()?;
        let (clock, metrics) = (Clock::system(), Metrics::new());
        let discovery = Discovery::new(node.clone());
        let client = Client::build(
            discovery,
            transport,
            clock.clone(),
            metrics.clone(),
            secret.clone(),
        );
        let metadata = BTreeMap::from([("pid".to_owned(), std::process::id().to_string())]);
        Ok(Self {
            place,
            environment,
            clock,
            metrics,
            node,
            client,
            secret,
            router: Router::new(),
            auth: None,
            status: Status::default(),
            limits: Limits::default(),
            drain: Drain::new(),
            grace: Duration::from_millis(300),
            drain_limit: Duration::from_secs(10),
            metadata,
        })
    }

    /// The name that the service is registered as.
    pub fn name(&self) -> &Name {
        &self.place.service
    }

    /// The id of this instance.
    pub fn instance(&self) -> &InstanceId {
        &self.place.instance
    }

    /// The folder for the service's own files (`SINEW_DATA`); it may not exist yet.
    pub fn data(&self) -> &Path {
        &self.place.data
    }

    /// Settings of one's own; see [`crate::config()`].
    pub fn config<T: DeserializeOwned>(&self, prefix: &str) -> Result<T> {
        config::read(prefix, &self.environment)
    }

    /// Settings from the node's config centre, of the application of this service's name; see
    /// [`crate::settings`].
    pub fn settings<T>(&self) -> settings::Builder<T>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        let place = settings::Place {
            node: self.node.clone(),
            metrics: self.metrics.clone(),
            data: self.place.data.clone(),
            instance: self.place.instance.clone(),
        };
        settings::Builder::new(place, self.place.service.as_str())
    }

    /// The client for calls to other services.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The metrics that `/metrics` shows, for adding one's own.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// The clock.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// For work in the background: it should end when the drain starts, and hold a guard for what
    /// must be finished before the process exits.
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// Adds routes. They may have state and layers; a fallback belongs to one of them at most.
    #[must_use]
    pub fn routes(mut self, router: Router) -> Self {
        self.router = self.router.merge(router);
        self
    }

    /// How the extractors [`crate::auth::User`] and [`crate::auth::Admin`] verify tokens.
    #[must_use]
    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = Some(auth);
        self
    }

    /// Adds a check to `/health/ready`; it may take a second. The service registers once all of
    /// them have passed.
    #[must_use]
    pub fn ready_check<F, Fut>(mut self, name: impl Into<String>, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.status.add_check(name.into(), check);
        self
    }

    /// Adds a pair to what the registry shows of this instance.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// How many bytes the body of a request may have; 1 MiB unless set.
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.limits.body = bytes;
        self
    }

    /// How long a handler may take before 504 is answered for it; 10 s unless set. A caller that
    /// says how long it will wait (`X-Timeout-Ms`) shortens it.
    #[must_use]
    pub fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.limits.time = timeout;
        self
    }

    /// How many requests are handled at once before further ones are answered 503; 1024 unless set.
    #[must_use]
    pub fn max_requests(mut self, requests: usize) -> Self {
        self.limits.at_once = requests.min(tokio::sync::Semaphore::MAX_PERMITS);
        self
    }

    /// How the end goes: how long callers get to notice that the instance drains (300 ms unless
    /// set), and how long requests in flight may then take (10 s).
    #[must_use]
    pub fn drain_times(mut self, grace: Duration, limit: Duration) -> Self {
        (self.grace, self.drain_limit) = (grace, limit);
        self
    }

    /// Runs until SIGTERM, SIGINT (Ctrl-C) or the end of the parent process, then stops in order. A
    /// second signal ends it at once.
    ///
    /// Errors: `sdk.port_taken`, `sdk.listen_failed`.
    pub async fn run(self) -> Result<()> {
        let parent = self.place.parent;
        let running = self.start().await?;
        let stop = signals::wait(parent).await;
        tokio::select! {
            () = running.stop_because(stop) => {}
            _ = signals::wait(None) => tracing::warn!("asked twice to stop, leaving at once"),
        }
        Ok(())
    }

    /// Starts and returns; for tests, and for several services in one process. Registration goes on
    /// in the background. Errors: as [`Service::run`].
    pub async fn start(self) -> Result<Running> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.place.port));
        let (listener, address) = server::listen(address).await?;
        let status = Arc::new(self.status);
        if let Some(auth) = &self.auth {
            auth.keep_fresh();
        }
        let guard = Guard::new(
            self.limits,
            self.clock.clone(),
            self.metrics.clone(),
            self.auth,
            self.secret,
        );
        let router = self
            .router
            // The guard bounds bodies; axum's own limit would only be a second, hidden one.
            .layer(DefaultBodyLimit::disable())
            .layer(middleware::from_fn_with_state(guard, Guard::around));
        let router = status::endpoints(router, status.clone(), self.metrics.clone());
        let connections = Drain::new();
        let server = tokio::spawn(server::serve(listener, router, connections.clone()));
        let (service, instance) = (self.place.service, self.place.instance);
        tracing::info!(%service, %instance, %address, "serving");

        let mut registration = None;
        let mut keeper = None;
        match self.node {
            None => {
                tracing::info!("SINEW_URL is not set: serving alone, not registered");
                // Alone, a service can still call itself by name.
                let own = Instance::at(instance, address).into_iter().collect();
                self.client.discovery().set_fixed(&service, own);
            }
            Some(node) => {
                let discovery = self.client.discovery();
                discovery.watch_own(&service, &instance);
                let kept = Arc::new(Registration {
                    node,
                    service,
                    instance,
                    address,
                    metadata: self.metadata,
                    doubt: discovery.doubt(),
                    registered: self.metrics.gauge(
                        "sinew_service_registered",
                        "1 while the node knows this instance.",
                        &[],
                    ),
                });
                registration = Some(kept.clone());
                let (status, drain) = (status.clone(), self.drain.clone());
                keeper = Some(tokio::spawn(async move {
                    tokio::select! {
                        () = status.ready() => kept.keep(&drain).await,
                        () = drain.wait() => {}
                    }
                }));
            }
        }
        Ok(Running {
            address,
            client: self.client,
            status,
            drain: self.drain,
            connections,
            registration,
            tasks: [Some(server), keeper].into_iter().flatten().collect(),
            grace: self.grace,
            drain_limit: self.drain_limit,
        })
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Service({}, {})",
            self.place.service, self.place.instance
        )
    }
}

/// A service that runs. Dropping it stops it without any order, as a crash would.
pub struct Running {
    address: SocketAddr,
    client: Client,
    status: Arc<Status>,
    drain: Drain,
    connections: Drain,
    registration: Option<Arc<Registration>>,
    tasks: Vec<JoinHandle<()>>,
    grace: Duration,
    drain_limit: Duration,
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The service's client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Stops in order: not ready, draining, a grace for callers to notice, deregistered, no new
    /// connections, what is in flight finished.
    pub async fn stop(self) {
        self.stop_because(Stop::Asked).await;
    }

    async fn stop_because(self, stop: Stop) {
        let (grace, limit) = match stop {
            Stop::Asked => (self.grace, self.drain_limit),
            Stop::Orphaned => (Duration::ZERO, Duration::from_secs(1).min(self.drain_limit)),
        };
        tracing::info!(?stop, "stopping");
        self.status.start_draining();
        self.drain.start();
        if let Some(registration) = &self.registration {
            registration.announce_drain().await;
        }
        tokio::time::sleep(grace).await;
        let finish = async {
            let (connections, work) =
                tokio::join!(self.connections.finish(limit), self.drain.finish(limit));
            connections + work
        };
        let deregister = async {
            if let Some(registration) = &self.registration {
                registration.end().await;
            }
        };
        let (abandoned, ()) = tokio::join!(finish, deregister);
        match abandoned {
            0 => tracing::info!("stopped"),
            _ => tracing::warn!(abandoned, "stopped with work unfinished"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Running({})", self.address)
    }
}
