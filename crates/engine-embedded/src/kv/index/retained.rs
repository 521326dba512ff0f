//! What a checkpoint or a merge keeps.

use sinew_engine::kv::Revision;

/// Which versions anybody may still ask for: those after the floor, and of each key the newest until
/// then.
pub(super) struct Retained {
    floor: Revision,
    /// There is nothing older for a deletion to hide.
    is_bottom: bool,
    key: Vec<u8>,
    has_older: bool,
}

impl Retained {
    pub(super) fn new(floor: Revision, is_bottom: bool) -> Self {
        Self {
            floor,
            is_bottom,
            // No key is empty.
            key: Vec::new(),
            has_older: false,
        }
    }

    pub(super) fn keeps(&mut self, key: &[u8], revision: Revision, is_deleted: bool) -> bool {
        if self.key != key {
            key.clone_into(&mut self.key);
            self.has_older = false;
        }
        if revision > self.floor {
            return true;
        }
        let is_first = !std::mem::replace(&mut self.has_older, true);
        is_first && !(is_deleted && self.is_bottom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Versions of two keys, the newest first: revision, and whether the key was deleted.
    fn kept(floor: Revision, is_bottom: bool) -> Vec<(u8, Revision)> {
        let mut retained = Retained::new(floor, is_bottom);
        let versions = [
            (b'a', 9, false),
            (b'a', 6, true),
            (b'a', 4, false),
            (b'a', 2, true),
            (b'b', 5, true),
            (b'b', 3, false),
        ];
        let kept = versions
            .into_iter()
            .filter(|(key, revision, deleted)| retained.keeps(&[*key], *revision, *deleted));
        kept.map(|(key, revision, _)| (key, revision)).collect()
    }

    #[test]
    fn what_may_be_asked_for_stays() {
        let all = [
            (b'a', 9),
            (b'a', 6),
            (b'a', 4),
            (b'a', 2),
            (b'b', 5),
            (b'b', 3),
        ];
        assert_eq!(kept(2, false), all);
        // The oldest deletion hides nothing at the bottom.
        assert_eq!(
            kept(2, true),
            [(b'a', 9), (b'a', 6), (b'a', 4), (b'b', 5), (b'b', 3)]
        );
        assert_eq!(kept(5, false), [(b'a', 9), (b'a', 6), (b'a', 4), (b'b', 5)]);
        assert_eq!(kept(5, true), [(b'a', 9), (b'a', 6), (b'a', 4)]);
        assert_eq!(kept(6, true), [(b'a', 9)]);
        assert_eq!(kept(9, false), [(b'a', 9), (b'b', 5)]);
    }
}
