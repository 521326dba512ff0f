//! A message of HTTP/1.1 that goes out on a stream.

use std::{
    io,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::SendStream;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{allowance::Allowance, failed};
use crate::h1::{Body, FieldKind, Piece};

/// Writes a body, whose bytes come in the framing of HTTP/1.1.
#[derive(Debug)]
pub(super) struct Outgoing {
    send: SendStream<Bytes>,
    body: Body,
    /// Bytes of a piece that was begun: they come first in the next write.
    owed: usize,
    ended: bool,
    allowance: Option<Rc<Allowance>>,
}

/// The longest DATA frame that is written at once.
const MOST_DATA: usize = 16 << 10;
/// Trailers of one message; whoever writes here has counted them already.
const MOST_TRAILERS: usize = 64;

impl Outgoing {
    /// `ended` when the head ended the stream already.
    pub(super) fn new(
        send: SendStream<Bytes>,
        body: Body,
        ended: bool,
        allowance: Option<Rc<Allowance>>,
    ) -> Self {
        Self {
            send,
            body,
            owed: 0,
            ended,
            allowance,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn stream(&mut self) -> &mut SendStream<Bytes> {
        &mut self.send
    }

    /// Takes as much of `bytes` as the windows of the stream and the connection allow.
    pub(super) fn poll_write(
        &mut self,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        while taken < bytes.len() {
            if self.owed > 0 {
                let rest = &bytes[taken..bytes.len().min(taken + self.owed)];
                match self.poll_data(rest, cx) {
                    Poll::Ready(Ok(count)) => taken += count,
                    _ if taken > 0 => break,
                    other => return other,
                }
                continue;
            }
            if self.ended {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            match self.body.next(&bytes[taken..]) {
                Ok(Piece::Data { skip, length }) => {
                    taken += skip;
                    self.owed = length;
                }
                Ok(Piece::End { skip, trailers }) => {
                    self.end(&bytes[taken + skip - trailers..taken + skip])?;
                    taken += skip;
                }
                Ok(Piece::Wait { skip }) if taken + skip > 0 => {
                    taken += skip;
                    break;
                }
                Ok(Piece::Wait { .. }) | Err(_) => {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_data(&mut self, rest: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let wanted = rest.len().min(MOST_DATA);
        while self.send.capacity() == 0 {
            self.send.reserve_capacity(wanted);
            if self.send.capacity() > 0 {
                break;
            }
            match std::task::ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
        let count = wanted.min(self.send.capacity());
        let data = Bytes::copy_from_slice(&rest[..count]);
        let last = count == self.owed && self.body.is_done();
        self.send.send_data(data, last).map_err(failed)?;
        if let Some(allowance) = &self.allowance {
            allowance.sent_data();
        }
        self.owed -= count;
        self.ended = last;
        Poll::Ready(Ok(count))
    }

    /// Ends the stream, with the trailers of `section` if there are any.
    fn end(&mut self, section: &[u8]) -> io::Result<()> {
        self.ended = true;
        if section.len() <= 2 {
            return self.send.send_data(Bytes::new(), true).map_err(failed);
        }
        let mut space = [httparse::EMPTY_HEADER; MOST_TRAILERS];
        let Ok(httparse::Status::Complete((_, fields))) =
            httparse::parse_headers(section, &mut space)
        else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let mut trailers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            push(field.name.as_bytes(), field.value, &mut trailers)?;
        }
        self.send.send_trailers(trailers).map_err(failed)
    }
}

/// Adds a field of a head, unless it concerns an HTTP/1.1 connection (RFC 9113 §8.2.2).
pub(super) fn push_end_to_end(
    (kind, name, value): (FieldKind, &[u8], &[u8]),
    to: &mut HeaderMap,
) -> io::Result<()> {
    match kind {
        FieldKind::Connection
        | FieldKind::TransferEncoding
        | FieldKind::Upgrade
        | FieldKind::HopByHop
        | FieldKind::Host => Ok(()),
        _ => push(name, value, to),
    }
}

fn push(name: &[u8], value: &[u8], to: &mut HeaderMap) -> io::Result<()> {
    // Both were read by httparse, which lets nothing else pass.
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let name = HeaderName::from_bytes(name).map_err(|_| invalid())?;
    let value = HeaderValue::from_bytes(value).map_err(|_| invalid())?;
    to.try_append(name, value).map_err(|_| invalid())?;
    Ok(())
}
