//! The commits of a layer, one after the other, for watchers that have fallen behind.
//!
//! ```text
//! commits: CRC-32C u32 of the rest · revision u64 · changes
//! where each begins u32 · where the last ends u32
//! footer: magic u64 · revision before the first u64 · number of commits u32 · CRC-32C u32 of what
//! follows the commits, up to here
//! ```
//!
//! Little endian. Revisions follow each other without a gap.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Buf, BufMut, Bytes};
use sinew_engine::kv::Revision;

use super::{
    Stored,
    failure::{damaged, unread},
};
use crate::{
    kv::change::Commit,
    storage::{File, Storage, read_exact_at},
};

const MAGIC: u64 = u64::from_le_bytes(*b"sinewhis");
const FOOTER: usize = 8 + 8 + 4 + 4;
const STEP: usize = 1 << 20;
/// Bytes of commits that are read at once, unless one is larger.
const MOST_READ: u32 = 64 << 10;

pub(super) fn file_name(number: u64) -> String {
    format!("{number:010}.history")
}

/// An open file of commits.
pub(super) struct HistoryFile {
    pub(super) number: u64,
    /// The revision before its first commit.
    pub(super) before: Revision,
    /// Where each commit begins, and where the last ends.
    offsets: Vec<u32>,
    file: Arc<dyn File>,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    storage: Arc<dyn Storage>,
    is_obsolete: AtomicBool,
}

/// Writes the commits of a layer, which follow each other; durable then, but for its name.
pub(super) fn write(
    storage: &dyn Storage,
    folder: &Path,
    number: u64,
    before: Revision,
    commits: impl Iterator<Item = Stored<Commit>>,
) -> Stored<()> {
    let file = storage.create(&folder.join(file_name(number)))?;
    let (mut buffer, mut written) = (Vec::new(), 0);
    let mut offsets = Vec::new();
    let flush = |buffer: &mut Vec<u8>, most: usize, written: &mut u64| -> Stored<()> {
        if buffer.len() > most {
            file.write_at(buffer, *written)?;
            file.sync_data()?;
            *written += buffer.len() as u64;
            buffer.clear();
        }
        Ok(())
    };
    let offset = |written: u64, buffer: &Vec<u8>| {
        u32::try_from(written + buffer.len() as u64).expect("a layer is far smaller than 4 GB")
    };
    for commit in commits {
        let commit = commit?;
        offsets.push(offset(written, &buffer));
        let start = buffer.len();
        buffer.put_u32_le(0);
        buffer.put_u64_le(commit.revision);
        buffer.extend_from_slice(&commit.changes);
        let checksum = crc32c::crc32c(&buffer[start + 4..]);
        buffer[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
        flush(&mut buffer, STEP, &mut written)?;
    }
    let count = u32::try_from(offsets.len()).expect("a layer is far smaller than 4 GB");
    offsets.push(offset(written, &buffer));
    let index_at = buffer.len();
    for offset in offsets {
        buffer.put_u32_le(offset);
    }
    buffer.put_u64_le(MAGIC);
    buffer.put_u64_le(before);
    buffer.put_u32_le(count);
    let checksum = crc32c::crc32c(&buffer[index_at..]);
    buffer.put_u32_le(checksum);
    flush(&mut buffer, 0, &mut written)
}

impl HistoryFile {
    pub(super) fn open(storage: &Arc<dyn Storage>, folder: &Path, number: u64) -> Stored<Self> {
        let path = folder.join(file_name(number));
        let file = storage.open(&path).map_err(unread(&path, 0))?;
        let bytes = file.len()?;
        let broken = || {
            let at = bytes.saturating_sub(FOOTER as u64);
            damaged(&path, at, "the footer does not match its checksum")
        };
        let mut footer = [0; FOOTER];
        let footer_at = bytes.checked_sub(FOOTER as u64).ok_or_else(broken)?;
        read_exact_at(&*file, &mut footer, footer_at).map_err(unread(&path, footer_at))?;
        let mut fields = &footer[..];
        if fields.get_u64_le() != MAGIC {
            return Err(broken());
        }
        let (before, count) = (fields.get_u64_le(), fields.get_u32_le() as usize);
        let mut index = vec![0; 4 * (count + 1)];
        let index_at = footer_at
            .checked_sub(index.len() as u64)
            .ok_or_else(broken)?;
        read_exact_at(&*file, &mut index, index_at).map_err(unread(&path, index_at))?;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&index), &footer[..FOOTER - 4]);
        if checksum != fields.get_u32_le() {
            return Err(broken());
        }
        let offsets = index.as_chunks().0.iter().copied().map(u32::from_le_bytes);
        Ok(Self {
            number,
            before,
            offsets: offsets.collect(),
            file,
            path: path.clone(),
            bytes,
            storage: Arc::clone(storage),
            is_obsolete: AtomicBool::new(false),
        })
    }

    pub(super) fn make_obsolete(&self) {
        self.is_obsolete.store(true, Ordering::Relaxed);
    }

    /// The revision of the last commit.
    pub(super) fn last(&self) -> Revision {
        self.before + self.offsets.len() as u64 - 1
    }

    /// The sizes of the changes of each commit after `after`.
    pub(super) fn sizes(&self, after: Revision) -> impl Iterator<Item = u32> {
        let skipped = usize::try_from(after.saturating_sub(self.before)).unwrap_or(usize::MAX);
        let pairs = self.offsets.windows(2).skip(skipped);
        pairs.map(|pair| (pair[1] - pair[0]).saturating_sub(12))
    }

    /// Appends the commits after `after` to `to`, until it has `count`, or much to hold in memory for
    /// one watcher: then at least one.
    pub(super) fn read(&self, after: Revision, count: usize, to: &mut Vec<Commit>) -> Stored<()> {
        let from = usize::try_from(after.saturating_sub(self.before)).unwrap_or(usize::MAX);
        let until =
            (self.offsets.len() - 1).min(from.saturating_add(count.saturating_sub(to.len())));
        if from >= until {
            return Ok(());
        }
        let start = self.offsets[from];
        let fits = self.offsets[from..=until].partition_point(|end| end - start <= MOST_READ);
        let until = (from + fits.max(2) - 1).min(until);
        let mut bytes = vec![0; (self.offsets[until] - start) as usize];
        read_exact_at(&*self.file, &mut bytes, u64::from(start))
            .map_err(unread(&self.path, u64::from(start)))?;
        let bytes = Bytes::from(bytes);
        for pair in self.offsets[from..=until].windows(2) {
            let mut commit = bytes.slice((pair[0] - start) as usize..(pair[1] - start) as usize);
            let checksum = commit.try_get_u32_le().unwrap_or_default();
            if crc32c::crc32c(&commit) != checksum || commit.len() < 8 {
                let what = "a commit of the history does not match its checksum";
                return Err(damaged(&self.path, u64::from(pair[0]), what));
            }
            to.push(Commit {
                revision: commit.get_u64_le(),
                changes: commit,
            });
        }
        Ok(())
    }
}

impl Drop for HistoryFile {
    fn drop(&mut self) {
        if self.is_obsolete.load(Ordering::Relaxed)
            && let Err(error) = self.storage.remove(&self.path)
        {
            // The next start removes it.
            tracing::warn!(%error, file = %self.path.display(), "an obsolete file stays");
        }
    }
}
