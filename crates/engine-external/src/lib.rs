//! The engines that other servers provide: one module and one cargo feature for each.
//!
//! Every one is opened from an [`Address`] and is usable at once: it connects in the background, says
//! through its `health()` whether the server answers, and goes on by itself when the server comes back.
//! Calls that find it away answer `engine.unavailable`, those whose fate is unknown `engine.timeout`.

#![warn(missing_docs)]

mod address;
#[cfg(any(feature = "kafka", feature = "nats"))]
mod bus_shell;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod fault;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "memcached")]
pub mod memcached;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "s3")]
pub mod s3;
#[cfg(any(feature = "kafka", feature = "memcached", feature = "s3"))]
mod socket;
#[cfg(any(
    feature = "sql-sqlite",
    feature = "sql-postgres",
    feature = "sql-mysql"
))]
pub mod sql;

pub use address::{Address, Host, Tls};
