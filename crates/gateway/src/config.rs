use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use sinew_core::units;

use crate::{
    access_log::Logging,
    address_range::AddressRange,
    routing::Routing,
    tls::{self, Misfit, TlsConfig, UpstreamTlsConfig},
};

/// How the gateway listens and what it allows: the `[gateway]` table of `sinew.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// Where it listens; port 0 takes any free one.
    pub address: SocketAddr,
    /// How many threads carry requests; as many as there are cores when absent.
    pub threads: Option<usize>,
    /// Where this gateway is: instances whose metadata say the same `zone` are preferred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What one connection or request may cost.
    pub limits: Limits,
    /// Where one JSON line per request goes.
    pub access_log: AccessLog,
    /// What it says of which requests.
    pub logging: Logging,
    /// How clients reach it over TLS, if they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// Which services' instances are connected to over TLS.
    pub upstream_tls: Vec<UpstreamTlsConfig>,
    /// Whose connections begin with a PROXY header, which says who the client is. From these
    /// addresses it must come, from others it is no HTTP.
    pub proxy_protocol_from: Vec<AddressRange>,
    /// The routes to begin with. In `sinew.toml` they stand outside this table, as `[[routes]]`.
    #[serde(skip)]
    pub routing: Routing,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([0, 0, 0, 0], 8080)),
            threads: None,
            zone: None,
            limits: Limits::default(),
            access_log: AccessLog::Off,
            logging: Logging::default(),
            tls: None,
            upstream_tls: Vec::new(),
            proxy_protocol_from: Vec::new(),
            routing: Routing::default(),
        }
    }
}

impl GatewayConfig {
    /// The first fault in what it says of TLS, in the files too, or nothing.
    pub fn check_tls(&self) -> Result<(), Misfit> {
        tls::check(self)
    }
}

/// What one connection or request may cost. The longest body is set per route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of a request's head (431 beyond). The heads of responses may be as long.
    #[serde(with = "units::size")]
    pub head_bytes: u64,
    /// Header lines of a request (431 beyond), at most 256.
    pub headers: usize,
    /// From a request's first byte to the end of its head (408 after).
    #[serde(with = "units::duration")]
    pub head_timeout: Duration,
    /// How long a connection may wait for its next request.
    #[serde(with = "units::duration")]
    pub idle_timeout: Duration,
    /// How long a body may stand still in either direction.
    #[serde(with = "units::duration")]
    pub body_timeout: Duration,
    /// How long an upgraded connection, such as a WebSocket, may be silent in both directions.
    #[serde(with = "units::duration")]
    pub upgraded_idle_timeout: Duration,
    /// HTTP/2 requests that a connection may have open at once; 1 to 1000.
    pub streams: u32,
    /// Bytes of a request's body that an HTTP/2 client may send before the gateway has passed them
    /// on: 64KiB to 16MiB per request, and per connection at least as many.
    #[serde(with = "units::size")]
    pub stream_window: u64,
    /// The same for all requests of a connection together.
    #[serde(with = "units::size")]
    pub connection_window: u64,
    /// Client connections per thread; more are answered 503 and closed.
    pub connections: usize,
    /// Client connections per address, of all threads together; more are answered 429 and closed.
    /// IPv6 addresses that share their first 64 bits count as one. Absent, there is no such limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_per_address: Option<usize>,
    /// Addresses that this is not counted for, such as proxies that do not say for whom they connect.
    /// Those of `proxy_protocol_from` are none themselves: who they connect for is counted.
    pub uncounted_addresses: Vec<AddressRange>,
    /// How long an unused connection to an instance is kept.
    #[serde(with = "units::duration")]
    pub upstream_idle_timeout: Duration,
    /// Unused connections kept per instance and thread.
    pub upstream_idle_connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 32 << 10,
            headers: 100,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(60),
            upgraded_idle_timeout: Duration::from_secs(600),
            streams: 128,
            stream_window: 64 << 10,
            connection_window: 1 << 20,
            connections: 10_000,
            connections_per_address: None,
            uncounted_addresses: Vec::new(),
            upstream_idle_timeout: Duration::from_secs(30),
            upstream_idle_connections: 128,
        }
    }
}

/// Where the access log goes: `"off"`, `"stdout"`, `"stderr"` or the path of a file to append to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Appended to this file.
    File(PathBuf),
}

impl From<String> for AccessLog {
    fn from(text: String) -> Self {
        match text.as_str() {
            "off" => Self::Off,
            "stdout" => Self::Stdout,
            "stderr" => Self::Stderr,
            _ => Self::File(text.into()),
        }
    }
}

impl From<AccessLog> for String {
    fn from(log: AccessLog) -> Self {
        match log {
            AccessLog::Off => "off".into(),
            AccessLog::Stdout => "stdout".into(),
            AccessLog::Stderr => "stderr".into(),
            AccessLog::File(path) => path.to_string_lossy().into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_gateway_table() {
        let text = "address = \"127.0.0.1:0\"\naccess_log = \"stderr\"\n[limits]\nheads = 1";
        assert!(toml::from_str::<GatewayConfig>(text).is_err());
        let config: GatewayConfig = toml::from_str(&text.replace("heads", "headers")).unwrap();
        assert_eq!(
            (config.access_log.clone(), config.limits.headers),
            (AccessLog::Stderr, 1)
        );
        assert_eq!(config.limits.body_timeout, Duration::from_secs(60));
        let back: GatewayConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(back, config);
    }
}
