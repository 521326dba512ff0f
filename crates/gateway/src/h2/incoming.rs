//! A message that comes in on a stream, as the bytes of one of HTTP/1.1.

use std::{
    io,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use h2::RecvStream;
use http::{
    HeaderMap, HeaderName,
    header::{CONTENT_LENGTH, HOST},
};
use tokio::io::ReadBuf;

use super::failed;
use crate::h1::{Buffer, push_chunk_size};

/// Reads a body, after whatever was staged before it.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// Heads and the framing of chunks, which come before `data`.
    staged: Buffer,
    data: Bytes,
    body: Option<RecvStream>,
    chunked: bool,
    /// Its trailers frame or route, which behind a body is nothing but mischief (RFC 9110 §6.5.1).
    refused: bool,
}

impl Incoming {
    /// To append a head to.
    pub(super) fn stage(&mut self) -> &mut Vec<u8> {
        self.staged.tail()
    }

    pub(super) fn is_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// The body that follows; `chunked` when its head declares no length.
    pub(super) fn set_body(&mut self, body: RecvStream, chunked: bool) {
        (self.body, self.chunked) = (Some(body), chunked);
    }

    /// Reads what there is. `false` when it is over and nothing was read.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        let before = to.filled().len();
        while to.remaining() > 0 {
            if !self.staged.is_empty() {
                let count = self.staged.len().min(to.remaining());
                to.put_slice(&self.staged.unread()[..count]);
                self.staged.consume(count);
                continue;
            }
            if !self.data.is_empty() {
                self.take_data(to);
                continue;
            }
            match self.poll_next(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(to.filled().len() > before)),
                // What was read goes first; the error, or whatever comes next, is there next time.
                _ if to.filled().len() > before => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(true))
    }

    fn take_data(&mut self, to: &mut ReadBuf<'_>) {
        let count = self.data.len().min(to.remaining());
        to.put_slice(&self.data[..count]);
        self.data.advance(count);
        if let Some(body) = &mut self.body {
            // An error means that the stream is over, which the next read tells.
            let _ = body.flow_control().release_capacity(count);
        }
        if self.data.is_empty() {
            // What was read may be a slice of a buffer that others wait for.
            self.data = Bytes::new();
            if self.chunked {
                self.staged.tail().extend_from_slice(b"\r\n");
            }
        }
    }

    /// Fetches the next part of the body. `false` when there is none.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.refused {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let Some(body) = &mut self.body else {
            return Poll::Ready(Ok(false));
        };
        match std::task::ready!(body.poll_data(cx)) {
            Some(Ok(data)) => {
                // An empty chunk would end the body.
                if self.chunked && !data.is_empty() {
                    push_chunk_size(data.len(), self.staged.tail());
                }
                self.data = data;
                return Poll::Ready(Ok(true));
            }
            Some(Err(error)) => return Poll::Ready(Err(failed(error))),
            None if !self.chunked => {}
            None => {
                let trailers = std::task::ready!(body.poll_trailers(cx)).map_err(failed)?;
                let frames = |name: &HeaderName| [CONTENT_LENGTH, HOST].contains(name);
                if trailers.iter().flat_map(HeaderMap::keys).any(frames) {
                    self.refused = true;
                    return self.poll_next(cx);
                }
                let to = self.staged.tail();
                to.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.iter().flatten() {
                    push_field(name.as_str(), value.as_bytes(), to);
                }
                to.extend_from_slice(b"\r\n");
            }
        }
        self.body = None;
        Poll::Ready(Ok(!self.staged.is_empty()))
    }
}

pub(super) fn push_field(name: &str, value: &[u8], to: &mut Vec<u8>) {
    to.extend_from_slice(name.as_bytes());
    to.extend_from_slice(b": ");
    to.extend_from_slice(value);
    to.extend_from_slice(b"\r\n");
}
