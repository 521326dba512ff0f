//! Rows of the index as bytes: integers little-endian, texts behind their length.

use std::collections::BTreeMap;

use sinew_core::{Error, Result, Timestamp};
use sinew_engine::blob::{Attributes, Key, Object, Part};

use super::{fault, files::FileId};

/// The format of a row. Raise it with every change that an older Sinew would misread.
const FORMAT: u8 = 1;

/// Some of an object's content: a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) file: FileId,
    /// Bytes of content.
    pub(super) size: u64,
}

/// A new object's tag and time.
pub(super) struct Stamp {
    pub(super) tag: String,
    pub(super) now: Timestamp,
}

/// An object and where its content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) object: Object,
    /// In order; none is empty.
    pub(super) segments: Vec<Segment>,
}

impl Record {
    pub(super) fn files(&self) -> impl Iterator<Item = FileId> {
        self.segments.iter().map(|segment| segment.file)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let object = &self.object;
        let mut row = Writer::new();
        row.u64(object.size);
        row.u32(object.checksum);
        row.text(&object.tag);
        row.u64(object.modified.as_millis());
        row.attributes(&object.attributes);
        row.count(self.segments.len());
        for segment in &self.segments {
            row.segment(segment);
        }
        row.0
    }

    pub(super) fn decode(key: &str, row: &[u8]) -> Result<Self> {
        let mut row = Reader::new(row)?;
        let object = Object {
            key: Key::new(key)?,
            size: row.u64()?,
            checksum: row.u32()?,
            tag: row.text()?,
            modified: Timestamp(row.u64()?),
            attributes: row.attributes()?,
        };
        let segments = (0..row.u32()?)
            .map(|_| row.segment())
            .collect::<Result<_>>()?;
        row.end()?;
        Ok(Self { object, segments })
    }
}

/// An upload that was begun.
pub(super) struct UploadRecord {
    pub(super) begun: Timestamp,
    pub(super) attributes: Attributes,
}

impl UploadRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut row = Writer::new();
        row.u64(self.begun.as_millis());
        row.attributes(&self.attributes);
        row.0
    }

    pub(super) fn decode(row: &[u8]) -> Result<Self> {
        let mut row = Reader::new(row)?;
        let record = Self {
            begun: Timestamp(row.u64()?),
            attributes: row.attributes()?,
        };
        row.end()?;
        Ok(record)
    }
}

/// A part that was put, and its file unless it is empty.
pub(super) struct PartRecord {
    pub(super) part: Part,
    pub(super) segment: Option<Segment>,
}

impl PartRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut row = Writer::new();
        row.u64(self.part.size);
        row.u32(self.part.checksum);
        row.text(&self.part.tag);
        row.count(self.segment.iter().count());
        if let Some(segment) = &self.segment {
            row.segment(segment);
        }
        row.0
    }

    pub(super) fn decode(number: u32, row: &[u8]) -> Result<Self> {
        let mut row = Reader::new(row)?;
        let part = Part {
            number,
            size: row.u64()?,
            checksum: row.u32()?,
            tag: row.text()?,
        };
        let segment = (row.u32()? > 0).then(|| row.segment()).transpose()?;
        row.end()?;
        Ok(Self { part, segment })
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn new() -> Self {
        Self(vec![FORMAT])
    }

    fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("limits keep rows far below 4 GiB"));
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn attributes(&mut self, attributes: &Attributes) {
        // No content type can be empty, so that empty means none.
        self.text(attributes.content_type.as_deref().unwrap_or_default());
        self.count(attributes.metadata.len());
        for (name, value) in &attributes.metadata {
            self.text(name);
            self.text(value);
        }
    }

    fn segment(&mut self, segment: &Segment) {
        self.0.extend_from_slice(&segment.file.to_bytes());
        self.u64(segment.size);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn new(row: &'a [u8]) -> Result<Self> {
        match row.split_first() {
            Some((&FORMAT, rest)) => Ok(Self(rest)),
            _ => Err(malformed()),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| malformed())
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String> {
        let length = self.u32()? as usize;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| malformed())
    }

    fn attributes(&mut self) -> Result<Attributes> {
        let content_type = Some(self.text()?).filter(|text| !text.is_empty());
        let mut metadata = BTreeMap::new();
        for _ in 0..self.u32()? {
            metadata.insert(self.text()?, self.text()?);
        }
        Ok(Attributes {
            content_type,
            metadata,
        })
    }

    fn segment(&mut self) -> Result<Segment> {
        Ok(Segment {
            file: FileId::from_bytes(self.array()?),
            size: self.u64()?,
        })
    }

    fn end(&self) -> Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(malformed())
        }
    }
}

fn malformed() -> Error {
    fault::malformed("a row of the index is not in a format that this version knows")
}
