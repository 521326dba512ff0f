//! The dialects of other registries: all of them under the control API, and each on a listener of its
//! own where the configuration says so.

use std::{collections::BTreeMap, net::SocketAddr};

use sinew_api::{Server, eureka::Eureka, rest::Tokens};
use sinew_coordination::registry::Registry;
use sinew_core::{Clock, Drain, Result};
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

/// The ports of the dialects, taken before anything is opened.
#[derive(Default)]
pub(crate) struct Listeners {
    eureka: Option<TcpListener>,
}

/// The dialects of a running node.
pub(crate) struct Dialects {
    pub(crate) eureka: Eureka,
    addresses: BTreeMap<String, SocketAddr>,
}

impl Listeners {
    /// AlreadyExists `node.port_taken`; Unavailable `node.listen`.
    pub(crate) async fn bind(config: &Config) -> Result<Self> {
        let mut listeners = Self::default();
        if let Some(DialectConfig { address, cleartext }) = config.eureka {
            let what = "Eureka dialect";
            let place = "`[registry.eureka] address`";
            listeners.eureka = Some(node::listen(address, what, place).await?);
            if cleartext && !address.ip().is_loopback() {
                tracing::warn!(%address, "the {what} listens beyond this machine without TLS");
            }
        }
        Ok(listeners)
    }
}

impl Dialects {
    /// Starts the listeners; they stop when `drain` starts.
    pub(crate) fn start(
        listeners: Listeners,
        registry: Registry,
        clock: Clock,
        tokens: Tokens,
        drain: &Drain,
    ) -> Self {
        let eureka = Eureka::new(registry, clock, tokens);
        let mut addresses = BTreeMap::new();
        if let Some(listener) = listeners.eureka {
            // A socket that is bound has an address.
            if let Ok(address) = listener.local_addr() {
                addresses.insert("eureka".to_owned(), address);
            }
            tokio::spawn(Server::new(listener, eureka.alone(), drain.clone()).run());
        }
        Self { eureka, addresses }
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
