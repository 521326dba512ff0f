//! Which keys changed lately, and at which revision: what wakes those who wait for a change.

use std::collections::BTreeMap;

use sinew_engine::kv::{Key, Revision, Span};

/// The last change of each of the keys that changed last.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Nothing is remembered of changes up to here.
    floor: Revision,
    /// All changes up to here are known.
    seen: Revision,
    latest: BTreeMap<Key, Revision>,
}

impl Changes {
    /// Forgets everything: what changed up to `revision` is not known.
    pub(super) fn restart(&mut self, revision: Revision) {
        let revision = revision.max(self.seen);
        *self = Self {
            floor: revision,
            seen: revision,
            latest: BTreeMap::new(),
        };
    }

    /// Takes in the keys that a commit changed; remembers about `most`.
    pub(super) fn record(
        &mut self,
        revision: Revision,
        keys: impl IntoIterator<Item = Key>,
        most: usize,
    ) {
        self.seen = self.seen.max(revision);
        for key in keys {
            self.latest.insert(key, revision);
        }
        if self.latest.len() > most {
            // The older half at once, so that this is not done at every change.
            let mut revisions: Vec<_> = self.latest.values().copied().collect();
            let middle = revisions.len() / 2;
            let (_, floor, _) = revisions.select_nth_unstable(middle);
            self.floor = self.floor.max(*floor);
            let floor = self.floor;
            self.latest.retain(|_, at| *at > floor);
        }
    }

    /// The last change within the span; or, if none is remembered, before which it was.
    pub(super) fn index(&self, span: &Span) -> Revision {
        if span.is_empty() {
            return self.floor;
        }
        let range = self.latest.range::<[u8], _>(span.bounds());
        range.map(|(_, at)| *at).max().unwrap_or(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(text: &str) -> Key {
        Key::copy_from_slice(text.as_bytes())
    }

    #[test]
    fn a_change_moves_the_index_of_what_it_is_in_alone() {
        let mut changes = Changes::default();
        changes.restart(10);
        changes.record(11, [key("a/1")], 100);
        changes.record(12, [key("b/1")], 100);
        assert_eq!(changes.index(&Span::prefix("a/")), 11);
        assert_eq!(changes.index(&Span::prefix("b/")), 12);
        assert_eq!(changes.index(&Span::prefix("c/")), 10);
        assert_eq!(changes.index(&Span::all()), 12);
        assert_eq!(changes.index(&Span::between("b", "a")), 10, "empty");
    }

    proptest! {
        /// Whatever is forgotten, an index never goes back, and grows at each change in its span.
        #[test]
        fn an_index_never_goes_back(
            keys in prop::collection::vec(0_u8..20, 1..200),
            most in 1_usize..12,
            restart in prop::option::of(0_usize..200),
        ) {
            let mut changes = Changes::default();
            let spans: Vec<_> = (0_u8..20).map(|n| Span::key(vec![n])).collect();
            let mut before = vec![0; spans.len()];
            for (at, changed) in keys.into_iter().enumerate() {
                let revision = at as u64 + 1;
                if restart == Some(at) {
                    changes.restart(revision);
                }
                changes.record(revision, [Key::from(vec![changed])], most);
                prop_assert!(changes.latest.len() <= most);
                for (n, span) in spans.iter().enumerate() {
                    let index = changes.index(span);
                    prop_assert!(index >= before[n]);
                    if n == usize::from(changed) {
                        prop_assert!(index >= revision);
                    }
                    before[n] = index;
                }
            }
        }
    }
}
