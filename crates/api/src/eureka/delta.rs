//! What changed lately: the answer to `apps/delta`, as a state machine without clock or registry.
//!
//! [`Log::observe`] compares the lists of the services with those that it saw last, so it costs
//! nothing while nobody asks, and what it answers is the difference to exactly the lists that the
//! hash beside it is made from. Every change is told for [`RETENTION`] after it was seen first, once for each
//! instance, with what is true of the instance now.
//!
//! What is there when a log begins counts as changed: clients that come from another node, or from
//! before a restart, are told everything, and then the hash shows whether they know of too much.

use std::{collections::BTreeMap, time::Duration};

/// How long changes are told. The original's clients ask every 30 s.
pub(super) const RETENTION: Duration = Duration::from_secs(180);

/// A list that can be compared with an earlier one of the same name.
pub(super) trait List: Clone {
    type Id: Ord + Clone;
    /// What clients see of one of its instances.
    type Item: Clone + PartialEq;

    /// Whether it is known, without looking, to be the same.
    fn is(&self, earlier: &Self) -> bool;

    /// All there is, in the order of the ids.
    fn items(&self) -> Vec<(Self::Id, Self::Item)>;
}

/// What happened to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Added,
    Modified,
    Deleted,
}

impl Action {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

struct Entry<T> {
    action: Action,
    seen: Duration,
    item: T,
}

/// The changes of the last [`RETENTION`].
pub(super) struct Log<K, L: List> {
    known: BTreeMap<K, L>,
    changes: BTreeMap<K, BTreeMap<L::Id, Entry<L::Item>>>,
    begun: bool,
}

impl<K: Ord + Clone, L: List> Default for Log<K, L> {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            changes: BTreeMap::new(),
            begun: false,
        }
    }
}

impl<K: Ord + Clone, L: List> Log<K, L> {
    /// Takes in all lists as they are at `now`, in the order of their names.
    pub(super) fn observe(&mut self, now: Duration, lists: impl IntoIterator<Item = (K, L)>) {
        let begun = std::mem::replace(&mut self.begun, true);
        let mut known = std::mem::take(&mut self.known);
        for (name, list) in lists {
            let earlier = known.remove(&name);
            match &earlier {
                Some(earlier) if list.is(earlier) => {}
                Some(earlier) => self.compare(now, &name, earlier.items(), list.items(), begun),
                None => self.compare(now, &name, Vec::new(), list.items(), begun),
            }
            self.known.insert(name, list);
        }
        for (name, earlier) in known {
            self.compare(now, &name, earlier.items(), Vec::new(), begun);
        }
        self.changes.retain(|_, changes| {
            changes.retain(|_, entry| now.saturating_sub(entry.seen) < RETENTION);
            !changes.is_empty()
        });
    }

    /// The changes, by service and in the order of names and ids.
    pub(super) fn changes(
        &self,
    ) -> impl Iterator<Item = (&K, impl Iterator<Item = (Action, &L::Item)>)> {
        self.changes.iter().map(|(name, changes)| {
            let entries = changes.values().map(|entry| (entry.action, &entry.item));
            (name, entries)
        })
    }

    /// When, if nothing happens, the first change is told no more.
    pub(super) fn until(&self) -> Option<Duration> {
        let entries = self.changes.values().flat_map(BTreeMap::values);
        entries.map(|entry| entry.seen + RETENTION).min()
    }

