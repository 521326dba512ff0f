//! A record of the log: what each face appended in one turn.
//!
//! ```text
//! version u8 (1) · parts
//! part   tag u8 · length u32 · bytes
//! ```
//!
//! Little endian. A reader that does not know a tag stops: it cannot tell what it would leave out.

use bytes::{Buf, BufMut, Bytes};
use sinew_core::{Error, Kind, Result};

use super::corrupt;
use crate::log::Sequence;

const VERSION: u8 = 1;

pub(crate) fn begin() -> Vec<u8> {
    vec![VERSION]
}

/// Appends a part; answers where its bytes lie.
pub(super) fn put(record: &mut Vec<u8>, tag: u8, part: &[u8]) -> std::ops::Range<usize> {
    let length = u32::try_from(part.len()).expect("turns keep parts far below 4 GB");
    record.reserve(5 + part.len());
    record.put_u8(tag);
    record.put_u32_le(length);
    record.extend_from_slice(part);
    record.len() - part.len()..record.len()
}

/// The parts of a record. They do not share memory with it.
pub(crate) fn parts(
    record: &Bytes,
    sequence: Sequence,
) -> impl Iterator<Item = Result<(u8, Bytes)>> + use<> {
    let mut rest = record.clone();
    let version = rest.try_get_u8().ok();
    let mut is_over = false;
    std::iter::from_fn(move || {
        if is_over || (version == Some(VERSION) && rest.is_empty()) {
            return None;
        }
        let part = match version {
            Some(VERSION) => part(&mut rest)
                .ok_or_else(|| corrupt(format!("record {sequence} of the log is malformed"))),
            Some(newer) => Err(newer_format(format!("version {newer}"), sequence)),
            None => Err(corrupt(format!("record {sequence} of the log is empty"))),
        };
        is_over = part.is_err();
        Some(part)
    })
}

fn part(rest: &mut Bytes) -> Option<(u8, Bytes)> {
    let tag = rest.try_get_u8().ok()?;
    let length = rest.try_get_u32_le().ok()? as usize;
    if length > rest.len() {
        return None;
    }
    Some((tag, Bytes::copy_from_slice(&rest.split_to(length))))
}

pub(crate) fn unknown_part(tag: u8, sequence: Sequence) -> Error {
    newer_format(format!("a part with tag {tag}"), sequence)
}

fn newer_format(what: String, sequence: Sequence) -> Error {
    Error::new(
        Kind::FailedPrecondition,
        "store.format_newer",
        format!(
            "record {sequence} of the log has {what}, which this version cannot read; run the \
             version that wrote it"
        ),
    )
}
