//! A run: a file of versions in order, which never changes. A tree of two levels over blocks leads
//! to them.
//!
//! ```text
//! data blocks and, between them, the index pages that name them · root page · filter · footer
//!
//! block   items · offset of each u32 · their number u32 · CRC-32C u32
//! item    key length u16 · key · revision u64 · payload
//! payload in data blocks:  0u8, deleted · or 1u8 · lease u64 · value
//!         in pages:        offset u64 · length u32, of a block whose last item has this key and revision
//! footer  magic u64 · versions u64 · root: offset u64, length u32 · filter: offset u64, length u32
//!         CRC-32C of the filter u32 · CRC-32C of the footer u32
//! ```
//!
//! Little endian. Data blocks have 4 KB and index pages 32 KB, or one item when it is larger: so the
//! root of 10 GB takes 300 KB. Root and filter are in memory; pages are once they were used, within a
//! budget; data blocks are left to the kernel's cache.

mod block;
mod cursor;
mod through;
mod writer;

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use sinew_engine::kv::{Entry, Revision};

use self::block::{Block, View};
pub(super) use self::{
    cursor::Cursor,
    through::{Notes, Through},
    writer::RunWriter,
};
use super::{
    Stored,
    failure::{damaged, unread},
    filter::Filter,
};
use crate::{
    kv::change::Malformed,
    storage::{File, Storage, read_exact_at, to_usize},
};

const MAGIC: u64 = u64::from_le_bytes(*b"sinewrun");
const FOOTER: usize = 8 + 8 + 12 + 12 + 4 + 4;
const BROKEN_BLOCK: &str = "a block does not match its checksum";

/// The memory for index pages, shared by all runs.
#[derive(Debug)]
pub(super) struct PageBudget {
    used: AtomicUsize,
    most: usize,
}

/// An open run.
pub(super) struct Run {
    pub(super) number: u64,
    pub(super) bytes: u64,
    pub(super) versions: u64,
    path: PathBuf,
    file: Arc<dyn File>,
    filter: Filter,
    root: Block,
    /// The pages that the root names.
    pages: Box<[Page]>,
    hand: AtomicUsize,
    budget: Arc<PageBudget>,
    storage: Arc<dyn Storage>,
    /// Its name goes with the last that reads it.
    is_obsolete: AtomicBool,
}

#[derive(Default)]
struct Page {
    loaded: Mutex<Option<Block>>,
    was_used: AtomicBool,
}

impl PageBudget {
    pub(super) fn new(most: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            most,
        }
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

thread_local! {
    /// Where blocks are read to that are only looked at.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn file_name(number: u64) -> String {
    format!("{number:010}.run")
}

impl Run {
    pub(super) fn open(
        storage: &Arc<dyn Storage>,
        folder: &Path,
        number: u64,
        budget: &Arc<PageBudget>,
    ) -> Stored<Self> {
        let (run, broken_filter) = Self::open_without_filter(storage, folder, number, budget)?;
        match broken_filter {
            None => Ok(run),
            Some(at) => Err(damaged(
                &run.path,
                at,
                "the filter does not match its checksum",
            )),
        }
    }

    /// The same, but that the filter may be broken: then its place is told, and the run can only be
    /// walked through.
    pub(super) fn open_without_filter(
        storage: &Arc<dyn Storage>,
        folder: &Path,
        number: u64,
        budget: &Arc<PageBudget>,
    ) -> Stored<(Self, Option<u64>)> {
        let path = folder.join(file_name(number));
        let file = storage.open(&path).map_err(unread(&path, 0))?;
        let bytes = file.len()?;
        let mut footer = [0; FOOTER];
        let footer_at = bytes
            .checked_sub(FOOTER as u64)
            .ok_or_else(|| damaged(&path, bytes, "the file is too short"))?;
        read_exact_at(&*file, &mut footer, footer_at).map_err(unread(&path, footer_at))?;
        let (mut fields, checksum) = footer.split_at(FOOTER - 4);
        if crc32c::crc32c(fields).to_le_bytes() != checksum || fields.get_u64_le() != MAGIC {
            let what = "the footer does not match its checksum";
            return Err(damaged(&path, footer_at, what));
        }
        let versions = fields.get_u64_le();
        let (root_at, root_length) = (fields.get_u64_le(), fields.get_u32_le());
        let (filter_at, filter_length) = (fields.get_u64_le(), fields.get_u32_le());
        let mut filter = vec![0; filter_length as usize];
        read_exact_at(&*file, &mut filter, filter_at).map_err(unread(&path, filter_at))?;
        let is_whole = crc32c::crc32c(&filter) == fields.get_u32_le();
        let root = read_block(&*file, &path, root_at, root_length)?;
        let pages = std::iter::repeat_with(Page::default).take(root.view().len());
        let run = Self {
            number,
            bytes,
            versions,
            path: path.clone(),
            file,
            filter: Filter::decode(&filter),
            pages: pages.collect(),
            root,
            hand: AtomicUsize::new(0),
            budget: Arc::clone(budget),
            storage: Arc::clone(storage),
            is_obsolete: AtomicBool::new(false),
        };
        Ok((run, (!is_whole).then_some(filter_at)))
    }

    /// What is in memory as long as it is open.
    pub(super) fn resident(&self) -> usize {
        self.filter.bytes() + self.root.bytes() + self.pages.len() * size_of::<Page>()
    }