    fn compare(
        &mut self,
        now: Duration,
        name: &K,
        earlier: Vec<(L::Id, L::Item)>,
        list: Vec<(L::Id, L::Item)>,
        begun: bool,
    ) {
        let mut earlier = earlier.into_iter().peekable();
        let mut note = |id: L::Id, action, item| {
            let changes = self.changes.entry(name.clone()).or_default();
            // Whoever has not heard of its end yet may still have it: that must be replaced.
            let action = match action {
                Action::Added if !begun || changes.contains_key(&id) => Action::Modified,
                action => action,
            };
            let entry = Entry {
                action,
                seen: now,
                item,
            };
            changes.insert(id, entry);
        };
        for (id, item) in list {
            while let Some((gone, last)) = earlier.next_if(|(other, _)| *other < id) {
                note(gone, Action::Deleted, last);
            }
            match earlier.next_if(|(other, _)| *other == id) {
                None => note(id, Action::Added, item),
                Some((_, before)) if before != item => note(id, Action::Modified, item),
                Some(_) => {}
            }
        }
        for (gone, last) in earlier {
            note(gone, Action::Deleted, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::*;

    type Items = Rc<Vec<(u8, u8)>>;

    impl List for Items {
        type Id = u8;
        type Item = u8;

        fn is(&self, earlier: &Self) -> bool {
            Rc::ptr_eq(self, earlier)
        }

        fn items(&self) -> Vec<(u8, u8)> {
            self.to_vec()
        }
    }

    type Changes = Vec<(&'static str, Vec<(Action, u8)>)>;

    fn told(log: &Log<&'static str, Items>) -> Changes {
        let changes = log.changes();
        changes
            .map(|(name, changes)| {
                (
                    *name,
                    changes.map(|(action, item)| (action, *item)).collect(),
                )
            })
            .collect()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lists<const N: usize>(
        lists: [(&'static str, &[(u8, u8)]); N],
    ) -> Vec<(&'static str, Items)> {
        lists
            .map(|(name, items)| (name, Rc::new(items.to_vec())))
            .into()
    }

    #[test]
    fn changes_are_told_once_each_and_for_three_minutes() {
        use Action::{Added, Deleted, Modified};
        let mut log = Log::default();
        log.observe(at(0), lists([("a", &[(1, 10), (2, 20)])]));
        assert_eq!(
            told(&log),
            [("a", vec![(Modified, 10), (Modified, 20)])],
            "the beginning"
        );
        log.observe(at(180), lists([("a", &[(1, 10), (2, 20)])]));
        assert_eq!((told(&log), log.until()), (vec![], None), "nothing changed");
        log.observe(
            at(181),
            lists([("a", &[(1, 11), (3, 30)]), ("b", &[(1, 1)])]),
        );
        let changes = [
            ("a", vec![(Modified, 11), (Deleted, 20), (Added, 30)]),
            ("b", vec![(Added, 1)]),
        ];
        assert_eq!(told(&log), changes);
        log.observe(at(200), lists([("a", &[(1, 11), (2, 20), (3, 31)])]));
        let changes = [
            ("a", vec![(Modified, 11), (Modified, 20), (Modified, 31)]),
            ("b", vec![(Deleted, 1)]),
        ];
        assert_eq!(
            told(&log),
            changes,
            "the newest of each, back again and gone"
        );
        assert_eq!(log.until(), Some(at(361)));
        log.observe(at(361), lists([("a", &[(1, 11), (2, 20), (3, 31)])]));
        assert_eq!(told(&log)[0].1, [(Modified, 20), (Modified, 31)]);
        log.observe(at(380), lists([("a", &[(1, 11), (2, 20), (3, 31)])]));
        assert_eq!(told(&log), []);
    }

    proptest! {
        /// Whoever has any state from within the retention and applies what he is told has the newest.
        #[test]
        fn whoever_was_there_within_the_retention_can_follow(
            states in proptest::collection::vec(
                proptest::collection::btree_map(0_u8..3, proptest::collection::btree_map(0_u8..5, 0_u8..3, 0..4), 0..3), 1..12),
            gaps in proptest::collection::vec(0_u64..60, 12),
        ) {
            let mut log: Log<u8, Items> = Log::default();
            let mut now = 0;
            let mut seen = Vec::new();
            for (state, gap) in states.iter().zip(gaps) {
                now += gap;
                let lists = state.iter().map(|(name, items)| (*name, Rc::new(items.clone().into_iter().collect())));
                log.observe(at(now), lists);
                seen.push((now, state));
                for (then, earlier) in &seen {
                    if now - then >= 180 {
                        continue;
                    }
                    let mut followed: BTreeMap<(u8, u8), u8> =
                        earlier.iter().flat_map(|(name, items)| items.iter().map(|(id, item)| ((*name, *id), *item))).collect();
                    for (name, changes) in &log.changes {
                        for (id, entry) in changes {
                            match entry.action {
                                Action::Deleted => { followed.remove(&(*name, *id)); }
                                _ => { followed.insert((*name, *id), entry.item); }
                            }
                        }
                    }
                    let newest: BTreeMap<(u8, u8), u8> =
                        state.iter().flat_map(|(name, items)| items.iter().map(|(id, item)| ((*name, *id), *item))).collect();
                    prop_assert_eq!(followed, newest);
                }
            }
        }
    }
}
