//! The registry: which instances of which services exist, where they are, and whether they take
//! requests. Services register themselves and send heartbeats; the gateway, the services' clients
//! and the dialects of other registries read and watch.
//!
//! # Keys
//! `registry/instance/<service>/<id>`, or `registry/instance/@<namespace>/<service>/<id>`, holds one
//! instance as JSON (`keys`, `model`). While its heartbeats come, `registry/beat/…` exists beside it,
//! empty and attached to a lease of its own whose time to live is the instance's. There is nothing
//! else in the store: the lists, counts and indexes are made in memory from these keys.
//!
//! # Life and death
//! The store ends the leases, so nothing here counts heartbeats, and after a restart of the store
//! every instance has its full TTL again. When a heartbeat's key goes, an ephemeral instance is no
//! longer listed, a persistent one stays and is critical. What it was is remembered for another TTL,
//! on all nodes alike, for it takes all of them to see a fault of the network: when fewer than half of
//! a service's instances are healthy (`panic_threshold`, as Envoy has it) and at least three are not,
//! those that went are listed again, and all count as up. The dead are deregistered in the end
//! (`reap`) by whichever node is first.
//!
//! # Invariants
//! - An instance is listed exactly as long as its heartbeats come, or it is persistent, or its service
//!   is in panic. That is a function of what the store holds and of nothing else: nodes agree.
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
//! A registration is one commit of two keys. The lease that it needs is taken from a few that were granted
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

mod checks;
mod config;
mod error;
mod follow;
mod inner;
mod keys;
mod machine;
mod model;
pub mod naming;
mod reap;
mod service;
mod spares;
mod watcher;
mod writes;

#[cfg(test)]
mod tests;

pub use checks::{CheckKey, Checks, Due};
pub use config::Config;
pub use model::{
    Check, Edit, Health, Instance, Listing, Metadata, Port, Probe, Registered, Registration,
    Service, ServiceId, Stats, Status, Weight, default_namespace,
};
pub use naming::Spelling;
pub use service::Registry;
pub use watcher::Watcher;
