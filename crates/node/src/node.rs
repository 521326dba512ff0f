//! A running node: what is started in which order, and stopped in which.

mod hand_over;

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use sinew_api::{
    Server,
    rest::{Api, Tokens},
};
use sinew_coordination::{configs::Configs, documents::Documents, registry::Registry};
use sinew_core::{Clock, Drain, Error, Kind, Result};
use sinew_engine::kv::Kv;
use sinew_gateway::{Gateway, Keys, Listeners, Routing};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};

use crate::{
    Config, DataFolder, Endpoints,
    checks::Checker,
    configs,
    dialects::{self, Dialects},
    discovery::RegistryDiscovery,
    engines::KvEngine,
    keys::PublishedKeys,
    routing::{self, Control, Own},
    takeover::{Door, Predecessor, Sockets},
    view::View,
};

pub use hand_over::HandOver;

/// Threads of the control plane; the gateway has its own.
const CONTROL_THREADS: usize = 2;
const CONTROL: &str = "control API";
/// How long the control API may take to finish what it is at, after the gateway has.
const CONTROL_DRAIN: Duration = Duration::from_secs(2);
/// How long a node that takes over waits for the keys of tokens before it accepts connections.
const KEYS_WITHIN: Duration = Duration::from_secs(5);

/// A running node. Dropping it stops it at once; [`Node::drain_and_stop`] lets requests finish.
pub struct Node {
    // The order of these is the order in which they are dropped.
    parts: Option<Parts>,
    runtime: Option<Runtime>,
}

struct Parts {
    gateway: Arc<Gateway>,
    routes: Control,
    registry: Registry,
    checker: Checker,
    dialects: Dialects,
    configs: Configs,
    engine: KvEngine,
    drain: Drain,
    tokens: Tokens,
    new_tokens: bool,
    control_address: SocketAddr,
    /// The control API's socket once more, for a successor.
    control_socket: Option<std::net::TcpListener>,
    /// None over an engine that was open already: nobody else could open it.
    door: Option<Door>,
    folder: DataFolder,
    /// As it was started, but for what can change while it runs.
    config: Config,
}

impl Node {
    /// Starts everything, on threads of its own. Returns when the gateway and the control API
    /// accept connections. May be awaited on any runtime.
    ///
    /// `config.…` (InvalidArgument); FailedPrecondition `node.data_locked`, `node.data_format`,
    /// `node.data_unusable`, `node.token_invalid`; AlreadyExists `node.port_taken`; what the engine
    /// and the gateway answer.
    pub async fn start(config: Config) -> Result<Self> {
        Self::start_on(config, None, Sockets::default()).await
    }

    /// As [`Node::start`], but where a node runs on the data folder, goes on in its place without a connection lost:
    /// on its sockets, and with its store, which it closes when everything else is ready.
    ///
    /// Besides, `gateway.listeners_differ` (FailedPrecondition) when the configuration listens elsewhere than the node
    /// that runs, `node.take_over` (Unavailable) when that does not hand over. After any error it goes on.
    pub async fn take_over(config: Config) -> Result<Self> {
        config.check_whole()?;
        let Some((mut predecessor, sockets)) = Predecessor::meet(&config).await? else {
            tracing::info!("no node runs on the data folder; starting as usual");
            return Self::start(config).await;
        };
        predecessor.take().await?;
        let node = Self::start_on(config, None, sockets).await?;
        predecessor.relieve().await;
        Ok(node)
    }

    /// As [`Node::start`], but over an engine that is open already, whatever the configuration names: several
    /// nodes in one process can share it. Its owner closes it, after the nodes.
    pub async fn start_over(config: Config, kv: Arc<dyn Kv>) -> Result<Self> {
        Self::start_on(config, Some(kv), Sockets::default()).await
    }

