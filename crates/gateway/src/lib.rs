//! The gateway: what stands between the world and the services.

mod config;
mod discovery;
mod host;
mod keys;
mod path;
mod route;
mod router;
mod units;

pub use config::{AccessLog, GatewayConfig, Limits};
pub use discovery::{Discovery, Endpoint, EndpointStatus, FixedDiscovery};
pub use keys::{Keys, TokenKeys};
pub use route::{Auth, PathPattern, Route};
pub use router::Router;
