//! Several nodes over one broker.

use std::collections::BTreeSet;

use sinew_core::Kind;
use sinew_engine::bus::{Bus, Consumer, Delivery, Seek};
use sinew_testbed::Proxy;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_makes_the_others_see() {
    let server = server();
    let (address, namespace) = (server.address(), namespace());
    let (one, other) = (open(&address, &namespace), open(&address, &namespace));
    let apart = open(&address, "apart");
    let topic = name("t");
    // All at once: one of them makes it.
    let (a, b) = tokio::join!(
        one.create_topic(&topic, keeping(2)),
        other.create_topic(&topic, keeping(2))
    );
    assert_eq!(u8::from(a.expect("made")) + u8::from(b.expect("made")), 1);
    let topics = other.topics().await.expect("topics");
    assert_eq!(topics, std::slice::from_ref(&topic));
    assert_eq!(apart.topics().await.expect("topics"), []);
    one.publish(&topic, vec![message("k:1")])
        .await
        .expect("published");
    let consumer = other
        .subscribe(&topic, &name("g"), patient())
        .await
        .expect("joined");
    let delivery = soon(consumer.next()).await.expect("a message");
    assert_eq!(text(&delivery.record.message), "k:1");
    // Asked of a node that does not hold the partitions.
    let state = one.group(&topic, &name("g")).await.expect("a state");
    assert_eq!((state.lag, state.in_flight), (1, 1));
    consumer
        .ack(&[delivery.receipt])
        .await
        .expect("acknowledged");
    one.seek(&topic, &name("g"), Seek::Earliest)
        .await
        .expect("moved");
    let again = soon(consumer.next()).await.expect("a message");
    assert_eq!(
        (text(&again.record.message).as_str(), again.attempt),
        ("k:1", 1)
    );
    // Made again, it is another topic, for those too who knew the old one.
    one.delete_topic(&topic).await.expect("deleted");
    assert_eq!(
        soon(consumer.next()).await.expect_err("gone").code(),
        "bus.topic_unknown"
    );
    let gone = other.publish(&topic, vec![message("k:2")]).await;
    assert_eq!(gone.expect_err("gone").code(), "bus.topic_unknown");
    one.create_topic(&topic, keeping(1)).await.expect("made");
    other
        .publish(&topic, vec![message("k:3")])
        .await
        .expect("published");
    one.publish(&topic, vec![message("k:4")])
        .await
        .expect("published");
    assert_eq!(other.groups(&topic).await.expect("groups"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_node_goes_another_goes_on() {
    let server = server();
    let (address, namespace) = (server.address(), namespace());
    let topic = name("t");
    let said: BTreeSet<String> = (0..200).map(|n| format!("k{}:{n:03}", n % 7)).collect();
    let producer = open(&address, &namespace);
    producer
        .create_topic(&topic, keeping(2))
        .await
        .expect("a topic");
    let messages = said.iter().map(|text| message(text)).collect();
    producer.publish(&topic, messages).await.expect("published");
    let mut seen = BTreeSet::new();
    let mut last: std::collections::BTreeMap<_, u64> = Default::default();
    let standby = open(&address, &namespace);
    for round in 0..4 {
        let bus = open(&address, &namespace);
        let consumer = bus
            .subscribe(&topic, &name("g"), patient())
            .await
            .expect("joined");
        // In line behind it, until the end.
        let waiting = standby
            .subscribe(&topic, &name("g"), patient())
            .await
            .expect("joined");
        let consumer = if round < 3 {
            consumer
        } else {
            drop(consumer);
            drop(bus);
            waiting.clone()
        };
        while seen.len() < (round + 1) * 50 {
            let delivery = soon(consumer.next()).await.expect("a message");
            let said = text(&delivery.record.message);
            let (partition, key) = (
                delivery.record.position.partition,
                delivery.record.message.key.clone(),
            );
            consumer
                .ack(&[delivery.receipt])
                .await
                .expect("acknowledged");
            assert!(seen.insert(said.clone()), "{said} came again");
            let offset = delivery.record.position.offset;
            let before = last.insert((partition, key), offset);
            assert!(
                before.is_none_or(|before| before < offset),
                "{said} is out of order"
            );
        }
    }
    assert_eq!(seen, said);
    assert_eq!(
        producer
            .group(&topic, &name("g"))
            .await
            .expect("a state")
            .lag,
        0
    );
}

/// Repeats an ack until it is known what became of it; the code of the error if it was refused.
async fn acknowledge(consumer: &dyn Consumer, delivery: &Delivery) -> Option<String> {
    let receipts = [delivery.receipt];
    soon(async {
        loop {
            match consumer.ack(&receipts).await {
                Ok(()) => return None,
                Err(error)
                    if [Kind::Unavailable, Kind::DeadlineExceeded].contains(&error.kind()) => {}
                Err(error) => return Some(error.code().to_owned()),
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_replaced_learns_what_became_of_its_messages() {
    let server = server();
    let proxy = Proxy::to(server.address()).expect("a proxy");
    let namespace = namespace();
    let (one, other) = (
        open(&proxy.address(), &namespace),
        open(&server.address(), &namespace),
    );
    let topic = name("t");
    one.create_topic(&topic, keeping(1)).await.expect("a topic");
    let subscribed = one.subscribe(&topic, &name("g"), patient()).await;
    let replaced = subscribed.expect("joined");
    let messages = vec![message("a:1"), message("b:2")];
    one.publish(&topic, messages).await.expect("published");
    let (settled, owed) = (
        soon(replaced.next()).await.expect("a message"),
        soon(replaced.next()).await.expect("a message"),
    );
    let subscribed = other.subscribe(&topic, &name("g"), patient()).await;
    let next = subscribed.expect("joined");
    proxy.cut();
    proxy.reset();
    for n in 0..2 {
        let delivery = soon(next.next()).await.expect("a message");
        if n == 0 {
            assert_eq!(delivery.record.position, settled.record.position);
            assert_eq!(acknowledge(&*next, &delivery).await, None);
        }
    }
    // It comes back, and another holds the partition for good.
    proxy.mend();
    assert_eq!(acknowledge(&*replaced, &settled).await, None);
    let refused = acknowledge(&*replaced, &owed).await;
    assert_eq!(refused.as_deref(), Some("bus.receipt_stale"));
    let state = one.group(&topic, &name("g")).await.expect("a state");
    assert_eq!((state.lag, state.in_flight), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_the_bytes_goes_and_is_counted() {
    let server = server();
    let bus = open(&server.address(), &namespace());
    let topic = name("t");
    let config = TopicConfig {
        retention: Retention {
            age: None,
            bytes: Some(4 << 20),
            unsettled: Unsettled::Drop,
        },
        ..keeping(1)
    };
    bus.create_topic(&topic, config).await.expect("a topic");
    let consumer = bus
        .subscribe(&topic, &name("g"), patient())
        .await
        .expect("joined");
    drop(consumer);
    for _ in 0..40 {
        let heavy = Message::new(vec![b'x'; 500 << 10]);
        bus.publish(&topic, vec![heavy]).await.expect("published");
    }
    let first = soon(async {
        loop {
            let range = bus.topic(&topic).await.expect("a state").partitions[0].clone();
            assert!(range.end >= 40, "{range:?}");
            if range.start > 0 {
                return range.start;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let consumer = bus
        .subscribe(&topic, &name("g"), patient())
        .await
        .expect("joined");
    let delivery = soon(consumer.next()).await.expect("a message");
    assert!(delivery.record.position.offset >= first);
    let state = bus.group(&topic, &name("g")).await.expect("a state");
    assert!(
        (1..=delivery.record.position.offset).contains(&state.lost),
        "{state:?}"
    );
}