    async fn start_on(config: Config, kv: Option<Arc<dyn Kv>>, sockets: Sockets) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(CONTROL_THREADS)
            .max_blocking_threads(8)
            .thread_name("control")
            .enable_all()
            .build()
            .map_err(|error| defect("the threads of the control plane").with_source(error))?;
        let started = runtime.spawn(Parts::start(config, kv, sockets)).await;
        // From here on dropping the node, not the runtime, ends it: a runtime must not be dropped
        // where it could block another.
        let mut node = Self {
            parts: None,
            runtime: Some(runtime),
        };
        let parts = started.map_err(|error| defect("the node").with_source(error))??;
        node.parts = Some(parts);
        Ok(node)
    }

    /// Where the control API listens.
    pub fn control_address(&self) -> SocketAddr {
        self.parts().control_address
    }

    /// Where the gateway listens.
    pub fn gateway_address(&self) -> SocketAddr {
        self.parts().gateway.address()
    }

    /// The gateway.
    pub fn gateway(&self) -> &Gateway {
        &self.parts().gateway
    }

    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.parts().registry
    }

    /// The config centre.
    pub fn configs(&self) -> &Configs {
        &self.parts().configs
    }

    /// The documents in the store, the routes among them.
    pub fn documents(&self) -> &Documents {
        self.parts().routes.documents()
    }

    /// The token that may do everything.
    pub fn admin_token(&self) -> &str {
        &self.parts().tokens.admin
    }

    /// The token for services.
    pub fn service_token(&self) -> &str {
        &self.parts().tokens.service
    }

    /// The data folder.
    pub fn folder(&self) -> &DataFolder {
        &self.parts().folder
    }

    /// Whether this start made the tokens.
    pub fn tokens_are_new(&self) -> bool {
        self.parts().new_tokens
    }

    /// Where everything listens, as a client on this machine reaches it.
    pub fn endpoints(&self) -> Endpoints {
        self.parts().endpoints()
    }

    /// Takes in a configuration that was read anew: the routes of its file replace those that are served.
    /// Whatever else is different needs a new start, which the log says.
    ///
    /// What the gateway and `routes.…` answer; AlreadyExists `routes.conflict_with_file`,
    /// FailedPrecondition `config.needs_restart`. Everything is as it was then.
    pub fn reload(&self, config: Config) -> Result<()> {
        let parts = self.parts();
        let (routing, config) = split(config);
        let changes = parts.routes.set_file_routes(routing)?;
        tracing::info!(changes, "the routes of the configuration were read anew");
        if config != parts.config {
            tracing::warn!("other settings have changed too; they need a new start of the node");
        }
        Ok(())
    }

    /// Takes no new requests, lets those in flight finish, at most `limit`, then stops everything in
    /// order. Returns how many requests were cut off.
    pub async fn drain_and_stop(mut self, limit: Duration) -> Result<u64> {
        let (Some(parts), Some(runtime)) = (self.parts.take(), &self.runtime) else {
            return Ok(0);
        };
        // The node keeps its runtime, so that it goes as it should also when nobody waits for this to end.
        let stopped = runtime.spawn(parts.stop(limit)).await;
        stopped.map_err(|error| defect("the node").with_source(error))?
    }

    fn parts(&self) -> &Parts {
        self.parts
            .as_ref()
            .expect("only stopping takes the parts, and it takes the node")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.parts.take());
        if let Some(runtime) = self.runtime.take() {
            // Not the ordinary drop, which blocks and must not happen within another runtime.
            runtime.shutdown_background();
        }
    }
}

