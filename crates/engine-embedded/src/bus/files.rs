//! The files of topics: messages that a checkpoint took out of memory.
//!
//! A partition is a row of segments, a segment a row of blocks:
//!
//! ```text
//! 0   u32  CRC-32C of bytes 4.. of the header and of the messages, begun with topic and partition
//! 4   u32  length of the messages
//! 8   u64  offset of the first message; the others follow without holes
//! 16  u32  number of messages
//! 20  u32  zero
//! 24  u64  when the first message entered
//! 32  u64  when the last one did
//! 40       messages: how much later than the first it entered, length, body (`bus/message.rs`)
//! ```
//!
//! How far a segment is valid is a row of the tables, committed after the file was synced; what
//! lies behind is left over from a checkpoint that broke off and is written over by the next one.
//! So nothing here needs a recovery of its own.

mod cache;
mod walk;

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use sinew_core::{Result, Timestamp};

use self::cache::Cache;
pub(super) use self::walk::Piece;
use super::{
    bytes::{Malformed, Put as _, Take},
    fault,
    message::Stored,
};
use crate::{
    log::FailedSync,
    storage::{File, Storage, read_exact_at, to_usize},
};

const HEADER: usize = 40;
/// A block ends when its messages have this size.
const BLOCK_BYTES: usize = 64 << 10;
/// Synced at once: small steps, since the log syncs on the same disk meanwhile.
const STEP: u64 = 1 << 20;
/// Files that are kept open.
const OPEN_FILES: usize = 64;

/// A partition of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) topic: u64,
    pub(super) partition: u32,
}

/// One file of a partition, as far as it is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// The offset of its first message, which also names it.
    pub(super) first: u64,
    /// The offset behind its last message.
    pub(super) end: u64,
    /// Bytes of the file.
    pub(super) length: u64,
    /// When its first message entered.
    pub(super) since: Timestamp,
    /// When its last message entered.
    pub(super) until: Timestamp,
}

/// Some messages of a partition, read and checked.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) first: u64,
    pub(super) messages: Vec<Stored>,
    /// What it takes in memory, and in its file.
    bytes: usize,
    length: usize,
}

impl Block {
    pub(super) fn end(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    pub(super) fn get(&self, offset: u64) -> Option<&Stored> {
        self.messages
            .get(usize::try_from(offset.checked_sub(self.first)?).ok()?)
    }
}

#[derive(Clone, Copy, Debug)]
struct Head {
    checksum: u32,
    length: usize,
    first: u64,
    count: u32,
    since: Timestamp,
    until: Timestamp,
}

type FileKey = (Place, u64);

#[derive(Debug)]
pub(super) struct Files {
    storage: Arc<dyn Storage>,
    folder: PathBuf,
    failed_sync: FailedSync,
    /// Newest use first.
    open: Mutex<VecDeque<(FileKey, Arc<dyn File>)>>,
    cache: Mutex<Cache>,
    cache_bytes: usize,
}

impl Files {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        folder: &Path,
        cache_bytes: usize,
        failed_sync: FailedSync,
    ) -> Self {
        Self {
            storage,
            folder: folder.into(),
            failed_sync,
            open: Mutex::default(),
            cache: Mutex::default(),
            cache_bytes,
        }
    }

    fn path(&self, place: Place, first: u64) -> PathBuf {
        self.folder.join(name(place, first))
    }

    /// Removes the files that no segment in use has.
    pub(super) fn remove_strangers(&self, known: impl Fn(&str) -> bool) -> Result<()> {
        let listing = self.storage.list(&self.folder);
        let listing = listing.map_err(|cause| fault::io("reading", &self.folder, cause))?;
        for name in listing.iter().filter(|name| name.ends_with(SUFFIX)) {
            if !known(name) {
                self.remove_path(&self.folder.join(name))?;
            }
        }
        Ok(())
    }

    /// Removes a segment's file. It is well if it is gone.
    pub(super) fn remove(&self, place: Place, first: u64) -> Result<()> {
        self.open.lock().retain(|(key, _)| *key != (place, first));
        self.remove_path(&self.path(place, first))
    }

