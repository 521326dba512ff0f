use std::collections::{BTreeMap, BTreeSet, HashMap};

use sinew_engine::kv::Key;

use super::change::{Malformed, Operation};

/// The leases and the keys that go with them, as operations make them. It is in memory wholly: few
/// keys have a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Leased {
    /// TTLs in nanoseconds.
    pub(super) ttls: BTreeMap<u64, u64>,
    keys: BTreeMap<u64, BTreeSet<Key>>,
    lease_of: HashMap<Key, u64>,
}

impl Leased {
    /// Applying operations twice, from the first to the last, is as applying them once.
    pub(super) fn apply(&mut self, operation: &Operation) -> Result<(), Malformed> {
        match operation {
            Operation::Commit(commit) => {
                for change in commit.places() {
                    let change = change?;
                    let lease = change.lease.flatten();
                    if lease.is_some() || !self.lease_of.is_empty() {
                        self.attach(&commit.changes[change.key()], lease.map(|lease| lease.0));
                    }
                }
            }
            Operation::Granted { lease, ttl } => {
                self.ttls.insert(*lease, *ttl);
            }
            Operation::Ended { lease } => {
                self.ttls.remove(lease);
            }
            Operation::Floor(_) => {}
        }
        Ok(())
    }

    /// The key goes with this lease from now on, or with none.
    pub(super) fn attach(&mut self, key: &[u8], lease: Option<u64>) {
        if let Some(before) = self.lease_of.remove(key)
            && let Some(keys) = self.keys.get_mut(&before)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.keys.remove(&before);
            }
        }
        if let Some(lease) = lease {
            // Not a slice of a record, which it would keep in memory.
            let key = Key::copy_from_slice(key);
            self.lease_of.insert(key.clone(), lease);
            self.keys.entry(lease).or_default().insert(key);
        }
    }

    /// The keys that go with a lease, in order.
    pub(super) fn keys(&self, lease: u64) -> impl Iterator<Item = &Key> {
        self.keys.get(&lease).into_iter().flatten()
    }

    /// All keys that have a lease, with it.
    pub(super) fn attached(&self) -> impl Iterator<Item = (u64, &Key)> {
        let keys = self.keys.iter();
        keys.flat_map(|(lease, keys)| keys.iter().map(|key| (*lease, key)))
    }
}
