use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use sinew_core::Clock;

use super::*;
use crate::{kv::MemoryKv, retry::Policy};

/// What happens to the next commit.
#[derive(Clone, Copy)]
enum Fate {
    /// Nothing reaches the store.
    Fails,
    /// It is done, and the answer lost.
    Lost,
    /// As `Lost`; then somebody else writes the key too.
    LostAndOverwritten,
    /// Nothing reaches the store, and somebody else writes the key.
    Overtaken,
    /// The store refuses it.
    Refused,
}

/// A store whose commits go as written down; when nothing is, they go well.
#[derive(Clone)]
struct Scripted {
    kv: MemoryKv,
    script: Arc<Mutex<VecDeque<Fate>>>,
}

impl Scripted {
    async fn other(&self) {
        let write = Write::Put {
            key: "k".into(),
            value: "other".into(),
            lease: None,
        };
        let _: Outcome = self.kv.commit(vec![], vec![write]).await.unwrap();
    }
}

#[async_trait]
impl Kv for Scripted {
    fn capability(&self) -> &Capability {
        self.kv.capability()
    }
    async fn revision(&self) -> Result<Revision> {
        self.kv.revision().await
    }
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        self.kv.get(key).await
    }
    async fn range(&self, span: Span, limit: usize, at: Option<Revision>) -> Result<Page> {
        self.kv.range(span, limit, at).await
    }
    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Outcome> {
        let unknown = || Error::new(Kind::DeadlineExceeded, "engine.timeout", "no answer");
        let fate = self.script.lock().unwrap().pop_front();
        match fate {
            None => return self.kv.commit(conditions, writes).await,
            Some(Fate::Fails) => {}
            Some(Fate::Lost) => {
                let _: Outcome = self.kv.commit(conditions, writes).await?;
            }
            Some(Fate::LostAndOverwritten) => {
                let _: Outcome = self.kv.commit(conditions, writes).await?;
                self.other().await;
            }
            Some(Fate::Overtaken) => self.other().await,
            Some(Fate::Refused) => {
                let refused = Error::new(Kind::ResourceExhausted, "kv.overloaded", "too much");
                return Err(refused.with_retry(sinew_core::Retry::Yes));
            }
        }
        Err(unknown())
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

/// `k` is at revision 1. What does a commit over it answer that goes as `script` says? And what does the key hold then?
async fn commit(script: &[Fate], leased: bool) -> (Result<Outcome, Kind>, String) {
    let kv = MemoryKv::new(Clock::system());
    let scripted = Scripted {
        kv: kv.clone(),
        script: Arc::default(),
    };
    scripted.other().await;
    let lease = kv.grant(Duration::from_secs(60)).await.unwrap();
    scripted.script.lock().unwrap().extend(script);
    let policy = Policy {
        first_delay: Duration::from_millis(1),
        longest_delay: Duration::from_millis(2),
        ..Policy::default()
    };
    let write = Write::Put {
        key: "k".into(),
        value: "mine".into(),
        lease: leased.then_some(lease),
    };
    let outcome = Retrying::new(scripted, policy)
        .commit(vec![Condition::KeyAt("k".into(), 1)], vec![write])
        .await;
    let entry = kv.get(b"k").await.unwrap().unwrap();
    let value = String::from_utf8(entry.value.to_vec()).unwrap();
    (outcome.map_err(|error| error.kind()), value)
}

#[tokio::test]
async fn a_marked_commit_happens_once_and_is_answered_truly() {
    for (script, expected, value) in [
        (vec![Fate::Fails], Outcome::Committed(2), "mine"),
        (vec![Fate::Lost], Outcome::Committed(2), "mine"),
        (vec![Fate::Lost, Fate::Fails], Outcome::Committed(2), "mine"),
        (vec![Fate::Fails, Fate::Lost], Outcome::Committed(2), "mine"),
        (vec![Fate::Refused], Outcome::Committed(2), "mine"),
        (
            vec![Fate::Lost, Fate::Refused],
            Outcome::Committed(2),
            "mine",
        ),
        (
            vec![Fate::LostAndOverwritten],
            Outcome::Committed(2),
            "other",
        ),
        (vec![Fate::Overtaken], Outcome::Conflict(0), "other"),
    ] {
        let (outcome, found) = commit(&script, true).await;
        assert_eq!((outcome, found.as_str()), (Ok(expected), value));
    }
}

#[tokio::test]
async fn a_commit_without_a_mark_is_not_repeated_once_it_may_have_happened() {
    let unknown = Err(Kind::DeadlineExceeded);
    assert_eq!(
        commit(&[Fate::Fails], false).await,
        (unknown, "other".into())
    );
    assert_eq!(commit(&[Fate::Lost], false).await, (unknown, "mine".into()));
    let refused = commit(&[Fate::Refused], false).await;
    assert_eq!(refused, (Ok(Outcome::Committed(2)), "mine".into()));
}
