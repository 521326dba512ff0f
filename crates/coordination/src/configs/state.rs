//! The snapshot that readers see, made of what the store shows.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use sinew_engine::kv::Revision;

use super::{Item, ItemId, keys, keys::Shown, secrets::Wrapped};

/// All items and data keys at one revision.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) revision: Revision,
    pub(super) items: BTreeMap<ItemId, Arc<Item>>,
    pub(super) keys: BTreeMap<u64, Wrapped>,
}

/// A key of the store as it is now.
#[derive(Debug)]
pub(super) enum Seen {
    Item(Arc<Item>),
    ItemGone(ItemId),
    DataKey(u64, Wrapped),
    DataKeyGone(u64),
}

/// What a value of the store says; `None` for what this binary does not know.
pub(super) fn read(key: &[u8], value: Option<&Bytes>, revision: Revision) -> Option<Seen> {
    Some(match (keys::parse(key)?, value) {
        (Shown::Head(id), Some(value)) => Seen::Item(Arc::new(Item::decode(id, value, revision)?)),
        (Shown::Head(id), None) => Seen::ItemGone(id),
        (Shown::DataKey(id), Some(value)) => Seen::DataKey(id, serde_json::from_slice(value).ok()?),
        (Shown::DataKey(id), None) => Seen::DataKeyGone(id),
    })
}

impl State {
    /// Takes in a whole listing. Its pages may be of different revisions, the oldest is `revision`: the watch
    /// from there on repeats what later pages showed.
    pub(super) fn replace(&mut self, revision: Revision, all: Vec<Seen>) {
        self.revision = self.revision.max(revision);
        let mut items = BTreeMap::new();
        let mut keys = BTreeMap::new();
        for seen in all {
            match seen {
                Seen::Item(item) => {
                    // One that is known newer already stays; what it was parsed to stays with one that is the same.
                    let known = self.items.remove(&item.id);
                    let item = known
                        .filter(|known| known.revision >= item.revision)
                        .unwrap_or(item);
                    items.insert(item.id.clone(), item);
                }
                Seen::DataKey(id, key) => drop(keys.insert(id, key)),
                Seen::ItemGone(_) | Seen::DataKeyGone(_) => {}
            }
        }
        (self.items, self.keys) = (items, keys);
    }

    /// Takes in one commit.
    pub(super) fn apply(&mut self, revision: Revision, changes: Vec<Seen>) {
        self.revision = self.revision.max(revision);
        for change in changes {
            match change {
                Seen::Item(item) => {
                    let known = self.items.get(&item.id);
                    if known.is_none_or(|known| known.revision < item.revision) {
                        self.items.insert(item.id.clone(), item);
                    }
                }
                Seen::ItemGone(id) => {
                    // A later page of the listing may have shown it back again.
                    let is_newer = |item: &Arc<Item>| item.revision > revision;
                    if !self.items.get(&id).is_some_and(is_newer) {
                        self.items.remove(&id);
                    }
                }
                Seen::DataKey(id, key) => drop(self.keys.insert(id, key)),
                Seen::DataKeyGone(id) => drop(self.keys.remove(&id)),
            }
        }
    }
}
