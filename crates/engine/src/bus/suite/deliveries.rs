use sinew_core::Kind;

use super::{
    Case, case,
    stand::{Stand, ack, done, fails, is_stale, keeping, name, next, nothing, one, text, texts},
};
use crate::bus::{
    DeadLetter, GroupConfig, Position, Receipt, Redeliver, Start, Subscription, TopicConfig,
};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            groups_see_everything_each,
            Nothing,
            "A group sees every message of its topic from where it starts."
        ),
        case!(
            groups_start_where_they_are_told,
            Nothing,
            "Where it begins when it is made; means nothing later."
        ),
        case!(
            consumers_share,
            Nothing,
            "Each message with one consumer of the group at most."
        ),
        case!(
            in_flight_is_bounded,
            Nothing,
            "At most `in_flight` messages are with a consumer at once."
        ),
        case!(
            settled_messages_do_not_come_again,
            Nothing,
            "What is settled is never delivered to the group again."
        ),
        case!(
            acks_may_be_repeated,
            Nothing,
            "Acknowledging what is settled is well."
        ),
        case!(
            late_deliveries_come_again,
            Nothing,
            "Delivered again at once after a timeout."
        ),
        case!(
            extended_deliveries_stay,
            Nothing,
            "Lets the delivery end not before this time from now."
        ),
        case!(
            nacks_come_after_their_delay,
            Nothing,
            "After the delay that a nack asks for, or after the group's backoff."
        ),
        case!(
            the_backoff_grows,
            Nothing,
            "The delay after the first nack; doubles with each."
        ),
        case!(
            consumers_that_go_leave_their_messages,
            Nothing,
            "Dropping it ends it: what is with it is delivered to others."
        ),
        case!(
            stale_receipts_do_nothing,
            Nothing,
            "`bus.receipt_stale` when the delivery is over."
        ),
        case!(
            keys_keep_their_order,
            Nothing,
            "A message is delivered only when every earlier one of its key and partition is settled."
        ),
        case!(
            keys_keep_their_order_over_redelivery,
            Nothing,
            "Through redelivery and changes of consumers."
        ),
        case!(
            other_keys_go_on,
            Nothing,
            "A group delivers past messages that wait or are late."
        ),
        case!(
            a_full_window_stalls,
            Nothing,
            "When so many wait, it stalls until one of them is settled."
        ),
        case!(
            lag_is_what_is_owed,
            Nothing,
            "Messages in the topic that it owes."
        ),
        case!(
            groups_change_with_their_subscribers,
            Nothing,
            "It is made so, or changed to this."
        ),
        case!(
            groups_have_limits,
            Nothing,
            "`bus.group_invalid` for what no state of the bus allows."
        ),
    ]
}

async fn groups_see_everything_each(stand: Stand) {
    stand
        .topic_of(
            "t",
            TopicConfig {
                partitions: 3,
                ..keeping()
            },
        )
        .await;
    let mut expected: Vec<String> = (0..20).map(|n| format!("k{n}:v{n}")).collect();
    stand
        .say(
            "t",
            &expected.iter().map(String::as_str).collect::<Vec<_>>(),
        )
        .await;
    expected.sort();
    for group in ["g", "h"] {
        let consumer = stand.join("t", group).await;
        // Partitions begin one by one, so each message is waited for.
        let mut found = Vec::new();
        while found.len() < 20 {
            found.push(one(&consumer).await);
        }
        let mut texts = texts(&found);
        texts.sort();
        assert_eq!(texts, expected);
        assert!(found.iter().all(|delivery| delivery.attempt == 1));
        ack(&consumer, &found).await;
        nothing(&consumer).await;
    }
}

