//! The composition root: reads the configuration, opens the engines by URL, builds the blocks,
//! starts the edges over them, and stops everything in order.

pub mod backup;
mod checks;
mod config;
mod configs;
mod dialects;
mod discovery;
mod engines;
mod fetch;
mod folder;
mod keys;
mod node;
pub mod offline;
pub mod routing;
mod takeover;
mod view;

pub use config::{Config, JwtConfig, ServiceUrl, Sources};
pub use dialects::{ConsulConfig, DialectConfig};
pub use folder::{DataFolder, Endpoints};
pub use node::{HandOver, Node};
/// What the control API answers, for those who ask it.
pub use sinew_api::rest::model;
/// What the node's registry speaks, for who runs a node in its own process.
pub use sinew_coordination::registry;
pub use takeover::Successor;
