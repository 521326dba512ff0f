//! HTTP/2 (RFC 9113) on both sides. Frames and header compression are the `h2` crate's; what is here
//! brings a stream into the form that everything else works on.
//!
//! A stream carries one request and its response. To the rest of the gateway it looks like a
//! connection that speaks HTTP/1.1 ([`Accepted`] from a client, [`Opened`] to an instance), so that
//! routing, policies, limits, retries and timeouts exist once, and whatever one protocol is spared
//! the other is, too. The heads are written by us from fields that were checked, and read back by the
//! strict reader that all heads go through; bodies pass without a copy that the `h2` crate would not
//! need anyway. Flow control is the stream's: its window opens as the other side takes the bytes.

mod accepted;
mod allowance;
mod connections;
mod incoming;
mod opened;
mod outgoing;
mod request;
mod serve;
mod watched;

use std::io;

pub(crate) use accepted::Accepted;
pub(crate) use connections::Connections;
pub(crate) use opened::Opened;
#[cfg(test)]
pub(crate) use request::{Framing, render};
pub(crate) use serve::serve;

/// What a client with prior knowledge says first (RFC 9113 §3.4): to a reader of HTTP/1 a whole head,
/// and six bytes more.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

fn failed(error: h2::Error) -> io::Error {
    io::Error::other(error)
}
