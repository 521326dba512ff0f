use sinew_core::Kind;

use super::{
    Case, case,
    stand::{Stand, broken, fails, key, noise},
};
use crate::blob::{Attributes, Expect, List, OnlyIf, Part, Range, Upload, body};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            parts_make_an_object,
            Nothing,
            "The object is what their bodies are one after the other."
        ),
        case!(
            the_last_put_of_a_number_counts,
            Nothing,
            "The last put of a number counts."
        ),
        case!(
            ranges_over_parts,
            Nothing,
            "The object and its content, or a part of it."
        ),
        case!(
            parts_are_listed,
            Nothing,
            "The parts of an upload, by number."
        ),
        case!(
            parts_must_fit,
            Nothing,
            "`blob.part_invalid` when one was not put or put again since."
        ),
        case!(
            short_parts_are_refused,
            Nothing,
            "One that is not the last is shorter than the minimum."
        ),
        case!(
            aborted_uploads_are_gone,
            Nothing,
            "Drops an upload and its parts. It is well if there is none."
        ),
        case!(
            uploads_are_in_no_listing,
            Nothing,
            "Uploads are in no listing of objects."
        ),
        case!(
            uploads_are_listed,
            Nothing,
            "At most `limit` uploads after the given one, by key."
        ),
        case!(
            complete_only_if_absent,
            Nothing,
            "The upload stays after `blob.exists`."
        ),
        case!(
            broken_parts_are_not_put,
            Nothing,
            "A body that ends with an error publishes nothing."
        ),
    ]
}

/// The shortest length of a part, or one that takes more than a block.
fn length(stand: &Stand) -> usize {
    usize::try_from(stand.limits().part_minimum)
        .unwrap()
        .max(70_001)
}

async fn parts_make_an_object(stand: Stand) {
    let length = length(&stand);
    let attributes = Attributes {
        content_type: Some("a/b".to_owned()),
        ..Attributes::default()
    };
    let upload = stand
        .blob()
        .begin(&key("a"), attributes.clone())
        .await
        .unwrap();
    assert_eq!(upload.key, key("a"));
    let contents: Vec<_> = (0..4).map(|n| noise(length + n, n as u64)).collect();
    let mut parts = Vec::new();
    // In any order, with gaps.
    for (index, number) in [(2, 30), (0, 1), (3, 10_000), (1, 2)] {
        let part = stand.part(&upload, number, contents[index].clone()).await;
        assert_eq!(
            (part.number, part.size),
            (number, contents[index].len() as u64)
        );
        assert_eq!(part.checksum, crc32c::crc32c(&contents[index]));
        parts.push(part);
    }
    assert_eq!(stand.head("a").await, None);
    let named: Vec<&Part> = vec![&parts[1], &parts[3], &parts[0], &parts[2]];
    let object = stand.complete(&upload, &named).await.unwrap();
    let whole = contents.concat();
    assert_eq!(
        (object.size, object.checksum),
        (whole.len() as u64, crc32c::crc32c(&whole))
    );
    assert_eq!(object.attributes, attributes);
    assert_eq!(stand.head("a").await, Some(object));
    assert!(stand.content("a").await.unwrap() == whole);
    let again = stand.complete(&upload, &named).await;
    fails(again, Kind::NotFound, "blob.upload_unknown");
    // The object can be copied and outlives its origin as any other.
    stand.copy("a", "b").await.unwrap();
    stand.delete("a").await;
    assert!(stand.content("b").await.unwrap() == whole);
}

async fn the_last_put_of_a_number_counts(stand: Stand) {
    let upload = stand.begin("a").await;
    let first = stand.part(&upload, 1, "first").await;
    let second = stand.part(&upload, 1, "second").await;
    let left_out = stand.part(&upload, 2, "left out").await;
    assert_ne!(first.tag, second.tag);
    let result = stand.complete(&upload, &[&first]).await;
    fails(result, Kind::InvalidArgument, "blob.part_invalid");
    assert_eq!(
        stand.blob().parts(&upload).await.unwrap(),
        [second.clone(), left_out]
    );
    stand.complete(&upload, &[&second]).await.unwrap();
    assert_eq!(stand.text("a").await.as_deref(), Some("second"));
}

