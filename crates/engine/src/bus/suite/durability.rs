use std::time::Duration;

use super::{
    Case, End, case,
    stand::{Stand, ack, done, is_stale, keeping, message, name, next, nothing, one, text, texts},
};
use crate::bus::{DeadLetter, GroupConfig, Published, Redeliver, Subscription, TopicConfig};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            messages_survive,
            Durable,
            "When publish answers, the messages are on stable storage, all of them."
        ),
        case!(
            acks_survive,
            Durable,
            "The ack is durable before it answers."
        ),
        case!(
            what_was_owed_comes_again,
            Durable,
            "Every published message is delivered to each group, at least once."
        ),
        case!(
            keys_keep_their_order_over_restarts,
            Durable,
            "Order per key, through restarts."
        ),
        case!(
            dead_letters_survive,
            Durable,
            "Appended to the dead-letter topic and settled, in one atomic step."
        ),
        case!(
            scheduled_messages_survive,
            DurableDelay,
            "It survives restarts like any other."
        ),
        case!(
            ids_survive,
            DurableDeduplication,
            "A message whose id was published within the window is not written again."
        ),
        case!(
            deletions_survive,
            Durable,
            "Deletes a topic, its messages and its groups."
        ),
        case!(
            receipts_do_not_survive,
            Durable,
            "Names one delivery; never used twice by a group."
        ),
    ]
}

const ENDS: [End; 2] = [End::Close, End::Kill];

async fn messages_survive(mut stand: Stand) {
    let config = TopicConfig {
        partitions: 3,
        ..keeping()
    };
    stand.topic_of("t", config).await;
    let mut said = Vec::new();
    for end in ENDS {
        let texts: Vec<String> = (0..20).map(|n| format!("k{n}:{end:?}")).collect();
        stand
            .say("t", &texts.iter().map(String::as_str).collect::<Vec<_>>())
            .await;
        said.extend(texts);
        let before = stand.bus().topic(&name("t")).await.unwrap();
        stand.reopen(end).await;
        assert_eq!(stand.bus().topic(&name("t")).await.unwrap(), before);
        assert_eq!(stand.bus().topics().await.unwrap(), [name("t")]);
    }
    let mut found = Vec::new();
    for partition in 0..3 {
        found.extend(stand.read("t", partition).await);
    }
    found.sort();
    said.sort();
    assert_eq!(found, said);
}

async fn acks_survive(mut stand: Stand) {
    stand.topic("t").await;
    for end in ENDS {
        stand.say("t", &["1", "2", "3", "4"]).await;
        let consumer = stand.join("t", "g").await;
        let found = next(&consumer, 4).await;
        // With a gap.
        ack(&consumer, &[found[0].clone(), found[2].clone()]).await;
        drop(consumer);
        stand.reopen(end).await;
        assert_eq!(stand.lag("t", "g").await, 2);
        let consumer = stand.join("t", "g").await;
        let mut found = next(&consumer, 9).await;
        found.sort_by_key(|delivery| delivery.record.position);
        assert_eq!(texts(&found), ["2", "4"], "{end:?}");
        ack(&consumer, &found).await;
        nothing(&consumer).await;
    }
}

async fn what_was_owed_comes_again(mut stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["with", "waiting", "untouched"]).await;
    let subscription = Subscription {
        in_flight: 2,
        ..stand.subscription()
    };
    let consumer = stand.join_as("t", "g", subscription).await;
    let found = next(&consumer, 2).await;
    consumer
        .nack(&found[1].receipt, Redeliver::After(stand.unit()))
        .await
        .unwrap();
    drop(consumer);
    stand.reopen(End::Kill).await;
    let consumer = stand.join("t", "g").await;
    stand.pass(stand.unit() * 2).await;
    let mut again = next(&consumer, 9).await;
    again.sort_by_key(|delivery| delivery.record.position);
    assert_eq!(texts(&again), ["with", "waiting", "untouched"]);
    assert!(
        again
            .iter()
            .all(|delivery| (1..=2).contains(&delivery.attempt))
    );
    assert_eq!(again[2].attempt, 1);
}

