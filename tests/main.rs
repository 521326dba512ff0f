//! End to end: the real executable, real processes, real sockets. Every test has ports and folders
//! of its own, waits for conditions within generous bounds, and asserts what a user would notice;
//! how fast things are is for `bench/`.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say so and stop"
)]

mod command_line;
mod configs;
mod demo;
mod harness;
mod node_restart;
mod orphans;
mod refusals;
mod routes;
mod take_over;
