//! The default engines: what a Sinew node runs on when nothing else is configured. One data folder,
//! no other process.

#![warn(missing_docs)]

pub mod blob;
mod bus;
pub mod cache;
mod journal;
mod kv;
pub mod log;
pub mod storage;
mod store;

pub use bus::{BusOptions, EmbeddedBus};
pub use kv::{EmbeddedKv, Options, SyncFailure};
pub use store::{Acknowledged, Committed, Store, StoreOptions, Unit};
