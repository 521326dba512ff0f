//! The waist of Sinew: the engine traits that every block is written against, each with its written
//! specification, its in-memory reference and its conformance suite.

#![warn(missing_docs)]

pub mod blob;
pub mod bus;
pub mod cache;
#[cfg(feature = "suite")]
pub mod faulty;
mod health;
pub mod kv;
pub mod retry;
pub mod sql;
#[cfg(feature = "suite")]
mod suite;

pub use health::Health;
