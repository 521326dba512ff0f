use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use sinew_core::Kind;

use super::{
    Case, case,
    stand::{Stand, broken, fails, key, noise, pieces},
};
use crate::blob::{Attributes, Expect, OnlyIf, Put, Range, body, collect};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            an_empty_store_has_nothing,
            Nothing,
            "`blob.unknown` (NotFound) without an object."
        ),
        case!(what_was_put_is_there, Nothing, "Every later call sees it."),
        case!(
            any_size_and_any_pieces,
            Nothing,
            "What is read is what was written."
        ),
        case!(
            attributes_are_kept,
            Nothing,
            "What is said of an object beside its content."
        ),
        case!(
            the_last_stays,
            Nothing,
            "An object is never changed, only replaced by another under its key."
        ),
        case!(
            tags_are_of_one_publishing,
            TagsNameWrites,
            "Names this object among all that ever had the key."
        ),
        case!(
            only_if_absent,
            Nothing,
            "`blob.exists` (AlreadyExists) when there is an object."
        ),
        case!(
            broken_bodies_publish_nothing,
            Nothing,
            "A body that ends with an error publishes nothing."
        ),
        case!(
            announced_bodies_are_checked,
            Nothing,
            "`blob.body_mismatch` when the body does not have the length or checksum that was announced."
        ),
        case!(
            ranges,
            Nothing,
            "The object and its content, or a part of it."
        ),
        case!(
            ranges_of_a_large_object,
            Nothing,
            "The object and its content, or a part of it."
        ),
        case!(
            a_download_is_of_one_object,
            Nothing,
            "A download is of one object, from its first byte to its last, whatever happens to the key."
        ),
        case!(
            deletions,
            Nothing,
            "Deletes the object. It is well if there is none."
        ),
        case!(
            copies,
            Nothing,
            "Publishes the content of `from` under `to` too."
        ),
        case!(
            copies_live_on,
            Nothing,
            "An object is never changed, only replaced or deleted."
        ),
        case!(
            keys_do_not_touch_one_another,
            AnyKeys,
            "1 to 1024 bytes of UTF-8; ordered bytewise."
        ),
        case!(
            keys_of_a_tree,
            Nothing,
            "1 to 1024 bytes of UTF-8; ordered bytewise."
        ),
        case!(
            attributes_have_limits,
            Nothing,
            "`blob.attributes_invalid` beyond the limits."
        ),
    ]
}

async fn an_empty_store_has_nothing(stand: Stand) {
    let blob = stand.blob();
    assert_eq!(stand.head("a").await, None);
    fails(
        blob.get(&key("a"), None).await,
        Kind::NotFound,
        "blob.unknown",
    );
    fails(
        blob.get(&key("a"), Some(Range::From(0))).await,
        Kind::NotFound,
        "blob.unknown",
    );
    fails(stand.copy("a", "b").await, Kind::NotFound, "blob.unknown");
    stand.delete("a").await;
    assert_eq!(stand.all().await, Vec::<String>::new());
    assert_eq!(blob.uploads(None, 10).await.unwrap(), []);
}

async fn what_was_put_is_there(stand: Stand) {
    let object = stand.put("a/b", "hello").await;
    assert_eq!((object.key.as_str(), object.size), ("a/b", 5));
    assert_eq!(object.checksum, crc32c::crc32c(b"hello"));
    assert_eq!(object.attributes, Attributes::default());
    assert_eq!(stand.head("a/b").await.as_ref(), Some(&object));
    let download = stand.blob().get(&key("a/b"), None).await.unwrap();
    assert_eq!((download.range, &download.object), (0..5, &object));
    assert_eq!(collect(download.body, 5).await.unwrap(), "hello");
    assert_eq!(stand.content("a").await, None);
}

async fn any_size_and_any_pieces(stand: Stand) {
    let sizes = [
        0, 1, 511, 512, 4095, 65_531, 65_532, 65_533, 65_536, 131_064, 1_000_003,
    ];
    for (seed, size) in sizes.into_iter().enumerate() {
        let content = noise(size, seed as u64);
        for piece in [1_usize.max(size / 1000), 777, 65_532, 1 << 20] {
            let body = pieces(&content, piece);
            let object = stand
                .blob()
                .put(&key("a"), body, Put::default())
                .await
                .unwrap();
            assert_eq!(
                (object.size, object.checksum),
                (size as u64, crc32c::crc32c(&content))
            );
            assert!(
                stand.content("a").await.unwrap() == content,
                "{size} in pieces of {piece}"
            );
        }
    }
    // Empty pieces are well too.
    let body = stream::iter(["", "a", "", "b", ""].map(|piece| Ok(Bytes::from(piece)))).boxed();
    stand
        .blob()
        .put(&key("e"), body, Put::default())
        .await
        .unwrap();
    assert_eq!(stand.text("e").await.as_deref(), Some("ab"));
}

