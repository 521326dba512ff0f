//! A commit as one transaction of etcd.
//!
//! etcd evaluates all comparisons at once and says only whether all held. So the other branch reads,
//! in the same moment, what each condition is about, and the first that fails is found from that.
//!
//! `Unchanged` is two comparisons over ranges: no key of the span was written later, and no mark of a deleted key
//! was. Every deletion leaves such a mark, also those of leases that end, because only our own transactions
//! delete keys.

use std::collections::BTreeSet;

use sinew_core::{Error, Kind, Result};
use sinew_engine::kv::{
    Condition, LeaseId, Outcome, Revision, Write, compacted, lease_unknown, revision_unknown,
};

use super::{
    answer::ENGINE,
    layout::{Layout, number, read_number, signed, value},
    wire::{Compare, Is, Operand, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse},
};
use crate::fault;

/// etcd's `--max-txn-ops` unless its operator raises it.
const OPERATIONS: usize = 128;
/// etcd's `--max-request-bytes`, less what it adds itself.
pub(super) const REQUEST_BYTES: usize = (3 << 19) - (16 << 10);
/// Longer lists are put into transactions inside.
const FLAT: usize = 100;
const GROUP: usize = 20;

/// A commit, ready to be sent.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) request: TxnRequest,
    /// Whether it writes for sure when its conditions hold.
    writes: bool,
    conditions: Vec<Condition>,
    leases: Vec<LeaseId>,
}

/// `kv.transaction_invalid` when etcd would not take it.
pub(super) fn plan(layout: &Layout, conditions: Vec<Condition>, writes: &[Write]) -> Result<Plan> {
    let mut leases = Vec::new();
    for write in writes {
        if let Write::Put {
            lease: Some(lease), ..
        } = write
            && !leases.contains(lease)
        {
            leases.push(*lease);
        }
    }
    let (success, certain) = steps(layout, writes, &leases);
    let request = TxnRequest {
        compare: compares(layout, &conditions, &leases),
        success,
        failure: evidence(layout, &conditions, &leases),
    };
    if request.operations() > OPERATIONS {
        return Err(too_large(format!(
            "etcd takes {OPERATIONS} operations in a transaction, and these conditions, writes and leases make {}; split it",
            request.operations()
        )));
    }
    let bytes = prost::Message::encoded_len(&request);
    if bytes > REQUEST_BYTES {
        return Err(too_large(format!(
            "etcd takes {REQUEST_BYTES} bytes in a request, and these conditions and writes make {bytes}; split it"
        )));
    }
    Ok(Plan {
        request,
        writes: certain,
        conditions,
        leases,
    })
}

fn too_large(why: String) -> Error {
    Error::new(Kind::InvalidArgument, "kv.transaction_invalid", why)
}

fn compares(layout: &Layout, conditions: &[Condition], leases: &[LeaseId]) -> Vec<Compare> {
    let mut all = Vec::new();
    let mut since: BTreeSet<Revision> = BTreeSet::new();
    for condition in conditions {
        match condition {
            Condition::KeyAt(key, at) => {
                // 0 is what etcd says of keys that do not exist.
                let at = if *at == 0 { -1 } else { signed(*at) };
                all.push(Compare::key(layout.key(key), Is::Equal, Operand::Mod(at)));
            }
            Condition::Absent(key) => {
                all.push(Compare::key(
                    layout.key(key),
                    Is::Equal,
                    Operand::Version(0),
                ));
            }
            Condition::Present(key) => {
                all.push(Compare::key(
                    layout.key(key),
                    Is::Greater,
                    Operand::Version(0),
                ));
            }
            Condition::Unchanged(span, at) => {
                since.insert(*at);
                if span.is_empty() {
                    continue;
                }
                let later = Operand::Mod(signed(*at) + 1);
                for (first, beyond) in [layout.keys(span), layout.tombs(span)] {
                    all.push(Compare::range(first, beyond, Is::Less, later.clone()));
                }
            }
        }
    }
    if let (Some(first), Some(last)) = (since.first(), since.last()) {
        let beyond = Operand::Value(number(first.saturating_add(1)));
        all.push(Compare::key(layout.floor(), Is::Less, beyond));
        if *last > 0 {
            let before = Operand::Mod(signed(*last) - 1);
            all.push(Compare::key(layout.head(), Is::Greater, before));
        }
    }
    for lease in leases {
        all.push(Compare::key(
            layout.lease(*lease),
            Is::Greater,
            Operand::Version(0),
        ));
    }
    all
}

/// What is read when the conditions do not all hold, in the order in which [`Plan::outcome`] takes it.
fn evidence(layout: &Layout, conditions: &[Condition], leases: &[LeaseId]) -> Vec<RequestOp> {
    let name = |key| RangeRequest {
        keys_only: true,
        ..RangeRequest::key(key)
    };
    let mut all = vec![
        name(layout.head()).op(),
        RangeRequest::key(layout.floor()).op(),
    ];
    for condition in conditions {
        match condition {
            Condition::KeyAt(key, _) | Condition::Absent(key) | Condition::Present(key) => {
                all.push(name(layout.key(key)).op());
            }
            Condition::Unchanged(span, at) => {
                if span.is_empty() {
                    continue;
                }
                for (first, beyond) in [layout.keys(span), layout.tombs(span)] {
                    let later = RangeRequest {
                        min_mod_revision: signed(*at) + 1,
                        ..RangeRequest::names(first, beyond, 1)
                    };
                    all.push(later.op());
                }
            }
        }
    }
    all.extend(leases.iter().map(|lease| name(layout.lease(*lease)).op()));
    all
}

