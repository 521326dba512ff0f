//! The conformance suite, each group against a server of its own.

use async_trait::async_trait;
use sinew_core::Timestamp;
use sinew_engine::bus::{
    Bus,
    suite::{self, End, Group, Harness, Subject},
};
use sinew_testbed::Proxy;

use super::*;

struct Stand {
    server: Server,
}

struct Opened {
    server: String,
    namespace: String,
    /// What the bus speaks through, so that it can be cut off as a killed process is.
    proxy: Proxy,
    bus: Option<RabbitBus>,
}

#[async_trait]
impl Harness for Stand {
    async fn create(&self) -> Box<dyn Subject> {
        let (server, namespace) = (self.server.address(), namespace());
        let proxy = Proxy::to(&server).expect("a proxy");
        let bus = Some(open(&proxy.address(), &namespace));
        Box::new(Opened {
            server,
            namespace,
            proxy,
            bus,
        })
    }

    fn time_is_manual(&self) -> bool {
        false
    }
}

#[async_trait]
impl Subject for Opened {
    fn bus(&self) -> Arc<dyn Bus> {
        Arc::new(self.bus.clone().expect("it is open"))
    }

    async fn reopen(&mut self, end: End) {
        if end == End::Kill {
            // A process that is gone: its connections end in the middle of whatever they carry.
            self.proxy.cut();
            self.proxy.reset();
            self.bus = None;
            self.proxy = Proxy::to(&self.server).expect("a proxy");
        }
        self.bus = None;
        self.bus = Some(open(&self.proxy.address(), &self.namespace));
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn now(&self) -> Timestamp {
        Clock::system().now()
    }
}

async fn run(group: Group) {
    suite::run(group, Arc::new(Stand { server: server() })).await;
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
