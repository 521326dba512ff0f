//! `EtcdKv` against a real etcd.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use sinew_core::Clock;
use sinew_engine::kv::{
    Kv, Retention,
    suite::{Group, Harness, Subject, run},
};
use sinew_engine_external::etcd::{EtcdKv, Options};
use sinew_testbed::{Etcd, Server};
use tokio::task::block_in_place;

mod access;
mod cluster;
mod faults;
mod measure;

/// A store at this address, as `host:port?options`.
fn open(at: &str, options: Options) -> EtcdKv {
    let address = EtcdKv::address(&format!("etcd://{at}")).unwrap();
    EtcdKv::open_with(address, Clock::system(), options).unwrap()
}

/// How the suite runs over one server: each store is a namespace.
struct OverEtcd {
    server: Arc<Mutex<Server>>,
    stores: AtomicU64,
    /// Whether opening again means to restart the server too, which gives leases their time again.
    restarts: bool,
    options: Options,
}

struct Store {
    server: Arc<Mutex<Server>>,
    at: String,
    options: Options,
    restarts: bool,
    kv: Option<Arc<EtcdKv>>,
}

#[async_trait]
impl Harness for OverEtcd {
    async fn create(&self, retention: Option<Retention>) -> Box<dyn Subject> {
        let number = self.stores.fetch_add(1, Ordering::Relaxed);
        let address = self.server.lock().unwrap().address();
        let mut options = self.options.clone();
        options.retention = retention.unwrap_or(options.retention);
        let at = format!("{address}?namespace=case{number}&timeout=20s");
        let kv = Some(Arc::new(open(&at, options.clone())));
        Box::new(Store {
            server: self.server.clone(),
            at,
            options,
            restarts: self.restarts,
            kv,
        })
    }

    fn time_is_manual(&self) -> bool {
        false
    }
}

#[async_trait]
impl Subject for Store {
    fn kv(&self) -> Arc<dyn Kv> {
        self.kv.clone().unwrap()
    }

    async fn reopen(&mut self) {
        self.kv = None;
        if self.restarts {
            block_in_place(|| {
                let mut server = self.server.lock().unwrap();
                server.kill();
                server.start_again().unwrap();
            });
        }
        self.kv = Some(Arc::new(open(&self.at, self.options.clone())));
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

async fn suite(group: Group, restarts: bool, options: Options) {
    let server = block_in_place(|| Server::start(Etcd::default())).unwrap();
    let harness = OverEtcd {
        server: Arc::new(Mutex::new(server)),
        stores: AtomicU64::new(0),
        restarts,
        options,
    };
    run(group, Arc::new(harness)).await;
}

/// `name: group`
macro_rules! groups {
    ($($name:ident: $group:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            suite(Group::$group, false, Options::default()).await;
        })*
    };
}

groups! {
    contract: Contract,
    history: History,
    watches: Watches,
    leases: Leases,
    concurrency: Concurrency,
}

#[tokio::test(flavor = "multi_thread")]
async fn durability() {
    suite(Group::Durability, true, Options::default()).await;
}

/// Leases must outlast a random history, since the reference's clock stands still.
#[tokio::test(flavor = "multi_thread")]
async fn model() {
    let options = Options {
        lease_minimum: Duration::from_secs(60),
        ..Options::default()
    };
    suite(Group::Model, false, options).await;
}