async fn ranges_over_parts(stand: Stand) {
    let length = length(&stand);
    let upload = stand.begin("a").await;
    let contents: Vec<_> = (0..3).map(|n| noise(length, n)).collect();
    let mut parts = Vec::new();
    for (number, content) in (1..).zip(&contents) {
        parts.push(stand.part(&upload, number, content.clone()).await);
    }
    stand
        .complete(&upload, &parts.iter().collect::<Vec<_>>())
        .await
        .unwrap();
    let whole = contents.concat();
    let edges = [
        0,
        1,
        length - 1,
        length,
        length + 1,
        2 * length - 1,
        2 * length,
        3 * length - 1,
    ];
    for start in edges {
        for end in edges
            .into_iter()
            .map(|edge| edge + 1)
            .filter(|end| *end > start)
        {
            let found = stand
                .range("a", Range::Between(start as u64, end as u64))
                .await
                .unwrap();
            assert!(found == whole[start..end], "{start}..{end}");
        }
    }
}

async fn parts_are_listed(stand: Stand) {
    let upload = stand.begin("a").await;
    assert_eq!(stand.blob().parts(&upload).await.unwrap(), []);
    let ninth = stand.part(&upload, 9, "nine").await;
    let tenth = stand.part(&upload, 10, "ten").await;
    let second = stand.part(&upload, 2, "").await;
    assert_eq!(
        stand.blob().parts(&upload).await.unwrap(),
        [second, ninth, tenth]
    );
}

async fn parts_must_fit(stand: Stand) {
    let length = length(&stand);
    let upload = stand.begin("a").await;
    let one = stand.part(&upload, 1, noise(length, 1)).await;
    let two = stand.part(&upload, 2, noise(length, 2)).await;
    let never = Part {
        number: 3,
        ..one.clone()
    };
    let swapped = Part {
        number: 2,
        ..one.clone()
    };
    let table: [&[&Part]; 5] = [
        &[],
        &[&two, &one],
        &[&one, &one],
        &[&one, &never],
        &[&one, &swapped],
    ];
    for parts in table {
        let result = stand.complete(&upload, parts).await;
        fails(result, Kind::InvalidArgument, "blob.part_invalid");
    }
    for number in [0, stand.limits().parts + 1, u32::MAX] {
        let part = stand
            .blob()
            .part(&upload, number, body("x"), Expect::default())
            .await;
        fails(part, Kind::InvalidArgument, "blob.part_invalid");
    }
    assert_eq!(stand.head("a").await, None);
    stand.complete(&upload, &[&one, &two]).await.unwrap();
}

async fn short_parts_are_refused(stand: Stand) {
    let minimum = usize::try_from(stand.limits().part_minimum).unwrap();
    let upload = stand.begin("a").await;
    let short = stand
        .part(&upload, 1, noise(minimum.saturating_sub(1), 1))
        .await;
    let last = stand.part(&upload, 2, noise(1, 2)).await;
    if minimum > 0 {
        let result = stand.complete(&upload, &[&short, &last]).await;
        fails(result, Kind::InvalidArgument, "blob.part_invalid");
    }
    let enough = stand.part(&upload, 1, noise(minimum, 1)).await;
    let object = stand.complete(&upload, &[&enough, &last]).await.unwrap();
    assert_eq!(object.size, minimum as u64 + 1);
}

