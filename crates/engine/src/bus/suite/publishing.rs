use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use sinew_core::Kind;

use super::{
    Case, case,
    stand::{Stand, fails, keeping, message, name, next, position, text, texts},
};
use crate::bus::{Message, Published, TopicConfig};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            messages_are_kept_whole,
            Nothing,
            "The message; its due time is taken off."
        ),
        case!(
            messages_have_the_order_of_the_call,
            Nothing,
            "In the log in the order of the call."
        ),
        case!(
            keys_stay_in_their_partition,
            Nothing,
            "Messages with the same key go to the same partition."
        ),
        case!(
            messages_without_a_key_are_spread,
            Nothing,
            "A topic is a number of partitions."
        ),
        case!(
            offsets_grow,
            Nothing,
            "Each a log of messages with growing offsets."
        ),
        case!(
            published_times_do_not_go_back,
            Nothing,
            "When it entered, by the engine's wall clock."
        ),
        case!(
            messages_have_limits,
            Nothing,
            "`bus.message_invalid` for what no state of the bus allows."
        ),
        case!(
            limits_can_be_reached,
            Nothing,
            "The heaviest message, the most messages in one publish."
        ),
        case!(
            a_bad_one_stops_all,
            AtomicPublish,
            "A publish of many writes all or nothing."
        ),
        case!(
            ids_are_published_once,
            Deduplication,
            "A message whose id was published within the window is not written again."
        ),
        case!(
            ids_are_forgotten,
            Deduplication,
            "Within the topic's window."
        ),
        case!(
            topics_have_ids_of_their_own,
            Deduplication,
            "A message whose id was published to the topic."
        ),
    ]
}

async fn messages_are_kept_whole(stand: Stand) {
    stand.topic("t").await;
    let every: Vec<u8> = (0..=255).collect();
    let full = Message::new(every.clone())
        .key(every.clone())
        .id("an id")
        .header("ce-type", "order.paid")
        .header("raw", every.clone())
        .header("ce-type", "twice");
    let messages = vec![full.clone(), Message::new(""), Message::new("x").key("")];
    stand.publish("t", messages.clone()).await;
    let consumer = stand.join("t", "g").await;
    let found = next(&consumer, 3).await;
    let found: Vec<Message> = found
        .iter()
        .map(|delivery| (*delivery.record.message).clone())
        .collect();
    assert_eq!(found, messages);
}

async fn messages_have_the_order_of_the_call(stand: Stand) {
    stand.topic("t").await;
    let mut expected = Vec::new();
    for call in 0..10 {
        let texts: Vec<String> = (0..call).map(|n| format!("k:{call}/{n}")).collect();
        stand
            .say("t", &texts.iter().map(String::as_str).collect::<Vec<_>>())
            .await;
        expected.extend(texts);
    }
    let consumer = stand.join("t", "g").await;
    for text in expected {
        assert_eq!(super::stand::done(&consumer).await, text);
    }
}

async fn keys_stay_in_their_partition(stand: Stand) {
    stand
        .topic_of(
            "t",
            TopicConfig {
                partitions: 4,
                ..keeping()
            },
        )
        .await;
    let mut places: BTreeMap<usize, u32> = BTreeMap::new();
    for round in 0..3 {
        for key in 0..40 {
            let at = stand.say_at("t", &[&format!("key-{key}:{round}")]).await[0];
            assert_eq!(*places.entry(key).or_insert(at.partition), at.partition);
            assert!(at.partition < 4);
        }
    }
    let mut used: Vec<u32> = places.into_values().collect();
    used.sort_unstable();
    used.dedup();
    assert!(used.len() > 1, "40 keys in one of 4 partitions");
}

async fn messages_without_a_key_are_spread(stand: Stand) {
    stand
        .topic_of(
            "t",
            TopicConfig {
                partitions: 3,
                ..keeping()
            },
        )
        .await;
    for _ in 0..60 {
        stand.say("t", &["x"]).await;
    }
    let state = stand.bus().topic(&name("t")).await.unwrap();
    let counts: Vec<u64> = state
        .partitions
        .iter()
        .map(|range| range.end - range.start)
        .collect();
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    let consumer = stand.join("t", "g").await;
    let mut found = 0;
    while found < 60 {
        found += next(&consumer, 60 - found).await.len();
    }
}

async fn offsets_grow(stand: Stand) {
    stand.topic("t").await;
    let mut last = None;
    for _ in 0..5 {
        for at in stand.say_at("t", &["a", "b", "c"]).await {
            assert_eq!(at.partition, 0);
            assert!(last.is_none_or(|last| at.offset > last));
            last = Some(at.offset);
        }
    }
    let state = stand.bus().topic(&name("t")).await.unwrap();
    assert!(Some(state.partitions[0].end) > last);
    let is_exact = stand.bus().capability().exact_bytes;
    assert!(state.bytes == 15 || (state.bytes > 15 && !is_exact));
}