impl Parts {
    /// Starts on these sockets as far as there are any.
    async fn start(config: Config, kv: Option<Arc<dyn Kv>>, sockets: Sockets) -> Result<Self> {
        config.check_whole()?;
        let clock = Clock::system();
        let started = clock.now();
        let folder = DataFolder::open(&config.data)?;
        let (admin, new_admin) = folder.token(DataFolder::ADMIN_TOKEN)?;
        let (service, new_service) = folder.token(DataFolder::SERVICE_TOKEN)?;
        let tokens = Tokens { admin, service };

        let masters = configs::master_keys(&config, &folder)?;

        // Before anything is opened: a taken port is the most common of all failures.
        let (listener, control_socket) = control_sockets(sockets.control, config.control)
            .await
            .map_err(|error| not_listening(config.control, CONTROL, "--control", &error))?;
        let control_address = listener
            .local_addr()
            .map_err(|error| not_listening(config.control, CONTROL, "--control", &error))?;
        let listeners = dialects::Listeners::bind(&config).await?;
        let is_shared = kv.is_some();

        let spring = match config.spring_config {
            Some(address) => {
                let (what, setting) = ("Spring Cloud Config dialect", "`[configs] spring`");
                Some(listen(address, what, setting).await?)
            }
            None => None,
        };

        let engine = match kv {
            Some(kv) => KvEngine::opened(kv),
            None => KvEngine::open(&config.kv, folder.path(), config.memory, clock.clone()).await?,
        };
        let registry = Registry::start(engine.kv(), clock.clone(), config.registry.clone()).await?;
        let configs =
            Configs::start(engine.kv(), clock.clone(), config.configs.clone(), masters).await?;
        let documents = Documents::new(engine.kv(), clock.clone(), config.documents.clone());
        let (file_routing, config) = split(config);
        let own = Own {
            routing: file_routing,
            has_jwt: config.jwt.is_some(),
            has_client_ca: config
                .gateway
                .tls
                .as_ref()
                .is_some_and(|tls| tls.client_ca.is_some()),
        };
        let begun = routing::begin(&documents, &own, folder.path(), &clock).await;
        let mut gateway_config = config.clone();
        gateway_config.gateway.routing = begun.routing.clone();
        let gateway = match start_gateway(gateway_config, sockets.gateway, &registry).await {
            Ok(gateway) => Arc::new(gateway),
            Err(error) => {
                // The likeliest failure: the next try shall not find the store still open.
                registry.stop();
                configs.stop();
                engine.close().await?;
                return Err(error);
            }
        };

        let checker = Checker::start(
            registry.clone(),
            engine.kv(),
            clock.clone(),
            config.registry.check_other_hosts,
        );
        let routes = Control::start(documents, begun, own, gateway.clone(), clock.clone());
        let drain = Drain::new();
        let dialects = Dialects::start(
            listeners,
            engine.kv(),
            registry.clone(),
            clock.clone(),
            tokens.clone(),
            &drain,
        );
        let eureka = dialects.eureka.clone();
        let view = View {
            clock,
            started,
            data: folder.path().to_owned(),
            kv: engine.kv(),
            kv_health: engine.health(),
            embedded: engine.embedded(),
            registry: registry.clone(),
            gateway: gateway.clone(),
            routes: routes.clone(),
            eureka: eureka.clone(),
            consul: dialects.consul.clone(),
        };
        let api = Api::new(
            registry.clone(),
            configs.clone(),
            Arc::new(view),
            tokens.clone(),
            drain.clone(),
        );
        if let Some(listener) = spring {
            let router = api.clone().spring_router();
            tokio::spawn(Server::new(listener, router, drain.clone()).run());
        }
        tokio::spawn(
            Server::new(listener, api.router().merge(eureka.router()), drain.clone()).run(),
        );
        let new_tokens = new_admin || new_service;
        let door = match Door::open(folder.path()) {
            _ if is_shared => None,
            Ok(door) => Some(door),
            Err(error) => {
                tracing::warn!(%error, "no other process can take over from this one");
                None
            }
        };
        let parts = Self {
            gateway,
            routes,
            registry,
            checker,
            dialects,
            configs,
            engine,
            drain,
            tokens,
            new_tokens,
            control_address,
            control_socket: Some(control_socket),
            door,
            folder,
            config,
        };
        parts.folder.write_endpoints(&parts.endpoints())?;
        Ok(parts)
    }

