//! The dialects of other registries: all of them under the control API, and each on a listener of its
//! own where the configuration says so.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use sinew_api::{
    Server,
    consul::{Consul, Settings},
    eureka::Eureka,
    rest::Tokens,
};
use sinew_coordination::{
    keyspace::{self, Keyspace},
    registry::Registry,
};
use sinew_core::{Clock, Drain, Result};
use sinew_engine::kv::Kv;
use tokio::net::TcpListener;

use crate::{Config, node};

/// A dialect's own listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialectConfig {
    /// Where it listens.
    pub address: SocketAddr,
    /// Listening beyond this machine, where tokens can be read on the way, is meant.
    pub cleartext: bool,
}

/// The listener for Consul's clients. It is there only when it is asked for: what it serves needs
/// tasks of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsulConfig {
    /// Where it listens.
    pub listener: DialectConfig,
    /// What the one datacenter is called.
    pub datacenter: String,
    /// What the node is called.
    pub node: String,
}

/// The ports of the dialects, taken before anything is opened.
#[derive(Default)]
pub(crate) struct Listeners {
    eureka: Option<TcpListener>,
    consul: Option<(TcpListener, ConsulConfig)>,
}

/// The dialects of a running node.
pub(crate) struct Dialects {
    pub(crate) eureka: Eureka,
    pub(crate) consul: Option<Consul>,
    keyspace: Option<Keyspace>,
    addresses: BTreeMap<String, SocketAddr>,
}

impl Listeners {
    /// AlreadyExists `node.port_taken`; Unavailable `node.listen`.
    pub(crate) async fn bind(config: &Config) -> Result<Self> {
        let mut listeners = Self::default();
        if let Some(dialect) = &config.eureka {
            listeners.eureka = Some(bind(dialect, "Eureka dialect", "eureka").await?);
        }
        if let Some(consul) = &config.consul {
            let listener = bind(&consul.listener, "Consul dialect", "consul").await?;
            listeners.consul = Some((listener, consul.clone()));
        }
        Ok(listeners)
    }
}

async fn bind(dialect: &DialectConfig, what: &str, name: &str) -> Result<TcpListener> {
    let DialectConfig { address, cleartext } = *dialect;
    let place = format!("`[registry.{name}] address`");
    let listener = node::listen(address, what, &place).await?;
    if cleartext && !address.ip().is_loopback() {
        tracing::warn!(%address, "the {what} listens beyond this machine without TLS");
    }
    Ok(listener)
}

impl Dialects {
    /// Starts the listeners; they stop when `drain` starts.
    pub(crate) fn start(
        listeners: Listeners,
        kv: Arc<dyn Kv>,
        registry: Registry,
        clock: Clock,
        tokens: Tokens,
        drain: &Drain,
    ) -> Self {
        let eureka = Eureka::new(registry.clone(), clock.clone(), tokens.clone());
        let mut addresses = BTreeMap::new();
        if let Some(listener) = listeners.eureka {
            // A socket that is bound has an address.
            if let Ok(address) = listener.local_addr() {
                addresses.insert("eureka".to_owned(), address);
            }
            tokio::spawn(Server::new(listener, eureka.alone(), drain.clone()).run());
        }
        let (mut consul, mut keyspace) = (None, None);
        if let Some((listener, config)) = listeners.consul {
            let address = listener.local_addr().unwrap_or(config.listener.address);
            addresses.insert("consul".to_owned(), address);
            let keys = Keyspace::start(kv, clock, keyspace::Config::default());
            let settings = Settings {
                datacenter: config.datacenter,
                node: config.node,
                address,
            };
            let api = Consul::new(registry, keys.clone(), tokens, drain.clone(), settings);
            tokio::spawn(Server::new(listener, api.clone().router(), drain.clone()).run());
            (consul, keyspace) = (Some(api), Some(keys));
        }
        Self {
            eureka,
            consul,
            keyspace,
            addresses,
        }
    }

    /// Stops what follows the store, before the store is closed.
    pub(crate) fn stop(&self) {
        if let Some(keyspace) = &self.keyspace {
            keyspace.stop();
        }
    }

    /// Where those listen that have a listener of their own, by name.
    pub(crate) fn urls(&self) -> BTreeMap<String, String> {
        let addresses = self.addresses.iter();
        addresses
            .map(|(name, address)| {
                (
                    name.clone(),
                    format!("http://{}", node::reachable(*address)),
                )
            })
            .collect()
    }
}
