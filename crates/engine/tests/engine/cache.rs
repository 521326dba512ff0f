use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sinew_core::{ManualClock, Timestamp};
use sinew_engine::cache::{
    Cache, MemoryCache,
    suite::{self, Group, Harness, Subject},
};

struct Memory;

struct MemorySubject {
    cache: MemoryCache,
    clock: ManualClock,
}

#[async_trait]
impl Harness for Memory {
    async fn create(&self, small: bool) -> Box<dyn Subject> {
        let clock = ManualClock::new(Timestamp(0));
        let bytes = if small {
            MemoryCache::MINIMUM_CAPACITY
        } else {
            64 << 20
        };
        let cache = MemoryCache::with_capacity(clock.clock(), bytes);
        Box::new(MemorySubject { cache, clock })
    }

    fn time_is_manual(&self) -> bool {
        true
    }
}

#[async_trait]
impl Subject for MemorySubject {
    fn cache(&self) -> Arc<dyn Cache> {
        Arc::new(self.cache.clone())
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }
}

macro_rules! groups {
    ($($name:ident: $group:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                suite::run(Group::$group, Arc::new(Memory)).await;
            }
        )*
    };
}

groups! {
    memory_cache_contract: Contract,
    memory_cache_lifetimes: Lifetimes,
    memory_cache_bounds: Bounds,
    memory_cache_concurrency: Concurrency,
    memory_cache_model: Model,
}
