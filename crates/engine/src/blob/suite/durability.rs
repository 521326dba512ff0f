use super::{
    Case, End, case,
    stand::{Stand, key, noise},
};
use crate::blob::{Attributes, Put, body};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            objects_survive,
            Durable,
            "When put answers an object, it is on stable storage."
        ),
        case!(deletions_survive, Durable, "Deletes the object."),
        case!(
            uploads_survive,
            Durable,
            "Uploads outlive a restart where the engine is durable."
        ),
        case!(
            half_a_put_leaves_nothing,
            Durable,
            "An object appears whole or not at all."
        ),
        case!(
            tags_are_not_used_twice,
            DurableTags,
            "Names this object among all that ever had the key."
        ),
        case!(
            reopened_again_and_again,
            Durable,
            "Every later call sees it, listings included."
        ),
    ]
}

const ENDS: [End; 2] = [End::Close, End::Kill];

async fn objects_survive(mut stand: Stand) {
    for end in ENDS {
        let content = noise(500_000, 1);
        let attributes = Attributes {
            content_type: Some("a/b".to_owned()),
            ..Attributes::default()
        };
        let put = Put {
            attributes,
            ..Put::default()
        };
        let object = stand
            .blob()
            .put(&key("a"), body(content.clone()), put)
            .await
            .unwrap();
        stand.put("b", "replaced").await;
        stand.put("b", "by this").await;
        let copy = stand.copy("a", "copy").await.unwrap();
        stand.reopen(end).await;
        assert_eq!(stand.head("a").await, Some(object), "{end:?}");
        assert_eq!(stand.head("copy").await, Some(copy));
        for name in ["a", "copy"] {
            assert!(stand.content(name).await.unwrap() == content);
        }
        assert_eq!(stand.text("b").await.as_deref(), Some("by this"));
        assert_eq!(stand.all().await, ["a", "b", "copy"]);
    }
}

async fn deletions_survive(mut stand: Stand) {
    for end in ENDS {
        stand.put("a", "1").await;
        stand.put("b", "2").await;
        stand.copy("a", "c").await.unwrap();
        stand.delete("a").await;
        stand.delete("b").await;
        stand.reopen(end).await;
        assert_eq!(stand.all().await, ["c"]);
        assert_eq!(stand.text("c").await.as_deref(), Some("1"));
        stand.delete("c").await;
        stand.reopen(end).await;
        assert_eq!(stand.all().await, Vec::<String>::new());
    }
}

async fn uploads_survive(mut stand: Stand) {
    for end in ENDS {
        let upload = stand.begin("a").await;
        let aborted = stand.begin("b").await;
        let one = stand.part(&upload, 1, "replaced").await;
        assert_eq!(one.size, 8);
        let length = usize::try_from(stand.limits().part_minimum)
            .unwrap()
            .max(100_000);
        let one = stand.part(&upload, 1, noise(length, 1)).await;
        stand.blob().abort(&aborted).await.unwrap();
        stand.reopen(end).await;
        let left = stand.blob().uploads(None, 10).await.unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].upload, upload);
        let parts = stand.blob().parts(&upload).await.unwrap();
        assert!(parts.len() == 1 && parts[0] == one);
        let two = stand.part(&upload, 2, "two").await;
        stand.complete(&upload, &[&one, &two]).await.unwrap();
        stand.reopen(end).await;
        let whole = [&noise(length, 1)[..], b"two"].concat();
        assert!(stand.content("a").await.unwrap() == whole);
        assert_eq!(stand.blob().uploads(None, 10).await.unwrap(), []);
    }
}

async fn half_a_put_leaves_nothing(mut stand: Stand) {
    use futures_util::{StreamExt, stream};
    stand.put("a", "before").await;
    let (started, seen) = tokio::sync::oneshot::channel();
    let mut started = Some(started);
    let stalled = stream::iter([Ok(noise(300_000, 1))])
        .chain(stream::poll_fn(move |_| {
            if let Some(started) = started.take() {
                let _ = started.send(());
            }
            std::task::Poll::Pending
        }))
        .boxed();
    let blob = stand.blob();
    let task = tokio::spawn(async move { blob.put(&key("a"), stalled, Put::default()).await });
    seen.await.unwrap();
    task.abort();
    let _ = task.await;
    stand.reopen(End::Kill).await;
    assert_eq!(stand.text("a").await.as_deref(), Some("before"));
    assert_eq!(stand.all().await, ["a"]);
}

async fn tags_are_not_used_twice(mut stand: Stand) {
    let mut seen = Vec::new();
    for end in [End::Close, End::Kill, End::Kill, End::Close] {
        for _ in 0..3 {
            seen.push(stand.put("a", "x").await.tag);
            stand.delete("a").await;
        }
        stand.reopen(end).await;
    }
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count);
}

async fn reopened_again_and_again(mut stand: Stand) {
    let mut expected = Vec::new();
    for round in 0..8 {
        let name = format!("k{round}");
        stand.put(&name, name.clone()).await;
        expected.push(name);
        stand.reopen(ENDS[round % 2]).await;
        assert_eq!(stand.all().await, expected);
        for name in &expected {
            assert_eq!(stand.text(name).await.as_ref(), Some(name));
        }
    }
}
