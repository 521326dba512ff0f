use sinew_core::Kind;

use super::{
    Case, case,
    stand::{Stand, delete, fails, key, next_shown, put},
};
use crate::kv::{Condition, Key, Outcome, Span, Write};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(empty_store, Nothing, "An empty store is at revision 0."),
        case!(
            revisions_grow_by_one,
            Nothing,
            "Every transaction that writes takes exactly one."
        ),
        case!(
            entries_know_their_revision,
            Nothing,
            "`revision` tells the one that last wrote the key."
        ),
        case!(
            a_conflict_writes_nothing,
            Nothing,
            "When it answers Conflict, nothing was written."
        ),
        case!(
            conditions_mean_what_they_say,
            Nothing,
            "What must hold for a transaction to be written."
        ),
        case!(
            the_first_failing_condition_decides,
            Nothing,
            "Conditions are checked in order."
        ),
        case!(
            without_effect_no_revision,
            Nothing,
            "A transaction without effective writes takes no revision."
        ),
        case!(
            an_equal_value_is_an_effect,
            Nothing,
            "Every transaction that writes takes exactly one."
        ),
        case!(
            invalid_transactions,
            Nothing,
            "`kv.transaction_invalid` when a limit is passed, a key is empty or written twice."
        ),
        case!(
            limits_can_be_reached,
            Nothing,
            "The longest key, the longest value, the most operations."
        ),
        case!(
            keys_are_ordered_bytewise,
            Nothing,
            "A key is ordered bytewise."
        ),
        case!(
            spans,
            Nothing,
            "A half-open stretch of the key space, `[start, end)`."
        ),
        case!(
            pages,
            Nothing,
            "A page of at most `limit` entries (capped, at least 1) of the span."
        ),
        case!(missing_keys, Nothing, "The entry of a key, if it exists."),
    ]
}

async fn empty_store(stand: Stand) {
    assert_eq!(stand.revision().await, 0);
    assert_eq!(stand.get("a").await, None);
    let page = stand.kv().range(Span::all(), 10, None).await.unwrap();
    assert_eq!((page.entries.len(), page.revision, page.next), (0, 0, None));
    let page = stand.kv().range(Span::all(), 10, Some(0)).await.unwrap();
    assert_eq!((page.entries.len(), page.revision), (0, 0));
    assert_eq!(stand.commit(vec![]).await, 0);
}

async fn revisions_grow_by_one(stand: Stand) {
    for expected in 1..=20 {
        let writes = vec![put("a", "x"), put(&format!("k{expected}"), "y")];
        assert_eq!(stand.commit(writes).await, expected);
        assert_eq!(stand.revision().await, expected);
    }
}

async fn entries_know_their_revision(stand: Stand) {
    let first = stand.commit(vec![put("a", "1"), put("b", "1")]).await;
    let second = stand.put("b", "2").await;
    let (a, b) = (stand.get("a").await.unwrap(), stand.get("b").await.unwrap());
    assert_eq!(
        (a.revision, &a.value[..], a.lease),
        (first, &b"1"[..], None)
    );
    assert_eq!((b.revision, &b.value[..]), (second, &b"2"[..]));
    stand.delete("b").await;
    let fourth = stand.put("b", "3").await;
    assert_eq!(stand.get("b").await.unwrap().revision, fourth);
}

async fn a_conflict_writes_nothing(stand: Stand) {
    stand.put("a", "1").await;
    let kv = stand.kv();
    let conditions = vec![Condition::Present(key("a")), Condition::Absent(key("a"))];
    let writes = vec![put("a", "2"), put("b", "2")];
    assert_eq!(
        kv.commit(conditions, writes).await.unwrap(),
        Outcome::Conflict(1)
    );
    assert_eq!(stand.revision().await, 1);
    assert_eq!(stand.list(Span::all()).await, ["a=1"]);
}

