use std::{collections::BTreeMap, time::Duration};

/// How far a group is, as it must survive a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Of each partition of the topic.
    pub partitions: Vec<PartitionSnapshot>,
}

/// How far a group is in one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionSnapshot {
    /// Everything below this offset is settled.
    pub cursor: u64,
    /// What is settled above: start → end, disjoint, not touching.
    pub settled: BTreeMap<u64, u64>,
    /// Messages that were delivered and will be again.
    pub retries: BTreeMap<u64, Retry>,
    /// Messages that the topic dropped although they were not settled.
    pub lost: u64,
}

impl Snapshot {
    /// Of a group that begins at these offsets.
    pub fn starting(offsets: impl IntoIterator<Item = u64>) -> Self {
        let at = |cursor| PartitionSnapshot {
            cursor,
            ..PartitionSnapshot::default()
        };
        Self {
            partitions: offsets.into_iter().map(at).collect(),
        }
    }
}

impl PartitionSnapshot {
    /// Notes that a message is settled. For shells that replay what they made durable before there
    /// is a machine again.
    pub fn settle(&mut self, offset: u64) {
        self.change(|progress| progress.settle(offset));
    }

    /// Notes that there is nothing from `start` up to `end` that is not settled.
    pub fn settle_range(&mut self, start: u64, end: u64) {
        self.change(|progress| progress.settle_range(start, end));
    }

    /// Notes that the topic no longer holds what lies below `first`.
    pub fn trim(&mut self, first: u64) {
        self.change(|progress| progress.trim(first));
    }

    /// Notes that the group goes on at this offset.
    pub fn seek(&mut self, offset: u64) {
        self.change(|progress| progress.restart(offset));
    }

    fn change(&mut self, change: impl FnOnce(&mut Progress)) {
        let mut progress = Progress::new(std::mem::take(self));
        change(&mut progress);
        progress.pass_settled();
        *self = Self {
            cursor: progress.cursor,
            settled: progress.settled,
            retries: progress.retries,
            lost: progress.lost,
        };
    }
}

/// A message that was delivered and will be again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// Deliveries so far.
    pub attempts: u32,
    /// How long it waits from now.
    pub wait: Duration,
}

/// What a group has settled of one partition. Invariant: the ranges of `settled` are disjoint, do not touch,
/// and lie in `cursor..`; their number is bounded by that of the unsettled messages between them.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) cursor: u64,
    pub(super) loaded: u64,
    settled: BTreeMap<u64, u64>,
    /// Of messages that are not loaded yet.
    pub(super) retries: BTreeMap<u64, Retry>,
    pub(super) lost: u64,
}

impl Progress {
    pub(super) fn new(snapshot: PartitionSnapshot) -> Self {
        let PartitionSnapshot {
            cursor,
            settled,
            retries,
            lost,
        } = snapshot;
        Self {
            cursor,
            loaded: cursor,
            settled,
            retries,
            lost,
        }
    }

    pub(super) fn snapshot(&self) -> PartitionSnapshot {
        PartitionSnapshot {
            cursor: self.cursor,
            settled: self.settled.clone(),
            retries: self.retries.clone(),
            lost: self.lost,
        }
    }

    /// How many offsets from the cursor up to `end` are settled.
    pub(super) fn settled_above(&self, end: u64) -> u64 {
        self.settled
            .iter()
            .map(|(start, stop)| (*stop).min(end).saturating_sub(*start))
            .sum()
    }

    pub(super) fn is_settled(&self, offset: u64) -> bool {
        let below = self.settled.range(..=offset).next_back();
        offset < self.cursor || below.is_some_and(|(_, end)| offset < *end)
    }

    pub(super) fn settle(&mut self, offset: u64) {
        if self.is_settled(offset) {
            return;
        }
        let (mut start, mut end) = (offset, offset + 1);
        if let Some((before, reaches)) = self.settled.range(..offset).next_back()
            && *reaches == start
        {
            start = *before;
        }
        if let Some(after) = self.settled.remove(&end) {
            end = after;
        }
        self.settled.insert(start, end);
    }