    fn remove_path(&self, path: &Path) -> Result<()> {
        match self.storage.remove(path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                Err(fault::io("removing", path, cause))
            }
            _ => Ok(()),
        }
    }

    /// Makes the names of new files durable.
    pub(super) fn sync_folder(&self) -> Result<()> {
        let synced = self.storage.sync_dir(&self.folder);
        synced.map_err(|cause| fault::failed_sync(&self.failed_sync, &self.folder, cause))
    }

    /// Appends messages to a partition whose last segment is `last`, in new segments of about
    /// `segment_bytes`. Answers the segments that it changed or made. Durable, but for the names of
    /// new files.
    pub(super) fn append(
        &self,
        place: Place,
        last: Option<Segment>,
        mut offset: u64,
        messages: impl Iterator<Item = Stored>,
        segment_bytes: u64,
    ) -> Result<Vec<Segment>> {
        let mut messages = messages.peekable();
        let mut written = Vec::new();
        let mut current = last.filter(|last| last.length < segment_bytes && last.end == offset);
        let mut buffer = Vec::new();
        while let Some(first) = messages.peek() {
            let (mut segment, file) = match current.take() {
                Some(segment) => (segment, self.file(place, segment.first)?),
                None => {
                    let segment = Segment {
                        first: offset,
                        end: offset,
                        length: 0,
                        since: first.published,
                        until: first.published,
                    };
                    (segment, self.create(place, offset)?)
                }
            };
            let path = self.path(place, segment.first);
            let failed = |cause| fault::failed_sync(&self.failed_sync, &path, cause);
            let mut synced = segment.length;
            while segment.length < segment_bytes && messages.peek().is_some() {
                buffer.clear();
                let until = put_block(&mut buffer, place, offset, &mut messages);
                let (end, published) = until;
                file.write_at(&buffer, segment.length)
                    .map_err(|cause| fault::io("writing", &path, cause))?;
                self.cache.lock().mark((place, segment.end), segment.length);
                segment.length += buffer.len() as u64;
                (segment.end, segment.until) = (end, published);
                offset = end;
                if segment.length - synced >= STEP {
                    file.sync_data().map_err(failed)?;
                    synced = segment.length;
                }
            }
            file.sync_data().map_err(failed)?;
            written.push(segment);
        }
        Ok(written)
    }

    /// A file for a new segment; one that is left over from a broken checkpoint will do.
    fn create(&self, place: Place, first: u64) -> Result<Arc<dyn File>> {
        let path = self.path(place, first);
        let file = match self.storage.create(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => self.storage.open(&path),
            made => made,
        };
        let file = file.map_err(|cause| fault::io("making", &path, cause))?;
        self.keep_open((place, first), &file);
        Ok(file)
    }

    fn keep_open(&self, key: FileKey, file: &Arc<dyn File>) {
        let mut open = self.open.lock();
        open.retain(|(other, _)| *other != key);
        open.truncate(OPEN_FILES - 1);
        open.push_front((key, Arc::clone(file)));
    }

    fn file(&self, place: Place, first: u64) -> Result<Arc<dyn File>> {
        let key = (place, first);
        if let Some((_, file)) = self.open.lock().iter().find(|(other, _)| *other == key) {
            return Ok(Arc::clone(file));
        }
        let path = self.path(place, first);
        let file = self
            .storage
            .open(&path)
            .map_err(|cause| match cause.kind() {
                io::ErrorKind::NotFound => fault::corrupt(&path, 0, "the file is missing"),
                _ => fault::io("opening", &path, cause),
            })?;
        self.keep_open(key, &file);
        Ok(file)
    }

    /// The block with this offset, if it was read not long ago.
    pub(super) fn cached(&self, place: Place, offset: u64) -> Option<Arc<Block>> {
        self.cache.lock().block(place, offset)
    }

    /// The block with this offset, which is one of the segment's. Blocks on the disk.
    pub(super) fn block(&self, place: Place, segment: &Segment, offset: u64) -> Result<Arc<Block>> {
        if let Some(block) = self.cached(place, offset) {
            return Ok(block);
        }
        let path = self.path(place, segment.first);
        let file = self.file(place, segment.first)?;
        let (at, head) = self.find(place, segment, &*file, &path, offset)?;
        let mut bytes = vec![0; HEADER + head.length];
        read_exact_at(&*file, &mut bytes, at)
            .map_err(|cause| fault::io("reading", &path, cause))?;
        let whole = checksum(place, &bytes) == head.checksum;
        let block = whole.then(|| decode(&head, Bytes::from(bytes)));
        let block = block
            .and_then(Result::ok)
            .filter(|block| block.first <= offset && block.end() <= segment.end);
        let block = block
            .ok_or_else(|| fault::corrupt(&path, at, "the messages do not match their checksum"))?;
        let block = Arc::new(block);
        self.cache.lock().put(place, &block, self.cache_bytes);
        Ok(block)
    }

    /// The first offset of the segment whose message entered at `time` or later, if there is one.
    pub(super) fn since(
        &self,
        place: Place,
        segment: &Segment,
        time: Timestamp,
    ) -> Result<Option<u64>> {
        if segment.until < time {
            return Ok(None);
        }
        let path = self.path(place, segment.first);
        let file = self.file(place, segment.first)?;
        let mut at = 0;
        while at < segment.length {
            let head = self.head(segment, &*file, &path, at)?;
            if head.until >= time {
                let block = self.block(place, segment, head.first)?;
                let before = block
                    .messages
                    .partition_point(|message| message.published < time);
                return Ok(Some(block.first + before as u64));
            }
            at += (HEADER + head.length) as u64;
        }
        Ok(None)
    }

    /// Where the block with this offset lies, from the nearest place that is known.
    fn find(
        &self,
        place: Place,
        segment: &Segment,
        file: &dyn File,
        path: &Path,
        offset: u64,
    ) -> Result<(u64, Head)> {
        let known = {
            let cache = self.cache.lock();
            let range = (place, segment.first)..=(place, offset);
            cache.marks.range(range).next_back().map(|(_, at)| *at)
        };
        let mut at = known.unwrap_or(0);
        loop {
            if at >= segment.length {
                return Err(fault::corrupt(path, at, "messages are missing"));
            }
            let head = self.head(segment, file, path, at)?;
            self.cache.lock().mark((place, head.first), at);
            if head.first + u64::from(head.count) > offset {
                return Ok((at, head));
            }
            at += (HEADER + head.length) as u64;
        }
    }

    fn head(&self, segment: &Segment, file: &dyn File, path: &Path, at: u64) -> Result<Head> {
        let mut bytes = [0; HEADER];
        read_exact_at(file, &mut bytes, at).map_err(|cause| match cause.kind() {
            io::ErrorKind::UnexpectedEof => fault::corrupt(path, at, "the file is too short"),
            _ => fault::io("reading", path, cause),
        })?;
        let head = head(&bytes);
        let fits = at + (HEADER + head.length) as u64 <= segment.length
            && head.first >= segment.first
            && head.count > 0
            && head.first + u64::from(head.count) <= segment.end;
        if fits {
            Ok(head)
        } else {
            Err(fault::corrupt(path, at, "there is no block of messages"))
        }
    }
}