async fn conditions_mean_what_they_say(stand: Stand) {
    let first = stand.put("a", "1").await;
    let second = stand.put("a", "2").await;
    stand.put("gone", "1").await;
    let last = stand.delete("gone").await;
    let (a, gone, never) = (key("a"), key("gone"), key("never"));
    let table = [
        (Condition::KeyAt(a.clone(), second), true),
        (Condition::KeyAt(a.clone(), first), false),
        (Condition::KeyAt(a.clone(), 0), false),
        (Condition::KeyAt(gone.clone(), last), false),
        (Condition::KeyAt(never.clone(), 0), false),
        (Condition::Absent(a.clone()), false),
        (Condition::Absent(gone.clone()), true),
        (Condition::Absent(never.clone()), true),
        (Condition::Present(a), true),
        (Condition::Present(gone), false),
        (Condition::Present(never), false),
    ];
    for (condition, holds) in table {
        let expected = if holds {
            Outcome::Committed(last)
        } else {
            Outcome::Conflict(0)
        };
        let outcome = stand
            .kv()
            .commit(vec![condition.clone()], vec![])
            .await
            .unwrap();
        assert_eq!(outcome, expected, "{condition:?}");
    }
}

async fn the_first_failing_condition_decides(stand: Stand) {
    let kv = stand.kv();
    let (good, bad) = (Condition::Absent(key("a")), Condition::Present(key("a")));
    let conditions = vec![good.clone(), good, bad.clone(), bad];
    assert_eq!(
        kv.commit(conditions, vec![put("a", "1")]).await.unwrap(),
        Outcome::Conflict(2)
    );
    // Conditions before leases: an unknown lease behind a failing condition is not looked at.
    let unknown = Write::Put {
        key: key("a"),
        value: "1".into(),
        lease: Some(crate::kv::LeaseId(u64::MAX / 2)),
    };
    let outcome = kv
        .commit(vec![Condition::Present(key("a"))], vec![unknown])
        .await
        .unwrap();
    assert_eq!(outcome, Outcome::Conflict(0));
}

async fn without_effect_no_revision(stand: Stand) {
    assert_eq!(stand.commit(vec![]).await, 0);
    assert_eq!(stand.delete("a").await, 0);
    stand.put("a", "1").await;
    let mut watch = stand.watch(Span::all(), 0).await;
    assert_eq!(stand.delete("b").await, 1);
    assert_eq!(stand.commit(vec![delete("b"), put("c", "1")]).await, 2);
    assert_eq!(next_shown(&mut watch, 2).await, ["1: a=1", "2: c=1"]);
}

async fn an_equal_value_is_an_effect(stand: Stand) {
    stand.put("a", "1").await;
    assert_eq!(stand.put("a", "1").await, 2);
    assert_eq!(stand.get("a").await.unwrap().revision, 2);
}

async fn invalid_transactions(stand: Stand) {
    let kv = stand.kv();
    let limits = kv.capability().limits;
    let long_key = "k".repeat(limits.key_bytes + 1);
    let long_value = "v".repeat(limits.value_bytes + 1);
    let many = limits.transaction_operations + 1;
    let half = limits.transaction_bytes / 2 / limits.value_bytes + 1;
    let large_value = "v".repeat(limits.value_bytes);
    let table: Vec<(&str, Vec<Condition>, Vec<Write>)> = vec![
        ("empty key", vec![], vec![put("", "1")]),
        ("empty key deleted", vec![], vec![delete("")]),
        (
            "empty key in a condition",
            vec![Condition::Absent(Key::new())],
            vec![],
        ),
        ("long key", vec![], vec![put(&long_key, "1")]),
        (
            "long key in a condition",
            vec![Condition::Present(key(&long_key))],
            vec![],
        ),
        ("long value", vec![], vec![put("a", &long_value)]),
        (
            "a key twice",
            vec![],
            vec![put("a", "1"), put("b", "1"), put("a", "2")],
        ),
        (
            "a key put and deleted",
            vec![],
            vec![put("a", "1"), delete("a")],
        ),
        (
            "many writes",
            vec![],
            (0..many).map(|n| put(&format!("k{n}"), "")).collect(),
        ),
        (
            "many conditions",
            vec![Condition::Absent(key("a")); many],
            vec![],
        ),
        (
            "many bytes",
            vec![],
            (0..half * 2)
                .map(|n| put(&format!("k{n}"), &large_value))
                .collect(),
        ),
    ];
    for (what, conditions, writes) in table {
        let result = kv.commit(conditions, writes).await;
        println!("{what}");
        fails(result, Kind::InvalidArgument, "kv.transaction_invalid");
    }
    assert_eq!(stand.revision().await, 0);
    assert_eq!(stand.list(Span::all()).await, Vec::<String>::new());
}

