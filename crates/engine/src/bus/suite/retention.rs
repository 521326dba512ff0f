use std::time::Duration;

use sinew_core::{Kind, Retry};

use super::{
    Case, case,
    stand::{Stand, ack, done, keeping, message, name, next, nothing, one, text, texts},
};
use crate::bus::{Message, Retention, Seek, TopicConfig, Unsettled};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            old_messages_go,
            ExactRetention,
            "Messages older than this go."
        ),
        case!(
            the_oldest_make_room,
            ExactRetention,
            "The oldest messages go when all weigh more than this."
        ),
        case!(
            what_is_owed_stays,
            KeepsUnsettled,
            "A message stays while a group owes it."
        ),
        case!(
            a_topic_full_of_owed_messages_refuses,
            KeepsUnsettled,
            "Publishing into a topic whose bytes are used up answers `bus.full`."
        ),
        case!(
            what_is_dropped_is_counted,
            ExactRetention,
            "It goes all the same, and `lost` counts it."
        ),
        case!(
            a_key_goes_on_over_what_was_dropped,
            ExactRetention,
            "Every earlier one of its key is settled, unless retention says otherwise."
        ),
    ]
}

fn of(age: Option<Duration>, bytes: Option<u64>, unsettled: Unsettled) -> TopicConfig {
    TopicConfig {
        retention: Retention {
            age,
            bytes,
            unsettled,
        },
        ..keeping()
    }
}

/// Three messages of this size fill a topic that keeps the least that it may, with some room for what
/// an engine stores beside them.
fn third(stand: &Stand) -> usize {
    usize::try_from(stand.limits().message_bytes / 16 * 5).unwrap()
}

fn heavy(stand: &Stand, name: &str) -> Message {
    message(name).header("fill", vec![b'x'; third(stand) - 10])
}

/// What the topic still holds; it may take an engine a moment to let go.
async fn holds(stand: &Stand, topic: &str, expected: &[&str]) {
    for _ in 0..300 {
        if stand.read(topic, 0).await == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(stand.read(topic, 0).await, expected);
}

async fn old_messages_go(stand: Stand) {
    let age = Duration::from_secs(1).max(stand.unit());
    stand
        .topic_of("t", of(Some(age), None, Unsettled::Drop))
        .await;
    stand.say("t", &["1", "2"]).await;
    stand.pass(age * 2).await;
    stand.say("t", &["3"]).await;
    holds(&stand, "t", &["3"]).await;
    let consumer = stand.join("t", "g").await;
    assert_eq!(texts(&next(&consumer, 9).await), ["3"]);
    assert_eq!(stand.group("t", "g").await.lost, 0);
    // The end of the log stays where it is.
    let range = stand.bus().topic(&name("t")).await.unwrap().partitions[0].clone();
    assert_eq!((range.start, range.end), (2, 3));
}

async fn the_oldest_make_room(stand: Stand) {
    let bytes = stand.limits().message_bytes;
    stand
        .topic_of("t", of(None, Some(bytes), Unsettled::Drop))
        .await;
    for name in ["1", "2", "3", "4", "5"] {
        stand.publish("t", vec![heavy(&stand, name)]).await;
    }
    holds(&stand, "t", &["3", "4", "5"]).await;
    assert!(stand.bus().topic(&name("t")).await.unwrap().bytes <= bytes);
    stand
        .bus()
        .seek(&name("t"), &name("g"), Seek::Earliest)
        .await
        .unwrap_err();
}

async fn what_is_owed_stays(stand: Stand) {
    let age = Duration::from_secs(1).max(stand.unit());
    stand
        .topic_of("t", of(Some(age), None, Unsettled::Keep))
        .await;
    let consumer = stand.join("t", "g").await;
    stand.say("t", &["1", "2"]).await;
    ack(&consumer, &[one(&consumer).await]).await;
    stand.pass(age * 2).await;
    holds(&stand, "t", &["2"]).await;
    let delivery = one(&consumer).await;
    assert_eq!(text(&delivery.record.message), "2");
    ack(&consumer, &[delivery]).await;
    holds(&stand, "t", &[]).await;
    assert_eq!(stand.group("t", "g").await.lost, 0);
}

async fn a_topic_full_of_owed_messages_refuses(stand: Stand) {
    let bytes = stand.limits().message_bytes;
    stand
        .topic_of("t", of(None, Some(bytes), Unsettled::Keep))
        .await;
    let consumer = stand.join("t", "g").await;
    for name in ["1", "2", "3"] {
        stand.publish("t", vec![heavy(&stand, name)]).await;
    }
    let mut batch = vec![message("small"), heavy(&stand, "4")];
    if !stand.bus().capability().atomic_publish {
        // The small one might be left.
        batch.remove(0);
    }
    let refused = stand.bus().publish(&name("t"), batch).await.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.code()),
        (Kind::ResourceExhausted, "bus.full")
    );
    assert_eq!(refused.retry(), Retry::Yes);
    assert_eq!(stand.read("t", 0).await, ["1", "2", "3"]);
    assert_eq!(done(&consumer).await, "1");
    stand.publish("t", vec![heavy(&stand, "4")]).await;
    for expected in ["2", "3", "4"] {
        assert_eq!(done(&consumer).await, expected);
    }
    // Without groups nothing is owed.
    stand
        .bus()
        .delete_group(&name("t"), &name("g"))
        .await
        .unwrap();
    for name in ["5", "6", "7", "8"] {
        stand.publish("t", vec![heavy(&stand, name)]).await;
    }
    holds(&stand, "t", &["6", "7", "8"]).await;
}

async fn what_is_dropped_is_counted(stand: Stand) {
    let bytes = stand.limits().message_bytes;
    stand
        .topic_of("t", of(None, Some(bytes), Unsettled::Drop))
        .await;
    let consumer = stand.join("t", "g").await;
    for name in ["1", "2", "3"] {
        stand.publish("t", vec![heavy(&stand, name)]).await;
    }
    let found = next(&consumer, 2).await;
    ack(&consumer, &found[1..]).await;
    for name in ["4", "5", "6", "7"] {
        stand.publish("t", vec![heavy(&stand, name)]).await;
    }
    holds(&stand, "t", &["5", "6", "7"]).await;
    // 1 was with the consumer, 2 was settled, 3 and 4 were never looked at.
    let state = stand.group("t", "g").await;
    assert_eq!((state.lost, state.lag), (3, 3));
    super::stand::is_stale(
        consumer
            .nack(&found[0].receipt, crate::bus::Redeliver::Backoff)
            .await,
    );
    assert_eq!(texts(&next(&consumer, 9).await), ["5", "6", "7"]);
}

async fn a_key_goes_on_over_what_was_dropped(stand: Stand) {
    let age = Duration::from_secs(1).max(stand.unit());
    stand
        .topic_of("t", of(Some(age), None, Unsettled::Drop))
        .await;
    let subscription = crate::bus::Subscription {
        group: crate::bus::GroupConfig {
            ack_timeout: age * 20,
            ..stand.subscription().group
        },
        ..stand.subscription()
    };
    let consumer = stand.join_as("t", "g", subscription).await;
    stand.say("t", &["k:1"]).await;
    one(&consumer).await;
    stand.pass(age * 2).await;
    stand.say("t", &["k:2", "k:3"]).await;
    holds(&stand, "t", &["k:2", "k:3"]).await;
    assert_eq!(done(&consumer).await, "k:2");
    assert_eq!(done(&consumer).await, "k:3");
    nothing(&consumer).await;
}
