use sinew_core::{Error, Kind, Result};

use super::{Attributes, part_invalid};

/// What bounds an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest body of one put, bytes.
    pub put_bytes: u64,
    /// The longest part, bytes.
    pub part_bytes: u64,
    /// The shortest part that is not the last, bytes.
    pub part_minimum: u64,
    /// The greatest number of a part.
    pub parts: u32,
    /// Names and values of an object's metadata, bytes.
    pub metadata_bytes: usize,
    /// Entries in one page of a listing.
    pub page_entries: usize,
}

impl Limits {
    /// `blob.attributes_invalid` (InvalidArgument) when an object may not be described so.
    pub fn check_attributes(&self, attributes: &Attributes) -> Result<()> {
        let printable = |text: &str| text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        if let Some(media_type) = &attributes.content_type
            && (media_type.is_empty() || media_type.len() > 255 || !printable(media_type))
        {
            return Err(invalid(
                "a content type must be 1 to 255 printable ASCII characters",
            ));
        }
        let mut bytes = 0;
        for (name, value) in &attributes.metadata {
            bytes += name.len() + value.len();
            let letter = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
            if !(1..=64).contains(&name.len()) || !name.bytes().all(letter) {
                return Err(invalid(
                    "a name of metadata must be 1 to 64 of a-z, 0-9 and '-'",
                ));
            }
            if !printable(value) || value.trim() != value {
                return Err(invalid(
                    "a value of metadata must be printable ASCII without spaces at its ends",
                ));
            }
        }
        if bytes > self.metadata_bytes {
            let most = self.metadata_bytes;
            return Err(invalid(&format!(
                "metadata may have {most} bytes, not {bytes}"
            )));
        }
        Ok(())
    }

    /// `blob.part_invalid` (InvalidArgument) when no part has that number.
    pub fn check_part(&self, number: u32) -> Result<()> {
        if (1..=self.parts).contains(&number) {
            return Ok(());
        }
        let most = self.parts;
        Err(part_invalid(format!(
            "parts are numbered from 1 to {most}, not {number}"
        )))
    }

    /// The size of a page that was asked to hold `limit` entries.
    pub fn page_size(&self, limit: usize) -> usize {
        limit.clamp(1, self.page_entries)
    }
}

fn invalid(message: &str) -> Error {
    Error::new(Kind::InvalidArgument, "blob.attributes_invalid", message)
}
