use std::sync::atomic::{AtomicU32, Ordering};

use sinew_core::Clock;

use super::*;
use crate::kv::MemoryKv;

fn store() -> MemoryKv {
    MemoryKv::new(Clock::system())
}

async fn put(kv: &dyn Kv, key: &'static str, value: &'static str) -> Revision {
    let put = Write::Put {
        key: key.into(),
        value: value.into(),
        lease: None,
    };
    match kv.commit(vec![], vec![put]).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(_) => unreachable!("there were no conditions"),
    }
}

fn keys(entries: &[Entry]) -> Vec<&str> {
    entries
        .iter()
        .map(|entry| std::str::from_utf8(&entry.key).unwrap())
        .collect()
}

#[tokio::test]
async fn it_goes_through_a_shared_store() {
    let kv: Arc<dyn Kv> = Arc::new(store());
    let task = tokio::spawn({
        let kv = kv.clone();
        async move { transact(&kv, |tx| async move { tx.get("a").await }).await }
    });
    assert_eq!(task.await.unwrap().unwrap(), (None, 0));
}

#[tokio::test]
async fn it_reads_its_own_writes() {
    let kv = store();
    for key in ["a", "b", "c", "d"] {
        put(&kv, key, "stored").await;
    }
    transact(&kv, |tx| async move {
        tx.put("bb", "own");
        tx.delete("a");
        tx.delete("c");
        tx.put("d", "own");
        assert_eq!(tx.get("c").await?, None);
        assert_eq!(tx.get("bb").await?.unwrap().value, "own");
        assert_eq!(
            keys(&tx.range(Span::all(), usize::MAX).await?),
            ["b", "bb", "d"]
        );
        assert_eq!(keys(&tx.range(Span::all(), 2).await?), ["b", "bb"]);
        assert_eq!(keys(&tx.range(Span::between("bb", "d"), 9).await?), ["bb"]);
        assert_eq!(tx.range(Span::key("d"), 1).await?[0].value, "own");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(
        keys(&kv.range(Span::all(), 9, None).await.unwrap().entries),
        ["b", "bb", "d"]
    );
}

#[tokio::test]
async fn a_changed_key_an_appeared_key_and_a_filled_gap_are_conflicts() {
    for (disturbed, expected_runs) in [("read", 2), ("absent", 2), ("list/b", 2), ("other", 1)] {
        let kv = store();
        put(&kv, "read", "1").await;
        put(&kv, "list/a", "1").await;
        let runs = AtomicU32::new(0);
        transact(&kv, |tx| {
            let (kv, runs) = (&kv, &runs);
            async move {
                tx.get("read").await?;
                tx.get("absent").await?;
                tx.range(Span::prefix("list/"), 10).await?;
                tx.put("result", "done");
                if runs.fetch_add(1, Ordering::Relaxed) == 0 {
                    put(kv, disturbed, "2").await;
                }
                Ok(())
            }
        })
        .await
        .unwrap();
        assert_eq!(runs.into_inner(), expected_runs, "{disturbed}");
    }
}

#[tokio::test]
async fn an_error_from_stale_reads_is_not_passed_on() {
    let kv = store();
    put(&kv, "a", "1").await;
    let runs = AtomicU32::new(0);
    let error = transact(&kv, |tx| {
        let (kv, runs) = (&kv, &runs);
        async move {
            tx.put("result", "done");
            let run = runs.fetch_add(1, Ordering::Relaxed);
            let seen = tx.get("a").await?.unwrap();
            if run == 0 {
                put(kv, "a", "2").await;
            }
            Err::<(), _>(Error::new(
                Kind::NotFound,
                "core.test",
                format!("saw {}", String::from_utf8_lossy(&seen.value)),
            ))
        }
    })
    .await
    .unwrap_err();
    assert_eq!((error.message(), runs.into_inner()), ("saw 2", 2));
    assert_eq!(kv.get(b"result").await.unwrap(), None);
}

#[tokio::test]
async fn a_lost_fence_is_final() {
    let kv = store();
    let mine = put(&kv, "owner", "me").await;
    put(&kv, "owner", "somebody else").await;
    let runs = AtomicU32::new(0);
    let error = transact(&kv, |tx| {
        let runs = &runs;
        async move {
            runs.fetch_add(1, Ordering::Relaxed);
            tx.get("a").await?;
            tx.require(Condition::KeyAt("owner".into(), mine));
            tx.put("a", "1");
            Ok(())
        }
    })
    .await
    .unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::FailedPrecondition, "kv.condition_failed")
    );
    assert_eq!((runs.into_inner(), kv.get(b"a").await.unwrap()), (1, None));
}

#[tokio::test(start_paused = true)]
async fn endless_contention_ends() {
    let kv = store();
    let runs = AtomicU32::new(0);
    let error = transact(&kv, |tx| {
        let (kv, runs) = (&kv, &runs);
        async move {
            tx.get("a").await?;
            tx.put("a", "mine");
            put(kv, "a", "theirs").await;
            runs.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    })
    .await
    .unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::Aborted, "kv.contention")
    );
    assert_eq!(runs.into_inner(), ATTEMPTS);
}

#[tokio::test]
async fn history_lost_on_the_way_is_a_lost_race() {
    let kv = store();
    put(&kv, "a", "1").await;
    let runs = AtomicU32::new(0);
    transact(&kv, |tx| {
        let (kv, runs) = (&kv, &runs);
        async move {
            tx.range(Span::prefix("list/"), 10).await?;
            tx.put("result", "done");
            if runs.fetch_add(1, Ordering::Relaxed) == 0 {
                kv.compact(put(kv, "a", "2").await).await?;
            }
            Ok(())
        }
    })
    .await
    .unwrap();
    assert_eq!(runs.into_inner(), 2);
}

#[tokio::test]
async fn a_lease_goes_with_the_write() {
    let kv = store();
    let lease = kv.grant(Duration::from_secs(10)).await.unwrap();
    transact(&kv, |tx| async move {
        tx.put_with_lease("a", "1", lease);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(kv.get(b"a").await.unwrap().unwrap().lease, Some(lease));
}
