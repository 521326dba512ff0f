//! The documents over the reference store, and over one that misbehaves.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;
use sinew_core::{Clock, Error, Kind, Name, Result, Timestamp};
use sinew_engine::{
    faulty::{Faults, Faulty},
    kv::{
        Capability, Condition, Entry, Kv, LeaseId, MemoryKv, Outcome, Page, Revision, Span, Watch,
        Write,
    },
};
use tokio::{sync::watch, time::timeout};

use super::{
    machine::{oldest_kept, split},
    *,
};

const LONG: Duration = Duration::from_secs(30);

fn name() -> Name {
    Name::new("routing").unwrap()
}

fn memory() -> MemoryKv {
    MemoryKv::new(Clock::system())
}

fn over(kv: impl Kv) -> Documents {
    over_with(kv, Config::default())
}

fn over_with(kv: impl Kv, config: Config) -> Documents {
    Documents::new(Arc::new(kv), Clock::system(), config)
}

fn change(content: impl Into<Bytes>) -> Change {
    Change {
        content: content.into(),
        author: "ann".into(),
        note: String::new(),
        expected: None,
        restores: None,
    }
}

fn on(expected: u64, content: impl Into<Bytes>) -> Change {
    Change {
        expected: Some(expected),
        ..change(content)
    }
}

async fn keys_of(kv: &impl Kv) -> Vec<String> {
    let page = kv.range(Span::all(), usize::MAX, None).await.unwrap();
    assert_eq!(page.next, None);
    let text = |entry: Entry| String::from_utf8(entry.key.to_vec()).unwrap();
    page.entries.into_iter().map(text).collect()
}

async fn shown(
    follower: &mut watch::Receiver<Followed>,
    wanted: impl FnMut(&Followed) -> bool,
) -> Followed {
    timeout(LONG, follower.wait_for(wanted))
        .await
        .unwrap()
        .unwrap()
        .clone()
}

fn number(followed: &Followed) -> u64 {
    followed
        .document
        .as_ref()
        .map_or(0, |document| document.version.version)
}

