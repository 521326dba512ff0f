use std::{collections::HashMap, future::Future, sync::Arc};

use sinew_core::Kind;

use super::{
    Case, case,
    stand::{Stand, fails, key, text},
};
use crate::cache::{Increment, Lifetime, Swap, Version};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            set_if_absent_has_one_winner,
            ForgetsOnlyForRoom,
            "`set_if_absent` has one winner."
        ),
        case!(
            no_increment_is_lost,
            ForgetsOnlyForRoom,
            "No `increment` is lost."
        ),
        case!(
            bounded_counters_stop_exactly,
            ForgetsOnlyForRoom,
            "Bounds the result, both ends included."
        ),
        case!(
            swaps_form_one_chain,
            ForgetsOnlyForRoom,
            "A `compare_and_set` replaces exactly the version that it names."
        ),
        case!(
            a_deletion_has_one_winner,
            ForgetsOnlyForRoom,
            "Every operation on one key is linearizable."
        ),
        case!(
            values_are_whole,
            Nothing,
            "Every operation on one key is linearizable."
        ),
        case!(
            the_bound_holds_under_pressure,
            WeighsItems,
            "All items together never weigh more than the capacity, not for a moment either."
        ),
    ]
}

const TASKS: usize = 8;
const ROUNDS: usize = 200;

