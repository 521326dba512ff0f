use sinew_core::Kind;

use super::{
    Case, case,
    stand::{Stand, fails, key, text},
};
use crate::cache::{Increment, Key, Lifetime, Swap, Version};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            an_empty_cache_has_nothing,
            Nothing,
            "The item of a key, if there is one."
        ),
        case!(
            what_was_set_is_there,
            ForgetsOnlyForRoom,
            "Sets the item, whether there is one or not."
        ),
        case!(
            any_bytes_are_well,
            ForgetsOnlyForRoom,
            "A key: 1 to `key_bytes` bytes."
        ),
        case!(
            each_write_is_a_new_version,
            Nothing,
            "Every write of a value gives the item a new version."
        ),
        case!(
            versions_are_not_used_twice,
            Nothing,
            "A version is never used twice for a key, through deletion too."
        ),
        case!(
            set_if_absent,
            ForgetsOnlyForRoom,
            "Sets the item if there is none."
        ),
        case!(
            compare_and_set,
            ForgetsOnlyForRoom,
            "Sets the item if it is there in this version."
        ),
        case!(
            compare_and_delete,
            ForgetsOnlyForRoom,
            "Deletes the item if it is there in this version."
        ),
        case!(
            counters,
            ForgetsOnlyForRoom,
            "Adds to a counter and answers the result."
        ),
        case!(
            counters_have_bounds,
            ForgetsOnlyForRoom,
            "`cache.counter_bounds` when the result would pass the bounds or overflow."
        ),
        case!(
            only_numbers_are_counters,
            ForgetsOnlyForRoom,
            "`cache.not_a_number` when the value is something else."
        ),
        case!(
            many_at_once,
            ForgetsOnlyForRoom,
            "The items of many keys, in the order of the keys."
        ),
        case!(
            clear_takes_all,
            Nothing,
            "Deletes everything that was there when it began."
        ),
        case!(
            cleared_items_weigh_nothing,
            WeighsItems,
            "What those items weigh."
        ),
        case!(
            limits_hold,
            Nothing,
            "Beyond the limits is InvalidArgument `cache.item_invalid`."
        ),
        case!(
            limits_can_be_reached,
            ForgetsOnlyForRoom,
            "The longest key, the longest value, the most keys."
        ),
        case!(
            hits_and_misses_are_counted,
            ForgetsOnlyForRoom,
            "Keys that were asked for and found, and those that were not."
        ),
        case!(
            items_are_weighed,
            KeepsAndWeighs,
            "Every item weighs its key, its value and the overhead."
        ),
    ]
}

async fn an_empty_cache_has_nothing(stand: Stand) {
    assert_eq!(stand.get("a").await, None);
    assert!(!stand.delete("a").await);
    assert!(!stand.touch("a", Lifetime::Unlimited).await);
    assert_eq!(stand.swap("a", Version(1), "x").await, Swap::Absent);
    assert!(
        !stand
            .cache()
            .compare_and_delete(b"a", Version(1))
            .await
            .unwrap()
    );
    assert_eq!(stand.cache().get_many(&[]).await.unwrap(), []);
    assert_eq!(stand.cache().delete_many(&[]).await.unwrap(), 0);
    stand
        .cache()
        .set_many(vec![], Lifetime::Unlimited)
        .await
        .unwrap();
    stand.cache().clear().await.unwrap();
    assert_eq!(stand.get("a").await, None);
}

async fn what_was_set_is_there(stand: Stand) {
    let version = stand.set("a", "1").await;
    let item = stand.get("a").await.unwrap();
    assert_eq!((text(&item.value).as_str(), item.version), ("1", version));
    assert_eq!(item.left, Lifetime::Unlimited);
    let version = stand.set("a", "2").await;
    assert_eq!(stand.get("a").await.unwrap().version, version);
    assert_eq!(stand.value("a").await.as_deref(), Some("2"));
    stand.set("a", "").await;
    assert_eq!(stand.value("a").await.as_deref(), Some(""));
    assert_eq!(stand.value("b").await, None);
    assert!(stand.delete("a").await);
    assert!(!stand.delete("a").await);
    assert_eq!(stand.value("a").await, None);
}

