//! Leases.
//!
//! A lease is an etcd lease with one key on it, `l/<lease>`, which etcd deletes when nobody keeps the lease alive.
//! The keys that go with the lease are not attached in etcd: it would delete them behind the back of the store's
//! revision, and nothing in a later transaction could tell that they were ever there. Instead they are
//! listed under `a/<lease>/`, and deleted by an ordinary commit: by whoever revokes the lease, or by the
//! store's keeper when `l/<lease>` has gone.

use std::time::Duration;

use bytes::Bytes;
use sinew_core::{Backoff, Result};
use sinew_engine::kv::{Key, LeaseId, lease_unknown};

use super::{
    answer::{ENGINE, Failure},
    commit::{REQUEST_BYTES, erase, grouped, revision_of},
    layout::number,
    link::Link,
    wire::{Compare, Is, Operand, RangeRequest, RequestOp, TxnRequest},
};
use crate::fault;

/// The longest that etcd grants, seconds.
const LONGEST: u64 = 9_000_000_000;
/// Keys that one commit deletes at most when a lease ends.
const KEYS: usize = 1000;
const GROUP: usize = 40;
const ATTEMPTS: u32 = 20;

/// A new lease with at least this TTL.
pub(super) async fn grant(link: &Link, ttl: Duration) -> Result<LeaseId> {
    let rounded = ttl
        .as_secs()
        .saturating_add(u64::from(ttl.subsec_nanos() > 0));
    let seconds = i64::try_from(rounded.min(LONGEST)).unwrap_or(i64::MAX);
    for _ in 0..ATTEMPTS {
        // Our own names, so that a lease is known before anything is written.
        let id = rand::random_range(1..i64::MAX);
        match link
            .write(|client| async move { client.lease_grant(id, seconds).await })
            .await
        {
            Err(Failure::LeaseExists) => continue,
            granted => granted.map_err(|failure| link.error(failure))?,
        };
        let lease = LeaseId(id.unsigned_abs());
        let mut put = super::wire::PutRequest {
            key: link.layout.lease(lease),
            ..Default::default()
        };
        put.lease = id;
        let put = RequestOp {
            request: Some(super::wire::Request::Put(put)),
        };
        let txn = TxnRequest::of(vec![put]);
        link.write(|client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        })
        .await
        .map_err(|failure| link.error(failure))?;
        return Ok(lease);
    }
    Err(fault::unexpected(
        ENGINE,
        "it has every lease that was made up",
    ))
}

/// Gives a lease its time again.
pub(super) async fn keep_alive(link: &Link, lease: LeaseId) -> Result<Duration> {
    let unknown = || lease_unknown(lease);
    let id = i64::try_from(lease.0).map_err(|_| unknown())?;
    // A revoked lease may live on in etcd for a while, but never its key.
    let key = RangeRequest {
        keys_only: true,
        ..RangeRequest::key(link.layout.lease(lease))
    };
    let (kept, found) = tokio::join!(
        link.read(|client| async move { client.lease_keep_alive(id).await }),
        link.read(|client| {
            let key = key.clone();
            async move { client.range(key).await }
        }),
    );
    let seconds = match kept {
        Err(Failure::NoLease) => 0,
        kept => kept.map_err(|failure| link.error(failure))?,
    };
    let found = found.map_err(|failure| link.error(failure))?;
    match u64::try_from(seconds) {
        Ok(seconds @ 1..) if !found.kvs.is_empty() => Ok(Duration::from_secs(seconds)),
        _ => Err(unknown()),
    }
}

/// Ends a lease that lives.
pub(super) async fn revoke(link: &Link, lease: LeaseId) -> Result<()> {
    let id = i64::try_from(lease.0).map_err(|_| lease_unknown(lease))?;
    end(link, lease, true).await?;
    // Without it, etcd's own lease ends a TTL later, with nothing on it.
    let _ = link
        .write(|client| async move { client.lease_revoke(id).await })
        .await;
    Ok(())
}

/// One attachment: the key, and the revision at which it was attached.
struct Attached {
    name: Bytes,
    key: Key,
    revision: i64,
}

/// Deletes what goes with a lease: with `revoked`, of one that lives, else of one that has ended by itself.
pub(super) async fn end(link: &Link, lease: LeaseId, revoked: bool) -> Result<()> {
    let mut revoked = revoked;
    let mut backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(500));
    while backoff.attempts() < ATTEMPTS {
        let (guard, attached, more) = look(link, lease).await?;
        match (revoked, guard) {
            (true, 0) => return Err(lease_unknown(lease)),
            (false, 1..) => return Ok(()),
            (false, 0) if attached.is_empty() => return Ok(()),
            _ => {}
        }
        let live = living(link, &attached).await?;
        let txn = ending(link, lease, guard, &attached, &live, more);
        let answer = link
            .write(|client| {
                let txn = txn.clone();
                async move { client.txn(txn).await }
            })
            .await
            .map_err(|failure| link.error(failure))?;
        if !answer.succeeded {
            // Something was attached or overwritten meanwhile.
            tokio::time::sleep(backoff.next_delay()).await;
        } else if more {
            // The rest; nothing can be attached any more.
            revoked = false;
            backoff.reset();
        } else {
            return Ok(());
        }
    }
    Err(fault::unavailable(
        ENGINE,
        "others wrote to the lease's keys again and again",
    ))
}

