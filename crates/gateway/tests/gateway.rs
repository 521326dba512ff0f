//! The gateway over real sockets, byte by byte: what goes in at one side and what comes out at the
//! other.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[path = "gateway/support.rs"]
mod support;

#[path = "gateway/balancing.rs"]
mod balancing;
#[path = "gateway/failover.rs"]
mod failover;
#[path = "gateway/forwarding.rs"]
mod forwarding;
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
#[path = "gateway/outliers.rs"]
mod outliers;
#[path = "gateway/protection.rs"]
mod protection;
#[path = "gateway/retries.rs"]
mod retries;
#[path = "gateway/streaming.rs"]
mod streaming;
#[path = "gateway/tokens.rs"]
mod tokens;
#[path = "gateway/trailers.rs"]
mod trailers;
#[path = "gateway/upgrades.rs"]
mod upgrades;
