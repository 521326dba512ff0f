//! `Bus` over a real RabbitMQ.

mod faults;
mod nodes;
mod opening;
mod suite;
mod tls;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sinew_core::{Clock, Name};
use sinew_engine::bus::{GroupConfig, Message, Retention, Subscription, TopicConfig, Unsettled};
use sinew_engine_external::rabbitmq::RabbitBus;
use sinew_testbed::{RabbitMq, Server};

fn server() -> Server {
    Server::start(RabbitMq::default()).expect("RabbitMQ starts")
}

/// A namespace that no other test has.
fn namespace() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn open(server: &str, namespace: &str) -> RabbitBus {
    let url = format!("amqp://{server}?namespace={namespace}");
    RabbitBus::open(
        RabbitBus::address(&url).expect("an address"),
        Clock::system(),
    )
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn keeping(partitions: u32) -> TopicConfig {
    TopicConfig {
        partitions,
        retention: Retention {
            age: None,
            bytes: None,
            unsettled: Unsettled::Keep,
        },
        deduplication: Duration::ZERO,
    }
}

fn patient() -> Subscription {
    let group = GroupConfig {
        ack_timeout: Duration::from_secs(120),
        ..GroupConfig::default()
    };
    Subscription {
        group,
        ..Subscription::default()
    }
}

/// A message from `key:payload`.
fn message(text: &str) -> Message {
    let (key, payload) = text.split_once(':').expect("key:payload");
    Message::new(payload.to_owned()).key(key.to_owned())
}

fn text(message: &Message) -> String {
    let key = message.key.clone().unwrap_or_default();
    let payload = String::from_utf8_lossy(&message.payload);
    format!("{}:{payload}", String::from_utf8_lossy(&key))
}

/// Waits for something that must happen soon.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("this should have happened soon")
}
