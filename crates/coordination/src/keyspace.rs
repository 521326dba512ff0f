//! Keys that users keep in the store, with sessions and locks: the shape that Consul gave them, for
//! whoever speaks it. Values are bytes; a key carries flags, and may be locked by a session.
//!
//! # Keys
//! - `keyspace/key/<key>`: what is known of the key as one line of JSON, then the value (`model`).
//! - `keyspace/session/<id>`: a session, attached to a lease if it has a time to live.
//! - `keyspace/held/<session>/<key>`: the session holds the lock of the key. Written and deleted in the
//!   commits that lock and release, so that what a session held is found without reading every key.
//! - `keyspace/delay/<key>`: the lock may not be taken yet; goes with a lease of its own.
//!
//! # Invariants
//! - A lock is taken by a commit which demands that the session exists, that nobody else holds it and
//!   that no delay is on. Every change of a key demands the state of it that was decided upon
//!   (`machine`), so changes through several nodes are as if made one after the other.
//! - When a session has gone, by its lease or on request, each lock of it is released, or the key
//!   deleted, and the delay begins, in one commit per key. Every node tries (`sweep`); whoever comes
//!   first does it. Who asks for such a lock before that does it then.
//! - A lock is advice, as in Consul: who does not ask for it may write the key.
//! - The index of a key or a prefix ([`Follower::index`]) grows whenever something in it changes, and never
//!   goes back. Whoever follows is woken by changes in what it follows only; it may be woken without
//!   a change when its index is older than what is remembered of changes (`changes`).
//!
//! # Rejected
//! - *All keys in memory*, as the registry has it: reads would not need the store, but values have up
//!   to half a megabyte. Only which keys changed lately is in memory.
//! - *Keys that go with their session attached to its lease*: one commit less, but then nobody could
//!   begin the delay in the same step, and another might hold the lock before those notice who held it.

mod changes;
mod config;
mod desk;
mod error;
mod follow;
mod keys;
mod machine;
mod model;
mod service;
mod sessions;
mod sweep;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use follow::{Follower, Scope};
pub use model::{Action, Item, Mode, Refused, Session, SessionRequest, Stats};
pub use service::Keyspace;
