use std::time::Duration;

use sinew_core::Kind;

use super::{
    Case, case,
    stand::{Stand, done, fails, keeping, message, name, nothing, position},
};
use crate::bus::{Published, TopicConfig};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            due_messages_enter_in_time,
            Delay,
            "A message with a due time enters the topic when its time has come, never before."
        ),
        case!(
            due_times_decide_the_order,
            Delay,
            "Has its place in the log from then on."
        ),
        case!(
            nobody_sees_what_is_not_due,
            Delay,
            "Until then no group and no reader sees it."
        ),
        case!(
            what_is_past_enters_at_once,
            Delay,
            "At once when absent or past."
        ),
        case!(
            ids_of_scheduled_messages_count,
            Delay,
            "A message whose id was published to the topic is not written again."
        ),
        case!(
            what_cannot_be_delayed_is_refused,
            NoDelay,
            "What it cannot do is answered with `bus.unsupported`."
        ),
    ]
}

async fn due_messages_enter_in_time(stand: Stand) {
    stand.topic("t").await;
    let due = stand.now().plus(stand.unit() * 3);
    assert_eq!(
        stand.publish("t", vec![message("later").due(due)]).await,
        [Published::Scheduled]
    );
    let consumer = stand.join("t", "g").await;
    nothing(&consumer).await;
    stand.pass(stand.unit() * 2).await;
    nothing(&consumer).await;
    stand.pass(stand.unit()).await;
    assert_eq!(done(&consumer).await, "later");
    let record = &stand.bus().read(&name("t"), first(), 1).await.unwrap()[0];
    assert!(
        record.published >= due,
        "{:?} before {due:?}",
        record.published
    );
    assert_eq!(record.message.due, None);
}

fn first() -> crate::bus::Position {
    crate::bus::Position {
        partition: 0,
        offset: 0,
    }
}

async fn due_times_decide_the_order(stand: Stand) {
    stand.topic("t").await;
    let due = |units| stand.now().plus(stand.unit() * units);
    let messages = vec![
        message("k:third").due(due(3)),
        message("k:first").due(due(1)),
        message("k:now"),
        message("k:second").due(due(2)),
        message("k:also third").due(due(3)),
    ];
    stand.publish("t", messages).await;
    let consumer = stand.join("t", "g").await;
    assert_eq!(done(&consumer).await, "k:now");
    for expected in ["k:first", "k:second"] {
        nothing(&consumer).await;
        stand.pass(stand.unit()).await;
        assert_eq!(done(&consumer).await, expected);
    }
    stand.pass(stand.unit()).await;
    assert_eq!(done(&consumer).await, "k:third");
    assert_eq!(done(&consumer).await, "k:also third");
}

async fn nobody_sees_what_is_not_due(stand: Stand) {
    stand.topic("t").await;
    let due = stand.now().plus(stand.unit() * 2);
    stand.publish("t", vec![message("later").due(due)]).await;
    let state = stand.bus().topic(&name("t")).await.unwrap();
    assert_eq!((state.partitions[0].clone(), state.scheduled), (0..0, 1));
    let _consumer = stand.join("t", "g").await;
    assert_eq!(stand.lag("t", "g").await, 0);
    assert_eq!(stand.read("t", 0).await, Vec::<String>::new());
    stand.pass(stand.unit() * 2).await;
    // It enters by itself, though nobody waits.
    for _ in 0..200 {
        if stand.bus().topic(&name("t")).await.unwrap().scheduled == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stand.bus().topic(&name("t")).await.unwrap().scheduled, 0);
    assert_eq!(stand.lag("t", "g").await, 1);
    assert_eq!(stand.read("t", 0).await, ["later"]);
}

async fn what_is_past_enters_at_once(stand: Stand) {
    stand.topic("t").await;
    let past = sinew_core::Timestamp(1);
    position(stand.publish("t", vec![message("past").due(past)]).await[0]);
    let consumer = stand.join("t", "g").await;
    assert_eq!(done(&consumer).await, "past");
}

async fn ids_of_scheduled_messages_count(stand: Stand) {
    if !stand.bus().capability().deduplication {
        return;
    }
    let config = TopicConfig {
        deduplication: Duration::from_secs(3600),
        ..keeping()
    };
    stand.topic_of("t", config).await;
    let due = stand.now().plus(stand.unit());
    let scheduled = message("1").id("a").due(due);
    assert_eq!(
        stand.publish("t", vec![scheduled.clone()]).await,
        [Published::Scheduled]
    );
    let again = vec![scheduled, message("2").id("a")];
    assert_eq!(stand.publish("t", again).await, [Published::Duplicate; 2]);
    stand.pass(stand.unit()).await;
    let consumer = stand.join("t", "g").await;
    assert_eq!(done(&consumer).await, "1");
    nothing(&consumer).await;
    let late = stand.publish("t", vec![message("3").id("a")]).await;
    assert_eq!(late, [Published::Duplicate]);
}

async fn what_cannot_be_delayed_is_refused(stand: Stand) {
    stand.topic("t").await;
    let due = stand.now().plus(Duration::from_secs(60));
    let result = stand
        .bus()
        .publish(&name("t"), vec![message("x").due(due)])
        .await;
    fails(result, Kind::FailedPrecondition, "bus.unsupported");
}
