//! Where things are in the store. Ids of sessions have no slash, so every key parses one way only.

use bytes::Bytes;
use sinew_engine::kv::{Key, Span};

const KEY: &str = "keyspace/key/";
const SESSION: &str = "keyspace/session/";
const HELD: &str = "keyspace/held/";
const DELAY: &str = "keyspace/delay/";

/// The longest id of a session.
pub(super) const SESSION_BYTES: usize = 64;
/// The longest of the prefixes, with an id and its slash.
pub(super) const OVERHEAD_BYTES: usize = KEY.len() + SESSION_BYTES + 8;

/// Everything of the keyspace.
pub(super) fn all() -> Span {
    Span::prefix("keyspace/")
}

/// A user's key.
pub(super) fn key(key: &str) -> Key {
    Bytes::from(format!("{KEY}{key}"))
}

/// The users' keys that begin so.
pub(super) fn prefix(prefix: &str) -> Span {
    Span::prefix(key(prefix))
}

/// The users' keys that begin with `prefix`, without those up to all that begin with `group`.
pub(super) fn after_group(prefix: &str, group: &str) -> Option<Span> {
    Some(Span {
        start: self::prefix(group).end?,
        end: self::prefix(prefix).end,
    })
}

pub(super) fn session(id: &str) -> Key {
    Bytes::from(format!("{SESSION}{id}"))
}

pub(super) fn sessions() -> Span {
    Span::prefix(SESSION)
}

pub(super) fn held(session: &str, key: &str) -> Key {
    Bytes::from(format!("{HELD}{session}/{key}"))
}

/// What a session holds.
pub(super) fn held_by(session: &str) -> Span {
    Span::prefix(format!("{HELD}{session}/"))
}

/// What all sessions hold.
pub(super) fn held_by_all() -> Span {
    Span::prefix(HELD)
}

pub(super) fn delay(key: &str) -> Key {
    Bytes::from(format!("{DELAY}{key}"))
}

/// The user's key that is stored here.
pub(super) fn parse_key(stored: &[u8]) -> Option<&str> {
    std::str::from_utf8(stored).ok()?.strip_prefix(KEY)
}

/// The session that is stored here.
pub(super) fn parse_session(stored: &[u8]) -> Option<&str> {
    std::str::from_utf8(stored).ok()?.strip_prefix(SESSION)
}

/// The session and the key that it holds.
pub(super) fn parse_held(stored: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(stored)
        .ok()?
        .strip_prefix(HELD)?
        .split_once('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back() {
        assert_eq!(parse_key(&key("a/b")), Some("a/b"));
        assert_eq!(parse_session(&session("s")), Some("s"));
        assert_eq!(parse_held(&held("s", "a/b")), Some(("s", "a/b")));
        assert_eq!(parse_key(&session("s")), None);
        assert_eq!(parse_key(b"\xff"), None);
        for stored in [key("a"), session("s"), held("s", "a"), delay("a")] {
            assert!(all().contains(&stored));
        }
        assert!(held_by("s").contains(&held("s", "a")));
        assert!(!held_by("s").contains(&held("s2", "a")));
    }
}
