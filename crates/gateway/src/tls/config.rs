//! What `sinew.toml` says of TLS.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use sinew_core::{Name, units};

/// How clients reach the gateway over TLS: the `[gateway.tls]` table. Files are read again when
/// they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Where it listens for TLS, beside `[gateway] address`; port 0 takes any free one.
    pub address: SocketAddr,
    /// What a client without a server name, or with one that no certificate has, is shown.
    pub unknown_name: UnknownName,
    /// The oldest version that is spoken.
    pub minimum_version: TlsVersion,
    /// From the connection's first byte to the end of the handshake.
    #[serde(with = "units::duration")]
    pub handshake_timeout: Duration,
    /// Handshakes at once per thread; further connections wait until one is over.
    pub handshakes: usize,
    /// Requests that come in without TLS are answered 308, with the same URL as `https`.
    pub redirect: bool,
    /// The port that clients see, when another one is forwarded to this listener. It stands in
    /// redirects and in `X-Forwarded-Port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_port: Option<u16>,
    /// PEM file with the authorities whose client certificates are taken; clients are asked for none
    /// when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    /// Whether a client must have a certificate of `client_ca`.
    pub client_certificate: ClientCertificate,
    /// Which one a client gets is decided by the name it asks for. The first is for clients that
    /// ask for none.
    pub certificates: Vec<CertificateFiles>,
}

/// A certificate, and the key it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// PEM file with the certificate first, then those that lead to an authority.
    pub cert: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// What becomes of a client that asks for a server name which no certificate has, or for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownName {
    /// It is shown the first certificate.
    #[default]
    Default,
    /// Its handshake fails.
    Refuse,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    V1_3,
}

/// Whether a client needs a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificate {
    /// It may have one; routes can demand one. One that is no good ends the handshake.
    #[default]
    Optional,
    /// No handshake without one.
    Required,
}

/// How the instances of a service are connected to: a `[[gateway.upstream_tls]]` table. What an
/// instance shows is always verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTlsConfig {
    /// Which service.
    pub service: Name,
    /// PEM file with the authorities that its certificates come from; those that the system trusts
    /// when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The name, or the address, that its certificates must have; the service's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// PEM file with the certificate that the gateway shows, if it shows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// PEM file with its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([0, 0, 0, 0], 8443)),
            unknown_name: UnknownName::default(),
            minimum_version: TlsVersion::default(),
            handshake_timeout: Duration::from_secs(10),
            handshakes: 500,
            redirect: false,
            public_port: None,
            client_ca: None,
            client_certificate: ClientCertificate::default(),
            certificates: Vec::new(),
        }
    }
}

/// A fault in the gateway's configuration: where, from `[gateway]` on, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The keys, and places in lists, that lead to the value.
    pub at: Vec<Place>,
    /// What is wrong, and what to do.
    pub why: String,
}

/// One step to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Of a table.
    Key(&'static str),
    /// Of a list, from 0.
    Index(usize),
}

impl Misfit {
    pub(crate) fn new(at: &[Place], why: impl Into<String>) -> Self {
        Self {
            at: at.to_vec(),
            why: why.into(),
        }
    }
}

impl From<&'static str> for Place {
    fn from(key: &'static str) -> Self {
        Self::Key(key)
    }
}

impl From<usize> for Place {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("gateway")?;
        for place in &self.at {
            match place {
                Place::Key(key) => write!(f, ".{key}")?,
                Place::Index(index) => write!(f, "[{index}]")?,
            }
        }
        write!(f, ": {}", self.why)
    }
}
