//! The real servers that tests, benches and `cargo xtask engines` run Sinew over or beside: started from the
//! system's packages, each in a folder and on a port of its own, and gone when dropped.
//!
//! Everything here blocks. It is no part of the product.

#![expect(
    clippy::disallowed_methods,
    reason = "real servers start and end in real time"
)]

mod autobahn;
mod certificate;
mod etcd;
mod haproxy;
mod kafka;
mod mariadb;
mod memcached;
mod nats;
mod nginx;
mod ports;
mod postgres;
mod programs;
mod proxy;
mod rabbitmq;
mod redis;
mod s3;
mod server;

pub use autobahn::{Autobahn, Echo};
pub use certificate::certificate;
pub use etcd::Etcd;
pub use haproxy::Haproxy;
pub use kafka::Kafka;
pub use mariadb::Mariadb;
pub use memcached::Memcached;
pub use nats::Nats;
pub use nginx::Nginx;
pub use ports::free_port;
pub use postgres::Postgres;
pub use programs::{h2spec, programs};
pub use proxy::Proxy;
pub use rabbitmq::RabbitMq;
pub use redis::Redis;
pub use s3::S3;
pub use server::{Program, Server, answers, find, run};