async fn aborted_uploads_are_gone(stand: Stand) {
    let blob = stand.blob();
    let (aborted, other) = (stand.begin("a").await, stand.begin("a").await);
    assert_ne!(aborted.id, other.id);
    let part = stand.part(&aborted, 1, "x").await;
    let kept = stand.part(&other, 1, "kept").await;
    blob.abort(&aborted).await.unwrap();
    blob.abort(&aborted).await.unwrap();
    let unknown = |result| fails(result, Kind::NotFound, "blob.upload_unknown");
    unknown(stand.complete(&aborted, &[&part]).await.map(drop));
    unknown(blob.parts(&aborted).await.map(drop));
    unknown(
        blob.part(&aborted, 1, body("x"), Expect::default())
            .await
            .map(drop),
    );
    let never = Upload {
        key: key("a"),
        id: "never".to_owned(),
    };
    unknown(blob.parts(&never).await.map(drop));
    let moved = Upload {
        key: key("b"),
        id: other.id.clone(),
    };
    unknown(blob.parts(&moved).await.map(drop));
    blob.abort(&never).await.unwrap();
    stand.complete(&other, &[&kept]).await.unwrap();
    assert_eq!(stand.text("a").await.as_deref(), Some("kept"));
}

async fn uploads_are_in_no_listing(stand: Stand) {
    let before = stand.put("a", "before").await;
    let upload = stand.begin("a").await;
    stand.part(&upload, 1, "part").await;
    let other = stand.begin("b").await;
    stand.part(&other, 1, "part").await;
    assert_eq!(stand.names(List::prefix("")).await, ["a"]);
    assert_eq!(stand.head("a").await, Some(before));
    assert_eq!(stand.head("b").await, None);
}

async fn uploads_are_listed(stand: Stand) {
    let blob = stand.blob();
    let mut begun = Vec::new();
    for name in ["b", "a", "c", "a", "a/b"] {
        begun.push(stand.begin(name).await);
    }
    for limit in [1, 2, 100] {
        let mut found: Vec<Upload> = Vec::new();
        loop {
            let page = blob.uploads(found.last().cloned(), limit).await.unwrap();
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            found.extend(page.into_iter().map(|pending| pending.upload));
        }
        assert!(
            found.is_sorted_by(|one, two| one.key <= two.key),
            "{found:?}"
        );
        assert_eq!(found.len(), 5);
        assert!(begun.iter().all(|upload| found.contains(upload)));
    }
    blob.abort(&begun[0]).await.unwrap();
    let part = stand.part(&begun[2], 1, "x").await;
    stand.complete(&begun[2], &[&part]).await.unwrap();
    let left = blob.uploads(None, 100).await.unwrap();
    let left: Vec<&str> = left
        .iter()
        .map(|pending| pending.upload.key.as_str())
        .collect();
    assert_eq!(left, ["a", "a", "a/b"]);
}

async fn complete_only_if_absent(stand: Stand) {
    let upload = stand.begin("a").await;
    let part = stand.part(&upload, 1, "part").await;
    stand.put("a", "there").await;
    let named = vec![(1, part.tag.clone())];
    let result = stand
        .blob()
        .complete(&upload, named.clone(), OnlyIf::Absent)
        .await;
    fails(result, Kind::AlreadyExists, "blob.exists");
    assert_eq!(stand.text("a").await.as_deref(), Some("there"));
    stand.delete("a").await;
    stand
        .blob()
        .complete(&upload, named, OnlyIf::Absent)
        .await
        .unwrap();
    assert_eq!(stand.text("a").await.as_deref(), Some("part"));
}

async fn broken_parts_are_not_put(stand: Stand) {
    let blob = stand.blob();
    let upload = stand.begin("a").await;
    let content = noise(100_000, 1);
    let part = blob
        .part(&upload, 1, broken(&content), Expect::default())
        .await;
    fails(part, Kind::Unavailable, "suite.broken");
    let expect = Expect {
        size: Some(1),
        checksum: None,
    };
    let part = blob.part(&upload, 1, body(content.clone()), expect).await;
    fails(part, Kind::InvalidArgument, "blob.body_mismatch");
    let expect = Expect {
        size: Some(stand.limits().part_bytes + 1),
        checksum: None,
    };
    let part = blob.part(&upload, 1, body(content), expect).await;
    fails(part, Kind::InvalidArgument, "blob.too_large");
    assert_eq!(blob.parts(&upload).await.unwrap(), []);
}
