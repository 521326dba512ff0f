//! The first block of a segment's file.
//!
//! ```text
//! 0   8    "SINEWLOG"
//! 8   u32  format version
//! 12  u32  zero
//! 16  16   the log's identity
//! 32  u64  the segment's number; the first of a log is 1
//! 40  u64  capacity: the length of the file
//! 48  …    zero
//! 508 u32  CRC-32C of bytes 0..508; here in every version
//! ```
//!
//! It fills one sector, which a loss of power leaves whole, and it is durable under a temporary
//! name before the file gets its own: a header that is not whole is damage.

use std::path::Path;

use sinew_core::Result;

use super::{
    error,
    frame::{Identity, LogId},
};

/// The format that this code writes, and the newest that it reads.
pub(super) const VERSION: u32 = 1;
/// Where the first frame begins.
pub(super) const SIZE: usize = 512;
/// The same as a place in a file.
pub(super) const FIRST_FRAME: u64 = SIZE as u64;

const MAGIC: &[u8; 8] = b"SINEWLOG";
const CHECKED: usize = SIZE - 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) log: LogId,
    pub(super) segment: u64,
    pub(super) capacity: u64,
}

impl Header {
    pub(super) fn identity(&self) -> Identity {
        Identity::new(self.log, self.segment)
    }

    pub(super) fn encode(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.log);
        bytes[32..40].copy_from_slice(&self.segment.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.capacity.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..CHECKED]);
        bytes[CHECKED..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `path` is for the error.
    pub(super) fn decode(bytes: &[u8; SIZE], path: &Path) -> Result<Self> {
        let (checked, checksum) = bytes.split_at(CHECKED);
        if crc32c::crc32c(checked).to_le_bytes() != *checksum || &bytes[..8] != MAGIC {
            return Err(error::corrupt(
                path,
                0,
                "the header does not match its checksum",
            ));
        }
        let u32_at = |at| u32::from_le_bytes(array(bytes, at));
        let u64_at = |at| u64::from_le_bytes(array(bytes, at));
        if u32_at(8) != VERSION {
            return Err(error::version(path, u32_at(8), VERSION));
        }
        Ok(Self {
            log: array(bytes, 16),
            segment: u64_at(32),
            capacity: u64_at(40),
        })
    }
}

fn array<const N: usize>(bytes: &[u8; SIZE], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        log: [7; 16],
        segment: 3,
        capacity: 4096,
    };

    #[test]
    fn comes_back() {
        assert_eq!(
            Header::decode(&HEADER.encode(), Path::new("x")).unwrap(),
            HEADER
        );
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        for at in 0..SIZE {
            let mut bytes = HEADER.encode();
            bytes[at] ^= 1;
            let error = Header::decode(&bytes, Path::new("x")).unwrap_err();
            assert_eq!(error.code(), "log.corrupt", "byte {at}");
        }
    }

    #[test]
    fn a_newer_format_is_refused_as_such() {
        let mut bytes = HEADER.encode();
        bytes[8] = 2;
        let checksum = crc32c::crc32c(&bytes[..CHECKED]);
        bytes[CHECKED..].copy_from_slice(&checksum.to_le_bytes());
        let error = Header::decode(&bytes, Path::new("x")).unwrap_err();
        assert_eq!(error.code(), "log.version");
        assert!(error.message().contains("format 2"), "{}", error.message());
    }
}
