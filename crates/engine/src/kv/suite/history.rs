use super::{
    Case, case,
    stand::{Stand, delete, is_compacted, is_revision_unknown, list, put, unchanged},
};
use crate::kv::{Outcome, Span};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            snapshots_stand_still,
            HistoricalReads,
            "`at` names the snapshot to read."
        ),
        case!(
            pages_of_one_snapshot,
            HistoricalReads,
            "The revision that the page is a snapshot of. Ask for further pages at this revision."
        ),
        case!(
            only_the_newest_snapshot,
            NoHistoricalReads,
            "An engine that cannot answers `kv.compacted` for every revision but the newest."
        ),
        case!(
            the_future_is_unknown,
            Nothing,
            "`kv.revision_unknown` (OutOfRange) when it does not exist yet."
        ),
        case!(
            unchanged_sees_puts_and_deletes,
            Nothing,
            "No key of the span was written or deleted after this revision."
        ),
        case!(
            unchanged_knows_its_bounds,
            Nothing,
            "A half-open stretch of the key space, `[start, end)`."
        ),
    ]
}

async fn snapshots_stand_still(stand: Stand) {
    // What the store should hold after each revision.
    let mut expected = vec![Vec::<String>::new()];
    let steps = [
        vec![put("a", "1"), put("b", "1")],
        vec![put("a", "2")],
        vec![delete("b"), put("c", "1")],
        vec![put("b", "2")],
        vec![delete("a"), delete("b"), delete("c")],
        vec![put("a", "3"), put("z", "1")],
    ];
    for step in steps {
        stand.commit(step).await;
        expected.push(stand.list(Span::all()).await);
    }
    assert_eq!(
        expected[1..4],
        [vec!["a=1", "b=1"], vec!["a=2", "b=1"], vec!["a=2", "c=1"]]
    );
    assert_eq!(expected[5], Vec::<String>::new());
    let kv = stand.kv();
    for (revision, expected) in expected.iter().enumerate() {
        let revision = revision as u64;
        assert_eq!(
            &list(&*kv, Span::all(), Some(revision)).await,
            expected,
            "at {revision}"
        );
        let page = kv.range(Span::key("b"), 10, Some(revision)).await.unwrap();
        assert_eq!(page.revision, revision);
        let b: Vec<_> = expected
            .iter()
            .filter(|text| text.starts_with('b'))
            .collect();
        assert_eq!(page.entries.len(), b.len(), "at {revision}");
    }
    // Entries of a snapshot carry the revision that they had.
    let page = kv.range(Span::all(), 10, Some(3)).await.unwrap();
    assert_eq!(
        page.entries
            .iter()
            .map(|entry| entry.revision)
            .collect::<Vec<_>>(),
        [2, 3]
    );
}

async fn pages_of_one_snapshot(stand: Stand) {
    let names: Vec<String> = (0..30).map(|n| format!("k{n:02}")).collect();
    stand
        .commit(names.iter().map(|name| put(name, "old")).collect())
        .await;
    let kv = stand.kv();
    let (mut found, mut rest, mut at) = (Vec::new(), Span::all(), None);
    loop {
        let page = kv.range(rest.clone(), 4, at).await.unwrap();
        assert_eq!(page.revision, *at.get_or_insert(page.revision));
        found.extend(page.entries);
        // Others go on writing: in front, behind, and where the next page starts.
        let round = found.len();
        stand
            .commit(vec![
                delete(&names[round - 1]),
                put(&format!("k{round:02}x"), "new"),
            ])
            .await;
        match page.next {
            Some(next) => rest.start = next,
            None => break,
        }
        stand.put(&names[round], "new").await;
    }
    assert_eq!(found.len(), 30);
    assert!(
        found
            .iter()
            .all(|entry| entry.value == "old" && entry.revision == 1)
    );
}

async fn only_the_newest_snapshot(stand: Stand) {
    stand.put("a", "1").await;
    stand.put("a", "2").await;
    let kv = stand.kv();
    assert_eq!(kv.range(Span::all(), 1, Some(2)).await.unwrap().revision, 2);
    is_compacted(kv.range(Span::all(), 1, Some(1)).await);
}

async fn the_future_is_unknown(stand: Stand) {
    stand.put("a", "1").await;
    let kv = stand.kv();
    for revision in [2, 3, u64::MAX] {
        is_revision_unknown(kv.range(Span::all(), 1, Some(revision)).await);
        is_revision_unknown(kv.watch(Span::all(), revision).await.map(|_| ()));
        is_revision_unknown(
            kv.commit(unchanged(Span::all(), revision), vec![put("a", "2")])
                .await,
        );
        is_revision_unknown(kv.compact(revision).await);
    }
    assert_eq!(stand.list(Span::all()).await, ["a=1"]);
}

async fn unchanged_sees_puts_and_deletes(stand: Stand) {
    let kv = stand.kv();
    stand.put("list/a", "1").await;
    let other = stand.put("other", "1").await;
    let span = Span::prefix("list/");
    let check = |since| kv.commit(unchanged(span.clone(), since), vec![]);
    assert_eq!(check(other).await.unwrap(), Outcome::Committed(other));
    assert_eq!(check(1).await.unwrap(), Outcome::Committed(other));
    assert_eq!(check(0).await.unwrap(), Outcome::Conflict(0));
    let added = stand.put("list/b", "1").await;
    assert_eq!(check(other).await.unwrap(), Outcome::Conflict(0));
    assert_eq!(check(added).await.unwrap(), Outcome::Committed(added));
    let deleted = stand.delete("list/a").await;
    assert_eq!(check(added).await.unwrap(), Outcome::Conflict(0));
    stand.delete("list/a").await;
    assert_eq!(check(deleted).await.unwrap(), Outcome::Committed(deleted));
    // Added and gone again is a change all the same.
    stand.put("list/c", "1").await;
    stand.delete("list/c").await;
    assert_eq!(check(deleted).await.unwrap(), Outcome::Conflict(0));
}

async fn unchanged_knows_its_bounds(stand: Stand) {
    let kv = stand.kv();
    stand.put("m", "1").await;
    let span = Span::between("b", "d");
    for (name, inside) in [
        ("a", false),
        ("b", true),
        ("c", true),
        ("d", false),
        ("b\0", true),
    ] {
        let before = stand.revision().await;
        let after = stand.put(name, "1").await;
        let expected = if inside {
            Outcome::Conflict(0)
        } else {
            Outcome::Committed(after)
        };
        let outcome = kv
            .commit(unchanged(span.clone(), before), vec![])
            .await
            .unwrap();
        assert_eq!(outcome, expected, "{name:?}");
    }
    let empty = unchanged(Span::between("d", "b"), 0);
    assert!(matches!(
        kv.commit(empty, vec![]).await.unwrap(),
        Outcome::Committed(_)
    ));
}
