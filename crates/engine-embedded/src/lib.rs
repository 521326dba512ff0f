//! The default engines: what a Sinew node runs on when nothing else is configured. One data folder,
//! no other process.

#![warn(missing_docs)]

pub mod blob;
mod bus;
pub mod cache;
mod damage;
mod examine;
mod inspect;
mod journal;
mod kv;
pub mod log;
mod repair;
pub mod storage;
mod store;

pub use bus::{
    BusOptions, EmbeddedBus,
    salvage::{GroupSummary, TopicSummary},
};
pub use damage::Damage;
pub use inspect::{InspectOptions, Inspection, KvState, ShownKey, inspect};
pub use kv::{EmbeddedKv, KvMemory, Options, SyncFailure};
pub use repair::{StoreRepaired, repair_store};
pub use store::{Acknowledged, Committed, Store, StoreOptions, Unit};