async fn published_times_do_not_go_back(stand: Stand) {
    stand.topic("t").await;
    let start = stand.now();
    stand.say("t", &["1", "2"]).await;
    stand.pass(stand.unit()).await;
    let middle = stand.now();
    stand.say("t", &["3"]).await;
    let consumer = stand.join("t", "g").await;
    let times: Vec<_> = next(&consumer, 3)
        .await
        .iter()
        .map(|delivery| delivery.record.published)
        .collect();
    assert!(
        times.is_sorted() && times[0] >= start && times[2] >= middle,
        "{times:?}"
    );
    assert!(times[1] <= middle);
}

async fn messages_have_limits(stand: Stand) {
    let limits = stand.limits();
    stand.topic("t").await;
    let heavy = usize::try_from(limits.message_bytes).unwrap();
    let few = usize::try_from(limits.publish_bytes / limits.message_bytes).unwrap() + 1;
    let many_headers = (0..=limits.headers).fold(Message::new("x"), |message, n| {
        message.header(format!("h{n}"), "")
    });
    for bad in [
        vec![Message::new(vec![b'x'; heavy + 1])],
        vec![Message::new(vec![b'x'; heavy]).key("k")],
        vec![Message::new("x").key(vec![b'k'; limits.key_bytes + 1])],
        vec![Message::new("x").id("")],
        vec![Message::new("x").id("i".repeat(limits.id_bytes + 1))],
        vec![Message::new("x").header("", "v")],
        vec![Message::new("x").header("a b", "v")],
        vec![Message::new("x").header("ä", "v")],
        vec![Message::new("x").header("h".repeat(129), "v")],
        vec![many_headers],
        vec![Message::new("x"); limits.publish_messages + 1],
        vec![Message::new(vec![b'x'; heavy]); few],
    ] {
        let result = stand.bus().publish(&name("t"), bad).await;
        fails(result, Kind::InvalidArgument, "bus.message_invalid");
    }
    assert_eq!(stand.bus().topic(&name("t")).await.unwrap().bytes, 0);
}

async fn limits_can_be_reached(stand: Stand) {
    let limits = stand.limits();
    stand.topic("t").await;
    assert_eq!(stand.publish("t", vec![]).await, []);
    let heavy = Bytes::from(vec![b'x'; usize::try_from(limits.message_bytes).unwrap()]);
    stand.publish("t", vec![Message::new(heavy.clone())]).await;
    let many = vec![Message::new("x"); limits.publish_messages];
    assert_eq!(
        stand.publish("t", many).await.len(),
        limits.publish_messages
    );
    let consumer = stand.join("t", "g").await;
    let first = &next(&consumer, 1).await[0];
    assert!(first.record.message.payload == heavy);
    assert_eq!(
        stand.lag("t", "g").await,
        1 + limits.publish_messages as u64
    );
}

async fn a_bad_one_stops_all(stand: Stand) {
    stand.topic("t").await;
    let bad = vec![message("1"), message("2").header("a b", ""), message("3")];
    let result = stand.bus().publish(&name("t"), bad).await;
    fails(result, Kind::InvalidArgument, "bus.message_invalid");
    stand.say("t", &["4"]).await;
    let consumer = stand.join("t", "g").await;
    assert_eq!(texts(&next(&consumer, 5).await), ["4"]);
}

fn remembering(window: Duration) -> TopicConfig {
    TopicConfig {
        deduplication: window,
        ..keeping()
    }
}

async fn ids_are_published_once(stand: Stand) {
    stand
        .topic_of("t", remembering(Duration::from_secs(60)))
        .await;
    let with = |text: &str, id: &str| message(text).id(id);
    let first = stand
        .publish("t", vec![with("1", "a"), with("2", "b"), with("3", "a")])
        .await;
    assert!(matches!(
        first[..],
        [Published::At(_), Published::At(_), Published::Duplicate]
    ));
    let again = stand
        .publish("t", vec![with("4", "b"), with("5", "c"), message("6")])
        .await;
    assert!(matches!(
        again[..],
        [Published::Duplicate, Published::At(_), Published::At(_)]
    ));
    // Without an id everything is new.
    stand.say("t", &["6"]).await;
    let consumer = stand.join("t", "g").await;
    assert_eq!(texts(&next(&consumer, 9).await), ["1", "2", "5", "6", "6"]);
}

async fn ids_are_forgotten(stand: Stand) {
    let window = stand.unit() * 2;
    stand.topic_of("t", remembering(window)).await;
    stand.publish("t", vec![message("1").id("a")]).await;
    stand.pass(stand.unit()).await;
    let within = stand.publish("t", vec![message("2").id("a")]).await;
    assert_eq!(within, [Published::Duplicate]);
    stand.pass(stand.unit() * 2).await;
    position(stand.publish("t", vec![message("3").id("a")]).await[0]);
    // A topic without a window remembers nothing.
    stand.topic("u").await;
    for _ in 0..2 {
        position(stand.publish("u", vec![message("x").id("a")]).await[0]);
    }
}

async fn topics_have_ids_of_their_own(stand: Stand) {
    for topic in ["t", "u"] {
        stand
            .topic_of(topic, remembering(Duration::from_secs(60)))
            .await;
        position(stand.publish(topic, vec![message("x").id("a")]).await[0]);
    }
    let consumer = stand.join("u", "g").await;
    assert_eq!(text(&next(&consumer, 1).await[0].record.message), "x");
}
