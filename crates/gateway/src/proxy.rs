//! The PROXY protocol: a proxy in front of the gateway says, before anything else, who connected to
//! it. Specified by HAProxy (doc/proxy-protocol.txt), versions 1 and 2.

mod header;

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::{io::AsyncReadExt, net::TcpStream};

pub(crate) use header::{Malformed, parse};

/// How much is looked at before it is known to be the proxy's.
const LOOK: usize = 256;

/// Why there was no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Timeout,
    Closed,
    Malformed,
}

/// Counts connections from proxies. They are rare beside requests, so all threads share these.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    accepted: AtomicU64,
    failed: [AtomicU64; 3],
}

/// Reads the header and nothing behind it: who connected to the proxy, or nobody when it speaks for
/// itself. The caller limits the time.
pub(crate) async fn read(socket: &mut TcpStream) -> Result<Option<SocketAddr>, Failure> {
    let closed = |_: io::Error| Failure::Closed;
    let mut bytes = Vec::with_capacity(LOOK);
    loop {
        let before = bytes.len();
        bytes.resize(before + LOOK, 0);
        let seen = socket.peek(&mut bytes[before..]).await.map_err(closed)?;
        if seen == 0 {
            return Err(Failure::Closed);
        }
        bytes.truncate(before + seen);
        let header = parse(&bytes).map_err(|Malformed| Failure::Malformed)?;
        let length = header.map_or(bytes.len(), |header| header.length);
        let own = &mut bytes[before..length];
        socket.read_exact(own).await.map_err(closed)?;
        if let Some(header) = header {
            return Ok(header.source);
        }
    }
}

impl Counters {
    pub(crate) fn count(&self, outcome: Result<(), Failure>) {
        let counter = match outcome {
            Ok(()) => &self.accepted,
            Err(failure) => &self.failed[failure as usize],
        };
        counter.fetch_add(1, Relaxed);
    }

    /// The series in the Prometheus text format.
    pub(crate) fn text(&self, text: &mut String) {
        use std::fmt::Write;
        let (done, failed) = ("proxy_headers_total", "proxy_header_failures_total");
        crate::metrics::head(text, done, "counter", "PROXY headers read.");
        let _ = writeln!(text, "sinew_gateway_{done} {}", self.accepted.load(Relaxed));
        let help = "Connections of proxies that ended without a PROXY header.";
        crate::metrics::head(text, failed, "counter", help);
        for (reason, count) in ["timeout", "closed", "malformed"].iter().zip(&self.failed) {
            let count = count.load(Relaxed);
            let _ = writeln!(
                text,
                "sinew_gateway_{failed}{{reason=\"{reason}\"}} {count}"
            );
        }
    }
}
