//! The configuration: defaults, then `sinew.toml`, then `SINEW_…` variables, then flags; each layer
//! overrides single keys of those before it. It is checked as a whole, and every error says where the
//! wrong value stands and what is allowed.

mod document;
mod layers;

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use crate::{
    dialects::{ConsulConfig, DialectConfig},
    engines::KvUrl,
};
use sinew_coordination::{configs, documents, registry};
use sinew_core::{Error, Kind, Name, Result};
use sinew_gateway::{Auth, GatewayConfig, Misfit, Place, Router, Routing};

use document::Document;
use layers::{Layers, Step};

/// Bounds of `[node] memory`.
const LEAST_MEMORY: u64 = 32 << 20;
const MOST_MEMORY: u64 = 1 << 40;
/// The least of `[documents] history`; the most is that of the memory.
const LEAST_HISTORY: u64 = 1 << 20;

/// Everything that a node needs to know to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The data folder.
    pub data: PathBuf,
    /// What all embedded engines together may hold in memory, bytes.
    pub memory: u64,
    /// How long requests may take to finish when the node stops.
    pub drain: Duration,
    /// Where the control API listens; only loopback addresses.
    pub control: SocketAddr,
    /// The gateway, with its routes.
    pub gateway: GatewayConfig,
    /// The key-value engine's URL. `embedded:` is one in the data folder.
    pub kv: String,
    /// The registry's bounds.
    pub registry: registry::Config,
    /// A listener of its own for Eureka clients; the control API serves them in any case.
    pub eureka: Option<DialectConfig>,
    /// The listener for Consul's clients, if there is one.
    pub consul: Option<ConsulConfig>,
    /// How much is kept of the documents in the store, such as the stored routes.
    pub documents: documents::Config,
    /// The bounds of the config centre.
    pub configs: configs::Config,
    /// The key that wraps the keys of encrypted values: a file, or `env:NAME` for a variable. Without it a file of
    /// the data folder, made at the first start.
    pub configs_master_key: Option<String>,
    /// Where clients of Spring Cloud Config find a listener of their own; only loopback addresses. They find it under
    /// `/config` of the control API without one.
    pub spring_config: Option<SocketAddr>,
    /// Who issues the tokens that routes with `auth = ["jwt"]` ask for.
    pub jwt: Option<JwtConfig>,
}

/// The issuer of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtConfig {
    /// What a token must name as its issuer.
    pub issuer: String,
    /// What a token must name as its audience.
    pub audience: String,
    /// Where the issuer publishes its keys (JWK Set).
    pub jwks: ServiceUrl,
    /// Where it publishes which tokens are void, if it does.
    pub revoked: Option<ServiceUrl>,
    /// How often both are asked for.
    pub refresh: Duration,
}

/// `service://name/path`: a path of a service, at whichever of its instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceUrl {
    /// The service.
    pub service: Name,
    /// The path, with its slash.
    pub path: String,
}

/// Where a configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file. Without one, `sinew.toml` in the working folder if it is there.
    pub file: Option<PathBuf>,
    /// The environment; variables of other prefixes are passed over.
    pub environment: Vec<(String, String)>,
    /// Flags: their names as the user types them, the keys they set, and their values.
    pub flags: Vec<(&'static str, &'static str, String)>,
}

impl Sources {
    /// No file named, no flags, and the variables of this process.
    pub fn from_environment() -> Self {
        let utf8 = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let environment = std::env::vars_os().filter_map(utf8).collect();
        Self {
            environment,
            ..Self::default()
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("./data"),
            memory: 256 << 20,
            drain: Duration::from_secs(10),
            control: SocketAddr::from((Ipv4Addr::LOCALHOST, 7070)),
            gateway: GatewayConfig::default(),
            kv: "embedded:".to_owned(),
            registry: registry::Config::default(),
            eureka: None,
            consul: None,
            documents: documents::Config::default(),
            configs: configs::Config::default(),
            configs_master_key: None,
            spring_config: None,
            jwt: None,
        }
    }
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// InvalidArgument `config.unreadable`, `config.invalid`, `config.control_exposed`, `config.dialect_exposed`,
    /// `config.engine_unsupported`.
    pub fn load(sources: Sources) -> Result<Self> {
        let layers = Layers::read(sources)?;
        let config = layers.merged()?.into_config();
        config.check(&layers)?;
        Ok(config)
    }

    /// Checks a configuration that was put together in code.
    pub(crate) fn check_whole(&self) -> Result<()> {
        self.check(&Layers::default())
    }

