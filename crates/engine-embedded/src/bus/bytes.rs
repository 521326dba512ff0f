//! Numbers and strings as bytes: LEB128 numbers, strings with their length before them.

use bytes::{BufMut as _, Bytes};

/// The bytes are not what this engine writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

pub(super) trait Put {
    fn number(&mut self, number: u64);
    fn string(&mut self, bytes: &[u8]);
    /// Nothing, or the number and a mark that it is there.
    fn maybe(&mut self, number: Option<u64>);
}

impl Put for Vec<u8> {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.put_u8((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.put_u8(number as u8);
    }

    fn string(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }

    fn maybe(&mut self, number: Option<u64>) {
        self.put_u8(u8::from(number.is_some()));
        if let Some(number) = number {
            self.number(number);
        }
    }
}

/// Reads from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Take<'a>(pub(super) &'a [u8]);

impl<'a> Take<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    pub(super) fn size(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.number()?).map_err(|_| Malformed)
    }

    pub(super) fn small(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.number()?).map_err(|_| Malformed)
    }

    pub(super) fn maybe(&mut self) -> Result<Option<u64>, Malformed> {
        match self.byte()? {
            0 => Ok(None),
            1 => self.number().map(Some),
            _ => Err(Malformed),
        }
    }

    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.size()?;
        self.bytes(length)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.string()?).map_err(|_| Malformed)
    }
}

/// What is kept of a larger buffer for a consumer: sharing it is free but pins all of it.
pub(super) fn share_or_copy(whole: &Bytes, part: &[u8]) -> Bytes {
    const WORTH_SHARING: usize = 4096;
    if part.len() >= WORTH_SHARING && part.len() >= whole.len() / 4 {
        whole.slice_ref(part)
    } else {
        Bytes::copy_from_slice(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            bytes.number(number);
            let mut take = Take(&bytes);
            assert_eq!((take.number(), take.is_empty()), (Ok(number), true));
        }
    }

    #[test]
    fn what_ends_early_is_malformed() {
        let mut bytes = Vec::new();
        bytes.string(b"abc");
        for length in 0..bytes.len() {
            assert_eq!(Take(&bytes[..length]).string(), Err(Malformed));
        }
        assert_eq!(Take(&[0xff; 11]).number(), Err(Malformed));
    }
}
