//! What is kept, and how it is stored.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use sinew_core::Result;
use sinew_engine::kv::{Entry, Revision};

use super::error;

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Arc<str>,
    /// Its value.
    pub value: Bytes,
    /// A number that its users give a meaning.
    pub flags: u64,
    /// The revision that made it.
    pub created: Revision,
    /// The revision that last changed it.
    pub modified: Revision,
    /// How often it was locked.
    pub lock_index: u64,
    /// The session that holds its lock.
    pub session: Option<Arc<str>>,
    /// What becomes of it when the session goes.
    pub(super) fate: Fate,
}

/// What becomes of a key when the session that holds its lock goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    /// How long nobody may lock it then.
    pub(super) delay: Duration,
    /// Whether it is deleted rather than released.
    pub(super) deletes: bool,
}

/// On which condition a key is put, and what of its lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// On none.
    Always,
    /// When it was last changed at this revision; 0: when it does not exist.
    At(Revision),
    /// With taking its lock for this session; when the session has it or nobody.
    Acquire(Arc<str>),
    /// With giving its lock back; when this session has it.
    Release(Arc<str>),
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sets a key.
    Put {
        /// The key.
        key: Arc<str>,
        /// Its value.
        value: Bytes,
        /// Its flags.
        flags: u64,
        /// On which condition.
        mode: Mode,
    },
    /// Deletes a key; with a revision, when it was last changed then.
    Delete(Arc<str>, Option<Revision>),
    /// Deletes all keys that begin so.
    DeleteTree(Arc<str>),
    /// Reads a key, which must exist.
    Get(Arc<str>),
    /// Reads all keys that begin so.
    GetTree(Arc<str>),
    /// The key must have been changed last at this revision.
    CheckRevision(Arc<str>, Revision),
    /// The session must hold the key's lock.
    CheckSession(Arc<str>, Arc<str>),
    /// The key must not exist.
    CheckAbsent(Arc<str>),
}

/// The step of a transaction that was refused, and why; nothing was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which step, from 0.
    pub step: usize,
    /// Why.
    pub why: String,
}

/// What somebody asks of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionRequest {
    /// Anything.
    pub name: String,
    /// Where its holder is; anything.
    pub node: String,
    /// How long it lives without being renewed; for ever when not said.
    pub ttl: Option<Duration>,
    /// How long nobody may take its locks after it has gone.
    pub lock_delay: Duration,
    /// Whether the keys that it has locked are deleted with it, rather than released.
    pub deletes: bool,
    /// What its user wants to find in it again.
    pub note: String,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: Arc<str>,
    /// The revision that made it.
    pub created: Revision,
    /// What was asked for.
    pub request: SessionRequest,
}

/// What a keyspace holds and has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sessions that live.
    pub sessions: usize,
    /// Who waits for changes at the moment.
    pub followers: usize,
    /// Locks that were released, or keys deleted, because their session had gone.
    pub released: u64,
    /// Times that it was not known what had changed, because the watch was too far behind.
    pub restarts: u64,
}

#[derive(Serialize, Deserialize)]
struct Head {
    /// 0 when the entry's own revision made it.
    #[serde(default, skip_serializing_if = "is_zero")]
    created: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    flags: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    lock_index: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holder: Option<Holder>,
}

#[derive(Serialize, Deserialize)]
struct Holder {
    session: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    delay_ms: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deletes: bool,
}

