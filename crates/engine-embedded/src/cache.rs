//! The embedded [`Cache`]: items in memory, in shards, within a room that is counted in bytes.
//!
//! Every key belongs to one shard, and every operation on a key is one critical section of that shard's
//! lock: that makes each of them linearizable. A read takes the lock shared and marks the item as used;
//! nothing is moved.
//!
//! The room is one counter for all shards. A write takes what its item grows by *before* it stores it,
//! so the items never weigh more than the capacity. When there is not enough it evicts: first what has
//! expired, in whichever shard, then by the S3-FIFO rule (`shard`) in its own shard, then in the others.
//!
//! moka was weighed and not taken: its bound is kept by later maintenance (a burst overshoots), a fresh
//! item may be refused by its admission filter although the contract says that what was set is there, and its
//! time cannot be moved by a test.

mod shard;

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use sinew_core::{Clock, Result};
use sinew_engine::cache::{
    Cache, Capability, Increment, Item, Key, Lifetime, Limits, Statistics, Swap, Version,
};

use shard::{Found, NEVER, Shard};

/// What the bookkeeping of one item takes: its slot, its entries in the table, the deadlines and the
/// ghosts, and what the allocator adds to two allocations. Rounded up.
const ITEM_OVERHEAD: usize = 192;

const SHARDS: usize = 32;

const LIMITS: Limits = Limits {
    key_bytes: 1024,
    value_bytes: 1 << 20,
    many: 4096,
    item_overhead: ITEM_OVERHEAD,
    lifetime_step: Duration::from_nanos(1),
    lifetime_maximum: Duration::from_secs(10 * 365 * 24 * 3600),
};

const CAPABILITY: Capability = Capability {
    engine: "embedded",
    forgets_only_for_room: true,
    weighs_items: true,
    limits: LIMITS,
};

/// The embedded engine. See the module's text.
///
/// Keys and values are copied when they are set: a small slice of a large network buffer would
/// otherwise keep all of it. A value that somebody still reads stays in memory beyond its
/// eviction, until the reader drops it.
pub struct EmbeddedCache {
    clock: Clock,
    hasher: RandomState,
    shards: Vec<RwLock<Shard>>,
    /// When the first item of each shard expires, at the earliest; readable without its lock.
    deadlines: Vec<AtomicU64>,
    hits: Vec<Counter>,
    room: Room,
}

/// Counters of one shard, on a cache line of their own.
#[derive(Default)]
#[repr(align(64))]
struct Counter {
    hits: AtomicU64,
    misses: AtomicU64,
}

/// The weight that all items may have together.
struct Room {
    capacity: u64,
    used: AtomicU64,
}

impl Room {
    fn take(&self, weight: u64) -> bool {
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                used.checked_add(weight).filter(|sum| *sum <= self.capacity)
            })
            .is_ok()
    }

    fn give(&self, weight: u64) {
        self.used.fetch_sub(weight, Ordering::AcqRel);
    }
}

/// Where a key lives.
#[derive(Clone, Copy)]
struct Place {
    hash: u64,
    shard: usize,
}

/// What an operation wants, now that it has seen the item.
enum Decision<T> {
    Leave(T),
    Remove(T),
    Lifetime(u64, T),
    Store(Bytes, u64),
}

impl EmbeddedCache {
    /// The least capacity: room for one item of the greatest weight.
    pub const MINIMUM_CAPACITY: u64 =
        (LIMITS.key_bytes + LIMITS.value_bytes + LIMITS.item_overhead) as u64;

    /// An empty cache whose items weigh at most `capacity` bytes together, overhead included; at least
    /// [`Self::MINIMUM_CAPACITY`].
    pub fn new(clock: Clock, capacity: u64) -> Self {
        Self {
            clock,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            deadlines: (0..SHARDS).map(|_| AtomicU64::new(NEVER)).collect(),
            hits: (0..SHARDS).map(|_| Counter::default()).collect(),
            room: Room {
                capacity: capacity.max(Self::MINIMUM_CAPACITY),
                used: AtomicU64::new(0),
            },
        }
    }

    fn place(&self, key: &[u8]) -> Place {
        let hash = self.hasher.hash_one(key);
        // Bits that the table inside the shard makes no use of.
        let shard = usize::try_from(hash >> 32).unwrap_or_default() % SHARDS;
        Place { hash, shard }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(NEVER - 1)
    }