#[tokio::test]
async fn a_document_and_its_history() {
    let documents = over(memory());
    assert_eq!(documents.current(&name()).await.unwrap(), None);
    assert!(documents.versions(&name()).await.unwrap().is_empty());
    let unknown = documents.version(&name(), 1).await.unwrap_err();
    assert_eq!(unknown.code(), "documents.version_unknown");

    let first = documents.write(&name(), &on(0, "one")).await.unwrap();
    assert!(first.is_new);
    assert_eq!((first.version.version, first.version.bytes), (1, 3));
    let mut second = on(1, "two");
    second.note = "the second".into();
    let second = documents.write(&name(), &second).await.unwrap().version;
    assert_eq!((second.version, second.note.as_str()), (2, "the second"));
    let back = Change {
        restores: Some(1),
        ..on(2, "one")
    };
    let back = documents.write(&name(), &back).await.unwrap().version;
    assert_eq!((back.version, back.restores), (3, Some(1)));
    assert_eq!(back.hash, first.version.hash);
    assert_eq!(back.hash, hash(b"one"));

    let current = documents.current(&name()).await.unwrap().unwrap();
    assert_eq!(
        (current.version, &current.content[..]),
        (back.clone(), &b"one"[..])
    );
    assert_eq!(
        documents.versions(&name()).await.unwrap(),
        [back, second, first.version]
    );
    assert_eq!(
        &documents.version(&name(), 2).await.unwrap().content[..],
        b"two"
    );
    let other = Name::new("routing-2").unwrap();
    assert_eq!(documents.current(&other).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_the_same_makes_no_version_and_what_is_not_expected_changes_nothing() {
    let documents = over(memory());
    let first = documents.write(&name(), &on(0, "one")).await.unwrap();
    // The answer was lost and the client asks again.
    let again = documents.write(&name(), &on(0, "one")).await.unwrap();
    assert_eq!((again.is_new, &again.version), (false, &first.version));
    let same = documents.write(&name(), &change("one")).await.unwrap();
    assert_eq!((same.is_new, &same.version), (false, &first.version));

    for (expected, content) in [(0, "two"), (2, "two"), (2, "one")] {
        let refused = documents
            .write(&name(), &on(expected, content))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), "documents.changed_meanwhile", "{expected}");
        assert!(refused.message().contains("at version 1"), "{refused}");
    }
    assert_eq!(documents.versions(&name()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_too_long_is_refused() {
    let config = Config {
        document_bytes: 10,
        ..Config::default()
    };
    let documents = over_with(memory(), config);
    let code = |change: Change| {
        let documents = documents.clone();
        async move {
            documents
                .write(&name(), &change)
                .await
                .unwrap_err()
                .code()
                .to_owned()
        }
    };
    assert_eq!(code(change("x".repeat(11))).await, "documents.too_large");
    for (author, note) in [
        ("", ""),
        ("a\nb", ""),
        ("ann", "a\u{1b}[2J"),
        ("ann", &"n".repeat(1025)),
    ] {
        let bad = Change {
            author: author.into(),
            note: note.into(),
            ..change("x")
        };
        assert_eq!(code(bad).await, "documents.label_invalid");
    }
    documents
        .write(&name(), &change("x".repeat(10)))
        .await
        .unwrap();
}

#[tokio::test]
async fn of_writers_that_expect_the_same_version_exactly_one_wins() {
    let documents = over(memory());
    for round in 0..20 {
        let writes = (0..8).map(|writer| {
            let documents = documents.clone();
            tokio::spawn(async move {
                let content = format!("{round}-{writer}");
                documents.write(&name(), &on(round, content)).await
            })
        });
        let mut won = Vec::new();
        for write in writes.collect::<Vec<_>>() {
            match write.await.unwrap() {
                Ok(written) => won.push(written.version),
                Err(error) => assert_eq!(error.code(), "documents.changed_meanwhile"),
            }
        }
        assert_eq!(won.len(), 1);
        let current = documents.current(&name()).await.unwrap().unwrap();
        assert_eq!(current.version, won[0]);
    }
}

/// An engine that takes little at once, and can die after some commits.
#[derive(Clone)]
struct Small {
    kv: MemoryKv,
    capability: Capability,
    commits_left: Arc<AtomicUsize>,
}

impl Small {
    fn new() -> Self {
        let kv = memory();
        let mut capability = *kv.capability();
        capability.limits.value_bytes = 1 << 10;
        capability.limits.transaction_bytes = 20 << 10;
        capability.limits.page_entries = 3;
        Self {
            kv,
            capability,
            commits_left: Arc::new(AtomicUsize::new(usize::MAX)),
        }
    }
}

#[async_trait]
impl Kv for Small {
    fn capability(&self) -> &Capability {
        &self.capability
    }
    async fn revision(&self) -> Result<Revision> {
        self.kv.revision().await
    }
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        self.kv.get(key).await
    }
    async fn range(&self, span: Span, limit: usize, at: Option<Revision>) -> Result<Page> {
        let limit = self.capability.limits.page_size(limit);
        self.kv.range(span, limit, at).await
    }
    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Outcome> {
        self.capability
            .limits
            .check_transaction(&conditions, &writes)?;
        if self.commits_left.load(Ordering::SeqCst) == 0 {
            return Err(Error::new(Kind::Internal, "kv.closed", "dead"));
        }
        self.commits_left.fetch_sub(1, Ordering::SeqCst);
        self.kv.commit(conditions, writes).await
    }
    async fn watch(&self, span: Span, after: Revision) -> Result<Box<dyn Watch>> {
        self.kv.watch(span, after).await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.kv.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        self.kv.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.kv.revoke(lease).await
    }
    async fn compact(&self, revision: Revision) -> Result<()> {
        self.kv.compact(revision).await
    }
}

fn large(seed: u8) -> Bytes {
    let bytes = (0..50_000_u32).map(|at| (at % 251) as u8 ^ seed);
    bytes.collect::<Vec<_>>().into()
}

#[tokio::test]
async fn a_large_document_is_split_and_comes_back_whole() {
    let kv = Small::new();
    let documents = over(kv.clone());
    let mut follower = documents.follow(&name());
    for seed in 1..4 {
        documents
            .write(&name(), &change(large(seed)))
            .await
            .unwrap();
        let seen = shown(&mut follower, |followed| {
            number(followed) == u64::from(seed)
        })
        .await;
        assert_eq!(seen.document.unwrap().content, large(seed));
    }
    assert_eq!(
        documents.version(&name(), 1).await.unwrap().content,
        large(1)
    );
    // 49 parts each, the descriptions, and what is current.
    assert_eq!(keys_of(&kv.kv).await.len(), 3 * 49 + 3 + 1);
}

#[tokio::test]
async fn a_writer_that_dies_on_the_way_leaves_nothing_that_stays() {
    for survived in 0..4 {
        let kv = Small::new();
        let documents = over(kv.clone());
        documents.write(&name(), &change("first")).await.unwrap();
        kv.commits_left.store(survived, Ordering::SeqCst);
        let died = documents.write(&name(), &change(large(1))).await;
        kv.commits_left.store(usize::MAX, Ordering::SeqCst);
        let current = documents.current(&name()).await.unwrap().unwrap();
        match died {
            // Three commits: two of parts alone, one with the rest that makes them a version.
            Ok(_) => assert_eq!((survived, &current.content), (3, &large(1))),
            Err(_) => assert_eq!(&current.content[..], b"first"),
        }
        documents.write(&name(), &change("next")).await.unwrap();
        let versions = documents.versions(&name()).await.unwrap();
        for version in &versions {
            documents.version(&name(), version.version).await.unwrap();
        }
        let parts: usize = if versions.len() == 3 { 1 + 49 + 1 } else { 2 };
        assert_eq!(keys_of(&kv.kv).await.len(), parts + versions.len() + 1);
    }
}

#[tokio::test]
async fn the_history_is_bounded() {
    let kv = memory();
    let config = Config {
        versions: 5,
        history_bytes: 100,
        ..Config::default()
    };
    let documents = over_with(kv.clone(), config);
    for number in 1..=12 {
        documents
            .write(&name(), &change(format!("{number:02}")))
            .await
            .unwrap();
    }
    let numbers = |versions: Vec<Version>| versions.iter().map(|v| v.version).collect::<Vec<_>>();
    assert_eq!(
        numbers(documents.versions(&name()).await.unwrap()),
        [12, 11, 10, 9, 8]
    );
    assert_eq!(keys_of(&kv).await.len(), 5 + 5 + 1);
    let gone = documents.version(&name(), 7).await.unwrap_err();
    assert_eq!(gone.code(), "documents.version_unknown");
    documents
        .write(&name(), &change("x".repeat(99)))
        .await
        .unwrap();
    assert_eq!(
        numbers(documents.versions(&name()).await.unwrap()),
        [13, 12]
    );
    documents
        .write(&name(), &change("y".repeat(200)))
        .await
        .unwrap();
    assert_eq!(
        numbers(documents.versions(&name()).await.unwrap()),
        [14, 13]
    );
}

#[tokio::test]
async fn damage_is_found() {
    let kv = memory();
    let documents = over(kv.clone());
    documents.write(&name(), &change("whole")).await.unwrap();
    let keys = keys_of(&kv).await;
    let part = keys.into_iter().find(|key| key.contains("/part/")).unwrap();
    let write = Write::Put {
        key: part.into(),
        value: "whale".into(),
        lease: None,
    };
    let _ = kv.commit(Vec::new(), vec![write]).await.unwrap();
    for error in [
        documents.current(&name()).await.unwrap_err(),
        documents.version(&name(), 1).await.unwrap_err(),
    ] {
        assert_eq!(error.code(), "documents.damaged");
    }
    // It can be replaced.
    documents.write(&name(), &change("new")).await.unwrap();
    let current = documents.current(&name()).await.unwrap().unwrap();
    assert_eq!(&current.content[..], b"new");
}

#[tokio::test]
async fn a_follower_goes_on_after_the_store_was_away_and_after_its_history_was_forgotten() {
    let kv = memory();
    let faults = Faults {
        errors: 0,
        lost: 0,
        breaks: 0,
        twice: 0,
        delayed: 0,
        ..Faults::default()
    };
    let faulty = Faulty::new(kv.clone(), 1, faults);
    let writer = over(kv.clone());
    let follower = over(faulty.clone());
    let mut follower = follower.follow(&name());
    let none = shown(&mut follower, |followed| followed.is_known).await;
    assert_eq!((number(&none), none.is_in_touch), (0, true));
    writer.write(&name(), &change("one")).await.unwrap();
    shown(&mut follower, |followed| number(followed) == 1).await;

    faulty.set_away(true);
    writer.write(&name(), &change("two")).await.unwrap();
    let away = shown(&mut follower, |followed| !followed.is_in_touch).await;
    assert_eq!(number(&away), 1, "the last version stays");
    for number in 3..20 {
        writer
            .write(&name(), &change(format!("{number}")))
            .await
            .unwrap();
    }
    kv.compact(kv.revision().await.unwrap()).await.unwrap();
    faulty.set_away(false);
    let back = shown(&mut follower, |followed| number(followed) == 19).await;
    assert!(back.is_in_touch);
    writer.write(&name(), &change("more")).await.unwrap();
    shown(&mut follower, |followed| number(followed) == 20).await;
}

#[tokio::test]
async fn no_answered_write_is_lost_or_doubled_over_a_store_that_misbehaves() {
    for seed in 0..6 {
        let kv = memory();
        let faults = Faults {
            lose_the_undecidable: true,
            ..Faults::default()
        };
        let faulty = Faulty::new(kv.clone(), seed, faults);
        let mut follower = over(faulty.clone()).follow(&name());
        let writers = (0..4).map(|writer| {
            let documents = over(faulty.clone());
            tokio::spawn(async move {
                let mut answered = Vec::new();
                for round in 0..12 {
                    let content = format!("{writer}-{round}");
                    if let Ok(written) = documents.write(&name(), &change(content.clone())).await {
                        assert!(written.is_new);
                        answered.push((written.version.version, content));
                    }
                }
                answered
            })
        });
        let mut answered = Vec::new();
        for writer in writers.collect::<Vec<_>>() {
            answered.extend(writer.await.unwrap());
        }
        assert!(answered.len() > 24, "hardly any write passed");
        let documents = over(kv.clone());
        for (version, content) in &answered {
            let document = documents.version(&name(), *version).await.unwrap();
            assert_eq!(document.content, content.as_bytes());
        }
        let versions = documents.versions(&name()).await.unwrap();
        let newest = versions[0].version;
        assert_eq!(versions.len() as u64, newest, "no gaps");
        let contents: BTreeSet<_> = versions.iter().map(|version| &version.hash).collect();
        assert_eq!(contents.len(), versions.len(), "no write happened twice");
        shown(&mut follower, |followed| number(followed) == newest).await;
    }
}

fn versions(sizes: &[usize]) -> Vec<Version> {
    let version = |(index, bytes): (usize, &usize)| Version {
        version: 10 + index as u64,
        time: Timestamp(0),
        author: "ann".into(),
        note: String::new(),
        restores: None,
        bytes: *bytes,
        hash: String::new(),
    };
    sizes.iter().enumerate().map(version).collect()
}

proptest! {
    #[test]
    fn what_is_kept_fits_the_bounds_and_is_as_much_as_fits(
        sizes in prop::collection::vec(0_usize..50, 0..20), most in 2_usize..10, bytes in 0_usize..300,
    ) {
        let config = Config { versions: most, history_bytes: bytes, ..Config::default() };
        let all = versions(&sizes);
        let oldest = oldest_kept(&all, &config);
        let kept: Vec<_> = all.iter().filter(|version| version.version >= oldest).collect();
        let sum: usize = kept.iter().map(|version| version.bytes).sum();
        prop_assert!(kept.len() >= all.len().min(2));
        prop_assert!(kept.len() <= most && (sum <= bytes || kept.len() <= 2));
        if kept.len() < all.len() {
            let next = &all[all.len() - kept.len() - 1];
            prop_assert!(kept.len() == most || sum + next.bytes > bytes);
        }
    }

    #[test]
    fn parts_cover_the_content(length in 0_usize..1000, part in 1_usize..100) {
        let parts = split(length, part);
        let mut end = 0;
        for range in &parts {
            prop_assert_eq!(range.start, end);
            prop_assert!(range.len() <= part && (!range.is_empty() || length == 0));
            end = range.end;
        }
        prop_assert_eq!((end, parts.is_empty()), (length, false));
    }
}