#[derive(Serialize, Deserialize)]
struct StoredSession {
    #[serde(default)]
    name: String,
    #[serde(default)]
    node: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    ttl_ms: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    lock_delay_ms: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deletes: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    note: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The item as it is stored. One that is new has `created` 0.
pub(super) fn encode(item: &Item) -> Bytes {
    let head = Head {
        created: item.created,
        flags: item.flags,
        lock_index: item.lock_index,
        holder: item.session.as_ref().map(|session| Holder {
            session: session.to_string(),
            delay_ms: millis(item.fate.delay),
            deletes: item.fate.deletes,
        }),
    };
    let mut stored = BytesMut::with_capacity(128 + item.value.len()).writer();
    serde_json::to_writer(&mut stored, &head).expect("plain data serialises");
    let mut stored = stored.into_inner();
    stored.put_u8(b'\n');
    stored.put_slice(&item.value);
    stored.freeze()
}

/// DataLoss `keyspace.damaged`.
pub(super) fn decode(key: &str, entry: &Entry) -> Result<Item> {
    let parsed = || -> Option<Item> {
        // The head is JSON without line breaks.
        let end = entry.value.iter().position(|byte| *byte == b'\n')?;
        let head: Head = serde_json::from_slice(&entry.value[..end]).ok()?;
        let (session, fate) = match head.holder {
            None => (None, Fate::default()),
            Some(holder) => (
                Some(holder.session.into()),
                Fate {
                    delay: Duration::from_millis(holder.delay_ms),
                    deletes: holder.deletes,
                },
            ),
        };
        Some(Item {
            key: key.into(),
            value: entry.value.slice(end + 1..),
            flags: head.flags,
            created: if head.created == 0 {
                entry.revision
            } else {
                head.created
            },
            modified: entry.revision,
            lock_index: head.lock_index,
            session,
            fate,
        })
    };
    parsed().ok_or_else(|| error::damaged(&entry.key))
}

pub(super) fn encode_session(request: &SessionRequest) -> Vec<u8> {
    let stored = StoredSession {
        name: request.name.clone(),
        node: request.node.clone(),
        ttl_ms: request.ttl.map_or(0, millis),
        lock_delay_ms: millis(request.lock_delay),
        deletes: request.deletes,
        note: request.note.clone(),
    };
    serde_json::to_vec(&stored).expect("plain data serialises")
}

pub(super) fn decode_session(id: &str, entry: &Entry) -> Result<Session> {
    let stored: StoredSession =
        serde_json::from_slice(&entry.value).map_err(|_| error::damaged(&entry.key))?;
    Ok(Session {
        id: id.into(),
        created: entry.revision,
        request: SessionRequest {
            name: stored.name,
            node: stored.node,
            ttl: (stored.ttl_ms > 0).then(|| Duration::from_millis(stored.ttl_ms)),
            lock_delay: Duration::from_millis(stored.lock_delay_ms),
            deletes: stored.deletes,
            note: stored.note,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What earlier versions stored is read for ever.
    #[test]
    fn stored_forms_stay() {
        let stored = b"{\"created\":3,\"flags\":7,\"lock_index\":2,\"holder\":{\"session\":\"s\",\"delay_ms\":15000,\"deletes\":true}}\nva\nlue";
        let entry = |value: &'static [u8]| Entry {
            key: Bytes::from_static(b"keyspace/key/a"),
            value: Bytes::from_static(value),
            revision: 9,
            lease: None,
        };
        let item = decode("a", &entry(stored)).unwrap();
        assert_eq!(&item.value[..], b"va\nlue");
        assert_eq!((item.created, item.modified, item.lock_index), (3, 9, 2));
        assert_eq!(item.session.as_deref(), Some("s"));
        assert!(item.fate.deletes && item.fate.delay == Duration::from_secs(15));
        assert_eq!(encode(&item), Bytes::from_static(stored));
        let new = decode("a", &entry(b"{}\n")).unwrap();
        assert_eq!((new.created, new.modified, new.value.len()), (9, 9, 0));
        for bad in [&b""[..], b"{}", b"x\ny"] {
            let error = decode("a", &entry(bad)).unwrap_err();
            assert_eq!(error.code(), "keyspace.damaged");
        }

        let stored = b"{\"name\":\"n\",\"node\":\"h\",\"ttl_ms\":10000,\"lock_delay_ms\":1,\"deletes\":true,\"note\":\"x\"}";
        let session = decode_session("s", &entry(stored)).unwrap();
        assert_eq!(session.request.ttl, Some(Duration::from_secs(10)));
        assert_eq!(encode_session(&session.request), stored);
    }
}