async fn groups_start_where_they_are_told(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1"]).await;
    stand.pass(stand.unit()).await;
    let between = stand.now();
    stand.say("t", &["2"]).await;
    let start = |start| {
        let subscription = stand.subscription();
        Subscription {
            group: GroupConfig {
                start,
                ..subscription.group
            },
            ..subscription
        }
    };
    let earliest = stand.join_as("t", "earliest", start(Start::Earliest)).await;
    let latest = stand.join_as("t", "latest", start(Start::Latest)).await;
    let at = stand.join_as("t", "at", start(Start::At(between))).await;
    stand.say("t", &["3"]).await;
    assert_eq!(texts(&next(&earliest, 9).await), ["1", "2", "3"]);
    assert_eq!(texts(&next(&latest, 9).await), ["3"]);
    assert_eq!(texts(&next(&at, 9).await), ["2", "3"]);
    // Who joins later finds the group where it is.
    let late = stand.join_as("t", "latest", start(Start::Earliest)).await;
    nothing(&late).await;
}

async fn consumers_share(stand: Stand) {
    stand.topic("t").await;
    let (one_of, other) = (stand.join("t", "g").await, stand.join("t", "g").await);
    stand.say("t", &["1", "2", "3", "4"]).await;
    let mut found = texts(&next(&one_of, 2).await);
    found.extend(texts(&next(&other, 9).await));
    found.sort();
    assert_eq!(found, ["1", "2", "3", "4"]);
    nothing(&one_of).await;
    let state = stand.group("t", "g").await;
    assert_eq!((state.consumers, state.in_flight, state.lag), (2, 4, 4));
}

async fn in_flight_is_bounded(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1", "2", "3", "4", "5"]).await;
    let two = Subscription {
        in_flight: 2,
        ..stand.subscription()
    };
    let consumer = stand.join_as("t", "g", two.clone()).await;
    let found = next(&consumer, 9).await;
    assert_eq!(texts(&found), ["1", "2"]);
    nothing(&consumer).await;
    ack(&consumer, &found[..1]).await;
    assert_eq!(texts(&next(&consumer, 9).await), ["3"]);
    // The bound is the consumer's, not the group's.
    let other = stand.join_as("t", "g", two).await;
    assert_eq!(texts(&next(&other, 9).await), ["4", "5"]);
    consumer
        .nack(&found[1].receipt, Redeliver::After(stand.unit() * 2))
        .await
        .unwrap();
    nothing(&consumer).await;
}

async fn settled_messages_do_not_come_again(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1", "2", "3"]).await;
    let consumer = stand.join("t", "g").await;
    let found = next(&consumer, 3).await;
    // Out of order.
    for index in [2, 0, 1] {
        ack(&consumer, &found[index..=index]).await;
    }
    stand.pass(stand.unit() * 5).await;
    nothing(&consumer).await;
    drop(consumer);
    let consumer = stand.join("t", "g").await;
    nothing(&consumer).await;
    assert_eq!(stand.lag("t", "g").await, 0);
}

async fn acks_may_be_repeated(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1", "2"]).await;
    let consumer = stand.join("t", "g").await;
    let found = next(&consumer, 2).await;
    let receipts: Vec<Receipt> = found.iter().map(|delivery| delivery.receipt).collect();
    consumer.ack(&[]).await.unwrap();
    consumer.ack(&receipts[..1]).await.unwrap();
    consumer.ack(&receipts[..1]).await.unwrap();
    consumer
        .ack(&[receipts[0], receipts[1], receipts[1]])
        .await
        .unwrap();
    assert_eq!(stand.lag("t", "g").await, 0);
}

async fn late_deliveries_come_again(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1"]).await;
    let consumer = stand.join("t", "g").await;
    let first = one(&consumer).await;
    stand.pass(stand.unit() * 5).await;
    let second = one(&consumer).await;
    assert_eq!((first.attempt, second.attempt), (1, 2));
    assert_eq!(
        (text(&second.record.message).as_str(), &second.record),
        ("1", &first.record)
    );
    is_stale(consumer.ack(&[first.receipt]).await);
    consumer.ack(&[second.receipt]).await.unwrap();
    // Now that it is settled, the late ack is well.
    consumer.ack(&[first.receipt]).await.unwrap();
}

