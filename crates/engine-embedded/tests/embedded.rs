//! The embedded engines against the conformance suites, and against crashes.

#[path = "kv/suite.rs"]
mod kv_suite;