    /// It is not part of the store any more: the file goes once nobody reads it.
    pub(super) fn make_obsolete(&self) {
        self.is_obsolete.store(true, Ordering::Relaxed);
    }

    /// The revision that the key has as of another one, and whether it exists then; nothing when
    /// the run does not know the key.
    pub(super) fn version(
        &self,
        key: &[u8],
        hash: u64,
        at: Revision,
    ) -> Stored<Option<(Revision, bool)>> {
        self.look(key, hash, at, |item| {
            Ok((item.revision, item.value()?.is_some()))
        })
    }

    /// The entry of a key as of a revision, if it exists then; nothing when the run does not know
    /// the key.
    pub(super) fn get(&self, key: &[u8], hash: u64, at: Revision) -> Stored<Option<Option<Entry>>> {
        self.look(key, hash, at, |item| item.entry())
    }

    fn look<T>(
        &self,
        key: &[u8],
        hash: u64,
        at: Revision,
        found: impl FnOnce(block::Item<'_>) -> Result<T, Malformed>,
    ) -> Stored<Option<T>> {
        if !self.filter.may_have(hash) {
            return Ok(None);
        }
        let root = self.root.view();
        let index = root.lower_bound(key, at)?;
        if index == root.len() {
            return Ok(None);
        }
        let page = self.page(index)?;
        let page = page.view();
        let index = page.lower_bound(key, at)?;
        let (offset, length) = page.item(index)?.child()?;
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(length as usize, 0);
            read_exact_at(&*self.file, scratch, offset).map_err(unread(&self.path, offset))?;
            let view =
                View::checked(scratch).ok_or_else(|| damaged(&self.path, offset, BROKEN_BLOCK))?;
            let index = view.lower_bound(key, at)?;
            let item = view.item(index)?;
            let known = (item.key == key).then(|| found(item)).transpose()?;
            // A large value must not keep its memory for ever.
            scratch.shrink_to(64 << 10);
            Ok(known)
        })
    }

    /// An index page.
    fn page(&self, index: usize) -> Stored<Block> {
        let page = &self.pages[index];
        if let Some(loaded) = &*page.loaded.lock() {
            page.was_used.store(true, Ordering::Relaxed);
            return Ok(loaded.clone());
        }
        let (offset, length) = self.root.view().item(index)?.child()?;
        let block = self.read(offset, length)?;
        self.keep(index, &block);
        Ok(block)
    }

    /// Keeps a page in memory. For room, pages of the same run go that were not used since they were
    /// looked at last.
    fn keep(&self, index: usize, block: &Block) {
        let size = block.bytes();
        let mut looked_at = 0;
        while self.budget.used.load(Ordering::Relaxed) + size > self.budget.most
            && looked_at < 2 * self.pages.len()
        {
            let hand = self.hand.fetch_add(1, Ordering::Relaxed) % self.pages.len();
            let page = &self.pages[hand];
            if !page.was_used.swap(false, Ordering::Relaxed) {
                self.give_back(page);
            }
            looked_at += 1;
        }
        if self.budget.used.load(Ordering::Relaxed) + size > self.budget.most {
            return;
        }
        let mut loaded = self.pages[index].loaded.lock();
        if loaded.is_none() {
            self.budget.used.fetch_add(size, Ordering::Relaxed);
            *loaded = Some(block.clone());
        }
    }

    fn give_back(&self, page: &Page) {
        if let Some(block) = page.loaded.lock().take() {
            self.budget.used.fetch_sub(block.bytes(), Ordering::Relaxed);
        }
    }

    fn read(&self, offset: u64, length: u32) -> Stored<Block> {
        read_block(&*self.file, &self.path, offset, length)
    }
}

fn read_block(file: &dyn File, path: &Path, offset: u64, length: u32) -> Stored<Block> {
    let mut bytes = vec![0; length as usize];
    read_exact_at(file, &mut bytes, offset).map_err(unread(path, offset))?;
    Block::new(Bytes::from(bytes)).ok_or_else(|| damaged(path, offset, BROKEN_BLOCK))
}

impl Drop for Run {
    fn drop(&mut self) {
        for page in &self.pages {
            self.give_back(page);
        }
        if self.is_obsolete.load(Ordering::Relaxed)
            && let Err(error) = self.storage.remove(&self.path)
        {
            // The next start removes it.
            tracing::warn!(%error, file = %self.path.display(), "an obsolete file stays");
        }
    }
}

/// What the footer says.
struct Footer {
    versions: u64,
    root: (u64, u32),
    filter: (u64, u32),
    filter_checksum: u32,
}

impl Footer {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FOOTER);
        bytes.extend_from_slice(&MAGIC.to_le_bytes());
        bytes.extend_from_slice(&self.versions.to_le_bytes());
        for (offset, length) in [self.root, self.filter] {
            bytes.extend_from_slice(&offset.to_le_bytes());
            bytes.extend_from_slice(&length.to_le_bytes());
        }
        bytes.extend_from_slice(&self.filter_checksum.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

/// How much of a file lies from `offset` on, at most `most`.
fn part_of(bytes: u64, offset: u64, most: usize) -> usize {
    to_usize(bytes.saturating_sub(offset)).min(most)
}
