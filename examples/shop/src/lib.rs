//! The shop: five services on Sinew. Its README describes what it does and how it is called;
//! `domain` holds its rules, `storage` its databases, `http` its interfaces, and `checkout` the one
//! piece of work that spans services.

mod bank;
mod checkout;
mod domain;
mod fault;
mod http;
mod passwords;
mod secrets;
mod service;
mod shapes;
mod storage;
#[cfg(test)]
mod tests;

pub mod audit;
pub mod shoppers;

use std::process::ExitCode;

pub use service::SERVICES;

/// The node's configuration for the shop: its routes, and who signs its tokens.
pub const CONFIGURATION: &str = include_str!("../sinew.toml");

/// Runs one of [`SERVICES`] in this process, configured by the environment as every service of the
/// SDK is, until it is asked to stop. Blocks.
pub fn run(service: &str) -> ExitCode {
    sinew_sdk::main(service::serve(service))
}
