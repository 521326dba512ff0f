use std::time::Duration;

use sinew_core::Kind;

use super::{
    Case, case,
    stand::{Stand, delete, fails, is_lease_unknown, next, next_shown, put, put_leased, shown},
};
use crate::kv::{LeaseId, Span};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            unknown_leases,
            Nothing,
            "`kv.lease_unknown` (NotFound) when it has expired, was revoked or never was."
        ),
        case!(
            short_leases,
            Nothing,
            "`ttl` below the minimum is InvalidArgument `kv.lease_ttl`."
        ),
        case!(
            revoking_deletes_in_one_commit,
            Nothing,
            "All keys attached to it are deleted in one commit, with one revision, that watchers see like any other."
        ),
        case!(
            expiry_deletes_in_one_commit,
            Nothing,
            "When it expires, all keys attached to it are deleted in one commit."
        ),
        case!(
            each_lease_ends_by_itself,
            Nothing,
            "A lease lives for its TTL after the grant."
        ),
        case!(
            keep_alive_gives_the_full_ttl,
            Nothing,
            "Gives the lease its full TTL again and answers that TTL."
        ),
        case!(
            keep_alive_writes_nothing,
            Nothing,
            "Keep-alives write nothing durable."
        ),
        case!(
            overwriting_moves_a_key,
            Nothing,
            "Overwriting a key detaches it from the old lease and attaches it to the new one, if any."
        ),
        case!(
            a_lease_without_keys,
            Nothing,
            "A transaction without effective writes takes no revision."
        ),
        case!(
            lease_ids_are_never_used_twice,
            Nothing,
            "Names a lease of one store."
        ),
        case!(
            an_unknown_lease_fails_the_commit,
            Nothing,
            "An unknown one fails the commit with `kv.lease_unknown` (NotFound)."
        ),
    ]
}

async fn unknown_leases(stand: Stand) {
    let kv = stand.kv();
    let revoked = stand.grant().await;
    kv.revoke(revoked).await.unwrap();
    for lease in [revoked, LeaseId(0), LeaseId(u64::MAX / 2)] {
        is_lease_unknown(kv.keep_alive(lease).await);
        is_lease_unknown(kv.revoke(lease).await);
        is_lease_unknown(kv.commit(vec![], vec![put_leased("a", "1", lease)]).await);
    }
    let expired = stand.grant().await;
    stand.commit(vec![put_leased("b", "1", expired)]).await;
    stand.pass(stand.ttl()).await;
    stand.gone("b").await;
    is_lease_unknown(kv.keep_alive(expired).await);
    is_lease_unknown(kv.revoke(expired).await);
    is_lease_unknown(kv.commit(vec![], vec![put_leased("a", "1", expired)]).await);
}

async fn short_leases(stand: Stand) {
    let kv = stand.kv();
    let least = kv.capability().limits.lease_minimum;
    for ttl in [Duration::ZERO, least - Duration::from_nanos(1)] {
        fails(kv.grant(ttl).await, Kind::InvalidArgument, "kv.lease_ttl");
    }
    for ttl in [least, Duration::from_secs(3600), Duration::MAX] {
        assert!(kv.grant(ttl).await.is_ok(), "{ttl:?}");
    }
}

async fn revoking_deletes_in_one_commit(stand: Stand) {
    let lease = stand.grant().await;
    stand
        .commit(vec![put_leased("b", "1", lease), put("c", "1")])
        .await;
    stand.commit(vec![put_leased("a", "1", lease)]).await;
    assert_eq!(stand.get("a").await.unwrap().lease, Some(lease));
    let mut watch = stand.watch(Span::all(), 2).await;
    stand.kv().revoke(lease).await.unwrap();
    // Revoking answers when it is done.
    assert_eq!(stand.list(Span::all()).await, ["c=1"]);
    assert_eq!(stand.revision().await, 3);
    assert_eq!(next_shown(&mut watch, 1).await, ["3: -a -b"]);
}