fn described() -> Attributes {
    Attributes {
        content_type: Some("text/plain; charset=utf-8".to_owned()),
        metadata: BTreeMap::from([
            ("owner-id".to_owned(), "42".to_owned()),
            ("empty".to_owned(), String::new()),
            ("note".to_owned(), "a b: \"c\" = ~".to_owned()),
        ]),
    }
}

async fn attributes_are_kept(stand: Stand) {
    let put = Put {
        attributes: described(),
        ..Put::default()
    };
    let object = stand.blob().put(&key("a"), body("x"), put).await.unwrap();
    assert_eq!(object.attributes, described());
    assert_eq!(stand.head("a").await.unwrap().attributes, described());
    let download = stand.blob().get(&key("a"), None).await.unwrap();
    assert_eq!(download.object.attributes, described());
    // They go with the object, not with the key.
    stand.put("a", "y").await;
    assert_eq!(
        stand.head("a").await.unwrap().attributes,
        Attributes::default()
    );
}

async fn the_last_stays(stand: Stand) {
    let first = stand.put("a", "first").await;
    let second = stand.put("a", "the second").await;
    assert_ne!(first.tag, second.tag);
    assert_eq!(stand.head("a").await, Some(second.clone()));
    assert_eq!(stand.text("a").await.as_deref(), Some("the second"));
    assert_eq!(stand.all().await, ["a"]);
}

async fn tags_are_of_one_publishing(stand: Stand) {
    // The same content again is another object.
    let first = stand.put("a", "content").await;
    let second = stand.put("a", "content").await;
    assert_ne!(first.tag, second.tag);
    let copy = stand.copy("a", "a").await.unwrap();
    assert_ne!(copy.tag, second.tag);
}

async fn only_if_absent(stand: Stand) {
    let first = stand.put_if_absent("a", "first").await.unwrap();
    fails(
        stand.put_if_absent("a", "second").await,
        Kind::AlreadyExists,
        "blob.exists",
    );
    assert_eq!(stand.head("a").await, Some(first));
    let blob = stand.blob();
    stand.put("b", "b").await;
    let copy = blob.copy(&key("b"), &key("a"), None, OnlyIf::Absent).await;
    fails(copy, Kind::AlreadyExists, "blob.exists");
    assert_eq!(stand.text("a").await.as_deref(), Some("first"));
    stand.delete("a").await;
    blob.copy(&key("b"), &key("a"), None, OnlyIf::Absent)
        .await
        .unwrap();
    assert_eq!(stand.text("a").await.as_deref(), Some("b"));
    stand.delete("a").await;
    stand.put_if_absent("a", "third").await.unwrap();
    assert_eq!(stand.text("a").await.as_deref(), Some("third"));
}

async fn broken_bodies_publish_nothing(stand: Stand) {
    let blob = stand.blob();
    let content = noise(200_000, 1);
    let put = blob.put(&key("a"), broken(&content), Put::default()).await;
    fails(put, Kind::Unavailable, "suite.broken");
    assert_eq!(stand.head("a").await, None);
    let before = stand.put("a", "before").await;
    let put = blob.put(&key("a"), broken(&content), Put::default()).await;
    fails(put, Kind::Unavailable, "suite.broken");
    // One that is dropped half-way.
    let (started, seen) = tokio::sync::oneshot::channel();
    let mut started = Some(started);
    let stalled = stream::iter([Ok(content)])
        .chain(stream::poll_fn(move |_| {
            if let Some(started) = started.take() {
                let _ = started.send(());
            }
            std::task::Poll::Pending
        }))
        .boxed();
    let task = tokio::spawn({
        let blob = blob.clone();
        async move { blob.put(&key("a"), stalled, Put::default()).await }
    });
    seen.await.unwrap();
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(stand.head("a").await, Some(before));
    assert_eq!(stand.text("a").await.as_deref(), Some("before"));
    assert_eq!(stand.all().await, ["a"]);
}

