use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Context, Result};

/// Below the range from which the kernel takes ports for outgoing connections (from 32768 on Linux), so that a
/// server that is started again finds its port free.
const FIRST: u16 = 15_000;
const LAST: u16 = 32_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port on loopback that nobody listens on, and that this process does not give away twice soon.
pub fn free_port() -> Result<u16> {
    let start = u16::try_from(std::process::id() % u32::from(LAST - FIRST)).unwrap_or_default();
    for _ in FIRST..LAST {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        // Processes that run beside each other begin far apart.
        let port = FIRST + (start.wrapping_mul(37).wrapping_add(step)) % (LAST - FIRST);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    None.context("there is no free port on 127.0.0.1")
}
