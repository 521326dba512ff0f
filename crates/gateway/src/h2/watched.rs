//! The socket below a connection: its first bytes may have been read already, and the kinds of the
//! frames that come in are counted.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::allowance::Allowance;
use crate::{h1::Buffer, server::Client};

/// Both the connection and whoever ends it hold the socket: an end that the other side is to hear of
/// needs it a little longer than the connection.
pub(super) struct Watched {
    client: Rc<RefCell<Client>>,
    /// Was read before.
    first: Buffer,
    frames: FrameScan,
    allowance: Rc<Allowance>,
}

/// Finds the frames in a stream of bytes.
#[derive(Debug)]
struct FrameScan {
    header: [u8; HEADER],
    /// How much of the header is there.
    have: usize,
    /// Bytes until the next header.
    skip: usize,
}

const HEADER: usize = 9;
const WHOLE_PREFACE: usize = 24;

impl Watched {
    pub(super) fn new(client: Rc<RefCell<Client>>, first: &[u8], allowance: Rc<Allowance>) -> Self {
        let mut read = Buffer::default();
        read.tail().extend_from_slice(first);
        Self {
            client,
            first: read,
            frames: FrameScan {
                header: [0; HEADER],
                have: 0,
                skip: WHOLE_PREFACE,
            },
            allowance,
        }
    }
}

impl FrameScan {
    fn read(&mut self, mut bytes: &[u8], mut found: impl FnMut(u8, u8, usize)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let count = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + count].copy_from_slice(&bytes[..count]);
            self.have += count;
            bytes = &bytes[count..];
            if self.have < HEADER {
                return;
            }
            let [a, b, c, kind, flags, ..] = self.header;
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            found(kind, flags, length);
            (self.have, self.skip) = (0, length);
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.allowance.exceeded() {
            // Nothing more is read; whoever polls the connection sees why, and ends it.
            return Poll::Pending;
        }
        let before = to.filled().len();
        if this.first.is_empty() {
            std::task::ready!(Pin::new(&mut this.client.borrow_mut().stream).poll_read(cx, to))?;
        } else {
            let count = this.first.len().min(to.remaining());
            to.put_slice(&this.first.unread()[..count]);
            this.first.consume(count);
        }
        let allowance = &this.allowance;
        this.frames
            .read(&to.filled()[before..], |kind, flags, length| {
                allowance.heard(kind, flags, length);
            });
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.client.borrow_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.client.borrow_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.client.borrow().stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.client.borrow_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.client.borrow_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_they_arrive() {
        let mut wire = vec![b'p'; WHOLE_PREFACE];
        for (kind, flags, length) in [(4, 0, 0), (0, 1, 300), (6, 1, 8), (1, 5, 0)] {
            wire.extend_from_slice(&[
                0,
                (length >> 8) as u8,
                length as u8,
                kind,
                flags,
                0,
                0,
                0,
                1,
            ]);
            wire.extend(vec![0xff; length]);
        }
        for step in 1..wire.len() {
            let mut scan = FrameScan {
                header: [0; HEADER],
                have: 0,
                skip: WHOLE_PREFACE,
            };
            let mut seen = Vec::new();
            for part in wire.chunks(step) {
                scan.read(part, |kind, flags, length| seen.push((kind, flags, length)));
            }
            assert_eq!(
                seen,
                [(4, 0, 0), (0, 1, 300), (6, 1, 8), (1, 5, 0)],
                "{step}"
            );
        }
    }
}