async fn announced_bodies_are_checked(stand: Stand) {
    let blob = stand.blob();
    let content = noise(100_000, 2);
    let (size, checksum) = (content.len() as u64, crc32c::crc32c(&content));
    for (known, good) in [
        (
            Expect {
                size: Some(size),
                checksum: Some(checksum),
            },
            true,
        ),
        (
            Expect {
                size: Some(size),
                checksum: None,
            },
            true,
        ),
        (
            Expect {
                size: Some(size - 1),
                checksum: None,
            },
            false,
        ),
        (
            Expect {
                size: Some(size + 1),
                checksum: None,
            },
            false,
        ),
        (
            Expect {
                size: Some(0),
                checksum: None,
            },
            false,
        ),
        (
            Expect {
                size: None,
                checksum: Some(checksum ^ 1),
            },
            false,
        ),
        (
            Expect {
                size: Some(size),
                checksum: Some(0),
            },
            false,
        ),
    ] {
        stand.delete("a").await;
        let put = Put {
            expect: known,
            ..Put::default()
        };
        let result = blob.put(&key("a"), pieces(&content, 4096), put).await;
        if good {
            result.unwrap();
            assert!(stand.content("a").await.unwrap() == content);
        } else {
            fails(result, Kind::InvalidArgument, "blob.body_mismatch");
            assert_eq!(stand.head("a").await, None, "{known:?}");
        }
    }
    let most = stand.limits().put_bytes;
    let put = Put {
        expect: Expect {
            size: Some(most + 1),
            checksum: None,
        },
        ..Put::default()
    };
    fails(
        blob.put(&key("a"), body("x"), put).await,
        Kind::InvalidArgument,
        "blob.too_large",
    );
}

async fn ranges(stand: Stand) {
    stand.put("a", "0123456789").await;
    for (range, expected) in [
        (Range::From(0), "0123456789"),
        (Range::From(9), "9"),
        (Range::Between(0, 1), "0"),
        (Range::Between(3, 7), "3456"),
        (Range::Between(8, 1000), "89"),
        (Range::Between(0, u64::MAX), "0123456789"),
        (Range::Last(1), "9"),
        (Range::Last(10), "0123456789"),
        (Range::Last(1000), "0123456789"),
    ] {
        assert_eq!(
            stand.range("a", range).await.unwrap(),
            expected,
            "{range:?}"
        );
    }
    let download = stand
        .blob()
        .get(&key("a"), Some(Range::Last(3)))
        .await
        .unwrap();
    assert_eq!((download.range, download.object.size), (7..10, 10));
    stand.put("empty", "").await;
    for (name, range) in [
        ("a", Range::From(10)),
        ("a", Range::From(u64::MAX)),
        ("a", Range::Between(10, 11)),
        ("a", Range::Between(5, 5)),
        ("a", Range::Between(7, 3)),
        ("a", Range::Last(0)),
        ("empty", Range::From(0)),
        ("empty", Range::Last(1)),
    ] {
        fails(
            stand.range(name, range).await,
            Kind::OutOfRange,
            "blob.range_invalid",
        );
    }
    assert_eq!(stand.text("empty").await.as_deref(), Some(""));
}

async fn ranges_of_a_large_object(stand: Stand) {
    let content = noise(1_500_000, 3);
    stand.put("a", content.clone()).await;
    let edges = [
        0, 1, 65_531, 65_532, 65_533, 65_536, 131_064, 700_001, 1_048_576, 1_499_999,
    ];
    for start in edges {
        for length in [1, 2, 65_532, 65_536, 1_100_000] {
            let end = (start + length).min(content.len());
            let range = Range::Between(start as u64, (start + length) as u64);
            let found = stand.range("a", range).await.unwrap();
            assert!(found == content[start..end], "{range:?}");
        }
    }
}

async fn a_download_is_of_one_object(stand: Stand) {
    let content = noise(3_000_000, 4);
    for replaced in [true, false] {
        stand.put("a", content.clone()).await;
        let mut download = stand.blob().get(&key("a"), None).await.unwrap();
        let first = download.body.try_next().await.unwrap().unwrap();
        assert!(!first.is_empty() && first.len() < content.len());
        if replaced {
            stand.put("a", noise(3_000_000, 5)).await;
        } else {
            stand.delete("a").await;
        }
        let rest = collect(download.body, u64::MAX).await.unwrap();
        assert!([first, rest].concat() == content);
    }
    assert_eq!(stand.head("a").await, None);
}

async fn deletions(stand: Stand) {
    stand.put("a", "1").await;
    stand.put("ab/c", "2").await;
    stand.delete("a").await;
    assert_eq!(stand.text("a").await, None);
    assert_eq!(stand.text("ab/c").await.as_deref(), Some("2"));
    stand.delete("a").await;
    stand.delete("ab").await;
    stand.delete("ab/c").await;
    assert_eq!(stand.all().await, Vec::<String>::new());
    stand.put("a", "3").await;
    assert_eq!(stand.text("a").await.as_deref(), Some("3"));
}

