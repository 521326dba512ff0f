use std::time::Duration;

use super::{
    Case, case,
    stand::{Stand, committed, delete, is_compacted, next, next_shown, put, shown, soon},
};
use crate::kv::{Retention, Revision, Span};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            one_batch_a_commit,
            Nothing,
            "Delivers every commit that touches its span, one Batch a commit."
        ),
        case!(
            only_the_span,
            Nothing,
            "All changes of one commit that fall into a watch's span, in key order."
        ),
        case!(a_watch_waits, Nothing, "The next batch; waits for one."),
        case!(
            a_watch_resumes_anywhere,
            Nothing,
            "Delivers every commit after the given revision, in revision order."
        ),
        case!(
            none_lost_none_twice,
            Nothing,
            "In revision order, none lost and none twice."
        ),
        case!(next_is_cancel_safe, Nothing, "Cancel safe."),
        case!(
            list_then_watch_misses_nothing,
            Nothing,
            "The caller lists again and watches from the list's revision."
        ),
        case!(
            a_watch_from_before_the_history,
            Nothing,
            "`kv.compacted` when the history is gone."
        ),
        case!(
            a_slow_watcher,
            Nothing,
            "A watcher that is too slow ends with the same error rather than growing the memory."
        ),
        case!(
            an_idle_watcher_keeps_up,
            Nothing,
            "A watcher that waits is not slow, however much happens outside its span."
        ),
    ]
}

async fn one_batch_a_commit(stand: Stand) {
    let mut watch = stand.watch(Span::all(), 0).await;
    stand.commit(vec![put("b", "1"), put("a", "1")]).await;
    stand
        .commit(vec![delete("a"), put("c", "2"), delete("missing")])
        .await;
    stand.delete("missing").await;
    stand.put("c", "3").await;
    assert_eq!(
        next_shown(&mut watch, 3).await,
        ["1: a=1 b=1", "2: -a c=2", "3: c=3"]
    );
    let entry = stand.get("c").await.unwrap();
    let mut again = stand.watch(Span::key("c"), 2).await;
    assert_eq!(
        next(&mut again).await.events,
        [crate::kv::Event::Put(entry)]
    );
}

async fn only_the_span(stand: Stand) {
    let mut watch = stand.watch(Span::between("b", "d"), 0).await;
    let mut one = stand.watch(Span::key("d"), 0).await;
    stand
        .commit(vec![
            put("a", "1"),
            put("d", "1"),
            put("c", "1"),
            put("b", "1"),
        ])
        .await;
    stand.put("a", "2").await;
    stand
        .commit(vec![delete("a"), delete("b"), delete("d")])
        .await;
    assert_eq!(next_shown(&mut watch, 2).await, ["1: b=1 c=1", "3: -b"]);
    assert_eq!(next_shown(&mut one, 2).await, ["1: d=1", "3: -d"]);
}

async fn a_watch_waits(stand: Stand) {
    stand.put("a", "1").await;
    let mut watch = stand.watch(Span::all(), 1).await;
    let waiting = tokio::spawn(async move { shown(&next(&mut watch).await) });
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(!waiting.is_finished());
    stand.put("a", "2").await;
    assert_eq!(soon(waiting).await.unwrap(), "2: a=2");
}

async fn a_watch_resumes_anywhere(stand: Stand) {
    for n in 1..=12 {
        let writes = if n % 4 == 0 {
            vec![delete("k1")]
        } else {
            vec![put(&format!("k{}", n % 4), "x")]
        };
        stand.commit(writes).await;
    }
    let mut whole = stand.watch(Span::all(), 0).await;
    let all = next_shown(&mut whole, 12).await;
    for after in 0..12 {
        let mut rest = stand.watch(Span::all(), after as Revision).await;
        assert_eq!(next_shown(&mut rest, 12 - after).await, all[after..]);
    }
}

