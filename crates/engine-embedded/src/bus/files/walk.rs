//! Walking through a file that may be damaged.

use std::io;

use bytes::Bytes;
use sinew_core::Result;

use super::{Block, Files, HEADER, Place, Segment, checksum, decode, head};
use crate::{bus::fault, storage::to_usize};

/// What a walk through a file finds, in order.
pub(in crate::bus) enum Piece {
    /// A block.
    Whole(Block),
    /// From an offset to another one no message can be read, from this byte on.
    Hole(u64, u64, u64),
}

impl Files {
    /// Walks through a segment's file that may be damaged. `known` says where the segment ends; when
    /// it is not known, the walk ends with the last block.
    pub(in crate::bus) fn walk(
        &self,
        place: Place,
        first: u64,
        known: Option<&Segment>,
        mut visit: impl FnMut(Piece) -> Result<()>,
    ) -> Result<()> {
        let path = self.path(place, first);
        let reading = |cause| fault::io("reading", &path, cause);
        let bytes = match self.storage.open(&path) {
            Ok(file) => {
                let mut bytes = vec![0; to_usize(file.len().map_err(reading)?)];
                let read = file.read_at(&mut bytes, 0).map_err(reading)?;
                bytes.truncate(read);
                Bytes::from(bytes)
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Bytes::new(),
            Err(cause) => return Err(reading(cause)),
        };
        let length = known.map_or(bytes.len(), |segment| to_usize(segment.length));
        let bytes = bytes.slice(..length.min(bytes.len()));
        let end = known.map_or(u64::MAX, |segment| segment.end);
        let (mut at, mut next) = (0, first);
        while at < bytes.len() {
            let follows = whole_at(place, &bytes, at).filter(|block| block.first == next);
            if let Some(block) = follows {
                at += block.length;
                next = block.end();
                visit(Piece::Whole(block))?;
                continue;
            }
            let later = (at + 1..bytes.len()).find(|at| {
                let block = whole_at(place, &bytes, *at);
                block.is_some_and(|block| block.first > next && block.end() <= end)
            });
            let Some(later) = later else { break };
            let first = whole_at(place, &bytes, later).map_or(next, |block| block.first);
            visit(Piece::Hole(at as u64, next, first))?;
            (at, next) = (later, first);
        }
        match known {
            Some(segment) if next < segment.end => visit(Piece::Hole(at as u64, next, segment.end)),
            _ => Ok(()),
        }
    }
}

/// The block that begins there, if a whole one does.
fn whole_at(place: Place, bytes: &Bytes, at: usize) -> Option<Block> {
    let head = head(bytes.get(at..)?.first_chunk()?);
    let end = at.checked_add(HEADER)?.checked_add(head.length)?;
    if head.count == 0 || end > bytes.len() {
        return None;
    }
    let block = bytes.slice(at..end);
    (checksum(place, &block) == head.checksum).then(|| decode(&head, block).ok())?
}