    fn endpoints(&self) -> Endpoints {
        Endpoints {
            pid: std::process::id(),
            control: format!("http://{}", self.control_address),
            gateway: format!("http://{}", reachable(self.gateway.address())),
            dialects: self.dialects.urls(),
        }
    }

    async fn stop(mut self, limit: Duration) -> Result<u64> {
        // What is left open would hold connections that nobody accepts.
        drop(self.control_socket.take());
        if let Some(door) = self.door.take() {
            door.remove();
        }
        // The gateway first: its requests may still need the services that the registry knows.
        let cut_off = self.gateway.drain(limit).await;
        self.folder.remove_endpoints();
        self.close().await?;
        Ok(cut_off)
    }

    /// Ends everything but the gateway, and lets go of the data folder.
    async fn close(self) -> Result<()> {
        let abandoned = self.drain.finish(CONTROL_DRAIN).await;
        if abandoned > 0 {
            tracing::warn!(abandoned, "connections of the control API were cut off");
        }
        drop(self.checker);
        self.dialects.stop();
        self.registry.stop();
        self.configs.stop();
        self.routes.stop();
        // Last, so that nothing acknowledged is missing from it.
        self.engine.close().await
    }
}

/// The routes, and what is left of the configuration without them.
fn split(mut config: Config) -> (Routing, Config) {
    (std::mem::take(&mut config.gateway.routing), config)
}

async fn start_gateway(config: Config, sockets: Listeners, registry: &Registry) -> Result<Gateway> {
    let discovery = Arc::new(RegistryDiscovery::new(registry.clone()));
    let keys = config
        .jwt
        .map(|jwt| Arc::new(PublishedKeys::start(jwt, &*discovery)) as Arc<dyn Keys>);
    if let Some(keys) = keys.as_ref().filter(|_| !sockets.plain.is_empty()) {
        // The gateway before knows them, so nobody should be told that they are not known.
        let mut known = keys.watch();
        let known = known.wait_for(Option::is_some);
        let _ = tokio::time::timeout(KEYS_WITHIN, known).await;
    }
    let address = config.gateway.address;
    Gateway::start_on(config.gateway, sockets, discovery, keys).map_err(|error| {
        match error.code() {
            "gateway.address_in_use" => port_taken("gateway", address, "--gateway"),
            _ => error,
        }
    })
}

/// The control API's socket, twice.
async fn control_sockets(
    there: Option<std::net::TcpListener>,
    address: SocketAddr,
) -> std::io::Result<(TcpListener, std::net::TcpListener)> {
    let socket = match there {
        Some(socket) => socket,
        None => TcpListener::bind(address).await?.into_std()?,
    };
    socket.set_nonblocking(true)?;
    let other = socket.try_clone()?;
    Ok((TcpListener::from_std(socket)?, other))
}

/// The address by which a client on this machine reaches a listener.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Listens for `what`, whose address is set by `setting`.
///
/// AlreadyExists `node.port_taken`; Unavailable `node.listen`.
pub(crate) async fn listen(address: SocketAddr, what: &str, setting: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| not_listening(address, what, setting, &error))
}

fn not_listening(address: SocketAddr, what: &str, setting: &str, error: &std::io::Error) -> Error {
    if error.kind() == ErrorKind::AddrInUse {
        return port_taken(what, address, setting);
    }
    Error::new(
        Kind::Unavailable,
        "node.listen",
        format!("the {what} cannot listen on {address}: {error}"),
    )
}

fn port_taken(what: &str, address: SocketAddr, setting: &str) -> Error {
    Error::new(
        Kind::AlreadyExists,
        "node.port_taken",
        format!(
            "the {what} cannot listen on {address}: another process does; stop it, or choose \
             another port with {setting} (port 0 takes any free one)"
        ),
    )
}

fn defect(what: &str) -> Error {
    Error::new(
        Kind::Internal,
        "node.defect",
        format!("{what} could not be started or stopped"),
    )
}
