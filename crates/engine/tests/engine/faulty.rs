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

mod cache {
    use sinew_engine::cache::{
        Cache, MemoryCache,
        suite::{self, Group, Harness, Subject},
    };

    use super::*;

    struct FaultyMemory {
        seed: AtomicU64,
    }

    struct FaultySubject {
        cache: Arc<dyn Cache>,
        clock: ManualClock,
    }

    #[async_trait]
    impl Harness for FaultyMemory {
        async fn create(&self, small: bool) -> Box<dyn Subject> {
            let clock = ManualClock::new(Timestamp(0));
            let bytes = if small {
                MemoryCache::MINIMUM_CAPACITY
            } else {
                64 << 20
            };
            let cache = MemoryCache::with_capacity(clock.clock(), bytes);
            let seed = self.seed.fetch_add(1_000_003, Ordering::Relaxed);
            // Some cases set 100,000 items.
            let faults = Faults {
                errors: 5,
                lost: 5,
                delayed: 2,
                ..Faults::default()
            };
            let cache = Faulty::new(cache, seed, faults);
            Box::new(FaultySubject {
                cache: Arc::new(Retrying::new(cache, policy())),
                clock,
            })
        }

        fn time_is_manual(&self) -> bool {
            true
        }
    }

    #[async_trait]
    impl Subject for FaultySubject {
        fn cache(&self) -> Arc<dyn Cache> {
            self.cache.clone()
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

    groups! {
        contract: Contract,
        lifetimes: Lifetimes,
        bounds: Bounds,
        concurrency: Concurrency,
        model: Model,
    }
}

mod blob {
    use sinew_core::{Clock, Kind};
    use sinew_engine::blob::{
        Blob, Key, MemoryBlob, Put, body, collect,
        suite::{self, End, Group, Harness, Subject},
    };

    use super::*;

    struct FaultyMemory {
        seed: AtomicU64,
    }

    struct FaultySubject(Arc<dyn Blob>);

    #[async_trait]
    impl Harness for FaultyMemory {
        async fn create(&self) -> Box<dyn Subject> {
            let seed = self.seed.fetch_add(1_000_003, Ordering::Relaxed);
            // A download that breaks off when its object was replaced meanwhile cannot go on, and must not.
            let faults = Faults {
                breaks: 0,
                ..Faults::default()
            };
            let blob = Faulty::new(MemoryBlob::new(Clock::system()), seed, faults);
            Box::new(FaultySubject(Arc::new(Retrying::new(blob, policy()))))
        }
    }

    #[async_trait]
    impl Subject for FaultySubject {
        fn blob(&self) -> Arc<dyn Blob> {
            self.0.clone()
        }

        async fn reopen(&mut self, _end: End) {
            unreachable!("the reference does not promise durability");
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
        contract: Contract,
        listing: Listing,
        multipart: Multipart,
        concurrency: Concurrency,
        model: Model,
    }

    /// A layer whose downloads break off every third time or so.
    fn breaking(seed: u64) -> Faulty<MemoryBlob> {
        let faults = Faults {
            breaks: 300,
            ..Faults::default()
        };
        Faulty::new(MemoryBlob::new(Clock::system()), seed, faults)
    }

    #[tokio::test]
    async fn a_download_goes_on_where_it_broke_off() {
        let blob = breaking(7);
        let key = Key::new("a").unwrap();
        let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let bare = blob.inner();
        bare.put(&key, body(content.clone()), Put::default())
            .await
            .unwrap();
        let mut broken = 0;
        for _ in 0..30 {
            let download = bare_get(&blob, &key).await;
            broken += usize::from(download.is_err());
            let retrying = Retrying::new(blob.clone(), policy());
            let download = retrying.get(&key, None).await.unwrap();
            let whole = collect(download.body, u64::MAX).await.unwrap();
            assert!(whole == content, "other bytes");
        }
        assert!(broken > 5, "only {broken} of 30 broke off");
    }

    async fn bare_get(blob: &impl Blob, key: &Key) -> sinew_core::Result<bytes::Bytes> {
        collect(blob.get(key, None).await?.body, u64::MAX).await
    }

    #[tokio::test]
    async fn a_download_does_not_go_on_with_another_object() {
        let key = Key::new("a").unwrap();
        let mut refused = 0;
        for seed in 0..40 {
            let blob = breaking(seed);
            let bare = blob.inner().clone();
            let put = async |content: &str| {
                bare.put(&key, body(content.to_owned()), Put::default())
                    .await
                    .unwrap()
            };
            put("before").await;
            let retrying = Retrying::new(blob, policy());
            let download = retrying.get(&key, None).await.unwrap();
            put("after!").await;
            match collect(download.body, u64::MAX).await {
                Ok(whole) => assert_eq!(whole, "before"),
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Unavailable);
                    refused += 1;
                }
            }
        }
        assert!((1..40).contains(&refused), "{refused}");
    }
}
