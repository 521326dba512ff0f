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

/// Keeps a full and a further backup in a place, one at a time as two runs of the command do, and reads them back.
async fn keeps(open: impl AsyncFn() -> Place) {
    use std::io::{Read as _, Write as _};

    let kept = [("full-1.sinew", 0, 1), ("since-1-to-2.sinew", 1, 2)];
    for (number, (file, since, revision)) in kept.into_iter().enumerate() {
        let place = open().await;
        assert_eq!(place.list().await.unwrap().len(), number);
        let content = vec![u8::try_from(number).unwrap(); 3_000_000];
        let mut partial = place.partial().unwrap();
        partial.write_all(&content).unwrap();
        let backup = Backup {
            file: file.to_owned(),
            since,
            revision,
            bytes: content.len() as u64,
        };
        place.keep(partial, backup.clone()).await.unwrap();
        let place = open().await;
        assert_eq!(place.list().await.unwrap().last(), Some(&backup));
        let mut read = Vec::new();
        let mut file = place.fetch(file).await.unwrap();
        file.read_to_end(&mut read).unwrap();
        assert!(read == content, "other bytes");
    }
    assert!(open().await.fetch("full-9.sinew").await.is_err());
}

#[tokio::test]
async fn a_folder_keeps_backups() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("new");
    keeps(async || Place::open(at.to_str().unwrap()).unwrap()).await;
    let mut names: Vec<_> = std::fs::read_dir(&at)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["backups.json", "full-1.sinew", "since-1-to-2.sinew"]
    );
    std::fs::write(at.join("backups.json"), "[{]").unwrap();
    let place = Place::open(at.to_str().unwrap()).unwrap();
    assert_eq!(place.list().await.unwrap_err().code(), "backup.place");
}

#[tokio::test]
async fn an_object_store_keeps_backups() {
    let store = Arc::new(sinew_engine::blob::MemoryBlob::new(Clock::system()));
    keeps(async || Place::over("s3://bucket", store.clone())).await;
}

#[tokio::test]
async fn another_url_is_no_place() {
    let error = Place::open("ftp://host/folder").err().unwrap();
    assert_eq!(error.code(), "config.engine_unsupported");
}
