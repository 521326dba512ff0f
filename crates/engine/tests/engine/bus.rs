use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sinew_core::{ManualClock, Timestamp};
use sinew_engine::bus::{
    Bus, MemoryBus,
    suite::{self, End, Group, Harness, Subject},
};

struct Memory;

struct MemorySubject {
    bus: MemoryBus,
    clock: ManualClock,
}

#[async_trait]
impl Harness for Memory {
    async fn create(&self) -> Box<dyn Subject> {
        let clock = ManualClock::new(Timestamp(1_700_000_000_000));
        let bus = MemoryBus::new(clock.clock());
        Box::new(MemorySubject { bus, clock })
    }

    fn time_is_manual(&self) -> bool {
        true
    }
}

#[async_trait]
impl Subject for MemorySubject {
    fn bus(&self) -> Arc<dyn Bus> {
        Arc::new(self.bus.clone())
    }

    async fn reopen(&mut self, _end: End) {
        unreachable!("the reference does not promise durability");
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    fn now(&self) -> Timestamp {
        self.clock.clock().now()
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
    memory_bus_publishing: Publishing,
    memory_bus_delivery: Delivery,
    memory_bus_schedule: Schedule,
    memory_bus_replay: Replay,
    memory_bus_retention: Retention,
    memory_bus_durability: Durability,
    memory_bus_concurrency: Concurrency,
}
