use sinew_core::Kind;

use super::{
    Case, case,
    stand::{Stand, ack, done, fails, is_stale, keeping, name, next, nothing, one, texts},
};
use crate::bus::{Position, Redeliver, Seek, TopicConfig};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            groups_go_back,
            Replay,
            "Lets a group go on elsewhere, back or forward."
        ),
        case!(
            groups_go_forward,
            Replay,
            "All partitions from the next message that enters."
        ),
        case!(
            groups_go_to_a_time,
            Replay,
            "All partitions from the first message that entered at this time or later."
        ),
        case!(
            one_partition_goes_to_an_offset,
            Replay,
            "One partition from this offset."
        ),
        case!(
            seeking_ends_deliveries,
            Replay,
            "What is with consumers is no longer theirs, and all counts of deliveries begin anew."
        ),
        case!(seeking_keeps_the_order, Replay, "Order per key."),
        case!(
            places_that_are_not_held,
            Replay,
            "`bus.position_unknown` for a place that the topic does not hold and that is not its end."
        ),
        case!(
            reading_needs_no_group,
            Replay,
            "At most `most` messages of a partition, from this place on, without a group."
        ),
    ]
}

async fn seek(stand: &Stand, seek: Seek) {
    stand
        .bus()
        .seek(&name("t"), &name("g"), seek)
        .await
        .unwrap();
}

async fn groups_go_back(stand: Stand) {
    stand
        .topic_of(
            "t",
            TopicConfig {
                partitions: 2,
                ..keeping()
            },
        )
        .await;
    let said = ["a:1", "b:1", "c:1", "d:1"];
    stand.say("t", &said).await;
    let consumer = stand.join("t", "g").await;
    for _ in 0..3 {
        let found = next(&consumer, 9).await;
        let mut texts = texts(&found);
        texts.sort();
        assert_eq!(texts, said);
        ack(&consumer, &found).await;
        nothing(&consumer).await;
        seek(&stand, Seek::Earliest).await;
        assert_eq!(stand.lag("t", "g").await, 4);
    }
    // The other groups stay where they are.
    let other = stand.join("t", "h").await;
    ack(&other, &next(&other, 9).await).await;
    seek(&stand, Seek::Earliest).await;
    nothing(&other).await;
}

async fn groups_go_forward(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1", "2"]).await;
    let consumer = stand.join("t", "g").await;
    one(&consumer).await;
    seek(&stand, Seek::Latest).await;
    assert_eq!(stand.lag("t", "g").await, 0);
    nothing(&consumer).await;
    stand.say("t", &["3"]).await;
    assert_eq!(done(&consumer).await, "3");
    assert_eq!(stand.group("t", "g").await.lost, 0);
}

async fn groups_go_to_a_time(stand: Stand) {
    stand
        .topic_of(
            "t",
            TopicConfig {
                partitions: 2,
                ..keeping()
            },
        )
        .await;
    stand.say("t", &["a:1", "b:1", "c:1"]).await;
    stand.pass(stand.unit()).await;
    let time = stand.now();
    stand.say("t", &["a:2", "b:2", "c:2"]).await;
    let consumer = stand.join("t", "g").await;
    seek(&stand, Seek::Time(time)).await;
    let mut found = texts(&next(&consumer, 9).await);
    found.sort();
    assert_eq!(found, ["a:2", "b:2", "c:2"]);
    seek(&stand, Seek::Time(stand.now().plus(stand.unit()))).await;
    nothing(&consumer).await;
}

async fn one_partition_goes_to_an_offset(stand: Stand) {
    stand
        .topic_of(
            "t",
            TopicConfig {
                partitions: 2,
                ..keeping()
            },
        )
        .await;
    let texts_of: Vec<String> = (0..12).map(|n| format!("k{n}:v")).collect();
    let said: Vec<&str> = texts_of.iter().map(String::as_str).collect();
    let places = stand.say_at("t", &said).await;
    let consumer = stand.join("t", "g").await;
    ack(&consumer, &next(&consumer, 12).await).await;
    // The second message of its partition.
    let place = *places.iter().find(|place| place.offset == 1).unwrap();
    seek(&stand, Seek::To(place)).await;
    let mut expected: Vec<&str> = said
        .iter()
        .zip(&places)
        .filter(|(_, at)| at.partition == place.partition && at.offset >= 1)
        .map(|(text, _)| *text)
        .collect();
    let mut found = texts(&next(&consumer, 12).await);
    found.sort();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

async fn seeking_ends_deliveries(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["1", "2"]).await;
    let consumer = stand.join("t", "g").await;
    let found = next(&consumer, 2).await;
    consumer
        .nack(&found[1].receipt, Redeliver::After(stand.unit() * 50))
        .await
        .unwrap();
    seek(&stand, Seek::Earliest).await;
    is_stale(consumer.ack(&[found[0].receipt]).await);
    let again = next(&consumer, 2).await;
    assert_eq!(texts(&again), ["1", "2"]);
    assert!(again.iter().all(|delivery| delivery.attempt == 1));
    assert!(
        again
            .iter()
            .zip(&found)
            .all(|(new, old)| new.receipt != old.receipt)
    );
    ack(&consumer, &again).await;
    assert_eq!(stand.lag("t", "g").await, 0);
}

async fn seeking_keeps_the_order(stand: Stand) {
    stand.topic("t").await;
    stand.say("t", &["a:1", "a:2", "a:3"]).await;
    let consumer = stand.join("t", "g").await;
    assert_eq!(done(&consumer).await, "a:1");
    one(&consumer).await;
    seek(
        &stand,
        Seek::To(Position {
            partition: 0,
            offset: 0,
        }),
    )
    .await;
    for expected in ["a:1", "a:2", "a:3"] {
        assert_eq!(done(&consumer).await, expected);
    }
}

async fn places_that_are_not_held(stand: Stand) {
    let (bus, t, g) = (stand.bus(), name("t"), name("g"));
    stand.topic("t").await;
    stand.say("t", &["1", "2"]).await;
    let consumer = stand.join("t", "g").await;
    for (partition, offset) in [(0, 3), (0, u64::MAX), (1, 0), (u32::MAX, 0)] {
        let place = Position { partition, offset };
        let unknown = |result| fails(result, Kind::OutOfRange, "bus.position_unknown");
        unknown(bus.seek(&t, &g, Seek::To(place)).await);
        unknown(bus.read(&t, place, 1).await.map(drop));
    }
    let end = Position {
        partition: 0,
        offset: 2,
    };
    assert_eq!(bus.read(&t, end, 1).await.unwrap(), []);
    assert_eq!(stand.lag("t", "g").await, 2);
    seek(&stand, Seek::To(end)).await;
    nothing(&consumer).await;
    let missing = bus.seek(&t, &name("none"), Seek::Earliest).await;
    fails(missing, Kind::NotFound, "bus.group_unknown");
}

async fn reading_needs_no_group(stand: Stand) {
    stand.topic("t").await;
    let texts: Vec<String> = (0..25).map(|n| format!("k{}:v{n}", n % 3)).collect();
    let places = stand
        .say_at("t", &texts.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    assert_eq!(stand.read("t", 0).await, texts);
    let records = stand.bus().read(&name("t"), places[5], 3).await.unwrap();
    assert_eq!(records.len(), 3);
    assert!(
        records
            .iter()
            .zip(&places[5..])
            .all(|(record, place)| record.position == *place)
    );
    assert_eq!(
        stand
            .bus()
            .read(&name("t"), places[0], 0)
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(stand.bus().groups(&name("t")).await.unwrap(), []);
}
