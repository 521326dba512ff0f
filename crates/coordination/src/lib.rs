//! The lowest blocks, which the others may use: what nodes and services need to find one another
//! and to act as one.

pub mod configs;
pub mod documents;
pub mod keyspace;
pub mod registry;
