use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Mutex, task::JoinHandle};

use super::{
    Case, case,
    stand::{Stand, keeping, message, name, soon, text},
};
use crate::bus::{
    Consumer, DeadLetter, Delivery, GroupConfig, Redeliver, Subscription, TopicConfig,
};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            every_message_reaches_every_group,
            Nothing,
            "Every published message is delivered to each group, at least once."
        ),
        case!(
            keys_keep_their_order_under_load,
            Nothing,
            "A message is delivered only when every earlier one of its key is settled, through redelivery."
        ),
        case!(
            producers_keep_their_order,
            Nothing,
            "Messages that one caller publishes one call after the other have that order within their partition."
        ),
        case!(
            everything_ends_settled_or_dead,
            Nothing,
            "Every published message is delivered, or moved."
        ),
        case!(
            one_id_wins_once,
            Deduplication,
            "A message whose id was published is not written again."
        ),
    ]
}

const PRODUCERS: usize = 4;
const MESSAGES: usize = 60;
const KEYS: usize = 5;

/// Publishes `key:producer/number` from many tasks.
async fn produce(stand: &Arc<Stand>) {
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let stand = stand.clone();
            tokio::spawn(async move {
                for number in 0..MESSAGES {
                    let said = format!("k{}:{producer}/{number}", number % KEYS);
                    stand.publish("t", vec![message(&said)]).await;
                }
            })
        })
        .collect();
    for producer in producers {
        soon(producer).await.unwrap();
    }
}

fn all() -> BTreeSet<String> {
    let of = |producer| (0..MESSAGES).map(move |n| format!("k{}:{producer}/{n}", n % KEYS));
    (0..PRODUCERS).flat_map(of).collect()
}

/// What consumers handled, in the order in which they did.
type Seen = Arc<Mutex<Vec<Delivery>>>;

/// Messages that nobody can handle, where there are any.
fn is_doomed(said: &str) -> bool {
    said.ends_with('7')
}

/// Consumes for ever; gives every `fails`-th delivery back, and those of which this is true.
async fn consume(
    consumer: Arc<dyn Consumer>,
    seen: Seen,
    fails: usize,
    is_hopeless: fn(&str) -> bool,
) {
    let mut count = 0;
    loop {
        for delivery in consumer.next_many(3).await.unwrap() {
            count += 1;
            let fails = fails > 0 && count % fails == 0;
            if fails || is_hopeless(&text(&delivery.record.message)) {
                let at_once = Redeliver::After(Duration::ZERO);
                consumer.nack(&delivery.receipt, at_once).await.unwrap();
                continue;
            }
            tokio::task::yield_now().await;
            // Noted before the ack: once it is acknowledged the next of the key may come.
            seen.lock().await.push(delivery.clone());
            consumer.ack(&[delivery.receipt]).await.unwrap();
        }
    }
}

