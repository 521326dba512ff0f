//! First-in-first-out queues through the slots themselves: any member leaves in constant time.

use super::{Slot, index};

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
pub(super) struct Links {
    newer: u32,
    older: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            newer: NONE,
            older: NONE,
        }
    }
}

pub(super) struct Queue {
    newest: u32,
    oldest: u32,
    len: usize,
    /// What its members weigh.
    pub(super) weight: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            newest: NONE,
            oldest: NONE,
            len: 0,
            weight: 0,
        }
    }
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The oldest member.
    pub(super) fn tail(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    pub(super) fn push(&mut self, slots: &mut [Slot], slot: u32) {
        slots[index(slot)].links = Links {
            newer: NONE,
            older: self.newest,
        };
        match self.newest {
            NONE => self.oldest = slot,
            newest => slots[index(newest)].links.newer = slot,
        }
        self.newest = slot;
        self.len += 1;
        self.weight += slots[index(slot)].weight;
    }

    pub(super) fn remove(&mut self, slots: &mut [Slot], slot: u32) {
        let Links { newer, older } = slots[index(slot)].links;
        match newer {
            NONE => self.newest = older,
            newer => slots[index(newer)].links.older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => slots[index(older)].links.newer = newer,
        }
        self.len -= 1;
        self.weight -= slots[index(slot)].weight;
    }
}
