use std::time::Duration;

use sinew_core::Kind;

use super::{
    Case, case,
    stand::{Stand, fails, keeping, name, next, one, soon, texts},
};
use crate::bus::{Message, Retention, TopicConfig, Unsettled};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            an_empty_bus_has_nothing,
            Nothing,
            "`bus.topic_unknown` (NotFound) for what does not exist."
        ),
        case!(
            topics_are_made_once,
            Nothing,
            "A topic with the same configuration is left alone, another answers `bus.topic_exists`."
        ),
        case!(
            topics_are_listed,
            Nothing,
            "The names of the topics, in order."
        ),
        case!(
            topics_can_be_changed,
            ExactRetention,
            "The number of partitions cannot be changed."
        ),
        case!(
            what_a_topic_keeps_is_fixed,
            FixedRetention,
            "What it cannot do is answered with `bus.unsupported`."
        ),
        case!(
            topics_have_limits,
            Nothing,
            "`bus.topic_invalid` for what no state of the bus allows."
        ),
        case!(
            deleted_topics_are_gone,
            Nothing,
            "Deletes a topic, its messages and its groups."
        ),
        case!(
            deletion_ends_the_consumers,
            Nothing,
            "`bus.topic_unknown` or `bus.group_unknown` when that was deleted."
        ),
        case!(
            groups_are_listed_and_deleted,
            Nothing,
            "Deletes a group. It is well if there is none."
        ),
    ]
}

async fn an_empty_bus_has_nothing(stand: Stand) {
    let (bus, none) = (stand.bus(), name("none"));
    let unknown = |result| fails(result, Kind::NotFound, "bus.topic_unknown");
    assert_eq!(bus.topics().await.unwrap(), []);
    unknown(bus.topic(&none).await.map(drop));
    unknown(bus.publish(&none, vec![Message::new("x")]).await.map(drop));
    unknown(bus.publish(&none, vec![]).await.map(drop));
    unknown(
        bus.subscribe(&none, &none, stand.subscription())
            .await
            .map(drop),
    );
    unknown(bus.groups(&none).await.map(drop));
    unknown(bus.group(&none, &none).await.map(drop));
    unknown(bus.configure_topic(&none, keeping()).await.map(drop));
    bus.delete_topic(&none).await.unwrap();
    stand.topic("t").await;
    let state = bus.topic(&name("t")).await.unwrap();
    assert!(state.partitions.len() == 1 && state.partitions[0].is_empty());
    assert_eq!((state.bytes, state.scheduled), (0, 0));
    fails(
        bus.group(&name("t"), &none).await,
        Kind::NotFound,
        "bus.group_unknown",
    );
}

async fn topics_are_made_once(stand: Stand) {
    let (bus, topic) = (stand.bus(), name("t"));
    assert!(bus.create_topic(&topic, keeping()).await.unwrap());
    stand.say("t", &["x"]).await;
    assert!(!bus.create_topic(&topic, keeping()).await.unwrap());
    let other = TopicConfig {
        partitions: 2,
        ..keeping()
    };
    let again = bus.create_topic(&topic, other).await;
    fails(again, Kind::AlreadyExists, "bus.topic_exists");
    let state = bus.topic(&topic).await.unwrap();
    assert_eq!((state.config, state.partitions.len()), (keeping(), 1));
    assert_eq!(state.partitions[0].end - state.partitions[0].start, 1);
}

async fn topics_are_listed(stand: Stand) {
    for topic in ["b", "a-2", "a"] {
        stand.topic(topic).await;
    }
    assert_eq!(
        stand.bus().topics().await.unwrap(),
        ["a", "a-2", "b"].map(name)
    );
}

async fn topics_can_be_changed(stand: Stand) {
    let (bus, topic) = (stand.bus(), name("t"));
    stand
        .topic_of(
            "t",
            TopicConfig {
                partitions: 2,
                ..keeping()
            },
        )
        .await;
    let retention = Retention {
        age: Some(Duration::from_secs(60)),
        bytes: None,
        unsettled: Unsettled::Drop,
    };
    let changed = TopicConfig {
        partitions: 2,
        retention,
        deduplication: Duration::ZERO,
    };
    bus.configure_topic(&topic, changed).await.unwrap();
    assert_eq!(bus.topic(&topic).await.unwrap().config, changed);
    let more = TopicConfig {
        partitions: 3,
        ..changed
    };
    let result = bus.configure_topic(&topic, more).await;
    fails(result, Kind::InvalidArgument, "bus.topic_invalid");
    assert_eq!(bus.topic(&topic).await.unwrap().config, changed);
}