/// Waits until the group owes nothing, then ends the tasks.
async fn settle(stand: &Stand, group: &str, tasks: Vec<JoinHandle<()>>) {
    soon(async {
        while stand.lag("t", group).await > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    for task in tasks {
        task.abort();
        // Whoever failed instead says so.
        assert!(task.await.unwrap_err().is_cancelled());
    }
}

async fn run(stand: &Arc<Stand>, group: &str, consumers: usize, fails: usize) -> Vec<Delivery> {
    let seen = Seen::default();
    let mut tasks = Vec::new();
    for _ in 0..consumers {
        let subscription = Subscription {
            in_flight: 8,
            ..patient(stand)
        };
        let consumer = stand.join_as("t", group, subscription).await;
        tasks.push(tokio::spawn(consume(consumer, seen.clone(), fails, |_| {
            false
        })));
    }
    produce(stand).await;
    settle(stand, group, tasks).await;
    seen.lock().await.clone()
}

/// With a timeout that nobody exceeds, so that only what the case does ends a delivery.
fn patient(stand: &Stand) -> Subscription {
    let group = GroupConfig {
        ack_timeout: Duration::from_secs(600),
        ..stand.subscription().group
    };
    Subscription {
        group,
        ..stand.subscription()
    }
}

fn texts(deliveries: &[Delivery]) -> BTreeSet<String> {
    deliveries
        .iter()
        .map(|delivery| text(&delivery.record.message))
        .collect()
}

async fn every_message_reaches_every_group(stand: Stand) {
    stand
        .topic_of(
            "t",
            TopicConfig {
                partitions: 3,
                ..keeping()
            },
        )
        .await;
    let stand = Arc::new(stand);
    let found = run(&stand, "g", 3, 0).await;
    assert_eq!(found.len(), PRODUCERS * MESSAGES, "each once");
    assert_eq!(texts(&found), all());
    // A group that comes later sees the same.
    let consumer = stand.join_as("t", "late", patient(&stand)).await;
    let mut late = BTreeSet::new();
    while late.len() < found.len() {
        for delivery in soon(consumer.next_many(50)).await.unwrap() {
            consumer.ack(&[delivery.receipt]).await.unwrap();
            late.insert(text(&delivery.record.message));
        }
    }
    assert_eq!(late, all());
}

async fn keys_keep_their_order_under_load(stand: Stand) {
    stand
        .topic_of(
            "t",
            TopicConfig {
                partitions: 2,
                ..keeping()
            },
        )
        .await;
    let stand = Arc::new(stand);
    let found = run(&stand, "g", 4, 5).await;
    assert_eq!(texts(&found), all());
    let mut last: BTreeMap<_, u64> = BTreeMap::new();
    for delivery in &found {
        let position = delivery.record.position;
        let key = (position.partition, delivery.record.message.key.clone());
        let before = last.insert(key, position.offset);
        assert!(
            before.is_none_or(|before| before < position.offset),
            "{delivery:?}"
        );
    }
}

async fn producers_keep_their_order(stand: Stand) {
    stand.topic("t").await;
    let stand = Arc::new(stand);
    produce(&stand).await;
    let consumer = stand.join_as("t", "g", patient(&stand)).await;
    let mut last: BTreeMap<(String, usize), usize> = BTreeMap::new();
    for _ in 0..PRODUCERS * MESSAGES {
        let delivery = soon(consumer.next()).await.unwrap();
        consumer.ack(&[delivery.receipt]).await.unwrap();
        let said = text(&delivery.record.message);
        let (key, rest) = said.split_once(':').unwrap();
        let (producer, number) = rest.split_once('/').unwrap();
        let number = number.parse().unwrap();
        let before = last.insert((key.to_owned(), producer.parse().unwrap()), number);
        assert!(before.is_none_or(|before| before < number), "{said}");
    }
}

async fn everything_ends_settled_or_dead(stand: Stand) {
    stand.topic("t").await;
    let stand = Arc::new(stand);
    let subscription = patient(&stand);
    let dead_letter = Some(DeadLetter {
        topic: name("dead"),
        after: 2,
    });
    let dying = Subscription {
        group: GroupConfig {
            dead_letter,
            ..subscription.group
        },
        ..subscription
    };
    let seen = Seen::default();
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let consumer = stand.join_as("t", "g", dying.clone()).await;
        tasks.push(tokio::spawn(consume(consumer, seen.clone(), 3, is_doomed)));
    }
    produce(&stand).await;
    settle(&stand, "g", tasks).await;
    let handled = texts(&seen.lock().await);
    let dead: Vec<String> = stand.read("dead", 0).await;
    let set: BTreeSet<String> = dead.iter().cloned().collect();
    assert_eq!(set.len(), dead.len(), "moved once");
    assert!(
        set.is_disjoint(&handled),
        "moved and handled: {:?}",
        set.intersection(&handled)
    );
    assert!(
        all()
            .iter()
            .filter(|said| is_doomed(said))
            .all(|said| set.contains(said))
    );
    assert_eq!(set.union(&handled).cloned().collect::<BTreeSet<_>>(), all());
}

async fn one_id_wins_once(stand: Stand) {
    let config = TopicConfig {
        deduplication: Duration::from_secs(3600),
        ..keeping()
    };
    stand.topic_of("t", config).await;
    let stand = Arc::new(stand);
    let tasks: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let stand = stand.clone();
            tokio::spawn(async move {
                for number in 0..MESSAGES {
                    let said = message(&format!("{producer}/{number}")).id(number.to_string());
                    stand.publish("t", vec![said]).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let read = stand.read("t", 0).await;
    let numbers: BTreeSet<&str> = read
        .iter()
        .map(|text| text.split_once('/').unwrap().1)
        .collect();
    assert_eq!((read.len(), numbers.len()), (MESSAGES, MESSAGES));
}
