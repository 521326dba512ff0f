//! What is decided about keys and their locks, without store or clock.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use sinew_engine::kv::Revision;

use super::{
    Mode, SessionRequest,
    model::{Fate, Item},
};

/// What is to be done about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Store it so.
    Store(Item),
    /// It is as asked for already.
    Nothing,
    /// The condition does not hold.
    Refused(&'static str),
    /// The session that shall take or hold the lock does not exist.
    UnknownSession,
    /// The session that holds the lock has gone; what that means for the key comes first.
    Abandoned(Arc<str>),
}

/// What a decision about a lock needs to know beside the key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Around {
    /// The session that wants the lock, if it exists.
    pub(super) wants: Option<SessionRequest>,
    /// Whether the session that holds the lock exists.
    pub(super) holder_lives: bool,
    /// Whether the lock may not be taken yet.
    pub(super) is_delayed: bool,
}

/// Decides about setting a key that is `current` now.
pub(super) fn put(
    key: &Arc<str>,
    value: Bytes,
    flags: u64,
    mode: &Mode,
    current: Option<&Item>,
    around: &Around,
) -> Verdict {
    let mut item = match current {
        Some(current) => Item {
            value,
            flags,
            ..current.clone()
        },
        None => Item {
            key: key.clone(),
            value,
            flags,
            created: 0,
            modified: 0,
            lock_index: 0,
            session: None,
            fate: Fate::default(),
        },
    };
    let holder = item.session.clone();
    match mode {
        Mode::Always => {}
        Mode::At(expected) => {
            if at(current) != *expected {
                return Verdict::Refused(match current {
                    None => "the key does not exist",
                    Some(_) => "the key was changed at another index",
                });
            }
        }
        Mode::Acquire(session) => {
            let Some(wants) = &around.wants else {
                return Verdict::UnknownSession;
            };
            match holder {
                Some(holder) if holder == *session => {}
                Some(holder) if !around.holder_lives => return Verdict::Abandoned(holder),
                Some(_) => return Verdict::Refused("another session holds the lock"),
                None if around.is_delayed => {
                    return Verdict::Refused("the lock may not be taken yet (lock delay)");
                }
                None => {
                    item.session = Some(session.clone());
                    item.lock_index += 1;
                    item.fate = Fate {
                        delay: wants.lock_delay,
                        deletes: wants.deletes,
                    };
                }
            }
        }
        Mode::Release(session) => {
            if holder.as_ref() != Some(session) {
                return Verdict::Refused("the session does not hold the lock");
            }
            item.session = None;
            item.fate = Fate::default();
        }
    }
    if current == Some(&item) {
        // Nobody is woken by what changes nothing.
        return Verdict::Nothing;
    }
    Verdict::Store(item)
}

/// What becomes of a key whose lock is held by a session that has gone: what it is then, if anything, and
/// how long nobody may take its lock. `None` when the session does not hold it.
pub(super) fn abandon(current: &Item, session: &str) -> Option<(Option<Item>, Duration)> {
    if current.session.as_deref() != Some(session) {
        return None;
    }
    let Fate { delay, deletes } = current.fate;
    let released = Item {
        session: None,
        fate: Fate::default(),
        ..current.clone()
    };
    Some(((!deletes).then_some(released), delay))
}

/// The revision that last changed a key; 0 when it does not exist.
pub(super) fn at(current: Option<&Item>) -> Revision {
    current.map_or(0, |item| item.modified)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(session: Option<&str>) -> Item {
        Item {
            key: "a".into(),
            value: Bytes::from_static(b"1"),
            flags: 0,
            created: 3,
            modified: 5,
            lock_index: 4,
            session: session.map(Into::into),
            fate: Fate::default(),
        }
    }

    fn decide(mode: Mode, current: Option<&Item>, around: &Around) -> Verdict {
        put(
            &"a".into(),
            Bytes::from_static(b"2"),
            0,
            &mode,
            current,
            around,
        )
    }

    fn stored(verdict: Verdict) -> Item {
        match verdict {
            Verdict::Store(item) => item,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn conditions_on_the_revision() {
        let none = Around::default();
        let (free, held) = (item(None), item(Some("s")));
        assert!(matches!(
            decide(Mode::At(0), Some(&free), &none),
            Verdict::Refused(_)
        ));
        assert!(matches!(
            decide(Mode::At(5), None, &none),
            Verdict::Refused(_)
        ));
        assert_eq!(stored(decide(Mode::At(0), None, &none)).created, 0);
        assert_eq!(stored(decide(Mode::At(5), Some(&free), &none)).created, 3);
        let written = stored(decide(Mode::Always, Some(&held), &none));
        assert_eq!(written.session.as_deref(), Some("s"), "a lock is advice");
        let same = put(
            &"a".into(),
            Bytes::from_static(b"1"),
            0,
            &Mode::Always,
            Some(&free),
            &none,
        );
        assert_eq!(same, Verdict::Nothing);
    }

    #[test]
    fn who_gets_a_lock() {
        let acquire = || Mode::Acquire("s".into());
        let lives = Around {
            wants: Some(SessionRequest {
                lock_delay: Duration::from_secs(15),
                ..SessionRequest::default()
            }),
            holder_lives: true,
            is_delayed: false,
        };
        assert_eq!(
            decide(acquire(), None, &Around::default()),
            Verdict::UnknownSession
        );
        let taken = stored(decide(acquire(), Some(&item(None)), &lives));
        assert_eq!((taken.session.as_deref(), taken.lock_index), (Some("s"), 5));
        assert_eq!(taken.fate.delay, Duration::from_secs(15));
        let again = stored(decide(acquire(), Some(&item(Some("s"))), &lives));
        assert_eq!(again.lock_index, 4, "it has it already");
        let other = decide(acquire(), Some(&item(Some("t"))), &lives);
        assert!(matches!(other, Verdict::Refused(_)));
        let gone = Around {
            holder_lives: false,
            ..lives.clone()
        };
        let other = decide(acquire(), Some(&item(Some("t"))), &gone);
        assert_eq!(other, Verdict::Abandoned("t".into()));
        let delayed = Around {
            is_delayed: true,
            ..lives
        };
        assert!(matches!(
            decide(acquire(), None, &delayed),
            Verdict::Refused(_)
        ));
        let again = decide(acquire(), Some(&item(Some("s"))), &delayed);
        assert!(matches!(again, Verdict::Store(_)), "a delay is for others");
    }

    #[test]
    fn giving_back_and_going() {
        let none = Around::default();
        let release = Mode::Release("s".into());
        let released = stored(decide(release.clone(), Some(&item(Some("s"))), &none));
        assert_eq!((released.session, released.lock_index), (None, 4));
        for current in [None, Some(&item(None)), Some(&item(Some("t")))] {
            assert!(matches!(
                decide(release.clone(), current, &none),
                Verdict::Refused(_)
            ));
        }
        assert_eq!(abandon(&item(Some("t")), "s"), None);
        let fate = |deletes| Fate {
            delay: Duration::from_secs(1),
            deletes,
        };
        let mut held = item(Some("s"));
        held.fate = fate(false);
        assert_eq!(
            abandon(&held, "s"),
            Some((Some(item(None)), Duration::from_secs(1)))
        );
        held.fate = fate(true);
        assert_eq!(abandon(&held, "s"), Some((None, Duration::from_secs(1))));
    }
}
