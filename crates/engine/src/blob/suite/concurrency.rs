use std::sync::Arc;

use bytes::Bytes;
use sinew_core::Kind;

use super::{
    Case, case,
    stand::{Stand, fails, key, noise},
};
use crate::blob::{Put, body, collect};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            only_one_writer_of_an_absent_key,
            Nothing,
            "Exactly one of many writers of a key is answered with an object."
        ),
        case!(
            readers_see_whole_objects,
            Nothing,
            "An object appears whole or not at all; a download is of one object."
        ),
        case!(
            many_writers_of_many_keys,
            Nothing,
            "When put answers an object, every later call sees it."
        ),
        case!(
            parts_from_many_places,
            Nothing,
            "Parts of an upload are put in any order, from many places."
        ),
        case!(
            one_completion,
            CompletesOnce,
            "A repeated `complete` gets `blob.upload_unknown`."
        ),
    ]
}

const TASKS: u64 = 8;

async fn only_one_writer_of_an_absent_key(stand: Stand) {
    let stand = Arc::new(stand);
    for round in 0..20 {
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let stand = stand.clone();
                tokio::spawn(async move {
                    stand
                        .put_if_absent(&format!("k{round}"), &task.to_string())
                        .await
                })
            })
            .collect();
        let mut winner = None;
        for (task, result) in tasks.into_iter().enumerate() {
            match result.await.unwrap() {
                Ok(object) => assert!(winner.replace((task, object)).is_none(), "two winners"),
                error => fails(error, Kind::AlreadyExists, "blob.exists"),
            }
        }
        let (task, object) = winner.expect("somebody had to win");
        let name = format!("k{round}");
        assert_eq!(stand.head(&name).await, Some(object));
        assert_eq!(stand.text(&name).await, Some(task.to_string()));
    }
}

async fn readers_see_whole_objects(stand: Stand) {
    let stand = Arc::new(stand);
    // The content tells its own seed.
    let content = |seed: u64| {
        let size = usize::try_from(100_000 + seed * 997 % 50_000).unwrap();
        let mut content = seed.to_le_bytes().to_vec();
        content.extend_from_slice(&noise(size, seed));
        Bytes::from(content)
    };
    stand.put("a", content(0)).await;
    let writers: Vec<_> = (1..4)
        .map(|writer| {
            let stand = stand.clone();
            tokio::spawn(async move {
                for round in 0..20 {
                    stand.put("a", content(writer * 1000 + round)).await;
                    if round % 5 == 0 {
                        stand.copy("a", "copy").await.unwrap();
                        stand.delete("copy").await;
                    }
                }
            })
        })
        .collect();
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let stand = stand.clone();
            tokio::spawn(async move {
                for _ in 0..40 {
                    let download = stand.blob().get(&key("a"), None).await.unwrap();
                    let object = download.object.clone();
                    let found = collect(download.body, u64::MAX).await.unwrap();
                    let seed = u64::from_le_bytes(found[..8].try_into().unwrap());
                    assert!(found == content(seed), "torn");
                    assert_eq!(object.size, found.len() as u64);
                    assert_eq!(object.checksum, crc32c::crc32c(&found));
                }
            })
        })
        .collect();
    for task in writers.into_iter().chain(readers) {
        task.await.unwrap();
    }
}

async fn many_writers_of_many_keys(stand: Stand) {
    let stand = Arc::new(stand);
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let stand = stand.clone();
            tokio::spawn(async move {
                for round in 0..15 {
                    let name = format!("{task}/{round:02}");
                    let object = stand.put(&name, noise(2000, task * 100 + round)).await;
                    assert_eq!(stand.head(&name).await, Some(object));
                    if round % 3 == 0 {
                        stand.delete(&name).await;
                        assert_eq!(stand.head(&name).await, None);
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let expected: Vec<String> = (0..TASKS)
        .flat_map(|task| {
            (0..15)
                .filter(|n| n % 3 != 0)
                .map(move |n| format!("{task}/{n:02}"))
        })
        .collect();
    assert_eq!(stand.all().await, expected);
}

async fn parts_from_many_places(stand: Stand) {
    let stand = Arc::new(stand);
    let length = usize::try_from(stand.limits().part_minimum)
        .unwrap()
        .max(50_000);
    let upload = stand.begin("a").await;
    let tasks: Vec<_> = (1..=TASKS)
        .map(|number| {
            let (stand, upload) = (stand.clone(), upload.clone());
            let content = noise(length, number);
            let number = u32::try_from(number).unwrap();
            tokio::spawn(async move { stand.part(&upload, number, content).await })
        })
        .collect();
    let mut parts = Vec::new();
    for task in tasks {
        parts.push(task.await.unwrap());
    }
    stand
        .complete(&upload, &parts.iter().collect::<Vec<_>>())
        .await
        .unwrap();
    let whole: Vec<Bytes> = (1..=TASKS).map(|number| noise(length, number)).collect();
    assert!(stand.content("a").await.unwrap() == whole.concat());
}

async fn one_completion(stand: Stand) {
    let stand = Arc::new(stand);
    for _ in 0..10 {
        let upload = stand.begin("a").await;
        let part = stand.part(&upload, 1, "x").await;
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let (stand, upload, part) = (stand.clone(), upload.clone(), part.clone());
                tokio::spawn(async move { stand.complete(&upload, &[&part]).await })
            })
            .collect();
        let mut completed = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(_) => completed += 1,
                error => fails(error, Kind::NotFound, "blob.upload_unknown"),
            }
        }
        assert_eq!(completed, 1);
        stand
            .blob()
            .put(&key("a"), body("other"), Put::default())
            .await
            .unwrap();
    }
}
