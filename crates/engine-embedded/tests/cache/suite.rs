use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sinew_core::{ManualClock, Timestamp};
use sinew_engine::cache::{
    Cache,
    suite::{self, Group, Harness, Subject},
};
use sinew_engine_embedded::cache::EmbeddedCache;

struct Embedded;

struct EmbeddedSubject {
    cache: Arc<EmbeddedCache>,
    clock: ManualClock,
}

#[async_trait]
impl Harness for Embedded {
    async fn create(&self, small: bool) -> Box<dyn Subject> {
        let clock = ManualClock::new(Timestamp(0));
        let bytes = if small {
            EmbeddedCache::MINIMUM_CAPACITY
        } else {
            64 << 20
        };
        let cache = Arc::new(EmbeddedCache::new(clock.clock(), bytes));
        Box::new(EmbeddedSubject { cache, clock })
    }

    fn time_is_manual(&self) -> bool {
        true
    }
}

#[async_trait]
impl Subject for EmbeddedSubject {
    fn cache(&self) -> Arc<dyn Cache> {
        self.cache.clone()
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
                suite::run(Group::$group, Arc::new(Embedded)).await;
            }
        )*
    };
}

groups! {
    embedded_cache_contract: Contract,
    embedded_cache_lifetimes: Lifetimes,
    embedded_cache_bounds: Bounds,
    embedded_cache_concurrency: Concurrency,
    embedded_cache_model: Model,
}
