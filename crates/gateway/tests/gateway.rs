//! The gateway over real sockets, byte by byte: what goes in at one side and what comes out at the
//! other.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[path = "gateway/support.rs"]
mod support;

#[path = "gateway/authority.rs"]
mod authority;

/// The same once more with TLS on both sides.
#[path = "gateway"]
mod over_tls {
    #![expect(
        clippy::duplicate_mod,
        reason = "what carries the bytes makes them other tests"
    )]

    mod failover;
    mod forwarding;
    mod interim;
    mod streaming;
    mod trailers;
    mod upgrades;
}

#[path = "gateway/addresses.rs"]
mod addresses;
#[path = "gateway/backends.rs"]
mod backends;
#[path = "gateway/balancing.rs"]
mod balancing;
#[path = "gateway/corpus.rs"]
mod corpus;
#[path = "gateway/failover.rs"]
mod failover;
#[path = "gateway/forwarding.rs"]
mod forwarding;
#[path = "gateway/h2.rs"]
mod h2;
#[path = "gateway/h2_hostile.rs"]
mod h2_hostile;
#[path = "gateway/h2_instances.rs"]
mod h2_instances;
#[path = "gateway/h2_support.rs"]
mod h2_support;
#[path = "gateway/headers.rs"]
mod headers;
#[path = "gateway/hedging.rs"]
mod hedging;
#[path = "gateway/hostile.rs"]
mod hostile;
#[path = "gateway/interim.rs"]
mod interim;
#[path = "gateway/lifecycle.rs"]
mod lifecycle;
#[path = "gateway/mirroring.rs"]
mod mirroring;
#[path = "gateway/outliers.rs"]
mod outliers;
#[cfg(feature = "servers")]
#[path = "gateway/peers.rs"]
mod peers;
#[path = "gateway/protection.rs"]
mod protection;
#[path = "gateway/proxy.rs"]
mod proxy;
#[path = "gateway/retries.rs"]
mod retries;
#[path = "gateway/routing.rs"]
mod routing;
#[path = "gateway/streaming.rs"]
mod streaming;
#[path = "gateway/tls.rs"]
mod tls;
#[path = "gateway/tokens.rs"]
mod tokens;
#[path = "gateway/trailers.rs"]
mod trailers;
#[path = "gateway/upgrades.rs"]
mod upgrades;
#[path = "gateway/upstream_tls.rs"]
mod upstream_tls;
