use super::{
    Case, case,
    stand::{Stand, key},
};
use crate::cache::Lifetime;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            the_weight_is_bounded,
            WeighsItems,
            "All items together never weigh more than the capacity."
        ),
        case!(
            one_item_may_take_all_the_room,
            KeepsAndWeighs,
            "An item that could never fit is refused; every other one fits."
        ),
        case!(
            nothing_goes_while_there_is_room,
            ForgetsOnlyForRoom,
            "Keeps everything else."
        ),
        case!(
            items_are_counted,
            KeepsAndWeighs,
            "Items now, and items that went to make room."
        ),
        case!(
            a_growing_item_is_paid_for,
            WeighsItems,
            "Whoever sets an item pays for the eviction."
        ),
        case!(
            expired_items_give_their_room_back,
            KeepsAndWeighs,
            "An item is gone when its lifetime has passed."
        ),
        case!(
            an_evicted_item_is_absent,
            Nothing,
            "To a caller it looks exactly like a deletion."
        ),
    ]
}

async fn the_weight_is_bounded(stand: Stand) {
    let small = stand.another(true).await;
    let capacity = small.statistics().await.capacity;
    let mut written = 0;
    let mut size = 1;
    while written < capacity * 3 {
        // Sizes from a few bytes to some 50 KiB, in no order.
        size = size * 31 % 50_021;
        let name = format!("k{}", written % 9_973);
        small.set(&name, &"v".repeat(size)).await;
        written += small.limits().weight(name.as_bytes(), &vec![0; size]);
        let statistics = small.statistics().await;
        assert!(statistics.weight <= capacity, "{statistics:?}");
    }
    let statistics = small.statistics().await;
    assert!(
        statistics.evicted > 0 && statistics.items > 0,
        "{statistics:?}"
    );
    small.cache().clear().await.unwrap();
    let statistics = small.statistics().await;
    assert_eq!((statistics.items, statistics.weight), (0, 0));
}

async fn one_item_may_take_all_the_room(stand: Stand) {
    let small = stand.another(true).await;
    for n in 0..200 {
        small.set(&format!("k{n}"), &"v".repeat(1000)).await;
    }
    let limits = small.limits();
    let (name, value) = ("k".repeat(limits.key_bytes), "v".repeat(limits.value_bytes));
    small.set(&name, &value).await;
    assert_eq!(small.value(&name).await, Some(value));
    let statistics = small.statistics().await;
    assert!(statistics.weight <= statistics.capacity);
}

async fn nothing_goes_while_there_is_room(stand: Stand) {
    fill_half(&stand).await;
}

async fn items_are_counted(stand: Stand) {
    let items = fill_half(&stand).await;
    let statistics = stand.statistics().await;
    assert_eq!((statistics.items, statistics.evicted), (items, 0));
}

/// Fills half of the room, but not too much of it, and checks that everything stays.
async fn fill_half(stand: &Stand) -> u64 {
    let capacity = stand.statistics().await.capacity;
    let items = (capacity / 2 / stand.limits().weight(b"k00000", &[0; 100])).min(20_000);
    for n in 0..items {
        stand.set(&format!("k{n:05}"), &"v".repeat(100)).await;
    }
    for n in 0..items {
        assert!(
            stand.get(&format!("k{n:05}")).await.is_some(),
            "{n} of {items}"
        );
    }
    items
}

async fn a_growing_item_is_paid_for(stand: Stand) {
    let small = stand.another(true).await;
    let capacity = small.statistics().await.capacity;
    let step = small.limits().value_bytes / 16;
    for n in 1..=16 {
        for name in ["a", "b", "c"] {
            small.set(name, &"v".repeat(step * n)).await;
            let statistics = small.statistics().await;
            assert!(statistics.weight <= capacity, "{statistics:?}");
        }
    }
    // A replaced item's own room is free for its successor.
    let version = small.get("c").await.map(|item| item.version);
    if let Some(version) = version {
        let _ = small.swap("c", version, "small").await;
    }
    assert!(small.statistics().await.weight <= capacity);
}

async fn expired_items_give_their_room_back(stand: Stand) {
    let small = stand.another(true).await;
    let size = small.limits().value_bytes / 20;
    for n in 0..5 {
        let value = "v".repeat(size);
        small
            .set_for(&format!("old{n}"), &value, Lifetime::For(small.short()))
            .await;
    }
    small.set("kept", &"v".repeat(size)).await;
    small.pass_short().await;
    for n in 0..17 {
        small.set(&format!("new{n}"), &"v".repeat(size)).await;
    }
    // The dead made room before any of the living had to.
    assert!(small.get("kept").await.is_some());
    let statistics = small.statistics().await;
    assert!(
        statistics.evicted == 0 && statistics.expired >= 3,
        "{statistics:?}"
    );
}

async fn an_evicted_item_is_absent(stand: Stand) {
    let small = stand.another(true).await;
    let size = small.limits().value_bytes / 4;
    let count = 5 * small.statistics().await.capacity / size as u64;
    for n in 0..count {
        small.set(&format!("k{n}"), &"v".repeat(size)).await;
    }
    let mut gone = None;
    for n in 0..count {
        let name = format!("k{n}");
        if small.get(&name).await.is_none() {
            gone = Some(name);
        }
    }
    let gone = gone.expect("some had to go");
    assert!(!small.delete(&gone).await);
    assert!(!small.touch(&gone, Lifetime::Unlimited).await);
    assert_eq!(small.cache().get_many(&[key(&gone)]).await.unwrap(), [None]);
    assert!(small.add(&gone, "again").await.is_some());
}