async fn extended_deliveries_stay(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1"]).await;
    let consumer = stand.join("t", "g").await;
    let delivery = one(&consumer).await;
    for _ in 0..4 {
        stand.pass(stand.unit() * 2).await;
        consumer
            .extend(&delivery.receipt, stand.unit() * 4)
            .await
            .unwrap();
    }
    nothing(&consumer).await;
    consumer.ack(&[delivery.receipt]).await.unwrap();
    is_stale(consumer.extend(&delivery.receipt, stand.unit()).await);
    let too_long = stand.limits().delay * 2;
    let result = consumer.extend(&delivery.receipt, too_long).await;
    fails(result, Kind::InvalidArgument, "bus.group_invalid");
}

async fn nacks_come_after_their_delay(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1"]).await;
    let consumer = stand.join("t", "g").await;
    let mut delivery = one(&consumer).await;
    let at_once = Redeliver::After(std::time::Duration::ZERO);
    consumer.nack(&delivery.receipt, at_once).await.unwrap();
    delivery = one(&consumer).await;
    assert_eq!(delivery.attempt, 2);
    let later = Redeliver::After(stand.unit() * 3);
    consumer.nack(&delivery.receipt, later).await.unwrap();
    nothing(&consumer).await;
    assert_eq!(stand.group("t", "g").await.waiting, 1);
    stand.pass(stand.unit() * 2).await;
    nothing(&consumer).await;
    stand.pass(stand.unit()).await;
    delivery = one(&consumer).await;
    assert_eq!(delivery.attempt, 3);
    let too_late = Redeliver::After(stand.limits().delay * 2);
    let result = consumer.nack(&delivery.receipt, too_late).await;
    fails(result, Kind::InvalidArgument, "bus.group_invalid");
    consumer.ack(&[delivery.receipt]).await.unwrap();
    is_stale(consumer.nack(&delivery.receipt, Redeliver::Backoff).await);
}

async fn the_backoff_grows(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1"]).await;
    let consumer = stand.join("t", "g").await;
    let half = stand.unit() / 2;
    // One unit, two, and then the longest: three.
    for units in [1, 2, 3, 3] {
        let delivery = one(&consumer).await;
        consumer
            .nack(&delivery.receipt, Redeliver::Backoff)
            .await
            .unwrap();
        stand.pass(stand.unit() * units - half).await;
        nothing(&consumer).await;
        stand.pass(half).await;
    }
    assert_eq!(one(&consumer).await.attempt, 5);
}

async fn consumers_that_go_leave_their_messages(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1", "2"]).await;
    let (gone, stays) = (stand.join("t", "g").await, stand.join("t", "g").await);
    let taken = next(&gone, 2).await;
    ack(&gone, &taken[..1]).await;
    nothing(&stays).await;
    drop(gone);
    let delivery = one(&stays).await;
    assert_eq!(
        (text(&delivery.record.message).as_str(), delivery.attempt),
        ("2", 2)
    );
    is_stale(stays.ack(&[taken[1].receipt]).await);
    assert_eq!(stand.group("t", "g").await.consumers, 1);
}

async fn stale_receipts_do_nothing(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1", "2"]).await;
    let consumer = stand.join("t", "g").await;
    let found = next(&consumer, 2).await;
    let wrong = Receipt {
        token: u64::MAX,
        ..found[0].receipt
    };
    let nowhere = Receipt {
        position: Position {
            partition: 7,
            offset: 9,
        },
        token: 1,
    };
    let future = Receipt {
        position: Position {
            partition: 0,
            offset: 1 << 40,
        },
        token: 1,
    };
    for receipt in [wrong, nowhere, future] {
        is_stale(consumer.ack(&[receipt]).await);
        is_stale(consumer.nack(&receipt, Redeliver::Backoff).await);
        is_stale(consumer.extend(&receipt, stand.unit()).await);
    }
    assert_eq!(stand.lag("t", "g").await, 2);
    // The others are settled.
    is_stale(consumer.ack(&[wrong, found[1].receipt]).await);
    assert_eq!(stand.lag("t", "g").await, 1);
    // Any consumer of the group may settle a delivery.
    let other = stand.join("t", "g").await;
    other.ack(&[found[0].receipt]).await.unwrap();
    assert_eq!(stand.lag("t", "g").await, 0);
}

