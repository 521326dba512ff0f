use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sinew_core::{ManualClock, Timestamp};
use sinew_engine::kv::{
    Kv, Retention,
    suite::{self, Group, Harness, Subject},
};
use sinew_engine_embedded::{EmbeddedKv, Options};
use tempfile::TempDir;

struct Embedded {
    layer_bytes: usize,
}

/// As a node has it: in these tests everything stays in memory and the log.
const USUAL: Embedded = Embedded {
    layer_bytes: 16 << 20,
};

/// With a file for nearly every commit, merged again and again.
const SMALL_LAYERS: Embedded = Embedded { layer_bytes: 1000 };

struct EmbeddedSubject {
    // Dropped before the folder.
    kv: Arc<EmbeddedKv>,
    clock: ManualClock,
    options: Options,
    dir: TempDir,
}

#[async_trait]
impl Harness for Embedded {
    async fn create(&self, retention: Option<Retention>) -> Box<dyn Subject> {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(Timestamp(0));
        let mut options = Options::default();
        options.layer_bytes = self.layer_bytes;
        if let Some(retention) = retention {
            // With less in memory than in the file, watchers read both.
            options.recent.commits = retention.commits / 2;
            options.retention = retention;
        }
        let kv = EmbeddedKv::open(dir.path(), clock.clock(), options.clone()).unwrap();
        Box::new(EmbeddedSubject {
            kv: Arc::new(kv),
            clock,
            options,
            dir,
        })
    }

    fn time_is_manual(&self) -> bool {
        true
    }
}

#[async_trait]
impl Subject for EmbeddedSubject {
    fn kv(&self) -> Arc<dyn Kv> {
        self.kv.clone()
    }

    async fn reopen(&mut self) {
        self.kv.close().await.unwrap();
        let (dir, clock) = (self.dir.path(), self.clock.clock());
        self.kv = Arc::new(EmbeddedKv::open(dir, clock, self.options.clone()).unwrap());
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }
}

macro_rules! groups {
    ($($name:ident: $group:ident on $harness:expr,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                suite::run(Group::$group, Arc::new($harness)).await;
            }
        )*
    };
}

groups! {
    contract: Contract on USUAL,
    history: History on USUAL,
    watches: Watches on USUAL,
    leases: Leases on USUAL,
    durability: Durability on USUAL,
    concurrency: Concurrency on USUAL,
    model: Model on USUAL,
    contract_with_small_layers: Contract on SMALL_LAYERS,
    history_with_small_layers: History on SMALL_LAYERS,
    watches_with_small_layers: Watches on SMALL_LAYERS,
    leases_with_small_layers: Leases on SMALL_LAYERS,
    durability_with_small_layers: Durability on SMALL_LAYERS,
    concurrency_with_small_layers: Concurrency on SMALL_LAYERS,
    model_with_small_layers: Model on SMALL_LAYERS,
}
