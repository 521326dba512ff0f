//! The default engines: what a Sinew node runs on when nothing else is configured. One data folder,
//! no other process.

#![warn(missing_docs)]

pub mod blob;
mod bus;
pub mod cache;
#[allow(dead_code, reason = "its faces follow")]
mod journal;
mod kv;
pub mod log;
pub mod storage;

pub use bus::{BusOptions, EmbeddedBus};
pub use kv::{EmbeddedKv, Options, SyncFailure};