    fn deadline(&self, lifetime: Lifetime) -> u64 {
        match lifetime {
            Lifetime::Unlimited => NEVER,
            Lifetime::For(time) => {
                let nanos = u64::try_from(time.as_nanos()).unwrap_or(NEVER);
                self.now().saturating_add(nanos).min(NEVER - 1)
            }
        }
    }

    fn read(&self, key: &[u8]) -> Option<Item> {
        let place = self.place(key);
        let now = self.now();
        let item = self.shards[place.shard].read().get(place.hash, key, now);
        let counter = &self.hits[place.shard];
        let counted = if item.is_some() {
            &counter.hits
        } else {
            &counter.misses
        };
        counted.fetch_add(1, Ordering::Relaxed);
        item
    }

    /// Runs one operation as one critical section. `decide` may be asked again after room was made,
    /// because the item may be another by then. The version that a store took is passed to `stored`.
    fn update<T>(
        &self,
        key: &[u8],
        decide: impl Fn(Option<Found<'_>>) -> Result<Decision<T>>,
        stored: impl Fn(Version) -> T,
    ) -> Result<T> {
        let place = self.place(key);
        loop {
            let mut shard = self.shards[place.shard].write();
            let now = self.now();
            self.room.give(shard.expire(now));
            let slot = match shard.find(place.hash, key) {
                // One of more that have expired than one operation removes.
                Some(slot) if shard.has_expired(slot, now) => {
                    self.room.give(shard.expire_one(slot));
                    None
                }
                slot => slot,
            };
            let decision = decide(slot.map(|slot| shard.found(slot)))?;
            let done = match (decision, slot) {
                (Decision::Leave(answer), _) => answer,
                (Decision::Remove(answer), None) | (Decision::Lifetime(_, answer), None) => answer,
                (Decision::Remove(answer), Some(slot)) => {
                    self.room.give(shard.remove(slot));
                    answer
                }
                (Decision::Lifetime(deadline, answer), Some(slot)) => {
                    shard.set_deadline(slot, deadline);
                    answer
                }
                (Decision::Store(value, deadline), slot) => {
                    let weight = LIMITS.weight(key, &value);
                    let before = slot.map_or(0, |slot| shard.weight(slot));
                    if !self.room.take(weight.saturating_sub(before)) {
                        drop(shard);
                        self.make_room(place, weight.saturating_sub(before), now);
                        continue;
                    }
                    let version = match slot {
                        Some(slot) => shard.replace(slot, value, weight, deadline),
                        None => shard.insert(place.hash, key, value, weight, deadline),
                    };
                    self.room.give(before.saturating_sub(weight));
                    stored(version)
                }
            };
            self.deadlines[place.shard].store(shard.first_deadline(), Ordering::Release);
            return Ok(done);
        }
    }

    /// Frees some of `weight`; the caller asks again whether it is enough. The item of the caller's
    /// own key is spared, so that its replacement does not make it disappear.
    fn make_room(&self, place: Place, weight: u64, now: u64) {
        let expired = |shard: &usize| self.deadlines[*shard].load(Ordering::Acquire) <= now;
        if let Some(index) = (0..SHARDS).find(expired) {
            let mut shard = self.shards[index].write();
            let freed = shard.expire(now);
            self.deadlines[index].store(shard.first_deadline(), Ordering::Release);
            self.room.give(freed);
            return;
        }
        for index in (0..SHARDS).map(|step| (place.shard + step) % SHARDS) {
            let mut shard = self.shards[index].write();
            let freed = shard.evict(weight, place.hash);
            self.deadlines[index].store(shard.first_deadline(), Ordering::Release);
            if freed > 0 {
                self.room.give(freed);
                return;
            }
        }
        // What is taken but not stored yet belongs to threads in the middle of `update`.
        std::thread::yield_now();
    }

    fn store(&self, key: &[u8], value: Bytes, deadline: u64) -> Result<Version> {
        self.update(
            key,
            |_| Ok(Decision::Store(value.clone(), deadline)),
            |version| version,
        )
    }

    fn remove(&self, key: &[u8]) -> Result<bool> {
        self.update(
            key,
            |found| {
                Ok(if found.is_some() {
                    Decision::Remove(true)
                } else {
                    Decision::Leave(false)
                })
            },
            |_| true,
        )
    }
}

#[async_trait]
impl Cache for EmbeddedCache {
    fn capability(&self) -> &Capability {
        &CAPABILITY
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Item>> {
        LIMITS.check_key(key)?;
        Ok(self.read(key))
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>> {
        LIMITS.check_keys(keys)?;
        Ok(keys.iter().map(|key| self.read(key)).collect())
    }

    async fn set(&self, key: Key, value: Bytes, lifetime: Lifetime) -> Result<Version> {
        LIMITS.check_item(&key, &value, lifetime)?;
        self.store(&key, owned(&value), self.deadline(lifetime))
    }

    async fn set_many(&self, items: Vec<(Key, Bytes)>, lifetime: Lifetime) -> Result<()> {
        LIMITS.check_items(&items, lifetime)?;
        let deadline = self.deadline(lifetime);
        for (key, value) in items {
            self.store(&key, owned(&value), deadline)?;
        }
        Ok(())
    }

    async fn set_if_absent(
        &self,
        key: Key,
        value: Bytes,
        lifetime: Lifetime,
    ) -> Result<Option<Version>> {
        LIMITS.check_item(&key, &value, lifetime)?;
        let (value, deadline) = (owned(&value), self.deadline(lifetime));
        let decide = |found: Option<Found<'_>>| {
            Ok(match found {
                Some(_) => Decision::Leave(None),
                None => Decision::Store(value.clone(), deadline),
            })
        };
        self.update(&key, decide, Some)
    }

    async fn compare_and_set(
        &self,
        key: Key,
        expected: Version,
        value: Bytes,
        lifetime: Lifetime,
    ) -> Result<Swap> {
        LIMITS.check_item(&key, &value, lifetime)?;
        let (value, deadline) = (owned(&value), self.deadline(lifetime));
        let decide = |found: Option<Found<'_>>| {
            Ok(match found {
                None => Decision::Leave(Swap::Absent),
                Some(found) if found.version != expected => Decision::Leave(Swap::Changed),
                Some(_) => Decision::Store(value.clone(), deadline),
            })
        };
        self.update(&key, decide, Swap::Set)
    }

