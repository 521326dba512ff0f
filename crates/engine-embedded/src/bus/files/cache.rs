//! Blocks in memory, and where others lie.

use std::{collections::BTreeMap, sync::Arc};

use super::{Block, FileKey, Place};

/// Places of blocks that are remembered.
const MARKS: usize = 32 << 10;

/// What was read not long ago.
#[derive(Debug, Default)]
pub(super) struct Cache {
    blocks: BTreeMap<FileKey, Cached>,
    bytes: usize,
    uses: u64,
    /// Where blocks lie in their files.
    pub(super) marks: BTreeMap<FileKey, u64>,
}

#[derive(Debug)]
struct Cached {
    block: Arc<Block>,
    used: u64,
}

impl Cache {
    pub(super) fn block(&mut self, place: Place, offset: u64) -> Option<Arc<Block>> {
        self.uses += 1;
        let range = (place, 0)..=(place, offset);
        let (_, cached) = self.blocks.range_mut(range).next_back()?;
        if cached.block.end() <= offset {
            return None;
        }
        cached.used = self.uses;
        Some(Arc::clone(&cached.block))
    }

    pub(super) fn put(&mut self, place: Place, block: &Arc<Block>, most: usize) {
        self.uses += 1;
        let cached = Cached {
            block: Arc::clone(block),
            used: self.uses,
        };
        self.bytes += block.bytes;
        if let Some(before) = self.blocks.insert((place, block.first), cached) {
            self.bytes -= before.block.bytes;
        }
        while self.bytes > most && self.blocks.len() > 1 {
            let oldest = self.blocks.iter().min_by_key(|(_, cached)| cached.used);
            let Some(key) = oldest.map(|(key, _)| *key) else {
                return;
            };
            if let Some(removed) = self.blocks.remove(&key) {
                self.bytes -= removed.block.bytes;
            }
        }
    }

    pub(super) fn mark(&mut self, block: FileKey, at: u64) {
        if self.marks.len() >= MARKS {
            self.marks.clear();
        }
        self.marks.insert(block, at);
    }
}
