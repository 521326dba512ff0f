//! HTTP/1.1 (RFC 9112) as the gateway speaks it on both sides: strict in what it accepts, exact in
//! what it sends. Why it is our own: docs/adr/0003-own-http1-in-the-data-plane.md.

mod body;
mod buffer;
mod fields;
mod protocols;
mod request;
mod response;
mod scan;
mod trailers;

pub(crate) use body::{Body, BodyFault, Piece};
pub(crate) use buffer::{Buffer, push_chunk, push_chunk_size, push_number};
pub(crate) use fields::{FieldKind, Fields, classify};
pub(crate) use protocols::push_protocols;
pub(crate) use request::{Destination, Framing, MOST_HEADERS, RequestHead};
pub(crate) use response::ResponseHead;
pub(crate) use scan::{HeadScan, Scanned, is_foreign};
pub(crate) use trailers::{push_announcement, push_last_chunk};
