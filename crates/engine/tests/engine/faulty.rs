//! The references under injected faults, with the layer above that tries again: the conformance suites must not notice.
//! `SINEW_FAULT_SEED=n` runs one seed, `SINEW_FAULT_SEEDS=n` that many; a failure names its seed.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use sinew_core::{ManualClock, Timestamp};
use sinew_engine::{
    faulty::{Faults, Faulty},
    kv::{
        Kv, MemoryKv, Retention,
        suite::{self, Group, Harness, Subject, check_linearizable},
    },
    retry::{Policy, Retrying},
};

/// The seeds that one test goes through.
fn seeds() -> std::ops::Range<u64> {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    match number("SINEW_FAULT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("SINEW_FAULT_SEEDS").unwrap_or(2),
    }
}

/// Quick, and patient enough for a case that meets many faults in a row.
fn policy() -> Policy {
    Policy {
        within: Duration::from_secs(20),
        first_delay: Duration::from_millis(1),
        longest_delay: Duration::from_millis(10),
        budget: 100_000,
    }
}

struct FaultyMemory {
    /// Each case goes on in the seed's course.
    seed: AtomicU64,
}

struct FaultySubject {
    kv: Arc<dyn Kv>,
    clock: ManualClock,
}

#[async_trait]
impl Harness for FaultyMemory {
    async fn create(&self, retention: Option<Retention>) -> Box<dyn Subject> {
        let clock = ManualClock::new(Timestamp(0));
        let kv = match retention {
            Some(retention) => MemoryKv::with_retention(clock.clock(), retention),
            None => MemoryKv::new(clock.clock()),
        };
        let seed = self.seed.fetch_add(1_000_003, Ordering::Relaxed);
        let mut faults = Faults::default();
        if retention.is_some() {
            // A watch that breaks cannot go on when next to nothing is kept, and must not.
            faults.breaks = 0;
        }
        let kv = Faulty::new(kv, seed, faults);
        Box::new(FaultySubject {
            kv: Arc::new(Retrying::new(kv, policy())),
            clock,
        })
    }

    fn time_is_manual(&self) -> bool {
        true
    }
}

#[async_trait]
impl Subject for FaultySubject {
    fn kv(&self) -> Arc<dyn Kv> {
        self.kv.clone()
    }

    async fn reopen(&mut self) {
        unreachable!("the reference does not promise durability");
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }
}

async fn under_faults(group: Group) {
    for seed in seeds() {
        println!("seed {seed}");
        let seed = AtomicU64::new(seed);
        suite::run(group, Arc::new(FaultyMemory { seed })).await;
    }
}

macro_rules! groups {
    ($($name:ident: $group:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                under_faults(Group::$group).await;
            }
        )*
    };
}

groups! {
    contract: Contract,
    history: History,
    watches: Watches,
    leases: Leases,
    concurrency: Concurrency,
    model: Model,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_with_lost_answers_are_linearizable() {
    for seed in seeds() {
        println!("seed {seed}");
        let clock = ManualClock::new(Timestamp(0));
        let calm: Arc<dyn Kv> = Arc::new(MemoryKv::new(clock.clock()));
        let faults = Faults {
            lose_the_undecidable: true,
            ..Faults::default()
        };
        let bare = Faulty::new(calm.clone(), seed, faults);
        let unknown = check_linearizable(Arc::new(bare.clone()), &calm).await;
        assert!(unknown > 5, "only {unknown} answers were lost");
        let retrying = Retrying::new(bare, policy());
        check_linearizable(Arc::new(retrying), &calm).await;
    }
}

#[tokio::test]
async fn without_the_layer_above_the_suite_notices() {
    let kv = Faulty::new(
        MemoryKv::new(ManualClock::new(Timestamp(0)).clock()),
        1,
        Faults::default(),
    );
    let mut failures = 0;
    for _ in 0..200 {
        failures += usize::from(kv.get(b"k").await.is_err());
    }
    assert!((4..60).contains(&failures), "{failures} of 200");
}

mod bus {
    use sinew_engine::bus::{
        Bus, MemoryBus,
        suite::{self, End, Group, Harness, Subject},
    };

    use super::*;

    struct FaultyMemory {
        seed: AtomicU64,
    }

    struct FaultySubject {
        bus: Arc<dyn Bus>,
        clock: ManualClock,
    }

    #[async_trait]
    impl Harness for FaultyMemory {
        async fn create(&self) -> Box<dyn Subject> {
            let clock = ManualClock::new(Timestamp(1_700_000_000_000));
            let seed = self.seed.fetch_add(1_000_003, Ordering::Relaxed);
            let bus = Faulty::new(MemoryBus::new(clock.clock()), seed, Faults::default());
            Box::new(FaultySubject {
                bus: Arc::new(Retrying::new(bus, policy())),
                clock,
            })
        }

        fn time_is_manual(&self) -> bool {
            true
        }
    }

    #[async_trait]
    impl Subject for FaultySubject {
        fn bus(&self) -> Arc<dyn Bus> {
            self.bus.clone()
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

    async fn under_faults(group: Group) {
        for seed in seeds() {
            println!("seed {seed}");
            let seed = AtomicU64::new(seed);
            suite::run(group, Arc::new(FaultyMemory { seed })).await;
        }
    }

    groups! {
        publishing: Publishing,
        delivery: Delivery,
        schedule: Schedule,
        replay: Replay,
        retention: Retention,
        concurrency: Concurrency,
    }
}
