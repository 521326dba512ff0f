//! The keyspace over the reference store, with time moved by hand.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use sinew_core::{ManualClock, Timestamp};
use sinew_engine::kv::{Kv, MemoryKv, Span};

use super::*;

struct Setup {
    manual: ManualClock,
    kv: Arc<MemoryKv>,
}

impl Setup {
    fn new() -> Self {
        let manual = ManualClock::new(Timestamp(1_000_000));
        let kv = Arc::new(MemoryKv::new(manual.clock()));
        Self { manual, kv }
    }

    async fn start(&self) -> Keyspace {
        let keyspace = Keyspace::start(self.kv.clone(), self.manual.clock(), Config::default());
        settle().await;
        keyspace
    }

    async fn pass(&self, seconds: u64) {
        self.manual.advance(Duration::from_secs(seconds));
        settle().await;
    }
}

/// Lets the background tasks do what they can do without time passing.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn request(ttl: Option<u64>, deletes: bool) -> SessionRequest {
    SessionRequest {
        name: "test".into(),
        ttl: ttl.map(Duration::from_secs),
        lock_delay: Duration::from_secs(15),
        deletes,
        ..SessionRequest::default()
    }
}

async fn set(keyspace: &Keyspace, key: &str, value: &str) {
    let put = keyspace.put(key, bytes(value), 0, Mode::Always).await;
    assert!(put.unwrap());
}

async fn lock(keyspace: &Keyspace, key: &str, session: &Session) -> bool {
    let mode = Mode::Acquire(session.id.clone());
    keyspace.put(key, bytes("locked"), 0, mode).await.unwrap()
}

async fn holder(keyspace: &Keyspace, key: &str) -> Option<Arc<str>> {
    keyspace
        .get(key)
        .await
        .unwrap()
        .and_then(|item| item.session)
}

#[tokio::test]
async fn keys_are_set_read_and_deleted() {
    let setup = Setup::new();
    let keyspace = setup.start().await;
    assert_eq!(keyspace.get("a").await.unwrap(), None);
    set(&keyspace, "a", "1").await;
    let first = keyspace.get("a").await.unwrap().unwrap();
    assert_eq!(
        (&first.value[..], first.created),
        (&b"1"[..], first.modified)
    );
    assert!(
        keyspace
            .put("a", bytes("2"), 7, Mode::At(first.modified))
            .await
            .unwrap()
    );
    let second = keyspace.get("a").await.unwrap().unwrap();
    assert_eq!((second.created, second.flags), (first.created, 7));
    assert!(second.modified > first.modified);
    assert!(
        !keyspace
            .put("a", bytes("3"), 7, Mode::At(first.modified))
            .await
            .unwrap()
    );
    assert!(!keyspace.put("a", bytes("3"), 7, Mode::At(0)).await.unwrap());
    // What changes nothing takes no revision.
    assert!(
        keyspace
            .put("a", bytes("2"), 7, Mode::Always)
            .await
            .unwrap()
    );
    assert_eq!(keyspace.get("a").await.unwrap(), Some(second.clone()));

    assert!(!keyspace.delete("a", Some(0)).await.unwrap());
    assert!(keyspace.delete("a", Some(second.modified)).await.unwrap());
    assert!(
        keyspace.delete("a", None).await.unwrap(),
        "it is gone already"
    );
    assert_eq!(keyspace.get("a").await.unwrap(), None);
}

#[tokio::test]
async fn prefixes_and_separators() {
    let setup = Setup::new();
    let keyspace = setup.start().await;
    for key in ["a/", "a/b", "a/b/1", "a/b/2", "a/c", "ab", "b"] {
        set(&keyspace, key, key).await;
    }
    let keys = |prefix: &'static str, separator: &'static str| {
        let keyspace = keyspace.clone();
        async move { keyspace.keys(prefix, separator).await.unwrap() }
    };
    assert_eq!(keys("a/", "").await, ["a/", "a/b", "a/b/1", "a/b/2", "a/c"]);
    assert_eq!(keys("a/", "/").await, ["a/", "a/b", "a/b/", "a/c"]);
    assert_eq!(keys("", "/").await, ["a/", "ab", "b"]);
    assert_eq!(keys("x", "/").await, [""; 0]);
    let listed = keyspace.list("a/b").await.unwrap();
    let listed: Vec<_> = listed.iter().map(|item| &*item.key).collect();
    assert_eq!(listed, ["a/b", "a/b/1", "a/b/2"]);
    keyspace.delete_tree("a/").await.unwrap();
    assert_eq!(keys("", "").await, ["ab", "b"]);
    keyspace.delete_tree("").await.unwrap();
    let left = setup.kv.range(Span::all(), 10, None).await.unwrap();
    assert_eq!(left.entries, []);
}