    /// The next message to be loaded is this one: between it and the last there is none, so nothing that
    /// is owed.
    pub(super) fn skip_to(&mut self, offset: u64) {
        if offset > self.loaded {
            self.settle_range(self.loaded, offset);
            self.loaded = offset;
        }
    }

    fn settle_range(&mut self, start: u64, end: u64) {
        let (mut start, mut end) = (start.max(self.cursor), end);
        if start >= end {
            return;
        }
        // All that it overlaps or touches become one with it.
        while let Some((before, reaches)) = self.settled.range(..=end).next_back()
            && *reaches >= start
        {
            let (before, reaches) = (*before, *reaches);
            (start, end) = (start.min(before), end.max(reaches));
            self.settled.remove(&before);
        }
        self.settled.insert(start, end);
    }

    /// Moves the cursor: up to `oldest`, which is not settled, or over all that was loaded.
    pub(super) fn advance(&mut self, oldest: Option<u64>) {
        self.cursor = self.cursor.max(oldest.unwrap_or(self.loaded));
        // Ranges behind what is loaded come from a snapshot and stay until their messages are.
        self.drop_below_cursor();
    }

    pub(super) fn trim(&mut self, first: u64) {
        self.lost += first.saturating_sub(self.cursor) - self.settled_above(first);
        self.cursor = self.cursor.max(first);
        self.loaded = self.loaded.max(first);
        self.drop_below_cursor();
    }

    pub(super) fn restart(&mut self, offset: u64) {
        (self.cursor, self.loaded) = (offset, offset);
        self.settled.clear();
        self.retries.clear();
    }

    /// Moves the cursor over what is settled right behind it.
    fn pass_settled(&mut self) {
        while let Some(first) = self.settled.first_entry()
            && *first.key() <= self.cursor
        {
            self.cursor = self.cursor.max(first.remove());
        }
        if self
            .retries
            .first_key_value()
            .is_some_and(|(offset, _)| *offset < self.cursor)
        {
            self.retries = self.retries.split_off(&self.cursor);
        }
    }

    fn drop_below_cursor(&mut self) {
        while let Some(first) = self.settled.first_entry()
            && *first.key() < self.cursor
        {
            let end = first.remove();
            if end > self.cursor {
                self.settled.insert(self.cursor, end);
            }
        }
        if self
            .retries
            .first_key_value()
            .is_some_and(|(offset, _)| *offset < self.cursor)
        {
            self.retries = self.retries.split_off(&self.cursor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settled_ranges_become_one_with_what_they_touch() {
        let mut snapshot = PartitionSnapshot::default();
        for (start, end) in [(10, 12), (20, 30), (14, 15), (5, 5)] {
            snapshot.settle_range(start, end);
        }
        snapshot.settle_range(12, 22);
        assert_eq!(snapshot.settled, BTreeMap::from([(10, 30)]));
        snapshot.settle_range(3, 9);
        assert_eq!(snapshot.settled, BTreeMap::from([(3, 9), (10, 30)]));
        snapshot.settle_range(0, 10);
        assert_eq!((snapshot.cursor, snapshot.settled.len()), (30, 0));
    }

    #[test]
    fn a_snapshot_takes_what_was_made_durable_since() {
        let mut snapshot = PartitionSnapshot::default();
        for offset in [1, 3, 4, 0] {
            snapshot.settle(offset);
        }
        let settled = BTreeMap::from([(3, 5)]);
        assert_eq!((snapshot.cursor, &snapshot.settled), (2, &settled));
        snapshot.retries.insert(2, Retry::default());
        snapshot.trim(3);
        assert_eq!((snapshot.cursor, snapshot.lost), (5, 1));
        assert!(snapshot.settled.is_empty() && snapshot.retries.is_empty());
        snapshot.seek(1);
        snapshot.settle(7);
        assert_eq!((snapshot.cursor, snapshot.lost), (1, 1));
        assert_eq!(snapshot.settled, BTreeMap::from([(7, 8)]));
    }
}
