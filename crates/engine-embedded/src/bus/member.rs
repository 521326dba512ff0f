use std::{collections::BTreeSet, sync::Arc};

use sinew_core::Name;
use sinew_engine::bus::{
    GroupConfig,
    group::{ConsumerId, Group, Rules, Snapshot},
};
use tokio::sync::Notify;

use super::tables::GroupRow;

/// A group of a topic.
pub(super) struct Member {
    pub(super) name: Name,
    pub(super) config: GroupConfig,
    pub(super) machine: Group,
    /// While records are replayed: what they come to. The machine begins with it afterwards.
    pub(super) book: Option<Snapshot>,
    pub(super) consumers: BTreeSet<ConsumerId>,
    /// Told when there may be something to deliver, and when the group is gone.
    pub(super) news: Arc<Notify>,
    /// Whether the tables do not know all of it.
    pub(super) is_dirty: bool,
}

impl Member {
    pub(super) fn new(name: Name, config: GroupConfig, snapshot: Snapshot, token: u64) -> Self {
        Self {
            name,
            machine: Group::new(Rules::from(&config), snapshot, token),
            config,
            book: None,
            consumers: BTreeSet::new(),
            news: Arc::default(),
            is_dirty: true,
        }
    }

    /// One that takes part in a replay.
    pub(super) fn replayed(row: GroupRow, token: u64) -> Self {
        let GroupRow {
            name,
            config,
            snapshot,
        } = row;
        Self {
            book: Some(snapshot.clone()),
            ..Self::new(name, config, snapshot, token)
        }
    }

    /// Ends the replay.
    pub(super) fn begin(&mut self, token: u64) {
        if let Some(book) = self.book.take() {
            self.machine = Group::new(Rules::from(&self.config), book, token);
        }
    }
}