async fn any_bytes_are_well(stand: Stand) {
    let cache = stand.cache();
    let every: Vec<u8> = (0..=255).collect();
    let keys = [
        &b"\0"[..],
        b"\r\n",
        b" ",
        b"\xff\xfe",
        &every[..128],
        &every[128..],
    ];
    for bytes in keys {
        let value = [bytes, &every].concat();
        cache
            .set(
                Key::copy_from_slice(bytes),
                value.into(),
                Lifetime::Unlimited,
            )
            .await
            .unwrap();
    }
    for bytes in keys {
        let item = cache.get(bytes).await.unwrap().unwrap();
        assert_eq!(item.value, [bytes, &every].concat(), "{bytes:?}");
    }
}

async fn each_write_is_a_new_version(stand: Stand) {
    let mut seen = vec![stand.set("a", "1").await, stand.set("a", "1").await];
    if let Swap::Set(version) = stand.swap("a", seen[1], "1").await {
        seen.push(version);
    }
    stand.increment("a", Increment::by(0)).await.unwrap();
    seen.extend(stand.get("a").await.map(|item| item.version));
    let many = vec![(key("a"), key("1")), (key("a"), key("1"))];
    stand
        .cache()
        .set_many(many, Lifetime::Unlimited)
        .await
        .unwrap();
    seen.extend(stand.get("a").await.map(|item| item.version));
    for (index, version) in seen.iter().enumerate() {
        assert!(!seen[..index].contains(version), "{seen:?}");
    }
    // Reading and touching leave it.
    let before = stand.get("a").await.map(|item| item.version);
    stand.touch("a", Lifetime::For(stand.short() * 100)).await;
    let after = stand.get("a").await.map(|item| item.version);
    assert!(after.is_none() || after == before);
}

async fn versions_are_not_used_twice(stand: Stand) {
    let mut seen = Vec::new();
    for _ in 0..50 {
        let version = stand.set("a", "1").await;
        assert!(!seen.contains(&version));
        seen.push(version);
        stand.delete("a").await;
        for old in &seen {
            assert_eq!(stand.swap("a", *old, "2").await, Swap::Absent);
        }
    }
    stand.cache().clear().await.unwrap();
    assert!(!seen.contains(&stand.set("a", "1").await));
}

async fn set_if_absent(stand: Stand) {
    let version = stand.add("a", "1").await;
    assert_eq!(stand.get("a").await.map(|item| item.version), version);
    assert!(version.is_some());
    assert_eq!(stand.add("a", "2").await, None);
    assert_eq!(stand.value("a").await.as_deref(), Some("1"));
    stand.delete("a").await;
    assert!(stand.add("a", "3").await.is_some());
    assert_eq!(stand.value("a").await.as_deref(), Some("3"));
}

async fn compare_and_set(stand: Stand) {
    let first = stand.set("a", "1").await;
    let Swap::Set(second) = stand.swap("a", first, "2").await else {
        panic!("the version was right");
    };
    assert_eq!(stand.swap("a", first, "3").await, Swap::Changed);
    assert_eq!(stand.value("a").await.as_deref(), Some("2"));
    assert_eq!(stand.get("a").await.unwrap().version, second);
    stand.delete("a").await;
    assert_eq!(stand.swap("a", second, "3").await, Swap::Absent);
    assert_eq!(stand.value("a").await, None);
    // The same value again is another write.
    stand.set("a", "2").await;
    assert_eq!(stand.swap("a", second, "3").await, Swap::Changed);
}

async fn compare_and_delete(stand: Stand) {
    let cache = stand.cache();
    let first = stand.set("a", "1").await;
    let second = stand.set("a", "1").await;
    assert!(!cache.compare_and_delete(b"a", first).await.unwrap());
    assert_eq!(stand.value("a").await.as_deref(), Some("1"));
    assert!(cache.compare_and_delete(b"a", second).await.unwrap());
    assert!(!cache.compare_and_delete(b"a", second).await.unwrap());
    assert_eq!(stand.value("a").await, None);
}