#[tokio::test]
async fn trees_larger_than_a_transaction_are_deleted() {
    let setup = Setup::new();
    let keyspace = setup.start().await;
    let most = setup.kv.capability().limits.transaction_operations;
    for n in 0..most + 10 {
        set(&keyspace, &format!("t/{n:05}"), "x").await;
    }
    set(&keyspace, "u", "x").await;
    keyspace.delete_tree("t/").await.unwrap();
    assert_eq!(keyspace.keys("", "").await.unwrap(), ["u"]);
}

#[tokio::test]
async fn bad_keys_and_values_are_refused() {
    let setup = Setup::new();
    let keyspace = setup.start().await;
    let long = "k".repeat(1024);
    for key in ["", &long] {
        let put = keyspace.put(key, bytes(""), 0, Mode::Always).await;
        assert_eq!(put.unwrap_err().code(), "keyspace.key_invalid");
        assert_eq!(
            keyspace.get(key).await.unwrap_err().code(),
            "keyspace.key_invalid"
        );
    }
    let longest = Bytes::from(vec![0; 512 << 10]);
    assert!(
        keyspace
            .put("a", longest.clone(), 0, Mode::Always)
            .await
            .unwrap()
    );
    let longer = Bytes::from([&longest[..], b"1"].concat());
    let put = keyspace.put("a", longer, 0, Mode::Always).await;
    assert_eq!(put.unwrap_err().code(), "keyspace.value_too_large");
    let unknown = keyspace
        .put("a", bytes(""), 0, Mode::Acquire("s".into()))
        .await;
    assert_eq!(unknown.unwrap_err().code(), "keyspace.session_unknown");
    let mut short = request(Some(9), false);
    let error = keyspace.create_session(short.clone()).await.unwrap_err();
    assert_eq!(error.code(), "keyspace.session_invalid");
    short.ttl = Some(Duration::from_secs(10));
    short.lock_delay = Duration::from_secs(61);
    let error = keyspace.create_session(short).await.unwrap_err();
    assert_eq!(error.code(), "keyspace.session_invalid");
}

#[tokio::test]
async fn one_session_holds_a_lock() {
    let setup = Setup::new();
    let keyspace = setup.start().await;
    let a = keyspace
        .create_session(request(Some(10), false))
        .await
        .unwrap();
    let b = keyspace.create_session(request(None, false)).await.unwrap();
    assert!(lock(&keyspace, "leader", &a).await);
    assert!(!lock(&keyspace, "leader", &b).await);
    assert!(lock(&keyspace, "leader", &a).await, "it has it");
    assert_eq!(holder(&keyspace, "leader").await, Some(a.id.clone()));
    let release = |session: &Session| Mode::Release(session.id.clone());
    let other = keyspace.put("leader", bytes(""), 0, release(&b)).await;
    assert!(!other.unwrap());
    let own = keyspace.put("leader", bytes("free"), 0, release(&a)).await;
    assert!(own.unwrap());
    // Given back on purpose, there is no delay.
    assert!(lock(&keyspace, "leader", &b).await);
    let leader = keyspace.get("leader").await.unwrap().unwrap();
    assert_eq!((leader.lock_index, leader.session), (2, Some(b.id.clone())));
    let sessions = keyspace.sessions().await.unwrap();
    assert_eq!(sessions, [a.clone(), b.clone()]);
    assert_eq!(keyspace.session(&a.id).await.unwrap(), Some(a));
    assert_eq!(keyspace.stats().sessions, 2);
}

