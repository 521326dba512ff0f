//! The conformance suites and fault tests of each engine, against its real server. Each engine's tests are
//! built with its feature.

#[cfg(any(feature = "memcached", feature = "redis"))]
mod cache;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "memcached")]
mod memcached;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "s3")]
mod s3;
#[cfg(any(
    feature = "sql-sqlite",
    feature = "sql-postgres",
    feature = "sql-mysql"
))]
mod sql;