async fn counters(stand: Stand) {
    for (by, expected) in [
        (5, 5),
        (-7, -2),
        (0, -2),
        (2, 0),
        (1_000_000_007, 1_000_000_007),
    ] {
        assert_eq!(
            stand.increment("n", Increment::by(by)).await.unwrap(),
            expected
        );
        assert_eq!(stand.value("n").await, Some(expected.to_string()));
    }
    assert_eq!(
        stand
            .increment("m", Increment::by(-1).from(10))
            .await
            .unwrap(),
        9
    );
    // It begins where it is, not where it might have begun.
    assert_eq!(
        stand
            .increment("m", Increment::by(-1).from(10))
            .await
            .unwrap(),
        8
    );
    stand.set("set", "41").await;
    assert_eq!(stand.increment("set", Increment::by(1)).await.unwrap(), 42);
    stand.delete("set").await;
    assert_eq!(stand.increment("set", Increment::by(1)).await.unwrap(), 1);
}

async fn counters_have_bounds(stand: Stand) {
    let out = |result| fails(result, Kind::OutOfRange, "cache.counter_bounds");
    let few = Increment::by(1).within(0, 3);
    for expected in 1..=3 {
        assert_eq!(stand.increment("n", few).await.unwrap(), expected);
    }
    let before = stand.get("n").await.unwrap();
    out(stand.increment("n", few).await);
    assert_eq!(stand.get("n").await.unwrap(), before);
    out(stand.increment("n", Increment::by(-4).within(0, 3)).await);
    assert_eq!(
        stand
            .increment("n", Increment::by(-3).within(0, 3))
            .await
            .unwrap(),
        0
    );
    // What would be out of bounds at once is not made.
    out(stand.increment("new", Increment::by(1).within(5, 6)).await);
    assert_eq!(stand.get("new").await, None);
    for (start, by) in [
        (i64::MAX, 1),
        (i64::MIN, -1),
        (i64::MAX - 1, i64::MAX),
        (-2, i64::MIN),
    ] {
        stand.set("edge", &start.to_string()).await;
        out(stand.increment("edge", Increment::by(by)).await);
        assert_eq!(stand.value("edge").await, Some(start.to_string()));
    }
    stand.set("edge", &i64::MIN.to_string()).await;
    let sum = stand
        .increment("edge", Increment::by(i64::MAX))
        .await
        .unwrap();
    assert_eq!(sum, -1);
}

async fn only_numbers_are_counters(stand: Stand) {
    for value in ["", "x", "1.5", "1 ", "0x10", "99999999999999999999", "1\n"] {
        let version = stand.set("a", value).await;
        let result = stand.increment("a", Increment::by(1)).await;
        fails(result, Kind::FailedPrecondition, "cache.not_a_number");
        let item = stand.get("a").await.unwrap();
        assert_eq!((text(&item.value).as_str(), item.version), (value, version));
    }
}

async fn many_at_once(stand: Stand) {
    let cache = stand.cache();
    let many = ["a", "b", "c", "b"].map(|name| (key(name), key(&name.repeat(2))));
    cache
        .set_many(many.to_vec(), Lifetime::Unlimited)
        .await
        .unwrap();
    stand.set("b", "other").await;
    let names = ["c", "none", "b", "a", "c"].map(key);
    let items = cache.get_many(&names).await.unwrap();
    let values: Vec<_> = items
        .iter()
        .map(|item| item.as_ref().map(|item| text(&item.value)))
        .collect();
    let expected = [Some("cc"), None, Some("other"), Some("aa"), Some("cc")];
    assert_eq!(values, expected.map(|value| value.map(str::to_owned)));
    assert_eq!(
        cache
            .delete_many(&["a", "none", "c", "a"].map(key))
            .await
            .unwrap(),
        2
    );
    assert_eq!(
        cache.get_many(&["a", "c"].map(key)).await.unwrap(),
        [None, None]
    );
    assert_eq!(stand.value("b").await.as_deref(), Some("other"));
    // The last of a repeated key stays.
    let twice = vec![(key("t"), key("1")), (key("t"), key("2"))];
    cache.set_many(twice, Lifetime::Unlimited).await.unwrap();
    assert_eq!(stand.value("t").await.as_deref(), Some("2"));
}

async fn clear_takes_all(stand: Stand) {
    for n in 0..100 {
        stand.set(&format!("k{n}"), "v").await;
    }
    stand.cache().clear().await.unwrap();
    for n in 0..100 {
        assert_eq!(stand.get(&format!("k{n}")).await, None);
    }
    stand.set("k1", "v").await;
}

async fn cleared_items_weigh_nothing(stand: Stand) {
    for n in 0..100 {
        stand.set(&format!("k{n}"), "v").await;
    }
    stand.cache().clear().await.unwrap();
    let statistics = stand.statistics().await;
    assert_eq!((statistics.items, statistics.weight), (0, 0));
}