async fn keys_keep_their_order(stand: Stand) {
    stand
        .topic_of(
            "t",
            TopicConfig {
                partitions: 2,
                ..keeping()
            },
        )
        .await;
    stand.say("t", &["a:1", "a:2", "b:1", "a:3", "b:2"]).await;
    let (one_of, other) = (stand.join("t", "g").await, stand.join("t", "g").await);
    let mut first = next(&one_of, 9).await;
    first.sort_by_key(|delivery| text(&delivery.record.message));
    assert_eq!(texts(&first), ["a:1", "b:1"]);
    nothing(&other).await;
    ack(&one_of, &first[..1]).await;
    assert_eq!(done(&other).await, "a:2");
    assert_eq!(done(&other).await, "a:3");
    nothing(&other).await;
    ack(&one_of, &first[1..]).await;
    assert_eq!(done(&other).await, "b:2");
}

async fn keys_keep_their_order_over_redelivery(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["a:1", "a:2"]).await;
    let first = stand.join("t", "g").await;
    let delivery = one(&first).await;
    first
        .nack(&delivery.receipt, Redeliver::After(stand.unit() * 2))
        .await
        .unwrap();
    nothing(&first).await;
    stand.pass(stand.unit() * 2).await;
    assert_eq!(text(&one(&first).await.record.message), "a:1");
    // Late.
    stand.pass(stand.unit() * 5).await;
    assert_eq!(text(&one(&first).await.record.message), "a:1");
    // Gone.
    let second = stand.join("t", "g").await;
    drop(first);
    let delivery = one(&second).await;
    assert_eq!(
        (text(&delivery.record.message).as_str(), delivery.attempt),
        ("a:1", 4)
    );
    stand.say("t", &["a:3"]).await;
    ack(&second, &[delivery]).await;
    assert_eq!(done(&second).await, "a:2");
    assert_eq!(done(&second).await, "a:3");
}

async fn other_keys_go_on(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["a:1", "a:2", "b:1", "x", "b:2"]).await;
    let consumer = stand.join("t", "g").await;
    let found = next(&consumer, 9).await;
    assert_eq!(texts(&found), ["a:1", "b:1", "x"]);
    consumer
        .nack(&found[0].receipt, Redeliver::After(stand.unit() * 3))
        .await
        .unwrap();
    ack(&consumer, &found[1..]).await;
    assert_eq!(done(&consumer).await, "b:2");
    nothing(&consumer).await;
    stand.pass(stand.unit() * 3).await;
    assert_eq!(done(&consumer).await, "a:1");
    assert_eq!(done(&consumer).await, "a:2");
}

async fn a_full_window_stalls(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1", "2", "3", "4", "5"]).await;
    let subscription = stand.subscription();
    let narrow = Subscription {
        group: GroupConfig {
            window: 3,
            ..subscription.group
        },
        ..subscription
    };
    let consumer = stand.join_as("t", "g", narrow).await;
    let found = next(&consumer, 9).await;
    assert_eq!(texts(&found), ["1", "2", "3"]);
    for delivery in &found[..2] {
        let later = Redeliver::After(stand.unit() * 3);
        consumer.nack(&delivery.receipt, later).await.unwrap();
    }
    nothing(&consumer).await;
    ack(&consumer, &found[2..]).await;
    assert_eq!(done(&consumer).await, "4");
    assert_eq!(done(&consumer).await, "5");
    stand.pass(stand.unit() * 3).await;
    assert_eq!(texts(&next(&consumer, 9).await), ["1", "2"]);
}