#[tokio::test]
async fn a_session_that_is_not_renewed_goes_with_its_locks() {
    let setup = Setup::new();
    let keyspace = setup.start().await;
    let renewed = keyspace
        .create_session(request(Some(10), false))
        .await
        .unwrap();
    let silent = keyspace
        .create_session(request(Some(10), false))
        .await
        .unwrap();
    let fleeting = keyspace
        .create_session(request(Some(10), true))
        .await
        .unwrap();
    assert!(lock(&keyspace, "kept", &renewed).await);
    assert!(lock(&keyspace, "leader", &silent).await);
    assert!(lock(&keyspace, "note", &fleeting).await);
    for _ in 0..2 {
        setup.pass(10).await;
        keyspace.renew_session(&renewed.id).await.unwrap();
    }
    let error = keyspace.renew_session(&silent.id).await.unwrap_err();
    assert_eq!(error.code(), "keyspace.session_unknown");
    let leader = keyspace.get("leader").await.unwrap().unwrap();
    assert_eq!((leader.session, &leader.value[..]), (None, &b"locked"[..]));
    assert_eq!(keyspace.get("note").await.unwrap(), None);
    assert_eq!(holder(&keyspace, "kept").await, Some(renewed.id.clone()));
    assert_eq!(keyspace.stats().released, 2);
    assert_eq!(keyspace.stats().sessions, 1);

    assert!(
        !lock(&keyspace, "leader", &renewed).await,
        "the delay is on"
    );
    assert!(!lock(&keyspace, "note", &renewed).await);
    set(&keyspace, "leader", "anybody may write").await;
    setup.pass(15).await;
    keyspace.renew_session(&renewed.id).await.unwrap_err();
    let next = keyspace.create_session(request(None, false)).await.unwrap();
    assert!(lock(&keyspace, "leader", &next).await);
    assert!(lock(&keyspace, "note", &next).await);
}

#[tokio::test]
async fn destroying_a_session_releases_before_it_answers() {
    let setup = Setup::new();
    let keyspace = setup.start().await;
    let mut asked = request(None, false);
    asked.lock_delay = Duration::ZERO;
    let a = keyspace.create_session(asked.clone()).await.unwrap();
    let b = keyspace.create_session(asked).await.unwrap();
    for n in 0..20 {
        assert!(lock(&keyspace, &format!("lock/{n}"), &a).await);
    }
    assert!(keyspace.destroy_session(&a.id).await.unwrap());
    assert!(!keyspace.destroy_session(&a.id).await.unwrap());
    for n in 0..20 {
        assert!(lock(&keyspace, &format!("lock/{n}"), &b).await);
    }
    let gone = keyspace.put("x", bytes(""), 0, Mode::Acquire(a.id)).await;
    assert_eq!(gone.unwrap_err().code(), "keyspace.session_unknown");
}

/// The node that a session was made through may be gone when it expires, and whoever asks may be
/// quicker than those who release.
#[tokio::test]
async fn locks_are_released_by_whoever_is_there() {
    let setup = Setup::new();
    let first = setup.start().await;
    let mut asked = request(Some(10), false);
    asked.lock_delay = Duration::ZERO;
    let a = first.create_session(asked.clone()).await.unwrap();
    assert!(lock(&first, "leader", &a).await);
    first.stop();
    setup.pass(20).await;
    let mark = setup
        .kv
        .range(Span::prefix("keyspace/held/"), 10, None)
        .await;
    assert_eq!(mark.unwrap().entries.len(), 1, "nobody has released it");

    // Not started by `start`, which would let its tasks run.
    let second = Keyspace::start(setup.kv.clone(), setup.manual.clock(), Config::default());
    second.stop();
    asked.ttl = None;
    let session = tokio::spawn({
        let second = second.clone();
        async move { second.create_session(asked).await.unwrap() }
    });
    // Nothing follows the store, so what is written is not seen within its time.
    while !session.is_finished() {
        setup.pass(1).await;
    }
    let session = session.await.unwrap();
    let locked = tokio::spawn({
        let second = second.clone();
        async move { lock(&second, "leader", &session).await }
    });
    while !locked.is_finished() {
        setup.pass(1).await;
    }
    assert!(locked.await.unwrap());

    // And at the start, for those that expired while no node was there.
    let third = setup.start().await;
    let c = third.create_session(request(Some(10), true)).await.unwrap();
    assert!(lock(&third, "note", &c).await);
    third.stop();
    setup.pass(20).await;
    assert!(setup.start().await.get("note").await.unwrap().is_none());
}

