//! Whether the conditions of a transaction hold.

use sinew_core::Result;
use sinew_engine::kv::{Condition, Revision, Span, compacted, revision_unknown};

use super::{KvFace, Numbers, Stored, plain};
use crate::kv::index;

/// How many commits of the history are looked at together.
const STRETCH: usize = 256;

impl KvFace {
    pub(super) fn holds(&mut self, condition: &Condition, part: &[u8]) -> Result<bool> {
        Ok(match condition {
            Condition::KeyAt(key, revision) => {
                self.version(key, index::hash(key), part).map_err(plain)? == Some(*revision)
            }
            Condition::Absent(key) => self
                .version(key, index::hash(key), part)
                .map_err(plain)?
                .is_none(),
            Condition::Present(key) => self
                .version(key, index::hash(key), part)
                .map_err(plain)?
                .is_some(),
            Condition::Unchanged(span, revision) => return self.unchanged(span, *revision, part),
        })
    }

    /// The revision of a key, if it exists.
    pub(super) fn version(
        &mut self,
        key: &[u8],
        hash: u64,
        part: &[u8],
    ) -> Stored<Option<Revision>> {
        if let Some(staged) = self.staged.get(key, hash, part) {
            return Ok(staged.is_there.then_some(staged.revision));
        }
        let known = self.snapshot().version(key, hash)?;
        Ok(known.and_then(|(revision, is_there)| is_there.then_some(revision)))
    }

    /// Newest first, since most conditions are about the last few commits: this turn, then memory,
    /// then the files.
    fn unchanged(&mut self, span: &Span, revision: Revision, part: &[u8]) -> Result<bool> {
        let Numbers {
            revision: newest,
            floor,
            ..
        } = self.turn.numbers;
        if revision > newest {
            return Err(revision_unknown(revision, newest));
        }
        if revision < floor {
            return Err(compacted(revision, floor));
        }
        if span.is_empty() {
            return Ok(true);
        }
        let is_inside = |key: &[u8]| span.contains(key);
        if self.staged.after(revision, part).any(is_inside) {
            return Ok(false);
        }
        if *span == Span::key(span.start.clone()) {
            let known = self
                .snapshot()
                .version(&span.start, index::hash(&span.start));
            let known = known.map_err(plain)?;
            return Ok(known.is_none_or(|(last, _)| last <= revision));
        }
        let (touched, in_memory) = self.shared.feed.touched(span, revision);
        if touched {
            return Ok(false);
        }
        let mut place = revision;
        while place < in_memory {
            let commits = self.snapshot().history(place, STRETCH).map_err(plain)?;
            if commits.iter().any(|commit| commit.touches(span)) {
                return Ok(false);
            }
            place = commits.last().map_or(in_memory, |commit| commit.revision);
        }
        Ok(true)
    }
}
