use std::time::Duration;

use sinew_core::Kind;

use super::{
    Case, case,
    stand::{Stand, fails, key},
};
use crate::cache::{Increment, Lifetime, Swap, Version};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            items_go_when_their_lifetime_has_passed,
            Nothing,
            "An item is gone when its lifetime has passed."
        ),
        case!(
            items_stay_until_then,
            ForgetsOnlyForRoom,
            "An engine keeps everything else."
        ),
        case!(
            a_write_sets_the_lifetime_anew,
            ForgetsOnlyForRoom,
            "Sets the item, lifetime included."
        ),
        case!(
            touching_changes_the_lifetime,
            ForgetsOnlyForRoom,
            "Changes the lifetime of an item and keeps its value and version."
        ),
        case!(
            what_has_expired_is_absent_to_all,
            Nothing,
            "An item is gone when its lifetime has passed."
        ),
        case!(
            counters_keep_their_lifetime,
            ForgetsOnlyForRoom,
            "A counter that is there keeps what is left."
        ),
        case!(
            lifetimes_have_limits,
            Nothing,
            "A lifetime of zero, or one longer than the maximum, is `cache.lifetime_invalid`."
        ),
    ]
}

async fn items_go_when_their_lifetime_has_passed(stand: Stand) {
    let short = Lifetime::For(stand.short());
    let cache = stand.cache();
    stand.set_for("set", "1", short).await;
    cache
        .set_many(vec![(key("many"), key("1"))], short)
        .await
        .unwrap();
    cache
        .set_if_absent(key("absent"), key("1"), short)
        .await
        .unwrap();
    let version = stand.set("swapped", "1").await;
    let swap = cache
        .compare_and_set(key("swapped"), version, key("2"), short)
        .await
        .unwrap();
    assert!(swap != Swap::Changed);
    stand
        .increment("counted", Increment::by(1).living(short))
        .await
        .unwrap();
    stand.set("touched", "1").await;
    stand.touch("touched", short).await;
    stand.pass_short().await;
    for name in ["set", "many", "absent", "swapped", "counted", "touched"] {
        assert_eq!(stand.get(name).await, None, "{name}");
    }
}

async fn items_stay_until_then(stand: Stand) {
    let long = stand.short() * 20;
    stand.set_for("a", "1", Lifetime::For(long)).await;
    stand.set("b", "1").await;
    stand.pass(stand.short()).await;
    let Lifetime::For(left) = stand.get("a").await.unwrap().left else {
        panic!("it has a lifetime");
    };
    assert!(!left.is_zero() && left <= long);
    if stand.time_is_manual() {
        assert_eq!(left, long - stand.short());
    }
    assert_eq!(stand.get("b").await.unwrap().left, Lifetime::Unlimited);
}

async fn a_write_sets_the_lifetime_anew(stand: Stand) {
    let short = Lifetime::For(stand.short());
    for name in ["set", "swapped", "many"] {
        stand.set_for(name, "1", short).await;
    }
    stand.set("set", "2").await;
    let version = stand.get("swapped").await.unwrap().version;
    assert!(matches!(
        stand.swap("swapped", version, "2").await,
        Swap::Set(_)
    ));
    let many = vec![(key("many"), key("2"))];
    stand
        .cache()
        .set_many(many, Lifetime::Unlimited)
        .await
        .unwrap();
    // And the other way round.
    stand.set("back", "1").await;
    stand.set_for("back", "2", short).await;
    stand.pass_short().await;
    for name in ["set", "swapped", "many"] {
        assert_eq!(stand.value(name).await.as_deref(), Some("2"), "{name}");
    }
    assert_eq!(stand.get("back").await, None);
}

async fn touching_changes_the_lifetime(stand: Stand) {
    let short = Lifetime::For(stand.short());
    let version = stand.set_for("kept", "1", short).await;
    stand.set("cut", "1").await;
    assert!(stand.touch("kept", Lifetime::Unlimited).await);
    assert!(stand.touch("cut", short).await);
    stand.pass_short().await;
    let item = stand.get("kept").await.unwrap();
    assert_eq!((item.version, &item.value[..]), (version, &b"1"[..]));
    assert_eq!(stand.get("cut").await, None);
    assert!(!stand.touch("cut", Lifetime::Unlimited).await);
}

async fn what_has_expired_is_absent_to_all(stand: Stand) {
    let cache = stand.cache();
    let names = [
        "get", "many", "add", "swap", "incr", "touch", "delete", "unset",
    ];
    let mut version = Version(0);
    for name in names {
        version = stand.set_for(name, "7", Lifetime::For(stand.short())).await;
    }
    stand.pass_short().await;
    assert_eq!(stand.get("get").await, None);
    assert_eq!(cache.get_many(&[key("many")]).await.unwrap(), [None]);
    assert!(stand.add("add", "8").await.is_some());
    assert_eq!(stand.swap("swap", version, "8").await, Swap::Absent);
    assert_eq!(stand.increment("incr", Increment::by(1)).await.unwrap(), 1);
    assert!(!stand.touch("touch", Lifetime::Unlimited).await);
    assert!(!stand.delete("delete").await);
    assert!(!cache.compare_and_delete(b"unset", version).await.unwrap());
}

async fn counters_keep_their_lifetime(stand: Stand) {
    let made = Increment::by(1).living(Lifetime::For(stand.short()));
    stand.increment("n", made).await.unwrap();
    let later = Increment::by(1).living(Lifetime::For(stand.short() * 1000));
    assert_eq!(stand.increment("n", later).await.unwrap(), 2);
    stand.set("forever", "1").await;
    stand.increment("forever", made).await.unwrap();
    stand.pass_short().await;
    assert_eq!(stand.get("n").await, None);
    assert_eq!(stand.value("forever").await.as_deref(), Some("2"));
}

async fn lifetimes_have_limits(stand: Stand) {
    let (cache, maximum) = (stand.cache(), stand.limits().lifetime_maximum);
    let invalid = |result: sinew_core::Result<()>| {
        fails(result, Kind::InvalidArgument, "cache.lifetime_invalid");
    };
    for bad in [
        Duration::ZERO,
        maximum + Duration::from_secs(1),
        Duration::MAX,
    ] {
        let bad = Lifetime::For(bad);
        invalid(cache.set(key("a"), key("v"), bad).await.map(drop));
        invalid(cache.set_many(vec![(key("a"), key("v"))], bad).await);
        invalid(cache.set_if_absent(key("a"), key("v"), bad).await.map(drop));
        let swap = cache
            .compare_and_set(key("a"), Version(1), key("v"), bad)
            .await;
        invalid(swap.map(drop));
        invalid(
            cache
                .increment(key("a"), Increment::by(1).living(bad))
                .await
                .map(drop),
        );
        invalid(cache.touch(b"a", bad).await.map(drop));
    }
    assert_eq!(stand.get("a").await, None);
    stand.set_for("a", "1", Lifetime::For(maximum)).await;
}
