use sinew_core::Clock;
use sinew_engine::kv::MemoryKv;

use super::*;

async fn put(kv: &dyn Kv, key: &str, value: &str) {
    let write = Write::Put {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        lease: None,
    };
    let _: Outcome = kv.commit(vec![], vec![write]).await.unwrap();
}

async fn delete(kv: &dyn Kv, key: &str) {
    let key = key.to_owned().into();
    let _: Outcome = kv
        .commit(vec![], vec![Write::Delete { key }])
        .await
        .unwrap();
}

async fn take(kv: &MemoryKv, since: Option<Revision>) -> Result<Vec<u8>> {
    let mut frames = stream(Arc::new(kv.clone()), since);
    let mut bytes = Vec::new();
    while let Some(frame) = frames.recv().await {
        bytes.extend_from_slice(&frame?);
    }
    Ok(bytes)
}

async fn shown(kv: &dyn Kv) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (mut span, mut all) = (Span::all(), Vec::new());
    loop {
        let page = kv.range(span.clone(), 10_000, None).await.unwrap();
        let entries = page.entries.iter();
        all.extend(
            entries
                .filter(|entry| entry.key != "backup/end")
                .map(|entry| format!("{}={}", text(&entry.key), text(&entry.value))),
        );
        match page.next {
            Some(next) => span.start = next,
            None => return all,
        }
    }
}

fn store() -> MemoryKv {
    MemoryKv::new(Clock::system())
}

#[tokio::test]
async fn a_full_and_a_further_backup_bring_the_store_back() {
    let kv = store();
    for n in 0..2500 {
        put(&kv, &format!("k{n:05}"), &n.to_string()).await;
    }
    let lease = kv.grant(Duration::from_secs(60)).await.unwrap();
    let leased = Write::Put {
        key: "leased".into(),
        value: "x".into(),
        lease: Some(lease),
    };
    let _: Outcome = kv.commit(vec![], vec![leased.clone()]).await.unwrap();
    let full = take(&kv, None).await.unwrap();
    let first = check(&full[..]).unwrap();
    assert_eq!((first.since, first.entries), (0, 2500));

    put(&kv, "k00000", "changed").await;
    delete(&kv, "k00001").await;
    put(&kv, "new", "1").await;
    put(&kv, "leased later", "1").await;
    let later = Write::Put {
        key: "leased later".into(),
        value: "2".into(),
        lease: Some(lease),
    };
    let _: Outcome = kv.commit(vec![], vec![later]).await.unwrap();
    let further = take(&kv, Some(first.revision)).await.unwrap();
    let second = check(&further[..]).unwrap();
    assert_eq!((second.since, second.entries), (first.revision, 0));

    let empty = store();
    let restored = restore(&empty, [&full[..], &further[..]]).await.unwrap();
    assert_eq!(restored.revision, second.revision);
    let expected: Vec<_> = shown(&kv)
        .await
        .into_iter()
        .filter(|entry| !entry.starts_with("leased"))
        .collect();
    assert_eq!(shown(&empty).await, expected);
    assert!(empty.revision().await.unwrap() >= second.revision);

    let error = restore(&empty, [&full[..]]).await.unwrap_err();
    assert_eq!(error.code(), "backup.not_empty");
    let error = restore(&store(), [&further[..]]).await.unwrap_err();
    assert_eq!(error.code(), "backup.chain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_busy_store_is_what_the_store_was_at_its_end() {
    let kv = store();
    for n in 0..6000 {
        put(&kv, &format!("k{n:05}"), "0").await;
    }
    // Two keys always change together, the first page's with the last page's.
    let writer = tokio::spawn({
        let kv = kv.clone();
        async move {
            for n in 1..2000 {
                let both = ["k00000", "k05999"].map(|key| Write::Put {
                    key: key.into(),
                    value: n.to_string().into(),
                    lease: None,
                });
                let _: Outcome = kv.commit(vec![], both.to_vec()).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    let backup = take(&kv, None).await.unwrap();
    writer.await.unwrap();
    let empty = store();
    restore(&empty, [&backup[..]]).await.unwrap();
    let first = empty.get(b"k00000").await.unwrap().unwrap();
    let last = empty.get(b"k05999").await.unwrap().unwrap();
    assert_eq!(first.value, last.value);
    assert_eq!(shown(&empty).await.len(), 6000);
}

#[tokio::test]
async fn damage_is_found_wherever_it_is() {
    let kv = store();
    for n in 0..5 {
        put(&kv, &format!("k{n}"), "value").await;
    }
    let backup = take(&kv, None).await.unwrap();
    for at in 0..backup.len() {
        let mut damaged = backup.clone();
        damaged[at] ^= 1;
        assert!(check(&damaged[..]).is_err(), "byte {at}");
        assert!(check(&backup[..at]).is_err(), "cut at {at}");
    }
    let doubled = [&backup[..], &backup[..]].concat();
    assert!(check(&doubled[..]).is_err());
}

#[tokio::test]
async fn what_is_forgotten_needs_a_full_backup() {
    let kv = store();
    put(&kv, "a", "1").await;
    put(&kv, "a", "2").await;
    kv.compact(2).await.unwrap();
    let error = take(&kv, Some(1)).await.unwrap_err();
    assert_eq!(error.code(), "kv.compacted");
}
