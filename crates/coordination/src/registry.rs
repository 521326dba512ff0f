//! The registry: which instances of which services exist, where they are, and whether they take
//! requests. Services register themselves and send heartbeats; the gateway, the services' clients
//! and the dialects of other registries read and watch.
//!
//! # Keys
//! `registry/instance/<service>/<id>`, or `registry/instance/@<namespace>/<service>/<id>`, holds one instance as JSON (`keys`, `model`), attached to
//! a lease of its own whose time to live is the instance's. There is nothing else in the store: the
//! lists, counts and indexes are made in memory from these keys.
//!
//! # Invariants
//! - An instance is listed exactly as long as its key exists. It goes with its lease, so nothing
//!   here counts seconds, and after a restart of the store every instance has its full TTL again.
//! - What readers see is some revision of the store, all of it, and never an older one than before.
//!   Only the watch changes it (`machine`); a write waits for the watch to show it and changes
//!   nothing itself. A node therefore reads its own writes on return, unless the watch is down.
//! - A reader is never blocked by, and never waits for, the store. With the store gone, readers keep
//!   the last snapshot.
//! - An observer ([`Registry::observe`]) is part of the change: the gateway routes to an instance when
//!   its registration returns, and to none whose deregistration has.
//! - Every watcher gets the newest list of a service, perhaps not each one in between; it holds no
//!   queue, so a slow one costs nothing ([`Watcher`]).
//!
//! # Costs
//! A registration is one commit. The lease that it needs is taken from a few that were granted
//! beforehand (`spares`). A heartbeat is one keep-alive, which writes nothing durable. A change is
//! one copy of the list of its service.
//!
//! # Rejected
//! - *Heartbeats as writes* (as in Eureka, where a heartbeat is replicated): they would be most of
//!   the store's load and wake every watcher. Leases exist for this.
//! - *One lease for all instances of one node*: a register without a lease of its own is cheaper, but
//!   the registry would have to keep its own clocks per instance and write the expiries, and after a
//!   crash of the node all of its instances would go at once.
//! - *Applying own writes to the snapshot at once*: the watch, still behind, could then bring an
//!   older put after the delete, and a dead instance would be back.

mod config;
mod error;
mod follow;
mod keys;
mod machine;
mod model;
pub mod naming;
mod service;
mod spares;
mod watcher;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use model::{
    Check, Edit, Health, Instance, Listing, Metadata, Port, Probe, Registered, Registration,
    Service, ServiceId, Stats, Status, Weight, default_namespace,
};
pub use naming::Spelling;
pub use service::Registry;
pub use watcher::Watcher;