/// The revision of the lease's own key, 0 when it is gone, and what is attached: as much as one commit can delete.
async fn look(link: &Link, lease: LeaseId) -> Result<(i64, Vec<Attached>, bool)> {
    let layout = &link.layout;
    let (first, beyond) = layout.attachments(lease);
    let txn = TxnRequest::of(vec![
        RangeRequest::key(layout.lease(lease)).op(),
        RangeRequest::names(first, beyond, KEYS as i64).op(),
    ]);
    let answer = link
        .read(|client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        })
        .await
        .map_err(|failure| link.error(failure))?;
    let mut ranges = answer.ranges().into_iter();
    let (Some(guard), Some(names)) = (ranges.next(), ranges.next()) else {
        return Err(fault::unexpected(ENGINE, "it answered less than was asked"));
    };
    let mut more = names.more;
    let mut attached = Vec::new();
    let mut bytes = 0;
    for kv in names.kvs {
        let Some((_, key)) = layout.attached(&kv.key) else {
            continue;
        };
        // Compared, deleted, marked, and detached.
        bytes += 4 * (kv.key.len() + 32);
        if bytes > REQUEST_BYTES {
            more = true;
            break;
        }
        attached.push(Attached {
            name: kv.key,
            key,
            revision: kv.mod_revision,
        });
    }
    let guard = guard.kvs.first().map_or(0, |kv| kv.mod_revision);
    Ok((guard, attached, more))
}

/// Those that still go with the lease: their key was not written since it was attached.
async fn living<'a>(link: &Link, attached: &'a [Attached]) -> Result<Vec<&'a Attached>> {
    let reads = attached.iter().map(|one| {
        let read = RangeRequest {
            keys_only: true,
            ..RangeRequest::key(link.layout.key(&one.key))
        };
        read.op()
    });
    let txn = TxnRequest::of(grouped_by(GROUP, reads.collect()));
    let answer = link
        .read(|client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        })
        .await
        .map_err(|failure| link.error(failure))?;
    let now = answer.ranges();
    let both = attached.iter().zip(&now);
    Ok(both
        .filter(|(one, range)| revision_of(range) == one.revision.unsigned_abs())
        .map(|(one, _)| one)
        .collect())
}

fn ending(
    link: &Link,
    lease: LeaseId,
    guard: i64,
    attached: &[Attached],
    live: &[&Attached],
    more: bool,
) -> TxnRequest {
    let layout = &link.layout;
    let own = layout.lease(lease);
    let unwritten =
        |one: &Attached| Compare::key(layout.key(&one.key), Is::Equal, Operand::Mod(one.revision));
    // Every attachment writes the lease's key, so nothing was attached since we looked.
    let mut compare = vec![Compare::key(own.clone(), Is::Equal, Operand::Mod(guard))];
    let mut steps = Vec::new();
    if let Some((first, rest)) = live.split_first() {
        // At least one deletion has an effect, so the commit has a revision.
        compare.push(unwritten(first));
        let bytes: usize = live.iter().map(|one| one.key.len()).sum();
        steps.push(RequestOp::put(layout.head(), number(bytes as u64)));
        steps.extend(erase(layout, &first.key));
        steps.extend(rest.iter().map(|one| {
            RequestOp::txn(TxnRequest {
                compare: vec![unwritten(one)],
                success: erase(layout, &one.key),
                failure: Vec::new(),
            })
        }));
    }
    if guard > 0 {
        steps.push(RequestOp::delete(own, Bytes::new()));
    }
    if more {
        let names = attached.iter().map(|one| one.name.clone());
        steps.extend(names.map(|name| RequestOp::delete(name, Bytes::new())));
    } else {
        let (first, beyond) = layout.attachments(lease);
        steps.push(RequestOp::delete(first, beyond));
    }
    TxnRequest {
        compare,
        success: grouped_by(GROUP, steps),
        failure: Vec::new(),
    }
}

/// In groups of this size, when they are many.
fn grouped_by(size: usize, mut steps: Vec<RequestOp>) -> Vec<RequestOp> {
    if steps.len() <= size {
        return grouped(steps);
    }
    let mut groups = Vec::new();
    while !steps.is_empty() {
        let rest = steps.split_off(size.min(steps.len()));
        groups.push(RequestOp::txn(TxnRequest::of(steps)));
        steps = rest;
    }
    groups
}
