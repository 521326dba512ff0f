use bytes::Bytes;
use sinew_engine::kv::{Key, Span};

use super::*;

fn layout() -> Layout {
    Layout::new("shop")
}

fn key(n: usize) -> Key {
    format!("k{n}").into()
}

fn put(n: usize, lease: Option<LeaseId>) -> Write {
    Write::Put {
        key: key(n),
        value: Bytes::from_static(b"v"),
        lease,
    }
}

#[test]
fn a_hundred_operations_of_any_kind_fit() {
    let lease = Some(LeaseId(7));
    let all: [(&str, Vec<Condition>, Vec<Write>); 7] = [
        ("puts", vec![], (0..100).map(|n| put(n, None)).collect()),
        (
            "leased puts",
            vec![],
            (0..100).map(|n| put(n, lease)).collect(),
        ),
        (
            "deletes",
            vec![],
            (0..100).map(|n| Write::Delete { key: key(n) }).collect(),
        ),
        (
            "conditions",
            (0..100).map(|n| Condition::Absent(key(n))).collect(),
            vec![],
        ),
        (
            "conditions and puts",
            (0..50).map(|n| Condition::Absent(key(n))).collect(),
            (0..50).map(|n| put(n, lease)).collect(),
        ),
        (
            "conditions and deletes",
            (0..50).map(|n| Condition::Present(key(n))).collect(),
            (0..50).map(|n| Write::Delete { key: key(n) }).collect(),
        ),
        (
            "ranges",
            (0..60)
                .map(|n| Condition::Unchanged(Span::prefix(key(n)), 3))
                .collect(),
            vec![],
        ),
    ];
    for (what, conditions, writes) in all {
        let plan = plan(&layout(), conditions, &writes);
        assert!(plan.is_ok(), "{what}: {plan:?}");
    }
}

#[test]
fn what_etcd_would_not_take_is_refused_before_it_is_sent() {
    let ranges = (0..100)
        .map(|n| Condition::Unchanged(Span::prefix(key(n)), 3))
        .collect();
    let error = plan(&layout(), ranges, &[]).unwrap_err();
    assert_eq!(error.code(), "kv.transaction_invalid");
    let long = Span::between(vec![b'a'; 1 << 20], vec![b'b'; 1 << 20]);
    let error = plan(&layout(), vec![Condition::Unchanged(long, 1)], &[]).unwrap_err();
    assert_eq!(error.code(), "kv.transaction_invalid");
}
