//! Named documents that are replaced as a whole and keep their history: who changed them, when and
//! why, and what they were before. The gateway's routes are one. What a document says is its owner's
//! business: here it is bytes.
//!
//! # Keys
//! - `documents/current/<name>` describes the newest version (`model`).
//! - `documents/version/<name>/<number>` is the same description, kept for the history.
//! - `documents/part/<name>/<number>/<writer>/<part>` is the content, in parts that any engine takes.
//!   `writer` is a random number of the write, so that two writes of one version cannot mix.
//!
//! # Invariants
//! - Versions are numbered from 1 without gaps, and each is written by one commit, which demands that
//!   the version before is still the current one. Parts that do not fit into that commit are written
//!   before it, so whoever sees a version can read it whole; a writer that dies in between leaves parts
//!   that nobody sees, and which go with the history.
//! - An answered write is durable. A write whose commit ended with an error of unknown outcome looks
//!   for its own `writer` before it is tried again, so it happens once or not at all.
//! - Content comes with its SHA-256 and is never handed out without having been checked against it.
//! - A version is never changed. Going back to an old content is a new version.
//! - A follower ([`Documents::follow`]) sees the newest version, perhaps not each one in between. It
//!   goes on after every failure of the store and says meanwhile that it is out of touch.
//!
//! # Rejected
//! - *Differences instead of whole contents*: less space, but a version would be readable only as long
//!   as all before it are, and the history could not be cut at its old end.
//! - *The number of a version from the store's revision*: free, but it has gaps, which look like loss,
//!   and changes when the store is restored elsewhere.

mod config;
mod error;
mod follow;
mod keys;
mod machine;
mod model;
mod service;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use model::{Change, Document, Followed, Version, Written, hash};
pub use service::Documents;