    fn check(&self, layers: &Layers) -> Result<()> {
        let at = |path: &[Step<'_>]| layers.locate(path);
        if !self.control.ip().is_loopback() {
            return Err(Error::new(
                Kind::InvalidArgument,
                "config.control_exposed",
                format!(
                    "{}the control API cannot listen on {}: it has no TLS yet, so it is for this \
                     machine only; use 127.0.0.1 or [::1]",
                    at(&["control".into(), "address".into()]),
                    self.control
                ),
            ));
        }
        if let Some(spring) = self
            .spring_config
            .filter(|address| !address.ip().is_loopback())
        {
            return Err(Error::new(
                Kind::InvalidArgument,
                "config.control_exposed",
                format!(
                    "{}the listener for Spring Cloud Config cannot listen on {spring}: it has no TLS yet, so it \
                     is for this machine only; use 127.0.0.1 or [::1]",
                    at(&["configs".into(), "spring".into()]),
                ),
            ));
        }
        let gateway = self.gateway.address;
        if self.control.port() != 0
            && self.control.port() == gateway.port()
            && (gateway.ip().is_unspecified() || gateway.ip() == self.control.ip())
        {
            return Err(invalid(format!(
                "{}the gateway ({gateway}) and the control API ({}) cannot share a port",
                at(&["gateway".into(), "address".into()]),
                self.control
            )));
        }
        self.check_dialect("eureka", self.eureka.as_ref(), layers)?;
        let consul = self.consul.as_ref();
        self.check_dialect("consul", consul.map(|consul| &consul.listener), layers)?;
        for (key, name) in consul
            .iter()
            .flat_map(|consul| [("datacenter", &consul.datacenter), ("node", &consul.node)])
        {
            let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            if !(1..=64).contains(&name.len()) || !name.bytes().all(word) {
                return Err(invalid(format!(
                    "{}{name:?} is not a name; use 1 to 64 letters, digits, '-', '_' and '.'",
                    at(&["registry".into(), "consul".into(), key.into()])
                )));
            }
        }
        KvUrl::parse(&self.kv).map_err(|why| {
            Error::new(
                Kind::InvalidArgument,
                "config.engine_unsupported",
                format!("{}{why}", at(&["engines".into(), "kv".into()])),
            )
        })?;
        self.check_ranges(layers)?;
        self.check_tls(layers)?;
        self.check_routes(layers)
    }

    fn check_dialect(
        &self,
        name: &str,
        dialect: Option<&DialectConfig>,
        layers: &Layers,
    ) -> Result<()> {
        let Some(DialectConfig { address, cleartext }) = dialect else {
            return Ok(());
        };
        if address.ip().is_loopback() || *cleartext {
            return Ok(());
        }
        let place = layers.locate(&["registry".into(), name.into(), "address".into()]);
        Err(Error::new(
            Kind::InvalidArgument,
            "config.dialect_exposed",
            format!(
                "{place}{address} is not of this machine alone, and the dialects have no TLS yet: whoever can \
                 read the network can read the clients' tokens; use 127.0.0.1 or [::1], or, in a network \
                 that you trust, say so with cleartext = true"
            ),
        ))
    }

    fn check_ranges(&self, layers: &Layers) -> Result<()> {
        let within = |path: [&'static str; 2], value, least, most, unit: &str| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(invalid(format!(
                "{}{} is {value}{unit}; use {least}{unit} to {most}{unit}",
                layers.locate(&path.map(Step::from)),
                path.join("."),
            )))
        };
        within(["node", "drain"], self.drain.as_millis(), 0, 600_000, "ms")?;
        if !(LEAST_MEMORY..=MOST_MEMORY).contains(&self.memory) {
            return Err(invalid(format!(
                "{}node.memory is {} bytes; use 32MiB to 1024GiB",
                layers.locate(&["node".into(), "memory".into()]),
                self.memory
            )));
        }
        let threads = self.gateway.threads.unwrap_or(1) as u128;
        within(["gateway", "threads"], threads, 1, 1024, "")?;
        let registry = &self.registry;
        let (shortest, longest) = (registry.shortest_ttl, registry.longest_ttl);
        within(
            ["registry", "default_ttl"],
            registry.default_ttl.as_millis(),
            shortest.as_millis(),
            longest.as_millis(),
            "ms",
        )?;
        let instances = registry.instances as u128;
        within(["registry", "instances"], instances, 1, 10_000_000, "")?;
        let per_service = registry.instances_per_service as u128;
        within(
            ["registry", "instances_per_service"],
            per_service,
            1,
            instances,
            "",
        )?;
        let threshold = u128::from(registry.panic_threshold);
        within(["registry", "panic_threshold"], threshold, 0, 100, "")?;
        let protect_for = registry.protect_for.as_millis();
        within(
            ["registry", "protect_for"],
            protect_for,
            0,
            86_400_000,
            "ms",
        )?;
        let versions = self.documents.versions as u128;
        within(["documents", "versions"], versions, 2, 10_000, "")?;
        let history = self.documents.history_bytes as u64;
        if !(LEAST_HISTORY..=MOST_MEMORY).contains(&history) {
            return Err(invalid(format!(
                "{}documents.history is {history} bytes; use 1MiB to 1024GiB",
                layers.locate(&["documents".into(), "history".into()]),
            )));
        }
        let configs = &self.configs;
        let most = configs::Config::MOST_ITEM_BYTES as u128;
        within(
            ["configs", "item"],
            configs.item_bytes as u128,
            1024,
            most,
            "B",
        )?;
        within(
            ["configs", "items"],
            configs.items as u128,
            1,
            1_000_000,
            "",
        )?;
        within(
            ["configs", "versions"],
            configs.versions as u128,
            2,
            10_000,
            "",
        )?;
        let history = configs.history_bytes as u128;
        within(["configs", "history"], history, 1024, 1 << 40, "B")?;
        let age = configs.audit_age.as_millis();
        within(
            ["configs", "audit_age"],
            age,
            3_600_000,
            u128::from(u32::MAX) * 1000,
            "ms",
        )?;
        if let Some(jwt) = &self.jwt {
            let refresh = jwt.refresh.as_millis();
            if !(1_000..=3_600_000).contains(&refresh) {
                return Err(invalid(format!(
                    "{}auth.jwt.refresh is {refresh}ms; use 1s to 1h",
                    layers.locate(&["auth".into(), "jwt".into(), "refresh".into()])
                )));
            }
        }
        Ok(())
    }

    fn check_tls(&self, layers: &Layers) -> Result<()> {
        if let Some(tls) = &self.gateway.tls {
            let both = [
                ("gateway", self.gateway.address),
                ("control API", self.control),
            ];
            for (name, other) in both {
                let same_port = tls.address.port() != 0 && tls.address.port() == other.port();
                if same_port
                    && (tls.address.ip().is_unspecified() || tls.address.ip() == other.ip())
                {
                    return Err(invalid(format!(
                        "{}TLS ({}) and the {name} ({other}) cannot share a port",
                        layers.locate(&["gateway".into(), "tls".into(), "address".into()]),
                        tls.address
                    )));
                }
            }
        }
        self.gateway.check_tls().map_err(|misfit| {
            let below = misfit.at.iter().map(|place| match place {
                Place::Key(key) => Step::from(*key),
                Place::Index(index) => Step::from(*index),
            });
            let path: Vec<_> = std::iter::once(Step::from("gateway"))
                .chain(below)
                .collect();
            let Misfit { why, .. } = &misfit;
            invalid(format!("{}{why}", layers.locate(&path)))
        })
    }

    fn check_routes(&self, layers: &Layers) -> Result<()> {
        let upstreams = &self.gateway.routing.upstreams;
        let check = |count: usize| {
            let upstreams = upstreams[..count].to_vec();
            let routes = Vec::new();
            Routing { routes, upstreams }.check()
        };
        // The first with which the list is wrong is the one to point at.
        if let Some((count, Err(error))) = (1..=upstreams.len())
            .map(|count| (count, check(count)))
            .find(|(_, checked)| checked.is_err())
        {
            let place = layers.locate(&["upstreams".into(), (count - 1).into()]);
            return Err(invalid(format!("{place}{}", error.message())));
        }
        let routes = &self.gateway.routing.routes;
        let tls = self.gateway.tls.as_ref();
        let client_ca = tls.and_then(|tls| tls.client_ca.as_ref());
        for (index, route) in routes.iter().enumerate() {
            if route.auth.contains(&Auth::ClientCertificate) && client_ca.is_none() {
                return Err(invalid(format!(
                    "{}the route asks for auth = [\"client_certificate\"], and there is no \
                     [gateway.tls] client_ca that says whose certificates",
                    layers.locate(&["routes".into(), index.into(), "auth".into()])
                )));
            }
            if route.auth.contains(&Auth::Jwt) && self.jwt.is_none() {
                return Err(invalid(format!(
                    "{}the route asks for auth = [\"jwt\"], and there is no [auth.jwt] that says \
                     whose tokens",
                    layers.locate(&["routes".into(), index.into(), "auth".into()])
                )));
            }
        }
        let faults = Router::faults(routes);
        let Some(first) = faults.iter().min_by_key(|fault| fault.index) else {
            return Ok(());
        };
        let place = layers.locate(&["routes".into(), first.index.into()]);
        let messages: Vec<_> = faults.iter().map(|fault| fault.message.as_str()).collect();
        Err(invalid(format!("{place}{}", messages.join("; "))))
    }
}

fn invalid(message: String) -> Error {
    Error::new(Kind::InvalidArgument, "config.invalid", message)
}

#[cfg(test)]
mod tests;
