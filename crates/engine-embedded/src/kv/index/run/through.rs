use std::{cell::RefCell, sync::Arc};

use sinew_engine::kv::Revision;

use super::{Block, Run, Stored};
use crate::{
    damage::Damage,
    kv::index::source::{Source, Value},
};

/// Walks through all of a run that may be damaged: what cannot be read is noted and left out.
pub(in crate::kv::index) struct Through<'n> {
    run: Arc<Run>,
    notes: &'n RefCell<Notes>,
    /// The next page of the root, and the next block of the page.
    next: [usize; 2],
    page: Option<Block>,
    block: Option<Block>,
    /// The item of the block that it stands on.
    item: usize,
    /// The last key that was passed, or left out.
    passed: Vec<u8>,
}

/// What a walk through a run has found.
#[derive(Default)]
pub(in crate::kv::index) struct Notes {
    pub(in crate::kv::index) damage: Vec<Damage>,
    pub(in crate::kv::index) newest: Revision,
    pub(in crate::kv::index) versions: u64,
}

impl<'n> Through<'n> {
    pub(in crate::kv::index) fn new(run: &Arc<Run>, notes: &'n RefCell<Notes>) -> Self {
        let mut through = Self {
            run: Arc::clone(run),
            notes,
            next: [0; 2],
            page: None,
            block: None,
            item: 0,
            passed: Vec::new(),
        };
        through.next_block();
        through.stand();
        through
    }

    /// Goes to the next block that is whole; to the end when there is none.
    fn next_block(&mut self) {
        self.block = None;
        self.item = 0;
        while self.block.is_none() {
            let Some(page) = self.page.clone() else {
                let root = self.run.root.clone();
                if self.next[0] >= root.view().len() {
                    return;
                }
                self.page = self.child(&root, self.next[0]);
                self.next = [self.next[0] + 1, 0];
                continue;
            };
            if self.next[1] >= page.view().len() {
                self.page = None;
                continue;
            }
            self.block = self.child(&page, self.next[1]);
            self.next[1] += 1;
        }
    }

    /// The block that an item of another leads to, if it is whole.
    fn child(&mut self, parent: &Block, index: usize) -> Option<Block> {
        let Ok(item) = parent.view().item(index) else {
            self.note(0, "an entry of its index is malformed".to_owned());
            return None;
        };
        let read = item
            .child()
            .map(|(at, length)| (at, self.run.read(at, length)));
        let last = item.key.to_vec();
        match read {
            Ok((_, Ok(block))) => Some(block),
            Ok((at, Err(_))) => {
                let after = std::mem::replace(&mut self.passed, last.clone());
                let what = format!(
                    "a block does not match its checksum, or is missing: keys after \"{}\" up to \"{}\"",
                    after.escape_ascii(),
                    last.escape_ascii()
                );
                self.note(at, what);
                None
            }
            Err(_) => {
                self.note(0, "an entry of its index is malformed".to_owned());
                None
            }
        }
    }

    fn note(&self, offset: u64, what: String) {
        let file = self.run.path.clone();
        let damage = Damage { file, offset, what };
        self.notes.borrow_mut().damage.push(damage);
    }

    /// Passes over what is malformed although its block is whole, and counts.
    fn stand(&mut self) {
        while let Some(block) = &self.block {
            let item = block.view().item(self.item);
            if let Ok(item) = item
                && item.value().is_ok()
            {
                let mut notes = self.notes.borrow_mut();
                notes.newest = notes.newest.max(item.revision);
                notes.versions += 1;
                drop(notes);
                item.key.clone_into(&mut self.passed);
                return;
            }
            self.note(0, "a version is malformed".to_owned());
            self.step();
        }
    }

    fn step(&mut self) {
        self.item += 1;
        let is_over = self
            .block
            .as_ref()
            .is_some_and(|block| self.item >= block.view().len());
        if is_over {
            self.next_block();
        }
    }

    fn current(&self) -> Option<super::block::Item<'_>> {
        self.block.as_ref()?.view().item(self.item).ok()
    }
}

impl Source for Through<'_> {
    fn key(&self) -> Option<&[u8]> {
        Some(self.current()?.key)
    }

    fn revision(&self) -> Revision {
        self.current().map_or(0, |item| item.revision)
    }

    fn value(&self) -> Value<'_> {
        self.current()?.value().ok()?
    }

    fn advance(&mut self) -> Stored<()> {
        self.step();
        self.stand();
        Ok(())
    }
}