/// What is done when the conditions hold, and whether that writes for sure.
fn steps(layout: &Layout, writes: &[Write], leases: &[LeaseId]) -> (Vec<RequestOp>, bool) {
    let bytes: usize = writes
        .iter()
        .map(|write| match write {
            Write::Put { key, value, .. } => key.len() + value.len(),
            Write::Delete { key } => key.len(),
        })
        .sum();
    let head = RequestOp::put(layout.head(), number(bytes as u64));
    let mut puts = Vec::new();
    let mut deletes = Vec::new();
    for write in writes {
        match write {
            Write::Put {
                key,
                value: plain,
                lease,
            } => {
                puts.push(RequestOp::put(layout.key(key), value(plain, *lease)));
                if let Some(lease) = lease {
                    let attachment = layout.attachment(*lease, key);
                    puts.push(RequestOp::put(attachment, bytes::Bytes::new()));
                }
            }
            Write::Delete { key } => deletes.push(RequestOp::txn(TxnRequest {
                compare: vec![Compare::key(
                    layout.key(key),
                    Is::Greater,
                    Operand::Version(0),
                )],
                success: erase(layout, key),
                failure: Vec::new(),
            })),
        }
    }
    // Whoever ends the lease sees that something was attached since he looked.
    puts.extend(
        leases
            .iter()
            .map(|lease| RequestOp::touch(layout.lease(*lease))),
    );
    if !puts.is_empty() {
        puts.push(head);
        puts.extend(deletes);
        return (grouped(puts), true);
    }
    let mut all = Vec::new();
    if !deletes.is_empty() {
        // Nothing is taken when nothing of it exists.
        let absent = writes
            .iter()
            .map(|write| Compare::key(layout.key(write.key()), Is::Equal, Operand::Version(0)));
        let mut effects = vec![head];
        effects.extend(deletes);
        all.push(RequestOp::txn(TxnRequest {
            compare: absent.collect(),
            success: Vec::new(),
            failure: effects,
        }));
    }
    let head = RangeRequest {
        keys_only: true,
        ..RangeRequest::key(layout.head())
    };
    all.push(head.op());
    (all, false)
}

/// Deletes a key and marks that it was deleted.
pub(super) fn erase(layout: &Layout, key: &[u8]) -> Vec<RequestOp> {
    vec![
        RequestOp::delete(layout.key(key), bytes::Bytes::new()),
        RequestOp::put(layout.tomb(key), bytes::Bytes::new()),
    ]
}

/// The same steps, in transactions inside when they are many: etcd counts the longest list of each level.
pub(super) fn grouped(mut steps: Vec<RequestOp>) -> Vec<RequestOp> {
    if steps.len() <= FLAT {
        return steps;
    }
    let mut groups = Vec::new();
    while !steps.is_empty() {
        let rest = steps.split_off(GROUP.min(steps.len()));
        groups.push(RequestOp::txn(TxnRequest::of(steps)));
        steps = rest;
    }
    groups
}

/// The revision of the one key that a range holds; 0 when it does not exist.
pub(super) fn revision_of(range: &RangeResponse) -> Revision {
    range
        .kvs
        .first()
        .map_or(0, |kv| kv.mod_revision.unsigned_abs())
}

impl Plan {
    /// What etcd's answer means.
    pub(super) fn outcome(&self, answer: TxnResponse) -> Result<Outcome> {
        let revision = answer.revision().unsigned_abs();
        let succeeded = answer.succeeded;
        let mut ranges = answer.ranges().into_iter();
        if succeeded {
            if self.writes {
                return Ok(Outcome::Committed(revision));
            }
            let head = ranges.next().as_ref().map_or(0, revision_of);
            return Ok(Outcome::Committed(head));
        }
        let mut next = || {
            ranges
                .next()
                .ok_or_else(|| fault::unexpected(ENGINE, "it answered less than was asked"))
        };
        let head = revision_of(&next()?);
        let floor = next()?;
        let floor = floor.kvs.first().and_then(|kv| read_number(&kv.value));
        let floor = floor.ok_or_else(removed)?;
        for (index, condition) in self.conditions.iter().enumerate() {
            let holds = match condition {
                Condition::KeyAt(_, at) => *at > 0 && revision_of(&next()?) == *at,
                Condition::Absent(_) => next()?.kvs.is_empty(),
                Condition::Present(_) => !next()?.kvs.is_empty(),
                Condition::Unchanged(_, at) if *at > head => {
                    return Err(revision_unknown(*at, head));
                }
                Condition::Unchanged(_, at) if *at < floor => return Err(compacted(*at, floor)),
                Condition::Unchanged(span, _) if span.is_empty() => true,
                Condition::Unchanged(..) => {
                    let (later, deleted) = (next()?, next()?);
                    later.kvs.is_empty() && deleted.kvs.is_empty()
                }
            };
            if !holds {
                return Ok(Outcome::Conflict(index));
            }
        }
        for lease in &self.leases {
            if next()?.kvs.is_empty() {
                return Err(lease_unknown(*lease));
            }
        }
        Err(fault::unexpected(
            ENGINE,
            "it refused a transaction whose conditions hold",
        ))
    }
}

/// Somebody has deleted what every store has.
pub(super) fn removed() -> Error {
    fault::unsuitable(
        ENGINE,
        "its keys under the namespace were removed by somebody else",
    )
}

#[cfg(test)]
mod tests;
