//! The writes of a transaction as they go into a record. Whoever asks for them makes them, so that
//! the commit thread has only to copy.

use sinew_engine::kv::{LeaseId, Write};

use super::{
    change::{self, Place},
    index,
};

/// Writes in key order, encoded.
pub(crate) struct Writes {
    changes: Vec<u8>,
    each: Vec<Encoded>,
}

/// One of them.
pub(super) struct Encoded {
    pub(super) place: Place,
    /// Of the key.
    pub(super) hash: u64,
}

impl Writes {
    pub(crate) fn new(writes: &[Write]) -> Self {
        let mut in_order: Vec<&Write> = writes.iter().collect();
        in_order.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        let size = |write: &Write| match write {
            Write::Put { key, value, .. } => key.len() + value.len() + 17,
            Write::Delete { key } => key.len() + 5,
        };
        let mut changes = Vec::with_capacity(writes.iter().map(size).sum());
        let encode = |write: &Write| {
            let value = match write {
                Write::Put { value, lease, .. } => Some((&value[..], *lease)),
                Write::Delete { .. } => None,
            };
            Encoded {
                place: change::put_change(&mut changes, write.key(), value),
                hash: index::hash(write.key()),
            }
        };
        let each = in_order.into_iter().map(encode).collect();
        Self { changes, each }
    }

    pub(super) fn each(&self) -> &[Encoded] {
        &self.each
    }

    /// The leases that keys are to go with.
    pub(super) fn leases(&self) -> impl Iterator<Item = LeaseId> {
        self.each.iter().filter_map(|one| one.place.lease.flatten())
    }

    pub(super) fn key(&self, of: &Encoded) -> &[u8] {
        &self.changes[of.place.key()]
    }

    /// One of them as it goes into a commit.
    pub(super) fn change(&self, of: &Encoded) -> &[u8] {
        &self.changes[of.place.all()]
    }
}
