//! The config centre: settings of applications, with history, drafts, gray releases and encrypted
//! values, merged into what one instance shall see.
//!
//! # One model, two views
//! An item is named by namespace, application, profile and label ([`ItemId`]); this is what Spring
//! Cloud Config knows. Clients that name items by *data id* and *group* (Nacos) see the same ones: the
//! group is the label (`DEFAULT_GROUP` is what `main` is called there, and the other way round), and
//! the data id is `<application>` for the profile `default`, otherwise `<application>:<profile>`.
//! Profiles hold no colon, so the mapping is one to one in both directions. Names such as
//! `orders-prod.yaml`, which those clients make from an application and a profile, are items of their
//! own, and are found where that profile of that application is asked for (`resolve`).
//!
//! # Keys
//! - `configs/head/<item>`: what is in force: the description and content of the current version and
//!   of the one in gray release, which versions are kept (`model::Head`). Everything that readers see.
//! - `configs/version/<item>/<number>`: one version with its content, for the history.
//! - `configs/draft/<item>`: what is being prepared.
//! - `configs/key/<id>`: a data key, wrapped by a master key that is never in the store.
//! - `configs/audit/<time>-<random>`: who did what.
//!
//! # Invariants
//! - Every change is one commit: head, version, audit entry and what leaves the history, on the
//!   condition that the head is still the one that was looked at. Answered means durable. A commit of
//!   unknown outcome looks for its own `writer` before it is tried again, so it happens once or not at all.
//! - Versions are numbered from 1, never reused and never changed. Deleting an item leaves its history,
//!   until it is purged; going back to an old content makes a new version.
//! - Readers see some revision of the store, all of it, and never an older one than before. Only the watch
//!   changes what they see; a change waits for it, so a node reads its own writes. With the store gone
//!   they keep what they have and say that it is stale.
//! - What was written can be read: content is parsed in its format, checked against its schema, and every
//!   encrypted value is opened once before it is stored.
//! - Decrypted values exist only in answers to those who may see them: not in the store, the audit log, errors or logs.
//! - A subscriber remembers what it saw last and holds no queue: a slow one gets the newest and costs nothing.
//!
//! # Rejected
//! - *Documents ([`crate::documents`]) as they are*: their history and conditions are the same, but one
//!   watch per item does not carry thousands of items, and a release would not be one commit with its
//!   audit entry.
//! - *Data id and group as the one model*: profiles and labels would have to be guessed from names.
//! - *Encrypting whole items*: differences and schemas would see nothing, and one secret would hide all the rest.

mod audit;
mod bundle;
mod config;
mod difference;
mod error;
mod follow;
mod format;
mod gray;
mod item;
mod keys;
mod machine;
mod model;
mod resolve;
mod schema;
mod secrets;
mod service;
mod state;
mod watcher;

#[cfg(test)]
mod tests;

pub use audit::{Action, AuditEntry};
pub use bundle::{Bundle, BundleItem, Imported};
pub use config::Config;
pub use difference::{Change, Comparison, Difference};
pub use format::{Format, properties};
pub use gray::{AddressRange, Client, Rule};
pub use item::{DEFAULT_NAMESPACE, DEFAULT_PROFILE, ItemId, MAIN_LABEL};
pub use model::{By, Content, Draft, Gray, Item, Rotated, Stats, Version, VersionContent, Written};
pub use resolve::{Effective, Query, Setting, Source};
pub use secrets::MasterKeys;
pub use service::Configs;
pub use watcher::Watcher;
