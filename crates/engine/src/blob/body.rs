use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use sinew_core::Result;

use super::{Expect, body_mismatch, too_large};

/// The content of an object, piece by piece. After an error it has ended.
pub type Body = BoxStream<'static, Result<Bytes>>;

/// A body that is in memory.
pub fn body(content: impl Into<Bytes>) -> Body {
    stream::iter([Ok(content.into())]).boxed()
}

/// The whole of a body that has at most `most` bytes; `blob.too_large` (InvalidArgument) otherwise.
pub async fn collect(mut body: Body, most: u64) -> Result<Bytes> {
    let mut content = BytesMut::new();
    while let Some(piece) = body.try_next().await? {
        if (content.len() + piece.len()) as u64 > most {
            return Err(too_large(most));
        }
        content.extend_from_slice(&piece);
    }
    Ok(content.freeze())
}

/// Measures a body as it passes, for engines.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    expect: Expect,
    most: u64,
    size: u64,
    checksum: u32,
}

impl Check {
    /// For a body of which `expect` is known and that may have `most` bytes; `blob.too_large`
    /// (InvalidArgument) when it is known to have more.
    pub fn new(expect: Expect, most: u64) -> Result<Self> {
        if expect.size.is_some_and(|size| size > most) {
            return Err(too_large(most));
        }
        Ok(Self {
            expect,
            most,
            size: 0,
            checksum: 0,
        })
    }

    /// Counts the next piece; `blob.too_large` or `blob.body_mismatch` (InvalidArgument).
    pub fn add(&mut self, piece: &[u8]) -> Result<()> {
        self.size += piece.len() as u64;
        self.checksum = crc32c::crc32c_append(self.checksum, piece);
        if self.size > self.most {
            return Err(too_large(self.most));
        }
        match self.expect.size {
            Some(size) if self.size > size => Err(body_mismatch(format!(
                "the body has more than the {size} bytes announced"
            ))),
            _ => Ok(()),
        }
    }

    /// The size and checksum of the whole; `blob.body_mismatch` (InvalidArgument) when something else
    /// was announced.
    pub fn finish(self) -> Result<(u64, u32)> {
        if let Some(size) = self.expect.size.filter(|size| *size != self.size) {
            let found = self.size;
            return Err(body_mismatch(format!(
                "the body has {found} bytes, not {size}"
            )));
        }
        if let Some(checksum) = self.expect.checksum.filter(|crc| *crc != self.checksum) {
            let found = self.checksum;
            return Err(body_mismatch(format!(
                "the body has the CRC-32C {found:08x}, not {checksum:08x}"
            )));
        }
        Ok((self.size, self.checksum))
    }
}
