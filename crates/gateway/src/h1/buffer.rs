use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// Bytes on their way: appended at the end, taken from the front. Its memory is kept for the next
/// use.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// What was appended and not yet taken.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    /// Takes `count` bytes from the front.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.bytes.len());
        if self.start == self.bytes.len() {
            self.clear();
        }
    }

    /// To append to.
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Gives memory back that a large message left behind.
    pub(crate) fn trim(&mut self, capacity: usize) {
        if self.is_empty() && self.bytes.capacity() > capacity {
            *self = Self::default();
        }
    }

    /// Reads once, `room` bytes or more. 0 is the end of the stream.
    pub(crate) fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut R,
        room: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.bytes.capacity() - self.bytes.len() < room {
            if self.start > 0 {
                self.bytes.drain(..self.start);
                self.start = 0;
            }
            self.bytes.reserve(room);
        }
        pin!(from.read_buf(&mut self.bytes)).poll(cx)
    }

    /// Writes until nothing is left, here or in the stream.
    pub(crate) fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            match ready!(Pin::new(&mut *to).poll_write(cx, self.unread()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.consume(count),
            }
        }
        Pin::new(to).poll_flush(cx)
    }
}

/// Appends `data` as one chunk of a chunked body; nothing when there is none, because an empty
/// chunk would end the body.
pub(crate) fn push_chunk(data: &[u8], to: &mut Vec<u8>) {
    if data.is_empty() {
        return;
    }
    to.reserve(data.len() + 20);
    push_chunk_size(data.len(), to);
    to.extend_from_slice(data);
    to.extend_from_slice(b"\r\n");
}

/// Appends the line that begins a chunk of this length.
pub(crate) fn push_chunk_size(length: usize, to: &mut Vec<u8>) {
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4);
    for digit in (0..digits).rev() {
        to.push(b"0123456789abcdef"[(length >> (digit * 4)) & 15]);
    }
    to.extend_from_slice(b"\r\n");
}

/// Appends `number` in decimal.
pub(crate) fn push_number(mut number: u64, to: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    to.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_chunks_read_back() {
        for number in [0, 7, 10, 128, u64::MAX] {
            let mut text = Vec::new();
            push_number(number, &mut text);
            assert_eq!(String::from_utf8(text).unwrap(), number.to_string());
        }
        for length in [1, 15, 16, 255, 256, 70_000] {
            let mut chunk = Vec::new();
            push_chunk(&vec![b'x'; length], &mut chunk);
            assert!(chunk.starts_with(format!("{length:x}\r\nx").as_bytes()));
            assert!(chunk.ends_with(b"x\r\n"));
        }
    }
}