async fn what_a_topic_keeps_is_fixed(stand: Stand) {
    let (bus, topic) = (stand.bus(), name("t"));
    stand.topic("t").await;
    let changed = TopicConfig {
        deduplication: Duration::from_secs(1),
        ..keeping()
    };
    bus.configure_topic(&topic, changed).await.unwrap();
    assert_eq!(bus.topic(&topic).await.unwrap().config, changed);
    let retention = Retention {
        age: Some(Duration::from_secs(60)),
        ..changed.retention
    };
    let result = bus
        .configure_topic(
            &topic,
            TopicConfig {
                retention,
                ..changed
            },
        )
        .await;
    fails(result, Kind::FailedPrecondition, "bus.unsupported");
    let more = TopicConfig {
        partitions: 2,
        ..changed
    };
    let result = bus.configure_topic(&topic, more).await;
    fails(result, Kind::InvalidArgument, "bus.topic_invalid");
    assert_eq!(bus.topic(&topic).await.unwrap().config, changed);
}

async fn topics_have_limits(stand: Stand) {
    let limits = stand.limits();
    let keeps = |age, bytes| Retention {
        age,
        bytes,
        unsettled: Unsettled::Drop,
    };
    let second = Duration::from_secs(1);
    for bad in [
        TopicConfig {
            partitions: 0,
            ..keeping()
        },
        TopicConfig {
            partitions: limits.partitions + 1,
            ..keeping()
        },
        TopicConfig {
            deduplication: limits.deduplication + second,
            ..keeping()
        },
        TopicConfig {
            retention: keeps(Some(Duration::ZERO), None),
            ..keeping()
        },
        TopicConfig {
            retention: keeps(None, Some(limits.message_bytes - 1)),
            ..keeping()
        },
    ] {
        let result = stand.bus().create_topic(&name("t"), bad).await;
        fails(result, Kind::InvalidArgument, "bus.topic_invalid");
    }
    assert_eq!(stand.bus().topics().await.unwrap(), []);
}

async fn deleted_topics_are_gone(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1", "2"]).await;
    let consumer = stand.join("t", "g").await;
    one(&consumer).await;
    drop(consumer);
    stand.bus().delete_topic(&name("t")).await.unwrap();
    stand.bus().delete_topic(&name("t")).await.unwrap();
    assert_eq!(stand.bus().topics().await.unwrap(), []);
    // Made again it is another topic.
    stand.topic("t").await;
    assert_eq!(stand.bus().groups(&name("t")).await.unwrap(), []);
    stand.say("t", &["3"]).await;
    let consumer = stand.join("t", "g").await;
    assert_eq!(texts(&next(&consumer, 5).await), ["3"]);
}

async fn deletion_ends_the_consumers(stand: Stand) {
    let bus = stand.bus();
    stand.topic("t").await;
    stand.topic("u").await;
    let (by_topic, by_group) = (stand.join("t", "g").await, stand.join("u", "g").await);
    let waiting: Vec<_> = [by_topic, by_group.clone()]
        .map(|consumer| tokio::spawn(async move { consumer.next().await.map(drop) }))
        .into();
    tokio::task::yield_now().await;
    bus.delete_topic(&name("t")).await.unwrap();
    bus.delete_group(&name("u"), &name("g")).await.unwrap();
    for (task, code) in waiting
        .into_iter()
        .zip(["bus.topic_unknown", "bus.group_unknown"])
    {
        fails(soon(task).await.unwrap(), Kind::NotFound, code);
    }
    // The new group of that name is not the one that the consumer joined.
    let _new = stand.join("u", "g").await;
    fails(by_group.next().await, Kind::NotFound, "bus.group_unknown");
}

async fn groups_are_listed_and_deleted(stand: Stand) {
    let bus = stand.bus();
    stand.topic("t").await;
    stand.say("t", &["1"]).await;
    for group in ["b", "a"] {
        let consumer = stand.join("t", group).await;
        let delivery = one(&consumer).await;
        consumer.ack(&[delivery.receipt]).await.unwrap();
    }
    assert_eq!(bus.groups(&name("t")).await.unwrap(), ["a", "b"].map(name));
    bus.delete_group(&name("t"), &name("a")).await.unwrap();
    bus.delete_group(&name("t"), &name("a")).await.unwrap();
    assert_eq!(bus.groups(&name("t")).await.unwrap(), [name("b")]);
    // It begins anew.
    let consumer = stand.join("t", "a").await;
    assert_eq!(texts(&next(&consumer, 5).await), ["1"]);
}
