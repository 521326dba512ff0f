//! The gateway over real sockets, byte by byte: what goes in at one side and what comes out at the
//! other.

#[path = "gateway/support.rs"]
mod support;

#[path = "gateway/forwarding.rs"]
mod forwarding;
