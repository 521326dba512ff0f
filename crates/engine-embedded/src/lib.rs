//! The engines that are in the box: durable on one machine, with nothing to install.

#![warn(missing_docs)]

pub mod storage;
