//! One shard: a table of slots, and the S3-FIFO rule of what goes first.
//!
//! The rule (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023): new items
//! enter a small queue of a tenth of the weight; whoever leaves it without having been read twice is
//! evicted and remembered as a *ghost*; the others, and ghosts that come back, enter the main queue,
//! whose tail goes round again as often as it was read, three times at most. One scan over many keys thus
//! never pushes out what is in use, and a read only sets a counter.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use bytes::Bytes;
use hashbrown::HashTable;
use sinew_engine::cache::{Item, Lifetime, Statistics, Version};

mod queue;

use queue::{Links, Queue};

/// The deadline of an item without one.
pub(super) const NEVER: u64 = u64::MAX;

/// Reads that are counted at most.
const MOST_USED: u8 = 3;
/// Reads in the small queue that make an item worth keeping.
const WORTH_KEEPING: u8 = 2;
/// The small queue's share of the weight is one in this many.
const SMALL_SHARE: u64 = 10;
/// Expired items that one operation removes at most, so that none has to wait for thousands.
const EXPIRE_AT_ONCE: usize = 64;

/// Invariants: `table` leads to exactly the slots that hold an entry; each of those is in one of the two
/// queues and, unless it lives for ever, in `deadlines`; `free` names the others.
#[derive(Default)]
pub(super) struct Shard {
    table: HashTable<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    small: Queue,
    main: Queue,
    ghosts: Ghosts,
    deadlines: BTreeSet<(u64, u32)>,
    last_version: u64,
    evicted: u64,
    expired: u64,
}

pub(super) struct Slot {
    links: Links,
    weight: u64,
    hash: u64,
    deadline: u64,
    version: Version,
    key: Box<[u8]>,
    value: Bytes,
    used: AtomicU8,
    in_main: bool,
}

/// An item as an operation sees it.
pub(super) struct Found<'a> {
    pub(super) value: &'a Bytes,
    pub(super) version: Version,
    pub(super) deadline: u64,
}

impl Slot {
    fn mark_used(&self) {
        // A lost update only loses a mark.
        let used = self.used.load(Ordering::Relaxed);
        if used < MOST_USED {
            self.used.store(used + 1, Ordering::Relaxed);
        }
    }
}

impl Shard {
    pub(super) fn get(&self, hash: u64, key: &[u8], now: u64) -> Option<Item> {
        let slot = &self.slots[index(self.find(hash, key)?)];
        if slot.deadline <= now {
            return None;
        }
        slot.mark_used();
        Some(Item {
            value: slot.value.clone(),
            version: slot.version,
            left: match slot.deadline {
                NEVER => Lifetime::Unlimited,
                deadline => Lifetime::For(Duration::from_nanos(deadline - now)),
            },
        })
    }

