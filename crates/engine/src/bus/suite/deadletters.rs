use std::time::Duration;

use super::{
    Case, case,
    stand::{Stand, done, header, message, name, next, nothing, one, text},
};
use crate::bus::{DeadLetter, GroupConfig, Redeliver, Subscription, TopicConfig};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            failed_messages_are_moved,
            Nothing,
            "When the last of `after` deliveries has failed, the message is appended to the dead-letter topic and settled."
        ),
        case!(
            every_failure_counts,
            Nothing,
            "A delivery ends with a nack, the end of its consumer, or after the ack timeout."
        ),
        case!(
            refused_messages_are_moved_at_once,
            Nothing,
            "Not at all: it goes to the dead-letter topic now."
        ),
        case!(
            without_a_topic_nothing_is_moved,
            Nothing,
            "Without, messages are delivered until they are acknowledged."
        ),
        case!(
            dead_letters_let_their_key_go_on,
            Nothing,
            "Every earlier one of its key is settled."
        ),
        case!(
            dead_letters_tell_where_they_come_from,
            Nothing,
            "Appended to the dead-letter topic, made with the default configuration."
        ),
        case!(
            groups_have_dead_letters_of_their_own,
            Nothing,
            "Settled for a group."
        ),
    ]
}

fn dying(stand: &Stand, after: u32) -> Subscription {
    let subscription = stand.subscription();
    let dead_letter = Some(DeadLetter {
        topic: name("dead"),
        after,
    });
    Subscription {
        group: GroupConfig {
            dead_letter,
            ..subscription.group
        },
        ..subscription
    }
}

const AT_ONCE: Redeliver = Redeliver::After(Duration::ZERO);

async fn failed_messages_are_moved(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["bad", "good"]).await;
    let consumer = stand.join_as("t", "g", dying(&stand, 3)).await;
    // The good one comes in between or at the end: an engine may not have read that far yet.
    let (mut failures, mut is_good_done) = (0, false);
    while failures < 3 || !is_good_done {
        let delivery = one(&consumer).await;
        if text(&delivery.record.message) == "good" {
            consumer.ack(&[delivery.receipt]).await.unwrap();
            is_good_done = true;
            continue;
        }
        failures += 1;
        assert_eq!(delivery.attempt, failures);
        consumer.nack(&delivery.receipt, AT_ONCE).await.unwrap();
    }
    nothing(&consumer).await;
    stand.pass(stand.unit() * 5).await;
    nothing(&consumer).await;
    assert_eq!(stand.lag("t", "g").await, 0);
    let undertaker = stand.join("dead", "g").await;
    assert_eq!(done(&undertaker).await, "bad");
    nothing(&undertaker).await;
    // The message itself is still in its topic.
    assert_eq!(stand.read("t", 0).await, ["bad", "good"]);
}

async fn every_failure_counts(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1"]).await;
    let first = stand.join_as("t", "g", dying(&stand, 3)).await;
    one(&first).await;
    stand.pass(stand.unit() * 5).await;
    assert_eq!(one(&first).await.attempt, 2);
    let second = stand.join_as("t", "g", dying(&stand, 3)).await;
    drop(first);
    assert_eq!(one(&second).await.attempt, 3);
    let undertaker = stand.join("dead", "g").await;
    stand.pass(stand.unit() * 5).await;
    assert_eq!(done(&undertaker).await, "1");
    nothing(&second).await;
}

async fn refused_messages_are_moved_at_once(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1"]).await;
    let consumer = stand.join_as("t", "g", dying(&stand, 10)).await;
    let delivery = one(&consumer).await;
    consumer
        .nack(&delivery.receipt, Redeliver::Never)
        .await
        .unwrap();
    let undertaker = stand.join("dead", "g").await;
    assert_eq!(done(&undertaker).await, "1");
    assert_eq!(stand.lag("t", "g").await, 0);
    // Without a topic for it, it is dropped.
    let careless = stand.join("t", "careless").await;
    let delivery = one(&careless).await;
    careless
        .nack(&delivery.receipt, Redeliver::Never)
        .await
        .unwrap();
    assert_eq!(stand.lag("t", "careless").await, 0);
    nothing(&careless).await;
    nothing(&undertaker).await;
}

async fn without_a_topic_nothing_is_moved(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1"]).await;
    let consumer = stand.join("t", "g").await;
    for attempt in 1..30 {
        let delivery = one(&consumer).await;
        assert_eq!(delivery.attempt, attempt);
        consumer.nack(&delivery.receipt, AT_ONCE).await.unwrap();
    }
    assert_eq!(done(&consumer).await, "1");
}

async fn dead_letters_let_their_key_go_on(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["a:1", "a:2", "a:3"]).await;
    let consumer = stand.join_as("t", "g", dying(&stand, 2)).await;
    for _ in 0..2 {
        let delivery = one(&consumer).await;
        assert_eq!(text(&delivery.record.message), "a:1");
        consumer.nack(&delivery.receipt, AT_ONCE).await.unwrap();
    }
    assert_eq!(done(&consumer).await, "a:2");
    assert_eq!(done(&consumer).await, "a:3");
}

async fn dead_letters_tell_where_they_come_from(stand: Stand) {
    stand.topic("t").await;
    let full = message("k:payload").id("an id").header("mine", "kept");
    stand.say("t", &["before"]).await;
    stand.publish("t", vec![full]).await;
    let consumer = stand.join_as("t", "g", dying(&stand, 1)).await;
    let found = next(&consumer, 2).await;
    let bad = found
        .iter()
        .find(|delivery| delivery.record.message.key.is_some())
        .unwrap();
    consumer
        .nack(&bad.receipt, Redeliver::Backoff)
        .await
        .unwrap();
    assert_eq!(
        stand.bus().topic(&name("dead")).await.unwrap().config,
        TopicConfig::default()
    );
    let undertaker = stand.join("dead", "g").await;
    let dead = one(&undertaker).await.record;
    let offset = bad.record.position.offset.to_string();
    for (name, expected) in [
        ("mine", "kept"),
        ("sinew-dead-letter-topic", "t"),
        ("sinew-dead-letter-group", "g"),
        ("sinew-dead-letter-partition", "0"),
        ("sinew-dead-letter-offset", &offset),
        ("sinew-dead-letter-attempts", "1"),
        ("sinew-dead-letter-id", "an id"),
    ] {
        assert_eq!(header(&dead.message, name).unwrap(), expected, "{name}");
    }
    assert!(header(&dead.message, "sinew-dead-letter-reason").is_some());
    assert_eq!(text(&dead.message), "k:payload");
    // What has no id is not taken for a duplicate.
    assert_eq!(dead.message.id, None);
}

async fn groups_have_dead_letters_of_their_own(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1"]).await;
    let undertaker = {
        let consumer = stand.join_as("t", "g", dying(&stand, 1)).await;
        let delivery = one(&consumer).await;
        consumer.nack(&delivery.receipt, AT_ONCE).await.unwrap();
        stand.join("dead", "g").await
    };
    assert_eq!(done(&undertaker).await, "1");
    // To the other group it is a message like any.
    let other = stand.join_as("t", "h", dying(&stand, 1)).await;
    let delivery = one(&other).await;
    assert_eq!(delivery.attempt, 1);
    other.nack(&delivery.receipt, AT_ONCE).await.unwrap();
    let again = one(&undertaker).await;
    assert_eq!(
        header(&again.record.message, "sinew-dead-letter-group").unwrap(),
        "h"
    );
}