    async fn increment(&self, key: Key, increment: Increment) -> Result<i64> {
        LIMITS.check_key(&key)?;
        LIMITS.check_lifetime(increment.lifetime)?;
        let fresh = self.deadline(increment.lifetime);
        let sum = std::cell::Cell::new(0);
        let decide = |found: Option<Found<'_>>| {
            let deadline = found.as_ref().map_or(fresh, |found| found.deadline);
            sum.set(increment.apply(found.as_ref().map(|found| &found.value[..]))?);
            Ok(Decision::Store(sum.get().to_string().into(), deadline))
        };
        self.update(&key, decide, |_| sum.get())
    }

    async fn touch(&self, key: &[u8], lifetime: Lifetime) -> Result<bool> {
        LIMITS.check_key(key)?;
        LIMITS.check_lifetime(lifetime)?;
        let deadline = self.deadline(lifetime);
        let decide = |found: Option<Found<'_>>| {
            Ok(match found {
                Some(_) => Decision::Lifetime(deadline, true),
                None => Decision::Leave(false),
            })
        };
        self.update(key, decide, |_| true)
    }

    async fn delete(&self, key: &[u8]) -> Result<bool> {
        LIMITS.check_key(key)?;
        self.remove(key)
    }

    async fn compare_and_delete(&self, key: &[u8], expected: Version) -> Result<bool> {
        LIMITS.check_key(key)?;
        let decide = |found: Option<Found<'_>>| {
            Ok(match found {
                Some(found) if found.version == expected => Decision::Remove(true),
                _ => Decision::Leave(false),
            })
        };
        self.update(key, decide, |_| true)
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        LIMITS.check_keys(keys)?;
        keys.iter()
            .try_fold(0, |gone, key| Ok(gone + u64::from(self.remove(key)?)))
    }

    async fn clear(&self) -> Result<()> {
        for (shard, deadline) in self.shards.iter().zip(&self.deadlines) {
            let mut shard = shard.write();
            self.room.give(shard.clear());
            deadline.store(NEVER, Ordering::Release);
        }
        Ok(())
    }

    async fn statistics(&self) -> Result<Statistics> {
        let mut sum = Statistics {
            capacity: self.room.capacity,
            ..Statistics::default()
        };
        for counter in &self.hits {
            sum.hits += counter.hits.load(Ordering::Relaxed);
            sum.misses += counter.misses.load(Ordering::Relaxed);
        }
        // The shards are looked at one after the other: under load their weights are not of one
        // moment, and their sum could pass what the room really had at any.
        for shard in &self.shards {
            shard.read().add_to(&mut sum);
        }
        sum.weight = self.room.used.load(Ordering::Acquire);
        Ok(sum)
    }
}

fn owned(value: &Bytes) -> Bytes {
    Bytes::copy_from_slice(value)
}
