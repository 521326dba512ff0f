//! The conformance suite, over one instance and over three that take turns.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use sinew_core::Result;
use sinew_engine::kv::{
    Capability, Condition, Entry, Kv, LeaseId, Outcome, Page, Retention, Revision, Span, Watch,
    Write,
    suite::{Group, Harness, Subject, run},
};
use sinew_engine_external::postgres::Options;
use sinew_testbed::Server;

use super::{namespace, open_with, server};

struct Stores {
    server: Arc<Server>,
    /// Instances over each namespace.
    instances: usize,
}

struct Store {
    server: Arc<Server>,
    namespace: String,
    options: Options,
    instances: usize,
    open: Arc<dyn Kv>,
}

fn opened(server: &Server, namespace: &str, options: &Options, instances: usize) -> Arc<dyn Kv> {
    let open = || {
        let kv = open_with(&server.address(), namespace, options.clone());
        Arc::new(kv) as Arc<dyn Kv>
    };
    match instances {
        1 => open(),
        _ => Arc::new(InTurn {
            instances: (0..instances).map(|_| open()).collect(),
            next: AtomicUsize::new(0),
        }),
    }
}

#[async_trait]
impl Harness for Stores {
    async fn create(&self, retention: Option<Retention>) -> Box<dyn Subject> {
        let mut options = Options::default();
        if let Some(retention) = retention {
            options.retention = retention;
        }
        let namespace = namespace();
        Box::new(Store {
            open: opened(&self.server, &namespace, &options, self.instances),
            server: self.server.clone(),
            namespace,
            options,
            instances: self.instances,
        })
    }

    fn time_is_manual(&self) -> bool {
        false
    }
}

#[async_trait]
impl Subject for Store {
    fn kv(&self) -> Arc<dyn Kv> {
        self.open.clone()
    }

    async fn reopen(&mut self) {
        let (server, instances) = (&self.server, self.instances);
        self.open = opened(server, &self.namespace, &self.options, instances);
    }

    async fn pass(&self, time: Duration) {
        // A lease may live a little longer than its TTL: until the next look at it, on a busy machine too.
        tokio::time::sleep(time + time / 8 + Duration::from_millis(500)).await;
    }
}

/// Each call goes to the next instance.
struct InTurn {
    instances: Vec<Arc<dyn Kv>>,
    next: AtomicUsize,
}

impl InTurn {
    fn next(&self) -> &dyn Kv {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        &*self.instances[next % self.instances.len()]
    }
}

#[async_trait]
impl Kv for InTurn {
    fn capability(&self) -> &Capability {
        self.instances[0].capability()
    }

    async fn revision(&self) -> Result<Revision> {
        self.next().revision().await
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        self.next().get(key).await
    }

    async fn range(&self, span: Span, limit: usize, at: Option<Revision>) -> Result<Page> {
        self.next().range(span, limit, at).await
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Outcome> {
        self.next().commit(conditions, writes).await
    }

    async fn watch(&self, span: Span, after: Revision) -> Result<Box<dyn Watch>> {
        self.next().watch(span, after).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.next().grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        self.next().keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.next().revoke(lease).await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.next().compact(revision).await
    }
}

async fn conforms(group: Group, instances: usize) {
    let server = server();
    run(group, Arc::new(Stores { server, instances })).await;
}

macro_rules! groups {
    ($($name:ident, $several:ident, $group:ident;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                conforms(Group::$group, 1).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn $several() {
                conforms(Group::$group, 3).await;
            }
        )*
    };
}

groups! {
    contract, contract_over_three_instances, Contract;
    history, history_over_three_instances, History;
    watches, watches_over_three_instances, Watches;
    leases, leases_over_three_instances, Leases;
    durability, durability_over_three_instances, Durability;
    concurrency, concurrency_over_three_instances, Concurrency;
    model, model_over_three_instances, Model;
}
