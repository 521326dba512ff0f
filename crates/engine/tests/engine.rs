//! The reference engines against the conformance suites.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sinew_core::{ManualClock, Timestamp};
use sinew_engine::kv::{
    Kv, MemoryKv, Retention,
    suite::{self, Group, Harness, Subject},
};

#[path = "engine/blob.rs"]
mod blob;
#[path = "engine/bus.rs"]
mod bus;
#[path = "engine/cache.rs"]
mod cache;
#[path = "engine/faulty.rs"]
mod faulty;

struct Memory;

struct MemorySubject {
    kv: MemoryKv,
    clock: ManualClock,
}

#[async_trait]
impl Harness for Memory {
    async fn create(&self, retention: Option<Retention>) -> Box<dyn Subject> {
        let clock = ManualClock::new(Timestamp(0));
        let kv = match retention {
            Some(retention) => MemoryKv::with_retention(clock.clock(), retention),
            None => MemoryKv::new(clock.clock()),
        };
        Box::new(MemorySubject { kv, clock })
    }

    fn time_is_manual(&self) -> bool {
        true
    }
}

#[async_trait]
impl Subject for MemorySubject {
    fn kv(&self) -> Arc<dyn Kv> {
        Arc::new(self.kv.clone())
    }

    async fn reopen(&mut self) {
        unreachable!("the reference does not promise durability");
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
    memory_kv_contract: Contract,
    memory_kv_history: History,
    memory_kv_watches: Watches,
    memory_kv_leases: Leases,
    memory_kv_durability: Durability,
    memory_kv_concurrency: Concurrency,
    memory_kv_model: Model,
}