async fn lag_is_what_is_owed(stand: Stand) {
    stand
        .topic_of(
            "t",
            TopicConfig {
                partitions: 2,
                ..keeping()
            },
        )
        .await;
    let consumer = stand.join("t", "g").await;
    assert_eq!(stand.lag("t", "g").await, 0);
    let texts: Vec<String> = (0..10).map(|n| format!("k{n}:v")).collect();
    stand
        .say("t", &texts.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    assert_eq!(stand.lag("t", "g").await, 10);
    let found = next(&consumer, 10).await;
    let state = stand.group("t", "g").await;
    assert_eq!(
        (state.lag, state.in_flight, state.waiting, state.lost),
        (10, 10, 0, 0)
    );
    ack(&consumer, &found[3..]).await;
    consumer
        .nack(&found[0].receipt, Redeliver::After(stand.unit() * 9))
        .await
        .unwrap();
    let state = stand.group("t", "g").await;
    assert_eq!((state.lag, state.in_flight, state.waiting), (3, 2, 1));
    let ends = stand.bus().topic(&name("t")).await.unwrap().partitions;
    assert!(
        state
            .cursors
            .iter()
            .zip(ends)
            .all(|(cursor, range)| *cursor <= range.end)
    );
}

async fn groups_change_with_their_subscribers(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1"]).await;
    let before = stand.join("t", "g").await;
    let quick = GroupConfig {
        backoff: stand.unit() * 2,
        ..stand.subscription().group
    };
    let subscription = Subscription {
        group: quick.clone(),
        ..stand.subscription()
    };
    let _after = stand.join_as("t", "g", subscription).await;
    assert_eq!(stand.group("t", "g").await.config, quick);
    let delivery = one(&before).await;
    before
        .nack(&delivery.receipt, Redeliver::Backoff)
        .await
        .unwrap();
    stand.pass(stand.unit()).await;
    nothing(&before).await;
    stand.pass(stand.unit()).await;
    assert_eq!(one(&before).await.attempt, 2);
}

async fn groups_have_limits(stand: Stand) {
    let limits = stand.limits();
    stand.topic("t").await;
    let good = stand.subscription();
    let group = |group| Subscription {
        group,
        ..stand.subscription()
    };
    let base = good.group.clone();
    let dead = |topic: &str, after| {
        Some(DeadLetter {
            topic: name(topic),
            after,
        })
    };
    for bad in [
        Subscription {
            in_flight: 0,
            ..good.clone()
        },
        Subscription {
            in_flight: limits.in_flight + 1,
            ..good.clone()
        },
        group(GroupConfig {
            window: 0,
            ..base.clone()
        }),
        group(GroupConfig {
            window: limits.window + 1,
            ..base.clone()
        }),
        group(GroupConfig {
            ack_timeout: limits.ack_timeout_minimum / 2,
            ..base.clone()
        }),
        group(GroupConfig {
            ack_timeout: limits.delay * 2,
            ..base.clone()
        }),
        group(GroupConfig {
            backoff: base.backoff_most * 2,
            ..base.clone()
        }),
        group(GroupConfig {
            backoff_most: limits.delay * 2,
            ..base.clone()
        }),
        group(GroupConfig {
            dead_letter: dead("dead", 0),
            ..base.clone()
        }),
        group(GroupConfig {
            dead_letter: dead("t", 3),
            ..base.clone()
        }),
    ] {
        let result = stand.bus().subscribe(&name("t"), &name("g"), bad).await;
        fails(result.map(drop), Kind::InvalidArgument, "bus.group_invalid");
    }
    assert_eq!(stand.bus().groups(&name("t")).await.unwrap(), []);
}
