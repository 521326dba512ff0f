//! The embedded engines against the conformance suites, and against crashes.

#![expect(clippy::unwrap_used, reason = "these are tests")]

#[path = "blob/suite.rs"]
mod blob_suite;
#[path = "bus/crash.rs"]
mod bus_crash;
#[path = "cache/suite.rs"]
mod cache_suite;
#[path = "kv/crash.rs"]
mod kv_crash;
#[path = "kv/suite.rs"]
mod kv_suite;
