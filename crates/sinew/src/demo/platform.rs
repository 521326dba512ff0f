use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use sinew_core::{Error, InstanceId, Kind, Name, Result};
use sinew_node::{
    Config, Node, Sources,
    registry::{Registry, Status},
};

/// How long the gateway may take to finish what it is at; the services have stopped before.
const DRAIN: Duration = Duration::from_secs(10);

/// The node that the demo runs in its own process.
pub(super) struct Platform {
    node: Node,
    gateway: SocketAddr,
    gateway_url: String,
    control_url: String,
    service_token: String,
}

/// Who is registered.
#[derive(Clone)]
pub(super) struct Directory(Registry);

impl Platform {
    /// Starts a node with the shop's routes and its data in `folder`, where the configuration is
    /// left for `sinew serve`.
    pub(super) async fn start(
        folder: &Path,
        gateway: SocketAddr,
        control: SocketAddr,
        kv: &str,
    ) -> Result<Self> {
        let file = folder.join("sinew.toml");
        std::fs::write(&file, shop::CONFIGURATION).map_err(|error| {
            let text = format!("{} cannot be written: {error}", file.display());
            Error::new(Kind::FailedPrecondition, "demo.folder_unwritable", text)
        })?;
        let config = Config::load(Sources {
            file: Some(file),
            environment: Vec::new(),
            flags: vec![
                ("--data", "node.data", folder.display().to_string()),
                ("--gateway", "gateway.address", gateway.to_string()),
                ("--control", "control.address", control.to_string()),
                ("--kv", "engines.kv", kv.to_owned()),
            ],
        })?;
        let node = Node::start(config).await?;
        let gateway = reachable(node.gateway_address());
        Ok(Self {
            gateway,
            gateway_url: format!("http://{gateway}"),
            control_url: format!("http://{}", node.control_address()),
            service_token: node.service_token().to_owned(),
            node,
        })
    }

    /// An address at which this machine reaches the gateway.
    pub(super) fn gateway(&self) -> SocketAddr {
        self.gateway
    }

    pub(super) fn gateway_url(&self) -> &str {
        &self.gateway_url
    }

    pub(super) fn control_url(&self) -> &str {
        &self.control_url
    }

    pub(super) fn service_token(&self) -> &str {
        &self.service_token
    }

    pub(super) fn directory(&self) -> Directory {
        Directory(self.node.registry().clone())
    }

    /// Where an instance serves, when it is registered and up.
    pub(super) fn up(&self, service: &Name, instance: &InstanceId) -> Option<SocketAddr> {
        self.directory().up(service, instance)
    }

    /// Drains the gateway and stops.
    pub(super) async fn stop(self) {
        match self.node.drain_and_stop(DRAIN).await {
            Ok(0) => {}
            Ok(cut_off) => tracing::warn!(cut_off, "requests that took too long were cut off"),
            Err(error) => {
                tracing::error!(error = %error.detail(), "the node did not stop in order")
            }
        }
    }
}

impl Directory {
    /// Where an instance serves, when it is registered and up.
    pub(super) fn up(&self, service: &Name, instance: &InstanceId) -> Option<SocketAddr> {
        let service = self.0.service(&service.into());
        let found = service
            .instance(instance)
            .filter(|found| found.effective() == Status::Up)?;
        Some(SocketAddr::new(found.address.parse().ok()?, found.port))
    }

    /// Takes out whoever an earlier run, killed before it could tidy, left in the registry: for the
    /// rest of their leases they would look as healthy as those that are about to start.
    pub(super) async fn forget_earlier(&self, service: &Name) {
        for instance in &self.0.service(&service.into()).instances {
            self.forget(service, &instance.id).await;
        }
    }

    /// Takes out an instance whose process is gone.
    pub(super) async fn forget(&self, service: &Name, instance: &InstanceId) {
        if let Err(error) = self.0.deregister(&service.into(), instance).await {
            // Its lease ends by itself a few seconds later.
            tracing::warn!(%instance, error = %error.detail(), "it stays registered for now");
        }
    }
}

/// All addresses of the machine are no address to connect to; loopback is one of them.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}
