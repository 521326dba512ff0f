//! Where everything is in etcd. All keys of a store begin with `<namespace>/`:
//!
//! | key | value | written |
//! |---|---|---|
//! | `k/<key>` | how it goes with a lease, then the value | by commits |
//! | `t/<key>` | nothing | by every commit that deletes the key, until the floor has passed |
//! | `m/head` | bytes of the commit | by every commit: its revision is the store's |
//! | `m/floor` | a revision | when history is forgotten |
//! | `m/format` | the version of this table | once |
//! | `m/keeper` | nothing | goes with the etcd lease of the node that keeps the store |
//! | `l/<lease>` | nothing | goes with the etcd lease of that name |
//! | `a/<lease>/<key>` | nothing | by the commits that attach the key |

use bytes::{BufMut, Bytes, BytesMut};
use sinew_engine::kv::{Entry, Key, LeaseId, Revision, Span};

use super::wire::KeyValue;

/// The version of the layout.
pub(super) const FORMAT: &[u8] = b"1";

/// What stands before every value: whether eight bytes with a lease follow.
const FREE: u8 = 0;
const LEASED: u8 = 1;

/// The names of one store's keys.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    prefix: String,
}

impl Layout {
    pub(super) fn new(namespace: &str) -> Self {
        Self {
            prefix: format!("{namespace}/"),
        }
    }

    fn join(&self, kind: &str, rest: &[u8]) -> Bytes {
        let mut key = BytesMut::with_capacity(self.prefix.len() + kind.len() + rest.len());
        key.put_slice(self.prefix.as_bytes());
        key.put_slice(kind.as_bytes());
        key.put_slice(rest);
        key.freeze()
    }

    /// A span of the keys, or of the marks of deleted ones, as etcd's first key and first key beyond.
    fn stretch(&self, kind: &str, beyond: &str, span: &Span) -> (Bytes, Bytes) {
        let end = match &span.end {
            Some(end) => self.join(kind, end),
            None => self.join(beyond, b""),
        };
        (self.join(kind, &span.start), end)
    }

    pub(super) fn key(&self, key: &[u8]) -> Bytes {
        self.join("k/", key)
    }

    pub(super) fn keys(&self, span: &Span) -> (Bytes, Bytes) {
        self.stretch("k/", "k0", span)
    }

    pub(super) fn tomb(&self, key: &[u8]) -> Bytes {
        self.join("t/", key)
    }

    pub(super) fn tombs(&self, span: &Span) -> (Bytes, Bytes) {
        self.stretch("t/", "t0", span)
    }

    pub(super) fn head(&self) -> Bytes {
        self.join("m/head", b"")
    }

    pub(super) fn floor(&self) -> Bytes {
        self.join("m/floor", b"")
    }

    pub(super) fn format(&self) -> Bytes {
        self.join("m/format", b"")
    }

    pub(super) fn keeper(&self) -> Bytes {
        self.join("m/keeper", b"")
    }

    pub(super) fn lease(&self, lease: LeaseId) -> Bytes {
        self.join("l/", format!("{:016x}", lease.0).as_bytes())
    }

    pub(super) fn leases(&self) -> (Bytes, Bytes) {
        (self.join("l/", b""), self.join("l0", b""))
    }

    /// Which lease a key of [`Layout::leases`] is.
    pub(super) fn lease_of(&self, key: &[u8]) -> Option<LeaseId> {
        read_lease(key.get(self.prefix.len() + 2..)?)
    }

    pub(super) fn attachment(&self, lease: LeaseId, key: &[u8]) -> Bytes {
        let mut rest = format!("{:016x}/", lease.0).into_bytes();
        rest.extend_from_slice(key);
        self.join("a/", &rest)
    }

    /// What is attached to one lease.
    pub(super) fn attachments(&self, lease: LeaseId) -> (Bytes, Bytes) {
        let end = format!("{:016x}0", lease.0);
        (self.attachment(lease, b""), self.join("a/", end.as_bytes()))
    }

    /// What is attached to leases, from this lease on.
    pub(super) fn attachments_from(&self, lease: LeaseId) -> (Bytes, Bytes) {
        (self.attachment(lease, b""), self.join("a0", b""))
    }

    /// The lease and the key of an attachment.
    pub(super) fn attached(&self, key: &Bytes) -> Option<(LeaseId, Key)> {
        let start = self.prefix.len() + 2;
        let lease = read_lease(key.get(start..start + 16)?)?;
        Some((lease, key.slice(start + 17..)))
    }

    /// The store's own name of a key under `k/` or `t/`.
    pub(super) fn own(&self, key: &Bytes) -> Key {
        key.slice((self.prefix.len() + 2).min(key.len())..)
    }

    /// A stored key as its reader sees it; `None` when it was not written by us.
    pub(super) fn entry(&self, kv: &KeyValue) -> Option<Entry> {
        let (lease, from) = match *kv.value.first()? {
            FREE => (None, 1),
            LEASED => {
                let lease = u64::from_be_bytes(kv.value.get(1..9)?.try_into().ok()?);
                (Some(LeaseId(lease)), 9)
            }
            _ => return None,
        };
        Some(Entry {
            key: self.own(&kv.key),
            value: kv.value.slice(from..),
            revision: kv.mod_revision.unsigned_abs(),
            lease,
        })
    }
}

/// A value as it is stored.
pub(super) fn value(value: &Bytes, lease: Option<LeaseId>) -> Bytes {
    let mut stored = BytesMut::with_capacity(value.len() + 9);
    match lease {
        Some(lease) => {
            stored.put_u8(LEASED);
            stored.put_u64(lease.0);
        }
        None => stored.put_u8(FREE),
    }
    stored.put_slice(value);
    stored.freeze()
}

/// A number as a value that etcd orders as we do.
pub(super) fn number(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

pub(super) fn read_number(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

/// A revision as etcd counts; those that it cannot have become its last one.
pub(super) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX - 1)
}

fn read_lease(text: &[u8]) -> Option<LeaseId> {
    let text = std::str::from_utf8(text.get(..16)?).ok()?;
    u64::from_str_radix(text, 16).ok().map(LeaseId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let layout = Layout::new("shop");
        let lease = LeaseId(0xabc);
        let attachment = layout.attachment(lease, b"a/b");
        assert_eq!(
            layout.attached(&attachment),
            Some((lease, Key::from_static(b"a/b")))
        );
        assert_eq!(layout.lease_of(&layout.lease(lease)), Some(lease));
        assert_eq!(layout.own(&layout.key(b"x")), Key::from_static(b"x"));
        let (first, beyond) = layout.attachments(lease);
        assert!(first <= attachment && attachment < beyond);
        let (first, beyond) = layout.keys(&Span::all());
        assert!(first <= layout.key(b"\xff\xff") && layout.key(b"\xff\xff") < beyond);
    }

    #[test]
    fn values_are_read_back() {
        let layout = Layout::new("shop");
        for lease in [None, Some(LeaseId(7))] {
            let stored = KeyValue {
                key: layout.key(b"a"),
                mod_revision: 3,
                value: value(&Bytes::from_static(b"v"), lease),
                ..KeyValue::default()
            };
            let entry = layout.entry(&stored);
            assert_eq!(
                entry,
                Some(Entry {
                    key: Key::from_static(b"a"),
                    value: Bytes::from_static(b"v"),
                    revision: 3,
                    lease,
                })
            );
        }
        assert_eq!(layout.entry(&KeyValue::default()), None);
    }
}
