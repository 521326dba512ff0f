//! A disk that is full, and what lies on it at rest.

use sinew_core::{Kind, ManualClock, Timestamp};
use sinew_engine::bus::{
    Bus, GroupConfig, Message, Retention, Subscription, TopicConfig, Unsettled,
};

use super::*;

fn config(partitions: u32) -> TopicConfig {
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

fn subscription() -> Subscription {
    Subscription {
        group: GroupConfig {
            ack_timeout: Duration::from_secs(600),
            ..GroupConfig::default()
        },
        ..Subscription::default()
    }
}

fn open_small(disk: &SimulatedStorage, clock: &ManualClock) -> Alone {
    let log = log::Options {
        segment_bytes: 64 << 10,
        record_bytes: 16 << 10,
        reserve_bytes: 8192,
        ..log_options()
    };
    let storage = Arc::new(disk.clone());
    open_on(storage, Path::new(FOLDER), clock.clock(), small(), &log).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_messages_and_takes_acks() {
    let disk = disk(1);
    let clock = ManualClock::new(Timestamp(0));
    let alone = open_small(&disk, &clock);
    let bus = &alone.bus;
    bus.create_topic(&name("t"), config(1)).await.unwrap();
    let (topic, group) = (name("t"), name("g"));
    let consumer = bus.subscribe(&topic, &group, subscription()).await;
    let consumer = consumer.unwrap();
    // The segment that is made ahead may still come; then no other.
    disk.set_capacity(Some(disk.used() + (64 << 10)));
    let mut published = 0;
    let refused = loop {
        let message = Message::new(vec![b'x'; 2000]);
        match bus.publish(&name("t"), vec![message]).await {
            Ok(_) => published += 1,
            Err(error) => break error,
        }
        assert!(published < 1000, "the disk is never full");
    };
    assert_eq!(refused.kind(), Kind::ResourceExhausted, "{refused:?}");
    assert!(published > 10);
    for _ in 0..10 {
        let delivery = consumer.next().await.unwrap();
        consumer.ack(&[delivery.receipt]).await.unwrap();
    }
    let lag = bus.group(&name("t"), &name("g")).await.unwrap().lag;
    assert_eq!(lag, published - 10);
    let again = bus.publish(&name("t"), vec![Message::new("x")]).await;
    assert_eq!(again.unwrap_err().kind(), Kind::ResourceExhausted);
    // Room comes, and it goes on by itself.
    disk.set_capacity(None);
    let mut tries = 0;
    loop {
        clock.advance(Duration::from_secs(1));
        match bus.publish(&name("t"), vec![Message::new("more")]).await {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), Kind::ResourceExhausted, "{error:?}"),
        }
        tries += 1;
        assert!(tries < 500, "it does not recover");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    alone.journal.close().await;
    let alone = open_small(&disk.crash(), &clock);
    let state = alone.bus.group(&name("t"), &name("g")).await.unwrap();
    assert_eq!(state.lag, published - 10 + 1);
    alone.journal.close().await;
}

/// The bytes of all files of topics.
fn topic_bytes(disk: &SimulatedStorage) -> u64 {
    let folder = Path::new(FOLDER);
    let names = disk.list(folder).unwrap();
    let files = names.iter().filter(|name| name.ends_with(".messages"));
    files
        .map(|name| disk.open(&folder.join(name)).unwrap().len().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_rest_a_byte_takes_little_more_than_a_byte() {
    let disk = disk(2);
    let clock = ManualClock::new(Timestamp(0));
    let alone = open_small(&disk, &clock);
    let bus = &alone.bus;
    bus.create_topic(&name("t"), config(4)).await.unwrap();
    for _ in 0..100 {
        let messages = (0..40).map(|n| Message::new(vec![b'x'; 200]).key(format!("k{n}")));
        bus.publish(&name("t"), messages.collect()).await.unwrap();
    }
    bus.checkpoint().await.unwrap();
    let state = bus.topic(&name("t")).await.unwrap();
    let (stored, weight) = (topic_bytes(&disk), state.bytes);
    assert!(stored < weight * 12 / 10, "{stored} for {weight}");
    alone.journal.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_and_deletion_give_the_disk_back() {
    let disk = disk(3);
    let clock = ManualClock::new(Timestamp(0));
    let alone = open_small(&disk, &clock);
    let bus = &alone.bus;
    let mut kept = config(2);
    kept.retention.age = Some(Duration::from_secs(60));
    for topic in ["slow", "fast"] {
        bus.create_topic(&name(topic), kept).await.unwrap();
    }
    // Its group never acknowledges.
    let (topic, group) = (name("slow"), name("g"));
    let _slow = bus.subscribe(&topic, &group, subscription()).await;
    for topic in ["slow", "fast"] {
        for _ in 0..50 {
            let message = Message::new(vec![b'x'; 4000]);
            bus.publish(&name(topic), vec![message; 3]).await.unwrap();
        }
    }
    bus.checkpoint().await.unwrap();
    let before = topic_bytes(&disk);
    assert!(before > 1_200_000, "{before}");
    clock.advance(Duration::from_secs(120));
    assert_eq!(bus.topic(&name("fast")).await.unwrap().bytes, 0);
    bus.checkpoint().await.unwrap();
    let slow = bus.topic(&name("slow")).await.unwrap();
    assert_eq!(slow.bytes, 600_000, "what is owed stays");
    let after = topic_bytes(&disk);
    assert!(after < before / 2 + 10_000, "{after} of {before}");
    bus.delete_topic(&name("slow")).await.unwrap();
    bus.checkpoint().await.unwrap();
    assert_eq!(topic_bytes(&disk), 0);
    alone.journal.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_within_its_bounds() {
    let disk = disk(4);
    let clock = ManualClock::new(Timestamp(0));
    let storage = Arc::new(disk.clone());
    let options = BusOptions {
        memory: 1 << 20,
        ..small()
    };
    let alone = open_on(
        storage,
        Path::new(FOLDER),
        clock.clock(),
        options,
        &log_options(),
    );
    let alone = alone.unwrap();
    let bus = &alone.bus;
    bus.create_topic(&name("t"), config(1)).await.unwrap();
    let mut most = 0;
    for _ in 0..400 {
        let messages = vec![Message::new(vec![b'x'; 1000]); 20];
        bus.publish(&name("t"), messages).await.unwrap();
        most = most.max(bus.caller.memory.load(Ordering::Relaxed));
    }
    assert!(most < (1 << 19) + 50_000, "{most}");
    bus.checkpoint().await.unwrap();
    assert_eq!(bus.caller.memory.load(Ordering::Relaxed), 0);
    alone.journal.close().await;
}