async fn limits_can_be_reached(stand: Stand) {
    let limits = stand.kv().capability().limits;
    let (long_key, long_value) = (
        "k".repeat(limits.key_bytes),
        "v".repeat(limits.value_bytes - limits.key_bytes),
    );
    stand.put(&long_key, &long_value).await;
    assert_eq!(
        stand.value(&long_key).await.as_deref(),
        Some(&long_value[..])
    );
    stand.put("large", &"v".repeat(limits.value_bytes)).await;
    assert_eq!(
        stand.get("large").await.unwrap().value.len(),
        limits.value_bytes
    );
    let many = (0..limits.transaction_operations)
        .map(|n| put(&format!("many{n}"), "1"))
        .collect();
    let revision = stand.commit(many).await;
    let found = stand.list(Span::prefix("many")).await;
    assert_eq!((found.len(), revision), (limits.transaction_operations, 3));
}

async fn keys_are_ordered_bytewise(stand: Stand) {
    let keys: [&[u8]; 9] = [
        b"\xff\xff",
        b"b",
        b"a",
        b"a\0",
        b"\0",
        b"a\xff",
        b"ab",
        b"\xff",
        b"\0\0",
    ];
    let writes = keys.iter().map(|key| Write::Put {
        key: Key::copy_from_slice(key),
        value: "".into(),
        lease: None,
    });
    stand.commit(writes.collect()).await;
    let mut sorted = keys.to_vec();
    sorted.sort_unstable();
    let page = stand.kv().range(Span::all(), 100, None).await.unwrap();
    let found: Vec<&[u8]> = page.entries.iter().map(|entry| &entry.key[..]).collect();
    assert_eq!(found, sorted);
    let ends = stand
        .kv()
        .range(Span::prefix(&b"\xff"[..]), 100, None)
        .await
        .unwrap();
    assert_eq!(ends.entries.len(), 2);
}

async fn spans(stand: Stand) {
    let names = ["a", "a/", "a/1", "a/2", "a0", "b"];
    stand
        .commit(names.iter().map(|name| put(name, "")).collect())
        .await;
    let table: [(Span, &[&str]); 9] = [
        (Span::all(), &names),
        (Span::key("a"), &["a"]),
        (Span::key("a/3"), &[]),
        (Span::prefix("a/"), &["a/", "a/1", "a/2"]),
        (Span::prefix(""), &names),
        (Span::between("a/1", "a0"), &["a/1", "a/2"]),
        (Span::between("a/1", "a/1"), &[]),
        (Span::between("b", "a"), &[]),
        (
            Span {
                start: key("a0"),
                end: None,
            },
            &["a0", "b"],
        ),
    ];
    for (span, expected) in table {
        let expected: Vec<String> = expected.iter().map(|name| format!("{name}=")).collect();
        assert_eq!(stand.list(span.clone()).await, expected, "{span:?}");
    }
}

async fn pages(stand: Stand) {
    let kv = stand.kv();
    let most = kv.capability().limits.page_entries;
    let per_commit = kv.capability().limits.transaction_operations;
    let names: Vec<String> = (0..=most).map(|n| format!("k{n:06}")).collect();
    for chunk in names.chunks(per_commit) {
        stand
            .commit(chunk.iter().map(|name| put(name, "")).collect())
            .await;
    }
    let page = kv.range(Span::all(), usize::MAX, None).await.unwrap();
    assert!(page.entries.len() <= most, "a page is capped");
    assert!(page.next.is_some());
    let page = kv.range(Span::all(), 0, None).await.unwrap();
    assert_eq!((page.entries.len(), page.next), (1, Some(key(&names[1]))));
    assert_eq!(page.revision, stand.revision().await);
    let (mut found, mut rest) = (Vec::new(), Span::between("k000005", "k000012"));
    loop {
        let page = kv.range(rest.clone(), 3, None).await.unwrap();
        assert!((1..=3).contains(&page.entries.len()));
        found.extend(page.entries.into_iter().map(|entry| entry.key));
        match page.next {
            Some(next) => rest.start = next,
            None => break,
        }
    }
    assert_eq!(
        found,
        names[5..12]
            .iter()
            .map(|name| key(name))
            .collect::<Vec<_>>()
    );
}

async fn missing_keys(stand: Stand) {
    stand.put("ab", "1").await;
    let long = "k".repeat(stand.kv().capability().limits.key_bytes + 1);
    for missing in ["a", "abc", "b", "", &long] {
        assert_eq!(stand.get(missing).await, None, "{missing:?}");
    }
}
