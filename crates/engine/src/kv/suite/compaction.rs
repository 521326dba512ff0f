use super::{
    Case, case,
    stand::{Stand, is_compacted, list, next_shown, put, soon, unchanged},
};
use crate::kv::{Outcome, Retention, Span};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            compaction_forgets_the_past,
            Nothing,
            "Forgets the history up to `revision`: what asks for a revision before it gets `kv.compacted`."
        ),
        case!(
            compaction_keeps_its_revision,
            HistoricalReads,
            "The snapshot at `revision` itself remains. Current entries stay."
        ),
        case!(
            compaction_again,
            Nothing,
            "What is forgotten already changes nothing."
        ),
        case!(
            history_is_bounded_by_commits,
            Nothing,
            "History is kept for a bounded time."
        ),
        case!(
            history_is_bounded_by_bytes,
            Nothing,
            "History is kept for a bounded time."
        ),
    ]
}

async fn compaction_forgets_the_past(stand: Stand) {
    for n in 1..=10 {
        stand.put(&format!("k{}", n % 3), &n.to_string()).await;
    }
    let before = stand.list(Span::all()).await;
    let kv = stand.kv();
    kv.compact(6).await.unwrap();
    for gone in [0, 1, 5] {
        is_compacted(kv.range(Span::all(), 1, Some(gone)).await);
        is_compacted(kv.watch(Span::all(), gone).await.map(|_| ()));
        is_compacted(
            kv.commit(unchanged(Span::all(), gone), vec![put("x", "1")])
                .await,
        );
    }
    let mut watch = stand.watch(Span::all(), 6).await;
    assert_eq!(
        next_shown(&mut watch, 4).await,
        ["7: k1=7", "8: k2=8", "9: k0=9", "10: k1=10"]
    );
    let outcome = kv
        .commit(unchanged(Span::key("k0"), 6), vec![])
        .await
        .unwrap();
    assert_eq!(outcome, Outcome::Conflict(0));
    assert_eq!(stand.list(Span::all()).await, before);
    assert_eq!(stand.revision().await, 10);
}

async fn compaction_keeps_its_revision(stand: Stand) {
    stand.put("a", "1").await;
    stand.put("a", "2").await;
    stand.put("b", "3").await;
    let kv = stand.kv();
    kv.compact(2).await.unwrap();
    assert_eq!(list(&*kv, Span::all(), Some(2)).await, ["a=2"]);
    assert_eq!(list(&*kv, Span::all(), Some(3)).await, ["a=2", "b=3"]);
    is_compacted(kv.range(Span::all(), 1, Some(1)).await);
}

async fn compaction_again(stand: Stand) {
    for n in 1..=5 {
        stand.put("a", &n.to_string()).await;
    }
    let kv = stand.kv();
    for revision in [3, 3, 1, 0] {
        kv.compact(revision).await.unwrap();
        assert!(kv.watch(Span::all(), 3).await.is_ok());
    }
    kv.compact(5).await.unwrap();
    is_compacted(kv.watch(Span::all(), 4).await.map(|_| ()));
    assert_eq!(stand.put("a", "6").await, 6);
    let mut watch = stand.watch(Span::all(), 5).await;
    assert_eq!(next_shown(&mut watch, 1).await, ["6: a=6"]);
}

async fn history_is_bounded_by_commits(stand: Stand) {
    forgets_by_itself(
        stand,
        Retention {
            commits: 20,
            bytes: usize::MAX,
        },
        10,
    )
    .await;
}

async fn history_is_bounded_by_bytes(stand: Stand) {
    forgets_by_itself(
        stand,
        Retention {
            commits: usize::MAX,
            bytes: 100_000,
        },
        10_000,
    )
    .await;
}

async fn forgets_by_itself(stand: Stand, retention: Retention, value_bytes: usize) {
    let stand = stand.another(Some(retention)).await;
    let kv = stand.kv();
    let value = "v".repeat(value_bytes);
    stand.put("a", &value).await;
    // An engine may tidy up a little later, so write until it has.
    soon(async {
        while kv.watch(Span::all(), 0).await.is_ok() {
            stand.put("a", &value).await;
        }
    })
    .await;
    is_compacted(kv.commit(unchanged(Span::all(), 0), vec![]).await);
    // The latest past is still there.
    let newest = stand.put("a", "latest").await;
    assert!(kv.watch(Span::all(), newest - 1).await.is_ok());
    assert_eq!(stand.list(Span::all()).await, ["a=latest"]);
}