async fn copies(stand: Stand) {
    let blob = stand.blob();
    let content = noise(300_000, 6);
    let put = Put {
        attributes: described(),
        ..Put::default()
    };
    let original = blob
        .put(&key("a"), pieces(&content, 9000), put)
        .await
        .unwrap();
    let copy = stand.copy("a", "b").await.unwrap();
    assert_eq!((copy.key.as_str(), copy.size), ("b", original.size));
    assert_eq!(
        (copy.checksum, &copy.attributes),
        (original.checksum, &original.attributes)
    );
    assert!(stand.content("b").await.unwrap() == content);
    let others = Attributes {
        content_type: Some("a/b".to_owned()),
        ..Attributes::default()
    };
    let copy = blob
        .copy(&key("a"), &key("c"), Some(others.clone()), OnlyIf::Any)
        .await
        .unwrap();
    assert_eq!(copy.attributes, others);
    assert_eq!(stand.head("c").await, Some(copy));
    assert_eq!(stand.head("a").await, Some(original.clone()));
    // Onto itself: another object with the same content.
    stand.copy("a", "a").await.unwrap();
    assert!(stand.content("a").await.unwrap() == content);
    assert_eq!(stand.all().await, ["a", "b", "c"]);
}

async fn copies_live_on(stand: Stand) {
    let content = noise(200_000, 7);
    stand.put("a", content.clone()).await;
    stand.copy("a", "b").await.unwrap();
    stand.copy("b", "c").await.unwrap();
    stand.delete("a").await;
    assert!(stand.content("b").await.unwrap() == content);
    stand.put("b", "other").await;
    assert!(stand.content("c").await.unwrap() == content);
    stand.put("a", "new").await;
    assert!(stand.content("c").await.unwrap() == content);
    assert!(stand.range("c", Range::From(199_999)).await.unwrap() == content[199_999..]);
}

async fn keys_do_not_touch_one_another(stand: Stand) {
    let long = "k".repeat(1024);
    let almost = format!("{}x", "k".repeat(1023));
    keys_are_apart(stand, &["a", "a/b", "a/b/c", &long, &almost]).await;
}

async fn keys_of_a_tree(stand: Stand) {
    let long = vec!["k".repeat(255); 4].join("/");
    keys_are_apart(stand, &["a/b", &long]).await;
}

async fn keys_are_apart(stand: Stand, more: &[&str]) {
    let deep = vec!["d"; 512].join("/");
    let names = [
        "A",
        "a/B",
        "a-b",
        "a.b",
        "a b",
        "a%2Fb",
        "a%2fb",
        "ä",
        "a\u{308}",
        "con",
        "nul",
        "a:b",
        "a\\b",
        "a*",
        "?",
        "#",
        "~",
        "...",
        "x.",
        "index.redb",
        "staging/x",
        &deep,
    ];
    let names = [&names[..], more].concat();
    for name in &names {
        stand.put(name, (*name).to_owned()).await;
    }
    for name in &names {
        assert_eq!(stand.text(name).await.as_deref(), Some(*name));
    }
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(stand.all().await, sorted);
    for name in &names {
        stand.delete(name).await;
        assert_eq!(stand.head(name).await, None);
    }
    assert_eq!(stand.all().await, Vec::<String>::new());
}

async fn attributes_have_limits(stand: Stand) {
    let blob = stand.blob();
    let most = stand.limits().metadata_bytes;
    let metadata = |name: &str, value: &str| Attributes {
        content_type: None,
        metadata: BTreeMap::from([(name.to_owned(), value.to_owned())]),
    };
    let media = |media_type: &str| Attributes {
        content_type: Some(media_type.to_owned()),
        metadata: BTreeMap::new(),
    };
    stand.put("from", "x").await;
    for bad in [
        metadata("", "v"),
        metadata("Upper", "v"),
        metadata("under_score", "v"),
        metadata(&"n".repeat(65), "v"),
        metadata("n", "\n"),
        metadata("n", "ä"),
        metadata("n", " v"),
        metadata("n", &"v".repeat(most)),
        media(""),
        media("text/plain\r\nx: y"),
        media(&"t".repeat(256)),
    ] {
        let invalid = |result| fails(result, Kind::InvalidArgument, "blob.attributes_invalid");
        let put = Put {
            attributes: bad.clone(),
            ..Put::default()
        };
        invalid(blob.put(&key("a"), body("x"), put).await.map(drop));
        invalid(blob.begin(&key("a"), bad.clone()).await.map(drop));
        let copy = blob
            .copy(&key("from"), &key("a"), Some(bad), OnlyIf::Any)
            .await;
        invalid(copy.map(drop));
    }
    assert_eq!(stand.all().await, ["from"]);
    let put = Put {
        attributes: metadata("n", &"v".repeat(most - 1)),
        ..Put::default()
    };
    let object = blob.put(&key("a"), body("x"), put).await.unwrap();
    assert_eq!(stand.head("a").await.unwrap().attributes, object.attributes);
}