async fn limits_hold(stand: Stand) {
    let (cache, limits) = (stand.cache(), stand.limits());
    let invalid = |result: sinew_core::Result<()>| {
        fails(result, Kind::InvalidArgument, "cache.item_invalid");
    };
    let forever = Lifetime::Unlimited;
    for bad in [Key::new(), Key::from(vec![b'k'; limits.key_bytes + 1])] {
        invalid(cache.get(&bad).await.map(drop));
        invalid(cache.get_many(&[key("a"), bad.clone()]).await.map(drop));
        invalid(cache.set(bad.clone(), key("v"), forever).await.map(drop));
        invalid(
            cache
                .set_if_absent(bad.clone(), key("v"), forever)
                .await
                .map(drop),
        );
        let swap = cache
            .compare_and_set(bad.clone(), Version(1), key("v"), forever)
            .await;
        invalid(swap.map(drop));
        invalid(
            cache
                .increment(bad.clone(), Increment::by(1))
                .await
                .map(drop),
        );
        invalid(cache.touch(&bad, forever).await.map(drop));
        invalid(cache.delete(&bad).await.map(drop));
        invalid(cache.compare_and_delete(&bad, Version(1)).await.map(drop));
        invalid(cache.delete_many(&[key("a"), bad.clone()]).await.map(drop));
        // All are checked before the first is set.
        invalid(
            cache
                .set_many(vec![(key("a"), key("v")), (bad, key("v"))], forever)
                .await,
        );
        assert_eq!(stand.get("a").await, None);
    }
    let long = Key::from(vec![b'v'; limits.value_bytes + 1]);
    invalid(cache.set(key("a"), long.clone(), forever).await.map(drop));
    invalid(
        cache
            .set_if_absent(key("a"), long.clone(), forever)
            .await
            .map(drop),
    );
    invalid(cache.set_many(vec![(key("a"), long)], forever).await);
    let many = vec![key("a"); limits.many + 1];
    invalid(cache.get_many(&many).await.map(drop));
    invalid(cache.delete_many(&many).await.map(drop));
    invalid(
        cache
            .set_many(many.into_iter().map(|k| (k, key("v"))).collect(), forever)
            .await,
    );
    assert_eq!(stand.get("a").await, None);
}

async fn limits_can_be_reached(stand: Stand) {
    let (cache, limits) = (stand.cache(), stand.limits());
    let (long_key, long_value) = ("k".repeat(limits.key_bytes), "v".repeat(limits.value_bytes));
    stand.set(&long_key, &long_value).await;
    assert_eq!(stand.value(&long_key).await, Some(long_value));
    let keys: Vec<Key> = (0..limits.many).map(|n| key(&format!("k{n}"))).collect();
    let items = keys
        .iter()
        .map(|name| (name.clone(), name.clone()))
        .collect();
    cache.set_many(items, Lifetime::Unlimited).await.unwrap();
    let found = cache.get_many(&keys).await.unwrap();
    assert!(found.into_iter().map(|item| item.unwrap().value).eq(keys));
}

async fn hits_and_misses_are_counted(stand: Stand) {
    assert_eq!(stand.statistics().await.hit_ratio(), None);
    stand.set("a", "1").await;
    stand.get("a").await;
    stand.get("b").await;
    stand
        .cache()
        .get_many(&["a", "a", "c"].map(key))
        .await
        .unwrap();
    let statistics = stand.statistics().await;
    assert_eq!((statistics.hits, statistics.misses), (3, 2));
    assert_eq!(statistics.hit_ratio(), Some(0.6));
}

async fn items_are_weighed(stand: Stand) {
    stand.set("a", "1").await;
    let statistics = stand.statistics().await;
    assert_eq!(statistics.items, 1);
    assert_eq!(statistics.weight, stand.limits().weight(b"a", b"1"));
    stand.set("a", "longer").await;
    assert_eq!(
        stand.statistics().await.weight,
        stand.limits().weight(b"a", b"longer")
    );
    stand.delete("a").await;
    let statistics = stand.statistics().await;
    assert_eq!(
        (statistics.items, statistics.weight, statistics.evicted),
        (0, 0, 0)
    );
}
