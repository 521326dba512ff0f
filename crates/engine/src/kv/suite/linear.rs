//! Linearizability of concurrent histories. The general check is NP-complete (Gibbons and Korach,
//! "Testing Shared Memories", 1997), but here every effect carries its revision, which names the only
//! order that can explain the history. So it is enough to see that this order explains what each
//! operation saw, and that it agrees with real time.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    Case, case,
    stand::{Stand, key, soon},
};
use crate::kv::{Condition, Kv, Outcome, Revision, Write};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            histories_are_linearizable,
            Nothing,
            "Commits are linearizable: the revision order is the real-time order."
        ),
        case!(
            an_acknowledged_commit_is_seen,
            Nothing,
            "A read without a revision sees every commit acknowledged before the read began."
        ),
    ]
}

/// One operation as its caller saw it. `began` and `ended` are ticks of one shared counter.
#[derive(Debug)]
struct Operation {
    began: u64,
    ended: u64,
    key: usize,
    seen: Seen,
}

#[derive(Debug)]
enum Seen {
    /// A read: the revision of the key, `None` when it does not exist.
    Read(Option<Revision>),
    /// A conditional write that was written with `now`, over `before`.
    Wrote {
        before: Option<Revision>,
        deleted: bool,
        now: Revision,
    },
    /// A conditional write that conflicted: the key was not at `not` at that time.
    Conflicted { not: Option<Revision> },
}

const KEYS: usize = 3;
const TASKS: usize = 8;
const EACH: usize = 60;

async fn histories_are_linearizable(stand: Stand) {
    let ticks = Arc::new(AtomicU64::new(1));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| tokio::spawn(work(stand.kv(), ticks.clone(), task)))
        .collect();
    let mut history = Vec::new();
    for task in tasks {
        history.extend(soon(task).await.unwrap());
    }
    check(&history);
}

/// A fixed mixture of reads, puts and deletes that differs from task to task.
async fn work(kv: Arc<dyn Kv>, ticks: Arc<AtomicU64>, task: usize) -> Vec<Operation> {
    let tick = || ticks.fetch_add(1, Ordering::SeqCst);
    let mut history = Vec::new();
    for step in 0..EACH {
        let index = (task + step * step) % KEYS;
        let name = key(&format!("k{index}"));
        let began = tick();
        let before = kv.get(&name).await.unwrap().map(|entry| entry.revision);
        history.push(Operation {
            began,
            ended: tick(),
            key: index,
            seen: Seen::Read(before),
        });

        let deleted = before.is_some() && (task * 7 + step).is_multiple_of(5);
        let write = if deleted {
            Write::Delete { key: name.clone() }
        } else {
            let value = format!("{task}.{step}").into();
            Write::Put {
                key: name.clone(),
                value,
                lease: None,
            }
        };
        let condition = match before {
            Some(revision) => Condition::KeyAt(name, revision),
            None => Condition::Absent(name),
        };
        let began = tick();
        let outcome = kv.commit(vec![condition], vec![write]).await.unwrap();
        let seen = match outcome {
            Outcome::Committed(now) => Seen::Wrote {
                before,
                deleted,
                now,
            },
            Outcome::Conflict(_) => Seen::Conflicted { not: before },
        };
        history.push(Operation {
            began,
            ended: tick(),
            key: index,
            seen,
        });
    }
    history
}

