//! Several nodes over one server.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use sinew_core::Kind;
use sinew_engine::bus::{
    Bus, Consumer, DeadLetter, Delivery, Position, Redeliver, Seek, Subscription,
};

use sinew_testbed::Kafka;

use super::{keeping, message, name, namespace, open, patient, server, text};

const SOON: Duration = Duration::from_secs(30);

type Seen = Arc<Mutex<Vec<Delivery>>>;

/// Consumes until it is told to end; notes each message before it acknowledges it.
fn consume(consumer: Arc<dyn Consumer>, seen: Seen) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok(deliveries) = consumer.next_many(16).await {
            for delivery in deliveries {
                tokio::time::sleep(Duration::from_millis(1)).await;
                if consumer.ack(&[delivery.receipt]).await.is_ok() {
                    seen.lock().expect("nobody panics").push(delivery);
                }
            }
        }
    })
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(SOON, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("{what} should have come soon"));
}

fn texts(seen: &Seen) -> Vec<String> {
    let seen = seen.lock().expect("nobody panics");
    seen.iter()
        .map(|delivery| text(&delivery.record.message))
        .collect()
}

fn assert_in_order(seen: &Seen) {
    let mut last: BTreeMap<_, u64> = BTreeMap::new();
    for delivery in seen.lock().expect("nobody panics").iter() {
        let Position { partition, offset } = delivery.record.position;
        let key = (partition, delivery.record.message.key.clone());
        let before = last.insert(key, offset);
        assert!(before.is_none_or(|before| before < offset), "{delivery:?}");
    }
}

/// Nodes come and go while messages are published: each message is handled once, in the order of its key.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_come_and_go_share_a_group() {
    let (server, namespace) = (server(), namespace());
    let bus = || open(&server.address(), &namespace);
    let producer = bus();
    producer.create_topic(&name("t"), keeping(6)).await.unwrap();
    let seen = Seen::default();
    let (first, second) = (bus(), bus());
    let join = async |bus: &dyn Bus| {
        bus.subscribe(&name("t"), &name("g"), patient())
            .await
            .unwrap()
    };
    let mut tasks = vec![consume(join(&first).await, seen.clone())];
    let mut expected = BTreeSet::new();
    for number in 0..600 {
        let said = format!("k{}:{number}", number % 20);
        producer
            .publish(&name("t"), vec![message(&said)])
            .await
            .unwrap();
        expected.insert(said);
        match number {
            // The second comes, …
            100 => tasks.push(consume(join(&second).await, seen.clone())),
            // … and the first goes, in good order.
            300 => first.close().await,
            _ => {}
        }
    }
    until("everything", async || texts(&seen).len() >= expected.len()).await;
    assert_in_order(&seen);
    let found = texts(&seen);
    assert_eq!(found.len(), expected.len(), "each once");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    let state = producer.group(&name("t"), &name("g")).await.unwrap();
    assert_eq!((state.lag, state.lost), (0, 0));
    for task in tasks {
        task.abort();
    }
}

/// A node that is gone without a word: what it had goes to another after the lease, and it cannot settle anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_is_replaced() {
    let (server, namespace) = (server(), namespace());
    let (first, second) = (
        open(&server.address(), &namespace),
        open(&server.address(), &namespace),
    );
    first.create_topic(&name("t"), keeping(1)).await.unwrap();
    let said: Vec<_> = ["k:1", "k:2", "l:1"].map(message).into();
    first.publish(&name("t"), said).await.unwrap();
    let consumer = first
        .subscribe(&name("t"), &name("g"), patient())
        .await
        .unwrap();
    let delivery = consumer.next().await.unwrap();
    consumer.ack(&[delivery.receipt]).await.unwrap();
    let unfinished = consumer.next().await.unwrap();
    let other = second
        .subscribe(&name("t"), &name("g"), patient())
        .await
        .unwrap();
    let seen = Seen::default();
    let task = consume(other, seen.clone());
    // The holder lives: nothing comes to the other.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(texts(&seen), Vec::<String>::new());
    drop((consumer, first));
    until("the rest", async || texts(&seen).len() == 2).await;
    let found: BTreeSet<_> = texts(&seen).into_iter().collect();
    assert_eq!(found, ["k:2".to_owned(), "l:1".to_owned()].into());
    assert!(found.contains(&text(&unfinished.record.message)));
    task.abort();
}

/// What one node does to a group is seen by the others.
#[tokio::test(flavor = "multi_thread")]
async fn groups_are_moved_and_deleted_from_elsewhere() {
    let (server, namespace) = (server(), namespace());
    let (here, there) = (
        open(&server.address(), &namespace),
        open(&server.address(), &namespace),
    );
    here.create_topic(&name("t"), keeping(2)).await.unwrap();
    let said: Vec<_> = (0..10).map(|n| message(&format!("k{n}:x"))).collect();
    here.publish(&name("t"), said).await.unwrap();
    let consumer = here
        .subscribe(&name("t"), &name("g"), patient())
        .await
        .unwrap();
    let mut taken = Vec::new();
    while taken.len() < 10 {
        taken.extend(consumer.next_many(10).await.unwrap());
    }
    let receipts: Vec<_> = taken.iter().map(|delivery| delivery.receipt).collect();
    consumer.ack(&receipts[..5]).await.unwrap();
    until("the numbers", async || {
        let state = there.group(&name("t"), &name("g")).await.unwrap();
        (state.lag, state.in_flight, state.consumers) == (5, 5, 1)
    })
    .await;
    there
        .seek(&name("t"), &name("g"), Seek::Earliest)
        .await
        .unwrap();
    let stale = consumer.ack(&receipts[5..]).await.unwrap_err();
    assert_eq!(
        (stale.kind(), stale.code()),
        (Kind::FailedPrecondition, "bus.receipt_stale")
    );
    assert_eq!(there.group(&name("t"), &name("g")).await.unwrap().lag, 10);
    let mut again = Vec::new();
    while again.len() < 10 {
        let next = tokio::time::timeout(SOON, consumer.next_many(10)).await;
        again.extend(next.expect("soon").unwrap());
    }
    assert!(again.iter().all(|delivery| delivery.attempt == 1));
    there.delete_group(&name("t"), &name("g")).await.unwrap();
    let gone = tokio::time::timeout(SOON, consumer.next())
        .await
        .expect("soon")
        .unwrap_err();
    assert_eq!(gone.code(), "bus.group_unknown");
    let consumer = here
        .subscribe(&name("t"), &name("g"), patient())
        .await
        .unwrap();
    there.delete_topic(&name("t")).await.unwrap();
    let gone = tokio::time::timeout(SOON, async {
        loop {
            if let Err(error) = consumer.next().await {
                return error;
            }
        }
    });
    assert_eq!(gone.await.expect("soon").code(), "bus.topic_unknown");
}

