//! Linearizability of concurrent histories. The general check is NP-complete (Gibbons and Korach,
//! "Testing Shared Memories", 1997), but here every effect carries its revision, which names the only
//! order that can explain the history. So it is enough to see that this order explains what each
//! operation saw, and that it agrees with real time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    Case, case,
    stand::{Stand, key, soon},
};
use crate::kv::{Batch, Condition, Event, Kv, Outcome, Revision, Span, Write};
use bytes::Bytes;
use sinew_core::{Error, Kind};

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
    /// A conditional write over `before` whose answer was lost. `value`: what it puts, none else puts that.
    Unknown {
        before: Option<Revision>,
        value: Option<Bytes>,
    },
}

const KEYS: usize = 3;
const TASKS: usize = 8;
const EACH: usize = 60;

async fn histories_are_linearizable(stand: Stand) {
    check_linearizable(stand.kv(), &stand.kv()).await;
}

/// Works on `kv` with many tasks at once and checks that what they saw is linearizable; answers how many
/// commits had a fate that was unknown. `kv` may fail as the contract allows. `calm` is the same store; it is read at the end, for what became of
/// them, and must not fail.
pub async fn check_linearizable(kv: Arc<dyn Kv>, calm: &Arc<dyn Kv>) -> usize {
    let clean = (0..KEYS).map(|index| Write::Delete { key: name(index) });
    let _: Outcome = calm.commit(vec![], clean.collect()).await.unwrap();
    let start = calm.revision().await.unwrap();
    let ticks = Arc::new(AtomicU64::new(1));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| tokio::spawn(work(kv.clone(), ticks.clone(), task)))
        .collect();
    let mut history = Vec::new();
    for task in tasks {
        history.extend(soon(task).await.unwrap());
    }
    let unknown = history
        .iter()
        .filter(|operation| matches!(operation.seen, Seen::Unknown { .. }))
        .count();
    let mut batches = Vec::new();
    // One more commit, so that the watch has a known end.
    let write = Write::Put {
        key: key("linear/end"),
        value: Bytes::new(),
        lease: None,
    };
    let Outcome::Committed(end) = calm.commit(vec![], vec![write]).await.unwrap() else {
        panic!("without conditions there is no conflict")
    };
    let mut watch = calm.watch(Span::prefix("linear/"), start).await.unwrap();
    while batches
        .last()
        .is_none_or(|batch: &Batch| batch.revision < end)
    {
        batches.push(soon(watch.next()).await.unwrap());
    }
    settle(&mut history, &batches);
    check(&history);
    unknown
}

/// Whether a change that was answered so may have happened.
fn is_unknown(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded)
}

/// Finds in the store's own history what became of the commits whose answers were lost. Those that happened may have done so at any time
/// after they began; the others are taken out.
fn settle(history: &mut Vec<Operation>, batches: &[Batch]) {
    // What came next on a key that was at this revision, and when.
    let mut next = BTreeMap::new();
    let mut now = [None; KEYS];
    for batch in batches {
        for event in &batch.events {
            let Some(index) = (0..KEYS).find(|index| *event.key() == name(*index)) else {
                continue;
            };
            let value = match event {
                Event::Put(entry) => Some(entry.value.clone()),
                Event::Delete(_) => None,
            };
            // A key that does not exist may come to be several times; its values differ.
            next.insert((index, now[index], value.clone()), batch.revision);
            now[index] = value.map(|_| batch.revision);
        }
    }
    let mut claimed: BTreeSet<Revision> = history
        .iter()
        .filter_map(|operation| match operation.seen {
            Seen::Wrote { now, .. } => Some(now),
            _ => None,
        })
        .collect();
    history.retain_mut(|operation| {
        let Seen::Unknown { before, value } = &operation.seen else {
            return true;
        };
        let (before, value) = (*before, value.clone());
        let deleted = value.is_none();
        match next.get(&(operation.key, before, value)) {
            Some(now) if claimed.insert(*now) => {
                operation.ended = u64::MAX;
                operation.seen = Seen::Wrote {
                    before,
                    deleted,
                    now: *now,
                };
                true
            }
            _ => false,
        }
    });
}

fn name(index: usize) -> Bytes {
    key(&format!("linear/{index}"))
}

/// A fixed mixture of reads, puts and deletes that differs from task to task.
async fn work(kv: Arc<dyn Kv>, ticks: Arc<AtomicU64>, task: usize) -> Vec<Operation> {
    let tick = || ticks.fetch_add(1, Ordering::SeqCst);
    let mut history = Vec::new();
    for step in 0..EACH {
        let index = (task + step * step) % KEYS;
        let name = name(index);
        let began = tick();
        let before = match kv.get(&name).await {
            Ok(entry) => entry.map(|entry| entry.revision),
            Err(error) if is_unknown(&error) => continue,
            Err(error) => panic!("{error}"),
        };
        history.push(Operation {
            began,
            ended: tick(),
            key: index,
            seen: Seen::Read(before),
        });

        let deleted = before.is_some() && (task * 7 + step).is_multiple_of(5);
        let value = (!deleted).then(|| Bytes::from(format!("{task}.{step}")));
        let write = match value.clone() {
            None => Write::Delete { key: name.clone() },
            Some(value) => Write::Put {
                key: name.clone(),
                value,
                lease: None,
            },
        };
        let condition = match before {
            Some(revision) => Condition::KeyAt(name, revision),
            None => Condition::Absent(name),
        };
        let began = tick();
        let seen = match kv.commit(vec![condition], vec![write]).await {
            Ok(Outcome::Committed(now)) => Seen::Wrote {
                before,
                deleted,
                now,
            },
            Ok(Outcome::Conflict(_)) => Seen::Conflicted { not: before },
            Err(error) if is_unknown(&error) => Seen::Unknown { before, value },
            Err(error) => panic!("{error}"),
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
            Seen::Wrote { .. } | Seen::Unknown { .. } => false,
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

    fn put(revision: Revision, value: &str) -> Batch {
        let entry = crate::kv::Entry {
            key: name(0),
            value: value.to_owned().into(),
            revision,
            lease: None,
        };
        Batch {
            revision,
            events: vec![Event::Put(entry)],
        }
    }

    fn lost(began: u64, before: Option<Revision>, value: &str) -> Operation {
        let value = Some(value.to_owned().into());
        operation(began, began + 1, Seen::Unknown { before, value })
    }

    #[test]
    fn lost_answers_are_found_in_the_history() {
        let mut history = vec![
            lost(1, None, "a"),
            lost(1, None, "b"),
            operation(3, 4, Seen::Read(Some(1))),
            operation(5, 6, wrote(Some(1), 2)),
        ];
        settle(&mut history, &[put(1, "b"), put(2, "c")]);
        assert_eq!(history.len(), 3, "the one that did not happen is out");
        check(&history);
    }

    #[test]
    #[should_panic(expected = "against its condition")]
    fn a_lost_answer_does_not_excuse_a_lost_update() {
        let mut history = vec![lost(1, None, "a"), operation(3, 4, wrote(None, 2))];
        settle(&mut history, &[put(1, "a"), put(2, "c")]);
        check(&history);
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