/// Gives each operation its place in the revision order: a write the place after its predecessor, a
/// read or conflict the first place where it is true. Each place must come after those of all the
/// operations that had ended before it began; taking the first one constrains the rest the least,
/// so a history that has no places this way has none at all.
fn check(history: &[Operation]) {
    // The writes in the order that their revisions claim; no revision twice.
    let mut writes = BTreeMap::new();
    for operation in history {
        if let Seen::Wrote { now, .. } = operation.seen {
            assert!(
                writes.insert(now, operation).is_none(),
                "revision {now} was given twice"
            );
        }
    }
    // That order explains what each write was conditional on. `states[n]` is after n writes.
    let mut states = vec![[None; KEYS]];
    let mut places = BTreeMap::new();
    for (now, operation) in &writes {
        let Seen::Wrote {
            before, deleted, ..
        } = operation.seen
        else {
            unreachable!("only writes were collected")
        };
        let mut state = states[states.len() - 1];
        assert_eq!(
            state[operation.key], before,
            "{operation:?} went against its condition"
        );
        state[operation.key] = (!deleted).then_some(*now);
        places.insert(*now, states.len());
        states.push(state);
    }
    let mut operations: Vec<&Operation> = history.iter().collect();
    operations.sort_by_key(|operation| operation.began);
    // (when it ended, its place) of those that were placed.
    let mut placed: Vec<(u64, usize)> = Vec::new();
    for operation in operations {
        let ended_before = placed.iter().filter(|(ended, _)| *ended < operation.began);
        let floor = ended_before.map(|(_, place)| *place).max().unwrap_or(0);
        let true_at = |state: &[Option<Revision>; KEYS]| match operation.seen {
            Seen::Read(seen) => state[operation.key] == seen,
            Seen::Conflicted { not } => state[operation.key] != not,
            Seen::Wrote { .. } => false,
        };
        let place = match operation.seen {
            Seen::Wrote { now, .. } => {
                let place = places[&now];
                assert!(
                    place > floor,
                    "{operation:?} comes before one that ended earlier"
                );
                place
            }
            _ => (floor..states.len())
                .find(|place| true_at(&states[*place]))
                .unwrap_or_else(|| panic!("{operation:?} saw what was not there any more")),
        };
        placed.push((operation.ended, place));
    }
}

async fn an_acknowledged_commit_is_seen(stand: Stand) {
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let kv = stand.kv();
            tokio::spawn(async move {
                let name = key(&format!("k{task}"));
                for n in 0..EACH {
                    let value = n.to_string().into();
                    let write = Write::Put {
                        key: name.clone(),
                        value,
                        lease: None,
                    };
                    let outcome = kv.commit(vec![], vec![write]).await.unwrap();
                    let Outcome::Committed(revision) = outcome else {
                        panic!("{outcome:?}")
                    };
                    assert!(kv.revision().await.unwrap() >= revision);
                    assert_eq!(kv.get(&name).await.unwrap().unwrap().revision, revision);
                    let span = crate::kv::Span::key(name.clone());
                    let page = kv.range(span, 1, None).await.unwrap();
                    assert!(page.revision >= revision);
                    assert_eq!(page.entries[0].revision, revision);
                }
            })
        })
        .collect();
    for task in tasks {
        soon(task).await.unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(began: u64, ended: u64, seen: Seen) -> Operation {
        Operation {
            began,
            ended,
            key: 0,
            seen,
        }
    }

    fn wrote(before: Option<Revision>, now: Revision) -> Seen {
        Seen::Wrote {
            before,
            deleted: false,
            now,
        }
    }

    #[test]
    fn a_good_history_passes() {
        check(&[
            operation(1, 4, wrote(None, 1)),
            operation(2, 3, Seen::Read(None)),
            operation(5, 8, wrote(Some(1), 2)),
            operation(6, 7, Seen::Read(Some(2))),
            operation(6, 9, Seen::Conflicted { not: Some(1) }),
        ]);
    }

    #[test]
    #[should_panic(expected = "saw what was not there any more")]
    fn a_stale_read_is_found() {
        check(&[
            operation(1, 2, wrote(None, 1)),
            operation(3, 4, Seen::Read(None)),
        ]);
    }

    #[test]
    #[should_panic(expected = "saw what was not there any more")]
    fn reads_that_go_back_during_one_write_are_found() {
        let reads = [
            operation(2, 3, Seen::Read(Some(1))),
            operation(4, 5, Seen::Read(None)),
            operation(1, 9, wrote(None, 1)),
        ];
        check(&reads);
    }

    #[test]
    #[should_panic(expected = "comes before one that ended earlier")]
    fn a_read_from_the_future_is_found() {
        check(&[
            operation(1, 2, Seen::Read(Some(1))),
            operation(3, 4, wrote(None, 1)),
        ]);
    }

    #[test]
    #[should_panic(expected = "against its condition")]
    fn a_lost_update_is_found() {
        check(&[
            operation(1, 2, wrote(None, 1)),
            operation(1, 2, wrote(None, 2)),
        ]);
    }

    #[test]
    #[should_panic(expected = "comes before one that ended earlier")]
    fn an_order_against_real_time_is_found() {
        check(&[
            operation(3, 4, wrote(None, 1)),
            operation(1, 2, wrote(Some(1), 2)),
        ]);
    }

    #[test]
    #[should_panic(expected = "saw what was not there any more")]
    fn a_conflict_without_cause_is_found() {
        let conflict = operation(3, 4, Seen::Conflicted { not: Some(1) });
        check(&[operation(1, 2, wrote(None, 1)), conflict]);
    }
}