#[tokio::test]
async fn transactions_are_all_or_nothing() {
    let setup = Setup::new();
    let keyspace = setup.start().await;
    set(&keyspace, "a", "1").await;
    let put = |key: &str, mode| Action::Put {
        key: key.into(),
        value: bytes("new"),
        flags: 0,
        mode,
    };
    let refused = keyspace
        .transact(&[put("b", Mode::Always), Action::CheckAbsent("a".into())])
        .await
        .unwrap();
    assert_eq!(refused.unwrap_err().step, 1);
    assert_eq!(keyspace.get("b").await.unwrap(), None);

    let done = keyspace
        .transact(&[
            put("b", Mode::At(0)),
            Action::Get("b".into()),
            Action::Delete("a".into(), None),
            Action::GetTree("".into()),
            Action::CheckAbsent("a".into()),
        ])
        .await
        .unwrap()
        .unwrap();
    let keys: Vec<_> = done
        .iter()
        .map(|(step, item)| (*step, &*item.key))
        .collect();
    assert_eq!(keys, [(0, "b"), (1, "b"), (3, "b")]);
    assert_eq!(Some(done[0].1.clone()), keyspace.get("b").await.unwrap());

    let session = keyspace.create_session(request(None, false)).await.unwrap();
    let lock = [
        put("c", Mode::Acquire(session.id.clone())),
        put("d", Mode::Acquire("x".into())),
    ];
    assert_eq!(keyspace.transact(&lock).await.unwrap().unwrap_err().step, 1);
    keyspace.transact(&lock[..1]).await.unwrap().unwrap();
    let check = [Action::CheckSession("c".into(), session.id.clone())];
    keyspace.transact(&check).await.unwrap().unwrap();
    keyspace
        .transact(&[Action::DeleteTree("".into())])
        .await
        .unwrap()
        .unwrap();
    let left = setup
        .kv
        .range(Span::prefix("keyspace/held/"), 10, None)
        .await;
    assert_eq!(left.unwrap().entries, [], "nothing says that it is held");
}

#[tokio::test]
async fn followers_are_woken_by_their_own_changes_alone() {
    let setup = Setup::new();
    let keyspace = setup.start().await;
    set(&keyspace, "a/1", "1").await;
    let key = keyspace.follow(Scope::Key("a/1".into()));
    let tree = keyspace.follow(Scope::Prefix("a/".into()));
    let other = keyspace.follow(Scope::Prefix("b/".into()));
    let woken = async |follower: &Follower| {
        settle().await;
        tokio::select! {
            biased;
            () = follower.changed() => true,
            () = settle() => false,
        }
    };
    let at = keyspace.get("a/1").await.unwrap().unwrap().modified;
    assert_eq!(key.index([at]), at);
    let (tree_at, other_at) = (tree.index([at]), other.index([]));
    set(&keyspace, "b/1", "1").await;
    assert!(woken(&other).await && !woken(&other).await);
    assert!(!woken(&key).await && !woken(&tree).await);
    assert_eq!(tree.index([at]), tree_at);
    assert!(other.index([]) > other_at);

    keyspace.delete("a/1", None).await.unwrap();
    assert!(woken(&key).await && woken(&tree).await && !woken(&other).await);
    assert!(tree.index([]) > tree_at, "a deletion counts");
    assert!(key.index([]) > at);
    assert_eq!(keyspace.stats().followers, 3);
    drop(key);
    assert_eq!(keyspace.stats().followers, 2);

    let sessions = keyspace.follow(Scope::Sessions);
    let session = keyspace
        .create_session(request(Some(10), false))
        .await
        .unwrap();
    assert!(woken(&sessions).await);
    assert_eq!(sessions.index([session.created]), session.created);
    setup.pass(20).await;
    assert!(woken(&sessions).await);
    assert!(sessions.index([]) > session.created);
}

#[tokio::test]
async fn a_change_wakes_the_followers_of_all_nodes() {
    let setup = Setup::new();
    let (one, two) = (setup.start().await, setup.start().await);
    let follower = two.follow(Scope::Key("a".into()));
    set(&one, "a", "1").await;
    settle().await;
    follower.changed().await;
    let at = two.get("a").await.unwrap().unwrap().modified;
    follower.wait_for(at).await;
    assert!(follower.seen() >= at);
}
