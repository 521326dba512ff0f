//! The conformance suite, each group a test.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sinew_core::{Clock, Timestamp};
use sinew_engine::bus::{
    Bus,
    suite::{self, End, Group, Harness, Subject},
};
use sinew_engine_external::kafka::KafkaBus;
use sinew_testbed::Server;

use super::{namespace, open, server};

struct Servers(Arc<Server>);

struct One {
    server: Arc<Server>,
    namespace: String,
    bus: KafkaBus,
}

#[async_trait]
impl Harness for Servers {
    async fn create(&self) -> Box<dyn Subject> {
        let namespace = namespace();
        Box::new(One {
            bus: open(&self.0.address(), &namespace),
            server: self.0.clone(),
            namespace,
        })
    }

    fn time_is_manual(&self) -> bool {
        false
    }
}

#[async_trait]
impl Subject for One {
    fn bus(&self) -> Arc<dyn Bus> {
        Arc::new(self.bus.clone())
    }

    async fn reopen(&mut self, end: End) {
        if end == End::Close {
            self.bus.close().await;
        }
        // Killed: nobody says goodbye, and the lease must pass.
        self.bus = open(&self.server.address(), &self.namespace);
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn now(&self) -> Timestamp {
        Clock::system().now()
    }
}

async fn run(group: Group) {
    suite::run(group, Arc::new(Servers(server()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing() {
    run(Group::Publishing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delivery() {
    run(Group::Delivery).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schedule() {
    run(Group::Schedule).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replay() {
    run(Group::Replay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention() {
    run(Group::Retention).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn durability() {
    run(Group::Durability).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency() {
    run(Group::Concurrency).await;
}