    /// The slot of a key, whether its time has passed or not.
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.table
            .find(hash, |slot| *self.slots[index(*slot)].key == *key)
            .copied()
    }

    pub(super) fn found(&self, slot: u32) -> Found<'_> {
        let slot = &self.slots[index(slot)];
        Found {
            value: &slot.value,
            version: slot.version,
            deadline: slot.deadline,
        }
    }

    pub(super) fn weight(&self, slot: u32) -> u64 {
        self.slots[index(slot)].weight
    }

    /// When the next item expires.
    pub(super) fn first_deadline(&self) -> u64 {
        self.deadlines
            .first()
            .map_or(NEVER, |(deadline, _)| *deadline)
    }

    pub(super) fn insert(
        &mut self,
        hash: u64,
        key: &[u8],
        value: Bytes,
        weight: u64,
        deadline: u64,
    ) -> Version {
        let in_main = self.ghosts.take(hash);
        let version = self.next_version();
        let entry = Slot {
            links: Links::default(),
            weight,
            hash,
            deadline,
            version,
            key: key.into(),
            value,
            used: AtomicU8::new(0),
            in_main,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[index(slot)] = entry;
                slot
            }
            None => {
                self.slots.push(entry);
                u32::try_from(self.slots.len() - 1).expect("4 billion items outweigh any memory")
            }
        };
        let slots = &self.slots;
        self.table
            .insert_unique(hash, slot, |slot| slots[index(*slot)].hash);
        if deadline != NEVER {
            self.deadlines.insert((deadline, slot));
        }
        self.enqueue(slot, in_main);
        version
    }

    pub(super) fn replace(
        &mut self,
        slot: u32,
        value: Bytes,
        weight: u64,
        deadline: u64,
    ) -> Version {
        let version = self.next_version();
        self.set_deadline(slot, deadline);
        let entry = &mut self.slots[index(slot)];
        let queue = if entry.in_main {
            &mut self.main
        } else {
            &mut self.small
        };
        queue.weight = queue.weight - entry.weight + weight;
        entry.weight = weight;
        entry.value = value;
        entry.version = version;
        entry.mark_used();
        version
    }

    pub(super) fn set_deadline(&mut self, slot: u32, deadline: u64) {
        let before = std::mem::replace(&mut self.slots[index(slot)].deadline, deadline);
        if before != deadline {
            self.deadlines.remove(&(before, slot));
            if deadline != NEVER {
                self.deadlines.insert((deadline, slot));
            }
        }
    }

    /// Removes an item and answers its weight.
    pub(super) fn remove(&mut self, slot: u32) -> u64 {
        self.dequeue(slot);
        let entry = &mut self.slots[index(slot)];
        let (hash, weight) = (entry.hash, entry.weight);
        // The contents go now, the slot waits for the next item.
        (entry.key, entry.value) = (Box::default(), Bytes::new());
        self.deadlines.remove(&(entry.deadline, slot));
        if let Ok(found) = self.table.find_entry(hash, |other| *other == slot) {
            found.remove();
        }
        self.free.push(slot);
        weight
    }

    /// Removes items whose time has passed and answers their weight.
    pub(super) fn expire(&mut self, now: u64) -> u64 {
        let mut freed = 0;
        for _ in 0..EXPIRE_AT_ONCE {
            match self.deadlines.first() {
                Some((deadline, slot)) if *deadline <= now => {
                    let slot = *slot;
                    freed += self.expire_one(slot);
                }
                _ => break,
            }
        }
        freed
    }

    pub(super) fn has_expired(&self, slot: u32, now: u64) -> bool {
        self.slots[index(slot)].deadline <= now
    }

    pub(super) fn expire_one(&mut self, slot: u32) -> u64 {
        self.expired += 1;
        self.remove(slot)
    }

    /// Evicts until `wanted` is free or nothing is left but the key with the hash `spared`; answers
    /// what was freed.
    pub(super) fn evict(&mut self, wanted: u64, spared: u64) -> u64 {
        let mut freed = 0;
        while freed < wanted {
            match self.evict_one(spared) {
                0 => break,
                weight => freed += weight,
            }
        }
        freed
    }

    fn evict_one(&mut self, spared: u64) -> u64 {
        // Each item can go round a few times before it loses its last mark, the spared one once more.
        for _ in 0..=self.table.len() * (usize::from(MOST_USED) + 2) {
            let total = self.small.weight + self.main.weight;
            let from_small = self.small.weight > total / SMALL_SHARE || self.main.is_empty();
            let tail = if from_small {
                self.small.tail()
            } else {
                self.main.tail()
            };
            let Some(slot) = tail else {
                return 0;
            };
            let entry = &mut self.slots[index(slot)];
            let used = *entry.used.get_mut();
            if entry.hash == spared {
                self.requeue(slot, !from_small);
            } else if from_small && used >= WORTH_KEEPING {
                *entry.used.get_mut() = 0;
                self.requeue(slot, true);
            } else if !from_small && used > 0 {
                *entry.used.get_mut() = used - 1;
                self.requeue(slot, true);
            } else {
                if from_small {
                    self.ghosts.put(entry.hash, self.main.len().max(64));
                }
                self.evicted += 1;
                return self.remove(slot);
            }
        }
        0
    }

    /// Removes everything and answers its weight.
    pub(super) fn clear(&mut self) -> u64 {
        let weight = self.small.weight + self.main.weight;
        *self = Self {
            last_version: self.last_version,
            evicted: self.evicted,
            expired: self.expired,
            ..Self::default()
        };
        weight
    }

    pub(super) fn add_to(&self, sum: &mut Statistics) {
        sum.items += self.table.len() as u64;
        sum.evicted += self.evicted;
        sum.expired += self.expired;
    }

    /// A key always meets the same shard, so the shard's own count is enough.
    fn next_version(&mut self) -> Version {
        self.last_version += 1;
        Version(self.last_version)
    }

    fn enqueue(&mut self, slot: u32, in_main: bool) {
        self.slots[index(slot)].in_main = in_main;
        let queue = if in_main {
            &mut self.main
        } else {
            &mut self.small
        };
        queue.push(&mut self.slots, slot);
    }

    fn dequeue(&mut self, slot: u32) {
        let in_main = self.slots[index(slot)].in_main;
        let queue = if in_main {
            &mut self.main
        } else {
            &mut self.small
        };
        queue.remove(&mut self.slots, slot);
    }

    fn requeue(&mut self, slot: u32, in_main: bool) {
        self.dequeue(slot);
        self.enqueue(slot, in_main);
    }
}

/// The hashes of what was evicted from the small queue lately.
#[derive(Default)]
struct Ghosts {
    known: HashSet<u64>,
    /// Oldest first. May name a ghost that came back since.
    order: VecDeque<u64>,
}

impl Ghosts {
    fn put(&mut self, hash: u64, most: usize) {
        if self.known.insert(hash) {
            self.order.push_back(hash);
        }
        while self.order.len() > most {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    fn take(&mut self, hash: u64) -> bool {
        self.known.remove(&hash)
    }
}

fn index(slot: u32) -> usize {
    slot as usize
}

#[cfg(test)]
mod tests;
