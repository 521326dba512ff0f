use std::collections::BTreeMap;

use super::{
    Case, case,
    stand::{
        Stand, delete, is_compacted, is_lease_unknown, list, next_shown, put, put_leased, unchanged,
    },
};
use crate::kv::{Outcome, Span};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            commits_survive,
            Durable,
            "When commit answers Committed, the writes are on stable storage, all of them."
        ),
        case!(
            revisions_never_go_back,
            Durable,
            "Revisions never go back, and are never used twice."
        ),
        case!(
            history_survives,
            Durable,
            "Delivers every commit after the given revision, over a restart too."
        ),
        case!(
            snapshots_survive,
            DurableSnapshots,
            "`at` names the snapshot to read, from before a restart too."
        ),
        case!(
            compaction_survives,
            Durable,
            "What asks for a revision before it gets `kv.compacted`."
        ),
        case!(
            leases_have_their_full_ttl_again,
            Durable,
            "After a restart every lease that had not expired has its full TTL again."
        ),
        case!(
            ended_leases_stay_ended,
            Durable,
            "Every lease that had not expired."
        ),
        case!(lease_ids_survive, Durable, "Names a lease of one store."),
        case!(
            reopened_again_and_again,
            Durable,
            "Revisions never go back."
        ),
    ]
}

async fn commits_survive(mut stand: Stand) {
    let limits = stand.kv().capability().limits;
    stand
        .commit(vec![put("a", "1"), put("b", "1"), put("c", "1")])
        .await;
    stand.commit(vec![put("a", "2"), delete("b")]).await;
    stand.put("large", &"v".repeat(limits.value_bytes)).await;
    let before = stand.kv().range(Span::all(), 10, None).await.unwrap();
    stand.reopen().await;
    assert_eq!(
        stand.kv().range(Span::all(), 10, None).await.unwrap(),
        before
    );
    assert_eq!(stand.value("a").await.as_deref(), Some("2"));
}

async fn revisions_never_go_back(mut stand: Stand) {
    for _ in 0..3 {
        stand.put("a", "1").await;
    }
    stand.delete("a").await;
    // Nothing is left but the number.
    stand.kv().compact(4).await.unwrap();
    stand.reopen().await;
    assert_eq!(stand.revision().await, 4);
    assert_eq!(stand.put("a", "1").await, 5);
}

async fn history_survives(mut stand: Stand) {
    stand.put("a", "1").await;
    stand.commit(vec![put("b", "2"), delete("a")]).await;
    stand.reopen().await;
    let mut watch = stand.watch(Span::all(), 0).await;
    stand.put("c", "3").await;
    assert_eq!(
        next_shown(&mut watch, 3).await,
        ["1: a=1", "2: -a b=2", "3: c=3"]
    );
    let kv = stand.kv();
    let outcome = kv
        .commit(unchanged(Span::key("a"), 1), vec![])
        .await
        .unwrap();
    assert_eq!(outcome, Outcome::Conflict(0));
    let outcome = kv
        .commit(unchanged(Span::key("a"), 2), vec![])
        .await
        .unwrap();
    assert_eq!(outcome, Outcome::Committed(3));
}

async fn snapshots_survive(mut stand: Stand) {
    stand.put("a", "1").await;
    stand.put("a", "2").await;
    stand.reopen().await;
    stand.put("a", "3").await;
    for (at, expected) in [(1, "a=1"), (2, "a=2"), (3, "a=3")] {
        assert_eq!(list(&*stand.kv(), Span::all(), Some(at)).await, [expected]);
    }
}

async fn compaction_survives(mut stand: Stand) {
    for _ in 0..5 {
        stand.put("a", "1").await;
    }
    stand.kv().compact(3).await.unwrap();
    stand.reopen().await;
    is_compacted(stand.kv().watch(Span::all(), 2).await.map(|_| ()));
    assert!(stand.kv().watch(Span::all(), 3).await.is_ok());
}

async fn leases_have_their_full_ttl_again(mut stand: Stand) {
    let ttl = stand.ttl();
    let lease = stand.grant().await;
    let idle = stand.grant().await;
    stand.commit(vec![put_leased("a", "1", lease)]).await;
    stand.pass(ttl * 3 / 4).await;
    stand.reopen().await;
    stand.pass(ttl / 2).await;
    assert_eq!(stand.get("a").await.unwrap().lease, Some(lease));
    // Also the lease that was only granted; it can be used and kept alive.
    assert_eq!(stand.kv().keep_alive(idle).await.unwrap(), ttl);
    stand.commit(vec![put_leased("b", "1", idle)]).await;
    stand.pass(ttl / 2).await;
    stand.gone("a").await;
    assert_eq!(stand.list(Span::all()).await, ["b=1"]);
    stand.kv().revoke(idle).await.unwrap();
    assert_eq!(stand.list(Span::all()).await, Vec::<String>::new());
}

async fn ended_leases_stay_ended(mut stand: Stand) {
    let (revoked, expired) = (stand.grant().await, stand.grant().await);
    stand
        .commit(vec![
            put_leased("a", "1", revoked),
            put_leased("b", "1", expired),
        ])
        .await;
    stand.kv().revoke(revoked).await.unwrap();
    stand.pass(stand.ttl()).await;
    stand.gone("b").await;
    let before = stand.revision().await;
    stand.reopen().await;
    is_lease_unknown(stand.kv().keep_alive(revoked).await);
    is_lease_unknown(stand.kv().keep_alive(expired).await);
    assert_eq!(stand.revision().await, before);
}

async fn lease_ids_survive(mut stand: Stand) {
    let before = stand.grant().await;
    stand.kv().revoke(before).await.unwrap();
    stand.reopen().await;
    assert_ne!(stand.grant().await, before);
}

async fn reopened_again_and_again(mut stand: Stand) {
    let mut expected = BTreeMap::new();
    for round in 0..8u64 {
        for n in 0..5u64 {
            let name = format!("k{}", (round * 3 + n) % 7);
            let value = format!("{round}.{n}");
            assert_eq!(stand.put(&name, &value).await, round * 5 + n + 1);
            expected.insert(name, value);
        }
        stand.reopen().await;
        let shown: Vec<String> = expected.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(stand.list(Span::all()).await, shown);
    }
}
