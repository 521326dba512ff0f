use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{SECTOR, Survival, seeded::Seeded};
use crate::storage::to_usize;

/// One file's bytes: as programs see them, as the disk has them, and what lies between.
#[derive(Debug, Default)]
pub(super) struct Contents {
    seen: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

impl Contents {
    pub(super) fn len(&self) -> u64 {
        self.seen.len() as u64
    }

    pub(super) fn sectors(&self) -> impl Iterator<Item = &[u8]> {
        self.seen.chunks(SECTOR)
    }

    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> usize {
        let from = to_usize(offset).min(self.seen.len());
        let length = buffer.len().min(self.seen.len() - from);
        buffer[..length].copy_from_slice(&self.seen[from..from + length]);
        length
    }

    pub(super) fn write_at(&mut self, bytes: &[u8], offset: u64) {
        self.change(Change::Write {
            offset: to_usize(offset),
            bytes: bytes.to_vec(),
        });
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.change(Change::SetLen(to_usize(len)));
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// Some of what was to be synced is on the disk and the rest never will be, although everyone
    /// still sees it.
    pub(super) fn fail_sync(&mut self, random: &mut Seeded) {
        self.settle(random, &[]);
    }

    pub(super) fn lose_power(&mut self, random: &mut Seeded, stale: &[Vec<u8>]) {
        self.settle(random, stale);
        self.seen.clone_from(&self.durable);
    }

    pub(super) fn damage(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.seen);
        self.durable.clone_from(&self.seen);
        self.pending.clear();
    }

    /// Decides for each sector, and for the length, up to which of the pending changes it has got.
    fn settle(&mut self, random: &mut Seeded, stale: &[Vec<u8>]) {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return;
        }
        let old_len = self.durable.len();
        let mut lens = vec![old_len];
        for change in &pending {
            lens.push(change.len_after(lens[lens.len() - 1]));
        }
        let longest = lens.iter().copied().max().unwrap_or_default();
        let survival = Survival::pick(random);
        let prefix = random.index(pending.len() + 1);
        let mut cut = || match survival {
            Survival::Nothing => 0,
            Survival::Everything => pending.len(),
            Survival::Prefix => prefix,
            Survival::Mixed => random.index(pending.len() + 1),
        };
        let len = lens[cut()];

        self.durable.resize(longest, 0);
        let mut cuts = BTreeMap::new();
        let mut written = BTreeSet::new();
        for (index, change) in pending.iter().enumerate() {
            let touched = change.range(longest);
            for sector in touched.start / SECTOR..touched.end.div_ceil(SECTOR) {
                if index < *cuts.entry(sector).or_insert_with(&mut cut) {
                    let within = sector * SECTOR..((sector + 1) * SECTOR).min(longest);
                    change.apply_within(&mut self.durable, &within);
                    written.insert(sector);
                }
            }
        }
        self.durable.truncate(len);
        // What a file grew by without having been written may show what the disk had there before.
        for sector in old_len.div_ceil(SECTOR)..len / SECTOR {
            if !written.contains(&sector) && !stale.is_empty() && random.below(4) == 0 {
                let old = &stale[random.index(stale.len())];
                self.durable[sector * SECTOR..sector * SECTOR + old.len()].copy_from_slice(old);
            }
        }
    }
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        let len = self.len_after(file.len());
        file.resize(len, 0);
        if let Self::Write { offset, bytes } = self {
            file[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn len_after(&self, before: usize) -> usize {
        match self {
            Self::Write { offset, bytes } => before.max(offset + bytes.len()),
            Self::SetLen(len) => *len,
        }
    }

    /// The bytes that it changes in a file that reaches up to `longest`.
    fn range(&self, longest: usize) -> Range<usize> {
        match self {
            Self::Write { offset, bytes } => *offset..offset + bytes.len(),
            Self::SetLen(len) => *len..longest,
        }
    }

    /// Applies the part that lies in one sector.
    fn apply_within(&self, file: &mut [u8], sector: &Range<usize>) {
        let range = self.range(file.len());
        let from = range.start.max(sector.start);
        let to = range.end.min(sector.end);
        if from >= to {
            return;
        }
        match self {
            Self::Write { offset, bytes } => {
                file[from..to].copy_from_slice(&bytes[from - offset..to - offset]);
            }
            Self::SetLen(_) => file[from..to].fill(0),
        }
    }
}