async fn expiry_deletes_in_one_commit(stand: Stand) {
    let lease = stand.grant().await;
    let keys: Vec<String> = (0..50).map(|n| format!("k{n:02}")).collect();
    stand
        .commit(keys.iter().map(|key| put_leased(key, "1", lease)).collect())
        .await;
    stand.put("other", "1").await;
    // A watcher that waits already, and the expiry comes while nothing else happens.
    let mut watch = stand.watch(Span::all(), 2).await;
    let waiting = tokio::spawn(async move { next(&mut watch).await });
    stand.pass(stand.ttl()).await;
    let batch = waiting.await.unwrap();
    let expected: Vec<String> = keys.iter().map(|key| format!("-{key}")).collect();
    assert_eq!(shown(&batch), format!("3: {}", expected.join(" ")));
    assert_eq!(stand.list(Span::all()).await, ["other=1"]);
    assert_eq!(stand.revision().await, 3);
}

async fn each_lease_ends_by_itself(stand: Stand) {
    let (kv, ttl) = (stand.kv(), stand.ttl());
    let long = kv.grant(ttl * 3).await.unwrap();
    let short = kv.grant(ttl).await.unwrap();
    stand
        .commit(vec![
            put_leased("long", "1", long),
            put_leased("short", "1", short),
        ])
        .await;
    stand.pass(ttl).await;
    stand.gone("short").await;
    assert_eq!(stand.list(Span::all()).await, ["long=1"]);
    stand.pass(ttl * 2).await;
    stand.gone("long").await;
}

async fn keep_alive_gives_the_full_ttl(stand: Stand) {
    let (kv, ttl) = (stand.kv(), stand.ttl());
    let lease = stand.grant().await;
    let other = stand.grant().await;
    stand
        .commit(vec![
            put_leased("a", "1", lease),
            put_leased("witness", "1", other),
        ])
        .await;
    for round in 0..3 {
        stand.pass(ttl * 6 / 10).await;
        assert_eq!(kv.keep_alive(lease).await.unwrap(), ttl);
        if round == 1 {
            // The one that was not kept alive has gone meanwhile.
            stand.gone("witness").await;
        }
    }
    assert_eq!(stand.value("a").await.as_deref(), Some("1"));
    stand.pass(ttl).await;
    stand.gone("a").await;
}

async fn keep_alive_writes_nothing(stand: Stand) {
    let lease = stand.grant().await;
    stand.commit(vec![put_leased("a", "1", lease)]).await;
    for _ in 0..10 {
        stand.kv().keep_alive(lease).await.unwrap();
    }
    assert_eq!(stand.revision().await, 1);
}

async fn overwriting_moves_a_key(stand: Stand) {
    let kv = stand.kv();
    let (first, second) = (stand.grant().await, stand.grant().await);
    let names = ["moved", "freed", "deleted", "kept", "gained"];
    let before = names[..4]
        .iter()
        .map(|name| put_leased(name, "1", first))
        .collect();
    stand.commit(before).await;
    stand.put("gained", "1").await;
    stand
        .commit(vec![
            put_leased("moved", "2", second),
            put("freed", "2"),
            delete("deleted"),
            put_leased("gained", "2", second),
        ])
        .await;
    stand.put("deleted", "2").await;
    kv.revoke(first).await.unwrap();
    let rest = ["deleted=2", "freed=2", "gained=2", "moved=2"];
    assert_eq!(stand.list(Span::all()).await, rest);
    assert_eq!(stand.get("freed").await.unwrap().lease, None);
    assert_eq!(stand.get("gained").await.unwrap().lease, Some(second));
    kv.revoke(second).await.unwrap();
    assert_eq!(stand.list(Span::all()).await, ["deleted=2", "freed=2"]);
}

async fn a_lease_without_keys(stand: Stand) {
    let kv = stand.kv();
    stand.put("a", "1").await;
    let (revoked, expired) = (stand.grant().await, stand.grant().await);
    kv.revoke(revoked).await.unwrap();
    stand.pass(stand.ttl()).await;
    is_lease_unknown(kv.keep_alive(expired).await);
    assert_eq!(stand.revision().await, 1);
}

async fn lease_ids_are_never_used_twice(stand: Stand) {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let lease = stand.grant().await;
        assert!(seen.insert(lease), "{lease:?} was granted twice");
        stand.kv().revoke(lease).await.unwrap();
    }
}

async fn an_unknown_lease_fails_the_commit(stand: Stand) {
    let kv = stand.kv();
    let lease = stand.grant().await;
    let writes = vec![
        put_leased("a", "1", lease),
        put_leased("b", "1", LeaseId(u64::MAX / 2)),
    ];
    is_lease_unknown(kv.commit(vec![], writes).await);
    assert_eq!((stand.revision().await, stand.get("a").await), (0, None));
}
