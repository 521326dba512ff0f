use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use sinew_core::{Clock, Result};

use super::{Cache, Capability, Increment, Item, Key, Lifetime, Limits, Statistics, Swap, Version};

/// The reference engine: one map under one lock, written to be obviously right. What makes room
/// is the item that was written longest ago. Clones are the same cache.
#[derive(Clone)]
pub struct MemoryCache {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

const CAPABILITY: Capability = Capability {
    engine: "memory",
    forgets_only_for_room: true,
    weighs_items: true,
    limits: Limits {
        key_bytes: 1024,
        value_bytes: 1 << 20,
        many: 1024,
        item_overhead: 64,
        lifetime_step: Duration::from_nanos(1),
        lifetime_maximum: Duration::from_secs(10 * 365 * 24 * 3600),
    },
};

impl MemoryCache {
    /// The least capacity: room for one item of the greatest weight.
    pub const MINIMUM_CAPACITY: u64 = (CAPABILITY.limits.key_bytes
        + CAPABILITY.limits.value_bytes
        + CAPABILITY.limits.item_overhead) as u64;

    /// An empty cache with room for 64 MiB.
    pub fn new(clock: Clock) -> Self {
        Self::with_capacity(clock, 64 << 20)
    }

    /// An empty cache whose items weigh at most `bytes`, but at least [`Self::MINIMUM_CAPACITY`].
    pub fn with_capacity(clock: Clock, bytes: u64) -> Self {
        let capacity = bytes.max(Self::MINIMUM_CAPACITY);
        let statistics = Statistics {
            capacity,
            ..Statistics::default()
        };
        let state = State {
            now: Duration::ZERO,
            items: BTreeMap::new(),
            by_age: BTreeMap::new(),
            by_deadline: BTreeSet::new(),
            last_version: 0,
            statistics,
        };
        Self {
            clock,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The state, without the items whose time has passed.
    fn current(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.expire(self.clock.monotonic());
        state
    }

    fn deadline(&self, lifetime: Lifetime) -> Option<Duration> {
        match lifetime {
            Lifetime::Unlimited => None,
            Lifetime::For(time) => Some(self.clock.monotonic() + time),
        }
    }
}

/// Invariant: `statistics.items` and `.weight`, `by_age` and `by_deadline` are those of `items`.
struct State {
    /// When the state was last looked at; everything in it lives longer than that.
    now: Duration,
    items: BTreeMap<Key, Stored>,
    by_age: BTreeMap<Version, Key>,
    by_deadline: BTreeSet<(Duration, Key)>,
    last_version: u64,
    statistics: Statistics,
}

struct Stored {
    value: Bytes,
    version: Version,
    deadline: Option<Duration>,
}

impl State {
    fn expire(&mut self, now: Duration) {
        // Another thread may have come here with a later time.
        self.now = self.now.max(now);
        while let Some((deadline, key)) = self.by_deadline.first()
            && *deadline <= self.now
        {
            let key = key.clone();
            self.remove(&key);
            self.statistics.expired += 1;
        }
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        let Some((key, stored)) = self.items.remove_entry(key) else {
            return false;
        };
        self.statistics.items -= 1;
        self.statistics.weight -= CAPABILITY.limits.weight(&key, &stored.value);
        self.by_age.remove(&stored.version);
        if let Some(deadline) = stored.deadline {
            self.by_deadline.remove(&(deadline, key));
        }
        true
    }

    fn set(&mut self, key: Key, value: Bytes, deadline: Option<Duration>) -> Version {
        self.remove(&key);
        let weight = CAPABILITY.limits.weight(&key, &value);
        while self.statistics.weight + weight > self.statistics.capacity {
            let oldest = self.by_age.first_key_value().map(|(_, key)| key.clone());
            self.remove(&oldest.expect("what weighs something is there"));
            self.statistics.evicted += 1;
        }
        self.last_version += 1;
        let version = Version(self.last_version);
        self.statistics.items += 1;
        self.statistics.weight += weight;
        self.by_age.insert(version, key.clone());
        self.by_deadline
            .extend(deadline.map(|deadline| (deadline, key.clone())));
        self.items.insert(
            key,
            Stored {
                value,
                version,
                deadline,
            },
        );
        version
    }

    fn get(&mut self, key: &[u8]) -> Option<Item> {
        let item = self.items.get(key).map(|stored| Item {
            value: stored.value.clone(),
            version: stored.version,
            left: match stored.deadline {
                None => Lifetime::Unlimited,
                Some(deadline) => Lifetime::For(deadline.saturating_sub(self.now)),
            },
        });
        match item {
            Some(_) => self.statistics.hits += 1,
            None => self.statistics.misses += 1,
        }
        item
    }
}

#[async_trait]
impl Cache for MemoryCache {
    fn capability(&self) -> &Capability {
        &CAPABILITY
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Item>> {
        CAPABILITY.limits.check_key(key)?;
        let mut state = self.current();
        Ok(state.get(key))
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>> {
        CAPABILITY.limits.check_keys(keys)?;
        let mut state = self.current();
        Ok(keys.iter().map(|key| state.get(key)).collect())
    }

    async fn set(&self, key: Key, value: Bytes, lifetime: Lifetime) -> Result<Version> {
        CAPABILITY.limits.check_item(&key, &value, lifetime)?;
        let deadline = self.deadline(lifetime);
        Ok(self.current().set(key, value, deadline))
    }

    async fn set_many(&self, items: Vec<(Key, Bytes)>, lifetime: Lifetime) -> Result<()> {
        CAPABILITY.limits.check_items(&items, lifetime)?;
        let deadline = self.deadline(lifetime);
        let mut state = self.current();
        for (key, value) in items {
            state.set(key, value, deadline);
        }
        Ok(())
    }

    async fn set_if_absent(
        &self,
        key: Key,
        value: Bytes,
        lifetime: Lifetime,
    ) -> Result<Option<Version>> {
        CAPABILITY.limits.check_item(&key, &value, lifetime)?;
        let deadline = self.deadline(lifetime);
        let mut state = self.current();
        let absent = !state.items.contains_key(&key);
        Ok(absent.then(|| state.set(key, value, deadline)))
    }

    async fn compare_and_set(
        &self,
        key: Key,
        expected: Version,
        value: Bytes,
        lifetime: Lifetime,
    ) -> Result<Swap> {
        CAPABILITY.limits.check_item(&key, &value, lifetime)?;
        let deadline = self.deadline(lifetime);
        let mut state = self.current();
        Ok(match state.items.get(&key) {
            None => Swap::Absent,
            Some(stored) if stored.version != expected => Swap::Changed,
            Some(_) => Swap::Set(state.set(key, value, deadline)),
        })
    }

    async fn increment(&self, key: Key, increment: Increment) -> Result<i64> {
        CAPABILITY.limits.check_key(&key)?;
        CAPABILITY.limits.check_lifetime(increment.lifetime)?;
        let fresh = self.deadline(increment.lifetime);
        let mut state = self.current();
        let (value, deadline) = match state.items.get(&key) {
            None => (None, fresh),
            Some(stored) => (Some(&stored.value[..]), stored.deadline),
        };
        let sum = increment.apply(value)?;
        state.set(key, sum.to_string().into(), deadline);
        Ok(sum)
    }

    async fn touch(&self, key: &[u8], lifetime: Lifetime) -> Result<bool> {
        CAPABILITY.limits.check_key(key)?;
        CAPABILITY.limits.check_lifetime(lifetime)?;
        let deadline = self.deadline(lifetime);
        let mut state = self.current();
        let State {
            items, by_deadline, ..
        } = &mut *state;
        let Some(stored) = items.get_mut(key) else {
            return Ok(false);
        };
        let key = Key::copy_from_slice(key);
        if let Some(before) = stored.deadline {
            by_deadline.remove(&(before, key.clone()));
        }
        stored.deadline = deadline;
        by_deadline.extend(deadline.map(|deadline| (deadline, key)));
        Ok(true)
    }

    async fn delete(&self, key: &[u8]) -> Result<bool> {
        CAPABILITY.limits.check_key(key)?;
        Ok(self.current().remove(key))
    }

    async fn compare_and_delete(&self, key: &[u8], expected: Version) -> Result<bool> {
        CAPABILITY.limits.check_key(key)?;
        let mut state = self.current();
        let same = state
            .items
            .get(key)
            .is_some_and(|stored| stored.version == expected);
        Ok(same && state.remove(key))
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        CAPABILITY.limits.check_keys(keys)?;
        let mut state = self.current();
        Ok(keys.iter().map(|key| u64::from(state.remove(key))).sum())
    }

    async fn clear(&self) -> Result<()> {
        let mut state = self.current();
        state.items.clear();
        state.by_age.clear();
        state.by_deadline.clear();
        (state.statistics.items, state.statistics.weight) = (0, 0);
        Ok(())
    }

    async fn statistics(&self) -> Result<Statistics> {
        Ok(self.current().statistics)
    }
}