async fn none_lost_none_twice(stand: Stand) {
    const WRITERS: usize = 8;
    const EACH: usize = 40;
    let (left, right) = (Span::between("w0", "w4"), Span::between("w4", "w9"));
    let watches = [
        (Span::all(), WRITERS * EACH),
        (left, WRITERS / 2 * EACH),
        (right, WRITERS / 2 * EACH),
    ];
    let mut watching = Vec::new();
    for (span, count) in watches {
        let mut watch = stand.watch(span, 0).await;
        watching.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            for _ in 0..count {
                seen.push(next(&mut watch).await);
            }
            seen
        }));
    }
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let kv = stand.kv();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                for n in 0..EACH {
                    let write = put(&format!("w{writer}"), &n.to_string());
                    let revision = committed(kv.commit(vec![], vec![write]).await.unwrap());
                    mine.push(format!("{revision}: w{writer}={n}"));
                }
                mine
            })
        })
        .collect();
    let mut expected = Vec::new();
    for writer in writers {
        expected.extend(soon(writer).await.unwrap());
    }
    let revision_of = |text: &String| text.split(':').next().unwrap().parse::<u64>().unwrap();
    expected.sort_by_key(revision_of);
    for (index, watch) in watching.into_iter().enumerate() {
        let seen: Vec<String> = soon(watch).await.unwrap().iter().map(shown).collect();
        let in_span = |text: &&String| match index {
            0 => true,
            half => (text.split(": w").nth(1).unwrap() < "4") == (half == 1),
        };
        let expected: Vec<String> = expected.iter().filter(in_span).cloned().collect();
        assert_eq!(seen, expected);
    }
}

async fn next_is_cancel_safe(stand: Stand) {
    const COMMITS: u64 = 100;
    let mut watch = stand.watch(Span::all(), 0).await;
    let kv = stand.kv();
    let writer = tokio::spawn(async move {
        for n in 1..=COMMITS {
            let write = put("a", &n.to_string());
            let _ = committed(kv.commit(vec![], vec![write]).await.unwrap());
        }
    });
    let mut seen = 0;
    soon(async {
        while seen < COMMITS {
            // Given up again and again, at once or in the middle of a wait.
            let patience = Duration::from_micros(seen % 5 * 50);
            if let Ok(batch) = tokio::time::timeout(patience, watch.next()).await {
                seen += 1;
                assert_eq!(shown(&batch.unwrap()), format!("{seen}: a={seen}"));
            }
        }
    })
    .await;
    writer.await.unwrap();
}

async fn list_then_watch_misses_nothing(stand: Stand) {
    let kv = stand.kv();
    let writer = tokio::spawn(async move {
        for n in 0..100 {
            let write = put("counter", &n.to_string());
            let _ = committed(kv.commit(vec![], vec![write]).await.unwrap());
        }
    });
    let kv = stand.kv();
    soon(async {
        loop {
            let page = kv.range(Span::all(), 10, None).await.unwrap();
            // What was listed can always be watched from, however fresh.
            let mut watch = kv.watch(Span::all(), page.revision).await.unwrap();
            if page.revision >= 100 {
                break;
            }
            assert_eq!(next(&mut watch).await.revision, page.revision + 1);
        }
    })
    .await;
    writer.await.unwrap();
}

async fn a_watch_from_before_the_history(stand: Stand) {
    for n in 1..=5 {
        stand.put("a", &n.to_string()).await;
    }
    stand.kv().compact(3).await.unwrap();
    is_compacted(stand.kv().watch(Span::all(), 2).await.map(|_| ()));
    let mut watch = stand.watch(Span::all(), 3).await;
    assert_eq!(next_shown(&mut watch, 2).await, ["4: a=4", "5: a=5"]);
}

async fn a_slow_watcher(stand: Stand) {
    const COMMITS: usize = 400;
    let retention = Retention {
        commits: 16,
        bytes: usize::MAX,
    };
    let stand = stand.another(Some(retention)).await;
    let mut watch = stand.watch(Span::all(), 0).await;
    // Nobody reads, and the writer goes on as if nobody watched.
    for n in 1..=COMMITS {
        stand.put("a", &n.to_string()).await;
    }
    // Then come the commits from the first on, without a gap, until the end or the error.
    for n in 1..=COMMITS {
        match soon(watch.next()).await {
            Ok(batch) => assert_eq!(shown(&batch), format!("{n}: a={n}")),
            Err(error) => return is_compacted(Err::<(), _>(error)),
        }
    }
    panic!("{COMMITS} batches were kept for a watcher that nobody read, in a history of 16");
}

async fn an_idle_watcher_keeps_up(stand: Stand) {
    let retention = Retention {
        commits: 16,
        bytes: usize::MAX,
    };
    let stand = stand.another(Some(retention)).await;
    let mut watch = stand.watch(Span::key("mine"), 0).await;
    for n in 1..=60 {
        stand.put("other", &n.to_string()).await;
        let waited = tokio::time::timeout(Duration::from_millis(1), watch.next()).await;
        assert!(waited.is_err(), "{waited:?}");
    }
    stand.put("mine", "1").await;
    assert_eq!(next_shown(&mut watch, 1).await, ["61: mine=1"]);
}