/// Runs `body(stand, number of the task)` in many tasks and answers what they answered.
async fn together<T, F>(stand: &Arc<Stand>, body: fn(Arc<Stand>, usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| tokio::spawn(body(Arc::clone(stand), task)))
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

async fn set_if_absent_has_one_winner(stand: Stand) {
    let stand = Arc::new(stand);
    let won = together(&stand, |stand, task| async move {
        let mut won = Vec::new();
        for round in 0..ROUNDS {
            if stand
                .add(&format!("k{round}"), &task.to_string())
                .await
                .is_some()
            {
                won.push(round);
            }
        }
        won
    })
    .await;
    let mut winners: Vec<Option<usize>> = vec![None; ROUNDS];
    for (task, rounds) in won.into_iter().enumerate() {
        for round in rounds {
            assert_eq!(
                winners[round].replace(task),
                None,
                "two winners in round {round}"
            );
        }
    }
    for (round, winner) in winners.into_iter().enumerate() {
        let winner = winner.expect("somebody had to win");
        assert_eq!(
            stand.value(&format!("k{round}")).await,
            Some(winner.to_string())
        );
    }
}

async fn no_increment_is_lost(stand: Stand) {
    let stand = Arc::new(stand);
    let mut answers: Vec<i64> = together(&stand, |stand, _| async move {
        let mut answers = Vec::new();
        for _ in 0..ROUNDS {
            answers.push(stand.increment("n", Increment::by(1)).await.unwrap());
        }
        assert!(answers.is_sorted(), "a task's own increments go up");
        answers
    })
    .await
    .concat();
    answers.sort_unstable();
    let all = i64::try_from(TASKS * ROUNDS).unwrap();
    assert!(answers.into_iter().eq(1..=all));
    assert_eq!(stand.value("n").await, Some(all.to_string()));
}

async fn bounded_counters_stop_exactly(stand: Stand) {
    let stand = Arc::new(stand);
    let granted: Vec<usize> = together(&stand, |stand, _| async move {
        let mut granted = 0;
        for _ in 0..ROUNDS {
            match stand
                .increment("stock", Increment::by(-1).from(500).within(0, 500))
                .await
            {
                Ok(_) => granted += 1,
                error => fails(error, Kind::OutOfRange, "cache.counter_bounds"),
            }
        }
        granted
    })
    .await;
    assert_eq!(granted.iter().sum::<usize>(), 500);
    assert_eq!(stand.value("stock").await.as_deref(), Some("0"));
}

/// Every swap that succeeded replaced one version by another. If each was atomic, those pairs are
/// one path from the first version to the one that is there in the end, through all of them.
async fn swaps_form_one_chain(stand: Stand) {
    let stand = Arc::new(stand);
    let first = stand.set("a", "start").await;
    let swaps: Vec<(Version, Version)> = together(&stand, |stand, task| async move {
        let mut swaps = Vec::new();
        for round in 0..ROUNDS {
            let expected = stand.get("a").await.unwrap().version;
            let value = format!("{task}/{round}");
            match stand.swap("a", expected, &value).await {
                Swap::Set(version) => swaps.push((expected, version)),
                Swap::Changed => {}
                Swap::Absent => panic!("nobody deletes it"),
            }
        }
        swaps
    })
    .await
    .concat();
    let count = swaps.len();
    let successors: HashMap<Version, Version> = swaps.into_iter().collect();
    assert_eq!(
        successors.len(),
        count,
        "two swaps replaced the same version"
    );
    let (mut at, mut steps) = (first, 0);
    while let Some(next) = successors.get(&at) {
        (at, steps) = (*next, steps + 1);
        assert!(steps <= count, "a circle");
    }
    assert_eq!(steps, count);
    assert_eq!(stand.get("a").await.unwrap().version, at);
}

async fn a_deletion_has_one_winner(stand: Stand) {
    let stand = Arc::new(stand);
    for round in 0..ROUNDS {
        stand.set(&format!("k{round}"), "x").await;
    }
    let deleted: Vec<usize> = together(&stand, |stand, task| async move {
        let mut deleted = 0;
        for round in 0..ROUNDS {
            let name = format!("k{round}");
            if task % 2 == 0 {
                deleted += usize::from(stand.delete(&name).await);
            } else if let Some(item) = stand.get(&name).await {
                let cache = stand.cache();
                let gone = cache
                    .compare_and_delete(name.as_bytes(), item.version)
                    .await
                    .unwrap();
                deleted += usize::from(gone);
            }
        }
        deleted
    })
    .await;
    assert_eq!(deleted.iter().sum::<usize>(), ROUNDS);
}

async fn values_are_whole(stand: Stand) {
    let stand = Arc::new(stand);
    together(&stand, |stand, task| async move {
        for round in 0..ROUNDS {
            let name = format!("k{}", round % 3);
            let letter = char::from(b'a' + u8::try_from(task).unwrap());
            if task % 2 == 0 {
                // The version that a set answered belongs to its value.
                let value = letter.to_string().repeat(1 + round * 7);
                let version = stand.set(&name, &value).await;
                if let Some(item) = stand.get(&name).await
                    && item.version == version
                {
                    assert_eq!(text(&item.value), value);
                }
            } else if let Some(item) = stand.get(&name).await {
                assert!(
                    item.value.iter().all(|byte| *byte == item.value[0]),
                    "torn: {item:?}"
                );
                assert_eq!(item.value.len() % 7, 1);
            }
        }
    })
    .await;
}

async fn the_bound_holds_under_pressure(stand: Stand) {
    let small = Arc::new(stand.another(true).await);
    together(&small, |small, task| async move {
        let limits = small.limits();
        for round in 0..ROUNDS {
            let size = (round * 7919 + task * 104_729) % (limits.value_bytes / 3);
            let name = key(&format!("k{}", (round * 31 + task) % 97));
            let value = vec![b'v'; size].into();
            let cache = small.cache();
            match round % 3 {
                0 => drop(cache.set(name, value, Lifetime::Unlimited).await.unwrap()),
                1 => drop(
                    cache
                        .set_if_absent(name, value, Lifetime::Unlimited)
                        .await
                        .unwrap(),
                ),
                _ => drop(cache.delete(&name).await.unwrap()),
            }
            let statistics = small.statistics().await;
            assert!(statistics.weight <= statistics.capacity, "{statistics:?}");
        }
    })
    .await;
    small.cache().clear().await.unwrap();
    let statistics = small.statistics().await;
    assert_eq!((statistics.items, statistics.weight), (0, 0));
}