/// A dead letter whose settling is cut short is not moved twice.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_there_once() {
    let (server, namespace) = (server(), namespace());
    let bus = open(&server.address(), &namespace);
    bus.create_topic(&name("t"), keeping(1)).await.unwrap();
    let said: Vec<_> = (0..50).map(|n| message(&format!("k{n}:x"))).collect();
    bus.publish(&name("t"), said).await.unwrap();
    let mut dying = patient();
    let topic = name("dead");
    dying.group.dead_letter = Some(DeadLetter { topic, after: 1 });
    let dying = Subscription {
        in_flight: 4,
        ..dying
    };
    // Again and again a node begins to move them and is gone.
    for round in 0..6 {
        let node = open(&server.address(), &namespace);
        let consumer = node
            .subscribe(&name("t"), &name("g"), dying.clone())
            .await
            .unwrap();
        let work = async {
            loop {
                for delivery in consumer.next_many(4).await.unwrap() {
                    let _ = consumer.nack(&delivery.receipt, Redeliver::Backoff).await;
                }
            }
        };
        let patience = if round == 5 { 6000 } else { 1300 + round * 7 };
        let _ = tokio::time::timeout(Duration::from_millis(patience), work).await;
    }
    until("the end", async || {
        bus.group(&name("t"), &name("g")).await.unwrap().lag == 0
    })
    .await;
    let from = Position {
        partition: 0,
        offset: 0,
    };
    // Once for each time that the group sees them.
    let dead = bus.read(&name("dead"), from, 1000).await.unwrap();
    let texts: BTreeSet<_> = dead.iter().map(|record| text(&record.message)).collect();
    assert_eq!((dead.len(), texts.len()), (50, 50));
    bus.seek(&name("t"), &name("g"), Seek::Earliest)
        .await
        .unwrap();
    let consumer = bus.subscribe(&name("t"), &name("g"), dying).await.unwrap();
    for _ in 0..50 {
        let delivery = consumer.next().await.unwrap();
        consumer
            .nack(&delivery.receipt, Redeliver::Never)
            .await
            .unwrap();
    }
    let dead = bus.read(&name("dead"), from, 1000).await.unwrap();
    assert_eq!(dead.len(), 100);
}

/// What is settled is kept in a log that is shortened; who comes later finds everything.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_outlives_the_log_that_said_it() {
    const ALL: usize = 1_000;
    let (server, namespace) = (server(), namespace());
    let first = open(&server.address(), &namespace);
    first.create_topic(&name("t"), keeping(16)).await.unwrap();
    let said: Vec<_> = (0..ALL).map(|n| message(&format!("k{n}:x"))).collect();
    first.publish(&name("t"), said).await.unwrap();
    let consumer = first
        .subscribe(&name("t"), &name("g"), patient())
        .await
        .unwrap();
    let registers = format!("{namespace}.sinew");
    let mut settled = BTreeSet::new();
    while settled.len() < ALL - 100 {
        let deliveries = consumer.next_many(8).await.unwrap();
        let receipts: Vec<_> = deliveries.iter().map(|delivery| delivery.receipt).collect();
        consumer.ack(&receipts).await.unwrap();
        settled.extend(deliveries.iter().map(|delivery| delivery.record.position));
    }
    // Each of them is three entries, though there is nothing to delete.
    for _ in 0..40 {
        let (topic, group) = (name("t"), name("other"));
        let deleting = (0..50).map(|_| first.delete_group(&topic, &group));
        for deleted in futures_util::future::join_all(deleting).await {
            deleted.unwrap();
        }
    }
    until("a shorter log", async || {
        let starts = Kafka::starts(server.folder(), &registers).unwrap();
        assert_eq!(starts.len(), 9);
        starts.iter().any(|start| *start > 0)
    })
    .await;
    first.close().await;
    let second = open(&server.address(), &namespace);
    assert_eq!(second.topics().await.unwrap(), [name("t")]);
    let state = second.group(&name("t"), &name("g")).await.unwrap();
    assert_eq!((state.lag, state.lost), ((ALL - settled.len()) as u64, 0));
    let consumer = second
        .subscribe(&name("t"), &name("g"), patient())
        .await
        .unwrap();
    while settled.len() < ALL {
        let next = tokio::time::timeout(SOON, consumer.next()).await;
        let delivery = next.expect("soon").unwrap();
        consumer.ack(&[delivery.receipt]).await.unwrap();
        assert!(settled.insert(delivery.record.position), "it came again");
    }
}
