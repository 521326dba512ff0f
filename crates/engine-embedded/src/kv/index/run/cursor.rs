use std::sync::Arc;

use bytes::Bytes;
use sinew_engine::kv::{Key, Revision};

use super::{BROKEN_BLOCK, Block, Run, Stored, part_of, read_exact_at};
use crate::kv::index::{
    failure::{damaged, unread},
    source::{Source, Value},
};

/// Walks through a run.
pub(in crate::kv::index) struct Cursor {
    run: Arc<Run>,
    /// The page of the root, the block of the page and the item of the block that it stands on.
    places: [usize; 3],
    page: Option<Block>,
    block: Option<Block>,
    /// Without: at the end of the run.
    end: Option<Key>,
    /// Read ahead, when it goes through all of it.
    window: Window,
}

#[derive(Default)]
struct Window {
    ahead: usize,
    offset: u64,
    bytes: Bytes,
}

impl Cursor {
    /// Begins at the first version of `start` or after it, and goes on to `end`.
    pub(in crate::kv::index) fn new(
        run: &Arc<Run>,
        start: &[u8],
        end: Option<Key>,
    ) -> Stored<Self> {
        Self::with_window(run, start, end, 0)
    }

    /// Through all of a run, reading ahead.
    pub(in crate::kv::index) fn through(run: &Arc<Run>) -> Stored<Self> {
        Self::with_window(run, &[], None, 256 << 10)
    }

    fn with_window(run: &Arc<Run>, start: &[u8], end: Option<Key>, ahead: usize) -> Stored<Self> {
        let mut cursor = Self {
            run: Arc::clone(run),
            places: [0; 3],
            page: None,
            block: None,
            end,
            window: Window {
                ahead,
                ..Window::default()
            },
        };
        let root = run.root.view();
        cursor.places[0] = root.lower_bound(start, Revision::MAX)?;
        if cursor.places[0] < root.len() {
            let page = run.page(cursor.places[0])?;
            cursor.places[1] = page.view().lower_bound(start, Revision::MAX)?;
            cursor.page = Some(page);
            cursor.load_block()?;
            if let Some(block) = &cursor.block {
                cursor.places[2] = block.view().lower_bound(start, Revision::MAX)?;
            }
        }
        cursor.end_if_beyond()?;
        Ok(cursor)
    }

    fn load_block(&mut self) -> Stored<()> {
        let Some(page) = &self.page else {
            return Ok(());
        };
        let (offset, length) = page.view().item(self.places[1])?.child()?;
        let block = if self.window.ahead == 0 {
            self.run.read(offset, length)?
        } else {
            self.window.block(&self.run, offset, length)?
        };
        self.block = Some(block);
        Ok(())
    }

    fn end_if_beyond(&mut self) -> Stored<()> {
        if let (Some(end), Some(block)) = (&self.end, &self.block)
            && block.view().item(self.places[2])?.key >= &end[..]
        {
            self.block = None;
        }
        Ok(())
    }

    fn item(&self) -> Option<super::block::Item<'_>> {
        // It was looked at when the cursor came here.
        self.block.as_ref()?.view().item(self.places[2]).ok()
    }
}

impl Source for Cursor {
    fn key(&self) -> Option<&[u8]> {
        Some(self.item()?.key)
    }

    fn revision(&self) -> Revision {
        self.item().map_or(0, |item| item.revision)
    }

    fn value(&self) -> Value<'_> {
        self.item()?.value().ok()?
    }

    fn advance(&mut self) -> Stored<()> {
        let (Some(block), Some(page)) = (&self.block, &self.page) else {
            return Ok(());
        };
        self.places[2] += 1;
        if self.places[2] == block.view().len() {
            self.places[2] = 0;
            self.places[1] += 1;
            if self.places[1] == page.view().len() {
                self.places[1] = 0;
                self.places[0] += 1;
                if self.places[0] == self.run.root.view().len() {
                    self.block = None;
                    return Ok(());
                }
                self.page = Some(self.run.page(self.places[0])?);
            }
            self.load_block()?;
        }
        if let Some(block) = &self.block {
            // A malformed item must not pass for a deleted key.
            block.view().item(self.places[2])?.value()?;
        }
        self.end_if_beyond()
    }
}

impl Window {
    fn block(&mut self, run: &Run, offset: u64, length: u32) -> Stored<Block> {
        let length = length as usize;
        let end = offset + length as u64;
        if offset < self.offset || end > self.offset + self.bytes.len() as u64 {
            let mut bytes = vec![0; part_of(run.bytes, offset, self.ahead.max(length))];
            read_exact_at(&*run.file, &mut bytes, offset).map_err(unread(&run.path, offset))?;
            *self = Self {
                ahead: self.ahead,
                offset,
                bytes: bytes.into(),
            };
        }
        let from = part_of(offset, self.offset, usize::MAX);
        let bytes = self.bytes.slice(from..from + length);
        Block::new(bytes).ok_or_else(|| damaged(&run.path, offset, BROKEN_BLOCK))
    }
}
