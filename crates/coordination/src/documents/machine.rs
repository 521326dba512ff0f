//! What is decided about documents, without store or clock.

use sinew_core::{Name, Result, Timestamp};

use super::{
    Change, Config, Version, error,
    model::{Stored, hash},
};

/// What is to be done about a change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Make this version, if the current one is still what was looked at.
    Store(Stored),
    /// The content is the current one, of this version.
    Nothing(Version),
}

/// Decides about a change when `current` is the newest version.
pub(super) fn decide(
    name: &Name,
    current: Option<&Stored>,
    change: &Change,
    writer: &str,
    parts: usize,
    now: Timestamp,
) -> Result<Decision> {
    let current = current.map(|stored| &stored.version);
    let number = current.map_or(0, |version| version.version);
    let hash = hash(&change.content);
    let is_same = |current: &Version| current.hash == hash;
    if let Some(expected) = change.expected
        && expected != number
    {
        return match current {
            // The same request once more, most likely because its answer was lost.
            Some(current)
                if expected + 1 == number
                    && is_same(current)
                    && current.author == change.author
                    && current.note == change.note =>
            {
                Ok(Decision::Nothing(current.clone()))
            }
            _ => Err(error::changed_meanwhile(name, expected, current)),
        };
    }
    if let Some(current) = current
        && is_same(current)
    {
        return Ok(Decision::Nothing(current.clone()));
    }
    Ok(Decision::Store(Stored {
        version: Version {
            version: number + 1,
            time: now,
            author: change.author.clone(),
            note: change.note.clone(),
            restores: change.restores,
            bytes: change.content.len(),
            hash,
        },
        writer: writer.to_owned(),
        parts,
    }))
}

/// The oldest version that is kept; `versions` are all there are, the oldest first.
pub(super) fn oldest_kept(versions: &[Version], config: &Config) -> u64 {
    let mut bytes = 0_usize;
    let newest_first = versions.iter().rev().enumerate();
    let kept = newest_first.take_while(|(index, version)| {
        bytes = bytes.saturating_add(version.bytes);
        *index < 2 || (*index < config.versions && bytes <= config.history_bytes)
    });
    kept.last().map_or(0, |(_, version)| version.version)
}

/// The stretches of a content that are stored as parts; an empty content has one, which is empty.
pub(super) fn split(length: usize, part: usize) -> Vec<std::ops::Range<usize>> {
    let count = length.div_ceil(part).max(1);
    (0..count)
        .map(|index| index * part..((index + 1) * part).min(length))
        .collect()
}
