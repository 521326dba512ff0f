//! `Bus` over a real Kafka server.

#![expect(clippy::unwrap_used, reason = "these are tests")]

mod faults;
mod nodes;
mod opening;
mod suite;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sinew_core::Name;
use sinew_engine::bus::{GroupConfig, Message, Retention, Subscription, TopicConfig, Unsettled};
use sinew_engine_external::{
    Address,
    kafka::{KafkaBus, Options, PORT},
};
use sinew_testbed::{Kafka, Server};

fn server() -> Arc<Server> {
    Arc::new(Server::start(Kafka::default()).expect("Kafka starts"))
}

/// A namespace that no other test has.
fn namespace() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A bus whose partitions are free soon after it is gone. It does not sync each message: brokers that are ended lose nothing.
fn open(server: &str, namespace: &str) -> KafkaBus {
    open_url(&format!(
        "kafka://{server}?namespace={namespace}&lease=1s&timeout=10s&flush=never"
    ))
}

/// One that syncs everything, and whose calls take no longer than this.
fn open_within(server: &str, namespace: &str, timeout: &str) -> KafkaBus {
    open_url(&format!(
        "kafka://{server}?namespace={namespace}&lease=1s&timeout={timeout}"
    ))
}

fn open_url(url: &str) -> KafkaBus {
    let address = Address::parse(url, PORT, Options::NAMES).expect("an address");
    let options = Options::read(&address).expect("options");
    KafkaBus::open(&address, &options).expect("a bus")
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
        deduplication: Duration::from_secs(120),
    }
}

fn patient() -> Subscription {
    let group = GroupConfig {
        ack_timeout: Duration::from_secs(60),
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
    format!(
        "{}:{}",
        String::from_utf8_lossy(&key),
        String::from_utf8_lossy(&message.payload)
    )
}