const SUFFIX: &str = ".messages";

/// What the name of a segment's file says.
pub(super) fn parse(name: &str) -> Option<(Place, u64)> {
    let mut numbers = name.strip_suffix(SUFFIX)?.split('-');
    let place = Place {
        topic: numbers.next()?.parse().ok()?,
        partition: numbers.next()?.parse().ok()?,
    };
    Some((place, numbers.next()?.parse().ok()?))
}

/// The name of a segment's file.
pub(super) fn name(place: Place, first: u64) -> String {
    let Place { topic, partition } = place;
    format!("{topic:010}-{partition:04}-{first:020}{SUFFIX}")
}

/// Encodes messages up to the size of a block; answers the offset behind the last, and when that
/// entered.
fn put_block<I: Iterator<Item = Stored>>(
    buffer: &mut Vec<u8>,
    place: Place,
    first: u64,
    messages: &mut std::iter::Peekable<I>,
) -> (u64, Timestamp) {
    buffer.resize(HEADER, 0);
    let since = messages
        .peek()
        .map_or(Timestamp::default(), |message| message.published);
    let mut until = since;
    let mut count: u32 = 0;
    while let Some(message) = messages
        .next_if(|message| count == 0 || buffer.len() + message.body.len() <= HEADER + BLOCK_BYTES)
    {
        until = message.published;
        buffer.number(until.0.saturating_sub(since.0));
        buffer.string(&message.body);
        count += 1;
    }
    let length = u32::try_from(buffer.len() - HEADER)
        .expect("a block is one message or a few of little weight");
    buffer[4..8].copy_from_slice(&length.to_le_bytes());
    buffer[8..16].copy_from_slice(&first.to_le_bytes());
    buffer[16..20].copy_from_slice(&count.to_le_bytes());
    buffer[24..32].copy_from_slice(&since.0.to_le_bytes());
    buffer[32..40].copy_from_slice(&until.0.to_le_bytes());
    let checksum = checksum(place, buffer);
    buffer[..4].copy_from_slice(&checksum.to_le_bytes());
    (first + u64::from(count), until)
}

fn checksum(place: Place, block: &[u8]) -> u32 {
    let begin = crc32c::crc32c(&place.topic.to_le_bytes());
    let begin = crc32c::crc32c_append(begin, &place.partition.to_le_bytes());
    crc32c::crc32c_append(begin, &block[4..])
}

fn head(bytes: &[u8; HEADER]) -> Head {
    let u32_at =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    Head {
        checksum: u32_at(0),
        length: to_usize(u64::from(u32_at(4))),
        first: u64_at(8),
        count: u32_at(16),
        since: Timestamp(u64_at(24)),
        until: Timestamp(u64_at(32)),
    }
}

fn decode(head: &Head, bytes: Bytes) -> Result<Block, Malformed> {
    let mut take = Take(&bytes[HEADER..]);
    let mut messages = Vec::new();
    for _ in 0..head.count {
        let published = Timestamp(head.since.0.saturating_add(take.number()?));
        let body = bytes.slice_ref(take.string()?);
        messages.push(Stored { body, published });
    }
    let size = bytes.len() + messages.len() * size_of::<Stored>();
    Ok(Block {
        first: head.first,
        messages,
        bytes: size,
        length: bytes.len(),
    })
}
