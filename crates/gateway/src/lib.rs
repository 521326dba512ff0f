//! The gateway: what stands between the world and the services.
//!
//! N threads, each with a listener, an event loop and connections to the instances of its own,
//! share nothing on a request's way but immutable snapshots. A request's walk through the modules:
//!
//! ```text
//! worker      accepts; one task per client connection
//! edge        what comes before the first request: PROXY header, TLS handshake
//! server      reads the head (h1), answers, keeps the connection or ends it
//! h2          brings the streams of HTTP/2 into the form of HTTP/1.1, on both sides
//! prepare     framing → canonical host and path → route → proof → the head for the instance
//! forward     picks an instance (upstream), connects, tries another one where that is safe
//! exchange    request up and response down at once, within bounded memory and time
//! tunnel      bytes in both directions, when both sides have agreed to another protocol
//! record      metrics and the access log
//! ```
//!
//! TLS ends in `stream`: everything behind it works on streams of bytes, whatever carries them, and
//! everything behind `server` on a request's head and two of them. `node` plugs in who knows the
//! instances ([`Discovery`]) and the keys ([`Keys`]).

mod access_log;
mod address_range;
mod auth;
mod config;
mod discovery;
mod edge;
mod exchange;
mod fault;
mod forward;
mod gateway;
mod grpc;
mod h1;
mod h2;
mod hedge;
mod host;
mod keys;
mod metrics;
mod path;
mod policy;
mod prepare;
mod protocol;
mod proxy;
mod random;
mod record;
mod route;
mod router;
mod routing;
mod scratch;
mod server;
mod stream;
mod timer;
mod tls;
mod trace;
mod tries;
mod tunnel;
mod upstream;
mod worker;

pub use address_range::AddressRange;
pub use config::{AccessLog, GatewayConfig, Limits};
pub use discovery::{Discovery, Endpoint, EndpointStatus, FixedDiscovery};
pub use gateway::Gateway;
pub use keys::{Keys, TokenKeys};
pub use metrics::Stats;
pub use policy::{
    Balance, Breaker, Bulkhead, Conditions, Ejection, Fallback, HashBy, Hedge, Shedding, Upstream,
};
pub use protocol::Protocol;
pub use route::{Auth, PathPattern, Route};
pub use router::Router;
pub use routing::Routing;
pub use tls::{
    CertificateFiles, ClientCertificate, Misfit, Place, TlsConfig, TlsVersion, UnknownName,
    UpstreamTlsConfig,
};