async fn keys_keep_their_order_over_restarts(mut stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["k:1", "k:2", "k:3"]).await;
    let consumer = stand.join("t", "g").await;
    assert_eq!(done(&consumer).await, "k:1");
    assert_eq!(text(&one(&consumer).await.record.message), "k:2");
    drop(consumer);
    stand.reopen(End::Kill).await;
    let consumer = stand.join("t", "g").await;
    assert_eq!(done(&consumer).await, "k:2");
    assert_eq!(done(&consumer).await, "k:3");
}

async fn dead_letters_survive(mut stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["bad"]).await;
    let subscription = stand.subscription();
    let dead_letter = Some(DeadLetter {
        topic: name("dead"),
        after: 1,
    });
    let dying = Subscription {
        group: GroupConfig {
            dead_letter,
            ..subscription.group
        },
        ..subscription
    };
    let consumer = stand.join_as("t", "g", dying).await;
    let delivery = one(&consumer).await;
    consumer
        .nack(&delivery.receipt, Redeliver::Backoff)
        .await
        .unwrap();
    drop(consumer);
    stand.reopen(End::Kill).await;
    assert_eq!(stand.lag("t", "g").await, 0);
    assert_eq!(stand.read("dead", 0).await, ["bad"]);
}

async fn scheduled_messages_survive(mut stand: Stand) {
    stand.topic("t").await;
    let due = stand.now().plus(stand.unit() * 2);
    stand.publish("t", vec![message("later").due(due)]).await;
    stand.reopen(End::Kill).await;
    assert_eq!(stand.bus().topic(&name("t")).await.unwrap().scheduled, 1);
    stand.pass(stand.unit() * 2).await;
    let consumer = stand.join("t", "g").await;
    assert_eq!(done(&consumer).await, "later");
    drop(consumer);
    stand.reopen(End::Kill).await;
    // Once.
    assert_eq!(stand.read("t", 0).await, ["later"]);
}

async fn ids_survive(mut stand: Stand) {
    let config = TopicConfig {
        deduplication: Duration::from_secs(3600),
        ..keeping()
    };
    stand.topic_of("t", config).await;
    for end in ENDS {
        stand
            .publish("t", vec![message("x").id(format!("{end:?}"))])
            .await;
        stand.reopen(end).await;
        let again = stand
            .publish("t", vec![message("x").id(format!("{end:?}"))])
            .await;
        assert_eq!(again, [Published::Duplicate]);
    }
    assert_eq!(stand.read("t", 0).await, ["x", "x"]);
}

async fn deletions_survive(mut stand: Stand) {
    let bus = stand.bus();
    for topic in ["t", "gone"] {
        stand.topic(topic).await;
        stand.say(topic, &["1"]).await;
        for group in ["g", "gone"] {
            drop(stand.join(topic, group).await);
        }
    }
    bus.delete_topic(&name("gone")).await.unwrap();
    bus.delete_group(&name("t"), &name("gone")).await.unwrap();
    drop(bus);
    stand.reopen(End::Kill).await;
    assert_eq!(stand.bus().topics().await.unwrap(), [name("t")]);
    assert_eq!(stand.bus().groups(&name("t")).await.unwrap(), [name("g")]);
}

async fn receipts_do_not_survive(mut stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1"]).await;
    let mut receipts = Vec::new();
    for end in [End::Kill, End::Close, End::Kill] {
        let consumer = stand.join("t", "g").await;
        for receipt in &receipts {
            is_stale(consumer.ack(&[*receipt]).await);
        }
        let delivery = one(&consumer).await;
        assert!(!receipts.contains(&delivery.receipt));
        for receipt in &receipts {
            is_stale(consumer.ack(&[*receipt]).await);
        }
        receipts.push(delivery.receipt);
        drop(consumer);
        stand.reopen(end).await;
    }
    assert_eq!(stand.lag("t", "g").await, 1);
}
