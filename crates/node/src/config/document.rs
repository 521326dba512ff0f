//! The shape of `sinew.toml`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, de};
use sinew_coordination::{configs, documents, registry};
use sinew_core::{Name, units};
use sinew_gateway::{GatewayConfig, Route, Routing, Upstream};

use super::{Config, JwtConfig, ServiceUrl};
use crate::{ConsulConfig, DialectConfig};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Document {
    node: NodeTable,
    control: ControlTable,
    gateway: GatewayConfig,
    engines: EnginesTable,
    registry: RegistryTable,
    documents: DocumentsTable,
    configs: ConfigsTable,
    auth: AuthTable,
    routes: Vec<Route>,
    upstreams: Vec<Upstream>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NodeTable {
    data: PathBuf,
    #[serde(with = "units::size")]
    memory: u64,
    #[serde(with = "units::duration")]
    drain: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ControlTable {
    address: SocketAddr,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EnginesTable {
    kv: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RegistryTable {
    #[serde(with = "units::duration")]
    default_ttl: Duration,
    instances_per_service: usize,
    instances: usize,
    panic_threshold: u8,
    #[serde(with = "units::duration")]
    protect_for: Duration,
    check_other_hosts: bool,
    eureka: Option<DialectTable>,
    consul: Option<ConsulTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DialectTable {
    address: SocketAddr,
    #[serde(default)]
    cleartext: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsulTable {
    address: SocketAddr,
    #[serde(default)]
    cleartext: bool,
    #[serde(default = "datacenter")]
    datacenter: String,
    #[serde(default = "node")]
    node: String,
}

fn datacenter() -> String {
    "dc1".to_owned()
}

fn node() -> String {
    "sinew".to_owned()
}

impl From<ConsulTable> for ConsulConfig {
    fn from(table: ConsulTable) -> Self {
        Self {
            listener: DialectConfig {
                address: table.address,
                cleartext: table.cleartext,
            },
            datacenter: table.datacenter,
            node: table.node,
        }
    }
}

impl From<DialectTable> for DialectConfig {
    fn from(table: DialectTable) -> Self {
        Self {
            address: table.address,
            cleartext: table.cleartext,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DocumentsTable {
    versions: usize,
    #[serde(with = "units::size")]
    history: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConfigsTable {
    #[serde(with = "units::size")]
    item: u64,
    items: usize,
    versions: usize,
    #[serde(with = "units::size")]
    history: u64,
    #[serde(with = "units::duration")]
    audit_age: Duration,
    services_decrypt: bool,
    master_key: Option<String>,
    spring: Option<SocketAddr>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct AuthTable {
    jwt: Option<JwtTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JwtTable {
    issuer: String,
    audience: String,
    jwks: ServiceUrl,
    revoked: Option<ServiceUrl>,
    #[serde(with = "units::duration", default = "refresh")]
    refresh: Duration,
}

fn refresh() -> Duration {
    Duration::from_secs(5)
}

// The defaults are those of `Config`, said once.
impl Default for NodeTable {
    fn default() -> Self {
        let Config {
            data,
            memory,
            drain,
            ..
        } = Config::default();
        Self {
            data,
            memory,
            drain,
        }
    }
}

impl Default for ControlTable {
    fn default() -> Self {
        Self {
            address: Config::default().control,
        }
    }
}

impl Default for EnginesTable {
    fn default() -> Self {
        Self {
            kv: Config::default().kv,
        }
    }
}

impl Default for RegistryTable {
    fn default() -> Self {
        let registry::Config {
            default_ttl,
            instances_per_service,
            instances,
            panic_threshold,
            protect_for,
            check_other_hosts,
            ..
        } = registry::Config::default();
        Self {
            default_ttl,
            instances_per_service,
            instances,
            panic_threshold,
            protect_for,
            check_other_hosts,
            eureka: None,
            consul: None,
        }
    }
}

impl Default for DocumentsTable {
    fn default() -> Self {
        let documents::Config {
            versions,
            history_bytes,
            ..
        } = documents::Config::default();
        Self {
            versions,
            history: history_bytes as u64,
        }
    }
}

impl Default for ConfigsTable {
    fn default() -> Self {
        let configs::Config {
            item_bytes,
            items,
            versions,
            history_bytes,
            audit_age,
            services_decrypt,
            ..
        } = configs::Config::default();
        Self {
            item: item_bytes as u64,
            items,
            versions,
            history: history_bytes as u64,
            audit_age,
            services_decrypt,
            master_key: None,
            spring: None,
        }
    }
}

impl ConfigsTable {
    fn into_config(self) -> configs::Config {
        let bytes = |size| usize::try_from(size).unwrap_or(usize::MAX);
        configs::Config {
            item_bytes: bytes(self.item),
            items: self.items,
            versions: self.versions,
            history_bytes: bytes(self.history),
            audit_age: self.audit_age,
            services_decrypt: self.services_decrypt,
            ..configs::Config::default()
        }
    }
}

impl Document {
    pub(super) fn into_config(self) -> Config {
        Config {
            data: self.node.data,
            memory: self.node.memory,
            drain: self.node.drain,
            control: self.control.address,
            gateway: GatewayConfig {
                routing: Routing {
                    upstreams: self.upstreams,
                    routes: self.routes,
                },
                ..self.gateway
            },
            kv: self.engines.kv,
            registry: registry::Config {
                default_ttl: self.registry.default_ttl,
                instances_per_service: self.registry.instances_per_service,
                instances: self.registry.instances,
                panic_threshold: self.registry.panic_threshold,
                protect_for: self.registry.protect_for,
                check_other_hosts: self.registry.check_other_hosts,
                ..registry::Config::default()
            },
            eureka: self.registry.eureka.map(Into::into),
            consul: self.registry.consul.map(Into::into),
            documents: documents::Config {
                versions: self.documents.versions,
                history_bytes: usize::try_from(self.documents.history).unwrap_or(usize::MAX),
                ..documents::Config::default()
            },
            configs_master_key: self.configs.master_key.clone(),
            spring_config: self.configs.spring,
            configs: self.configs.into_config(),
            jwt: self.auth.jwt.map(|jwt| JwtConfig {
                issuer: jwt.issuer,
                audience: jwt.audience,
                jwks: jwt.jwks,
                revoked: jwt.revoked,
                refresh: jwt.refresh,
            }),
        }
    }
}

impl<'de> Deserialize<'de> for ServiceUrl {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let parts = text.strip_prefix("service://").and_then(|rest| {
            let (service, path) = rest.split_at(rest.find('/')?);
            let printable = path.bytes().all(|byte| byte.is_ascii_graphic());
            printable.then_some((Name::new(service).ok()?, path.to_owned()))
        });
        let (service, path) = parts.ok_or_else(|| {
            de::Error::custom(format!(
                "{text:?} is not a path of a service: write service://NAME/PATH"
            ))
        })?;
        Ok(Self { service, path })
    }
}
