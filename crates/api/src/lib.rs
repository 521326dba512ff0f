//! The control plane's edges, one module per protocol. They translate between the wire and the
//! blocks; they decide nothing.

pub mod consul;
pub mod eureka;
pub mod rest;
mod server;

pub use server::{Peer, Server};
