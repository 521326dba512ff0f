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
//! prepare     framing → canonical host and path → route (router) → backend → proof → the route's
//!             own answer (action), or the head for the instance
//! forward     picks an instance (upstream), connects, tries another one where that is safe;
//!             a copy may go to another service (mirror)
//! exchange    request up and response down at once, within bounded memory and time
//! tunnel      bytes in both directions, when both sides have agreed to another protocol
//! record      metrics and the access log
//! ```
//!
//! What is configured is compiled once: routes (`route`, `pattern`, `matcher`, `backend` → `compiled`)
//! into a `snapshot`, which takes over from the one before what a change does not touch.
//!
//! TLS ends in `stream`: everything behind it works on streams of bytes, whatever carries them, and
//! everything behind `server` on a request's head and two of them. `node` plugs in who knows the
//! instances ([`Discovery`]) and the keys ([`Keys`]).

mod access_log;
mod action;
mod address_range;
mod addresses;
mod auth;
mod backend;
mod compiled;
mod config;
mod discovery;
mod edge;
mod endpoints;
mod exchange;
mod fault;
mod forward;
#[cfg(test)]
mod fuzz;
mod gateway;
mod grpc;
mod h1;
mod h2;
mod hedge;
mod host;
mod keys;
mod listen;
mod matcher;
mod metrics;
mod mirror;
mod path;
mod pattern;
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
mod snapshot;
mod stream;
mod timer;
mod tls;
mod trace;
mod tries;
mod tunnel;
mod upstream;
mod variables;
mod worker;

pub use access_log::{LogField, Logging, QueryValues, Share};
pub use action::{Redirect, Reply};
pub use address_range::AddressRange;
pub use backend::{Backend, Sticky, SubsetFallback};
pub use config::{AccessLog, GatewayConfig, Limits};
pub use discovery::{Discovery, Endpoint, EndpointStatus, FixedDiscovery};
pub use gateway::Gateway;
pub use keys::{Keys, TokenKeys};
pub use listen::Listeners;
pub use matcher::{FieldMatch, HeaderLines, Question};
pub use metrics::Stats;
pub use mirror::Mirror;
pub use pattern::PathPattern;
pub use policy::{
    Balance, Breaker, Bulkhead, Conditions, Ejection, Fallback, HashBy, Hedge, Shedding, Upstream,
};
pub use protocol::Protocol;
pub use route::{Auth, Route};
pub use router::{RouteFault, Router};
pub use routing::Routing;
pub use tls::{
    CertificateFiles, ClientCertificate, Misfit, Place, TlsConfig, TlsVersion, UnknownName,
    UpstreamTlsConfig,
};
