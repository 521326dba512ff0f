//! Transfers keep the sum, whatever happens between their steps.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use sinew_core::{Kind, Result};

use super::{
    Case, case,
    stand::{Stand, add, balance_in, long, until},
};
use crate::sql::{Begin, BranchId, Isolation, Settled, Sql};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            transfers_keep_the_sum,
            Nothing,
            "Serializable: as if all transactions ran one after the other."
        ),
        case!(
            transfers_over_two_databases_keep_the_sum,
            PreparedBranches,
            "Until somebody who knows the decision settles it, from anywhere."
        ),
    ]
}

const ACCOUNTS: i64 = 8;
const TASKS: u64 = 6;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        // xorshift64 (Marsaglia, 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn account(&mut self) -> i64 {
        i64::try_from(self.roll(ACCOUNTS.unsigned_abs())).unwrap() + 1
    }
}

async fn sum(stand: &Stand) -> i64 {
    stand
        .value("select sum(balance) from accounts")
        .await
        .as_i64()
        .unwrap()
}

/// Read, decide, write: only a serialisable transaction keeps balances from going below zero here.
async fn transfer(sql: &dyn Sql, from: i64, to: i64, amount: i64) -> Result<()> {
    let mut open = sql.begin(Begin::at(Isolation::Serializable)).await?;
    let statement = "select balance from accounts where id = $1";
    let statement = crate::sql::Statement::new(statement).bind(from);
    let rows = open.query(statement).await?;
    if rows[0][0].as_i64().unwrap() < amount {
        return open.rollback().await;
    }
    open.execute(add(from, -amount)).await?;
    open.execute(add(to, amount)).await?;
    open.commit().await
}

async fn transfers_keep_the_sum(stand: Stand) {
    stand.accounts(ACCOUNTS).await;
    let done = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (1..=TASKS)
        .map(|task| {
            let (sql, done) = (stand.sql(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut dice = Dice(task * 7919);
                for _ in 0..40 {
                    let (from, to) = (dice.account(), dice.account());
                    let amount = i64::try_from(dice.roll(60)).unwrap();
                    match transfer(&*sql, from, to, amount).await {
                        Ok(()) => drop(done.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => assert_eq!(error.kind(), Kind::Aborted, "{error:?}"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(sum(&stand).await, 100 * ACCOUNTS);
    let below = stand.value("select count(*) from accounts where balance < 0");
    assert_eq!(below.await.as_i64(), Some(0));
    assert!(done.load(Ordering::Relaxed) > 0);
}

/// A coordinator's memory: the decision of each transaction that it came to decide.
#[derive(Default)]
struct Decisions(Mutex<HashMap<String, bool>>);

impl Decisions {
    /// The first word counts.
    fn decide(&self, transaction: &str, commit: bool) -> bool {
        let mut decisions = self.0.lock().unwrap();
        *decisions.entry(transaction.to_owned()).or_insert(commit)
    }
}

async fn settle(sql: &dyn Sql, id: &BranchId, commit: bool) -> Result<Settled> {
    match commit {
        true => sql.commit_prepared(id).await,
        false => sql.rollback_prepared(id).await,
    }
}

async fn part(sql: &dyn Sql, id: BranchId, account: i64, amount: i64) -> Result<()> {
    let mut open = sql.begin_branch(id, long()).await?;
    open.execute(add(account, amount)).await?;
    open.prepare().await
}

/// One transfer by a coordinator that may die after any of its steps.
async fn distributed(
    sides: &[Arc<dyn Sql>; 2],
    name: &str,
    dice: &mut Dice,
    decisions: &Decisions,
) {
    let ids = ["a", "b"].map(|part| BranchId::new(name, part).unwrap());
    let amount = i64::try_from(dice.roll(50)).unwrap();
    let dies_after = dice.roll(12);
    let mut prepared = true;
    for (side, amount) in [-amount, amount].into_iter().enumerate() {
        let done = part(&*sides[side], ids[side].clone(), dice.account(), amount).await;
        prepared &= done.is_ok();
        if dies_after == side as u64 {
            return;
        }
    }
    let commit = decisions.decide(name, prepared);
    for side in 0..2 {
        if dies_after == 2 + side as u64 {
            return;
        }
        // What fails here is left to the recovery, too.
        let _ = settle(&*sides[side], &ids[side], commit).await;
    }
}

/// What a coordinator does that comes after a dead one: whatever is in doubt and undecided is rolled back, for good.
async fn recover(
    sides: &[Arc<dyn Sql>; 2],
    decisions: &Decisions,
    busy: &HashSet<String>,
) -> usize {
    let mut settled = 0;
    for side in sides {
        for branch in side.prepared().await.unwrap_or_default() {
            let name = branch.id.transaction();
            let decided = decisions.0.lock().unwrap().get(name).copied();
            if decided.is_none() && busy.contains(name) {
                continue;
            }
            let commit = decisions.decide(name, false);
            if let Ok(Settled::Done) = settle(&**side, &branch.id, commit).await {
                settled += 1;
            }
        }
    }
    settled
}

async fn transfers_over_two_databases_keep_the_sum(stand: Stand) {
    let other = stand.another().await;
    stand.accounts(ACCOUNTS).await;
    other.accounts(ACCOUNTS).await;
    let sides = [stand.sql(), other.sql()];
    let decisions = Arc::new(Decisions::default());
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (1..=TASKS)
        .map(|task| {
            let (sides, decisions) = (sides.clone(), Arc::clone(&decisions));
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut dice = Dice(task * 104_729);
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    let name = format!("t{task}-{round}");
                    distributed(&sides, &name, &mut dice, &decisions).await;
                }
                round
            })
        })
        .collect();
    // Recovery runs beside those that live; it leaves alone what may still be decided by them, which no list can tell
    // here: so it only carries out decisions.
    let living: HashSet<String> = (1..=TASKS)
        .flat_map(|task| (1..=5_000).map(move |round| format!("t{task}-{round}")))
        .collect();
    for crash in 0..3 {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            recover(&sides, &decisions, &living).await;
        }
        if crash < 2 {
            stand.subject.crash().await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut rounds = 0;
    for task in tasks {
        rounds += task.await.unwrap();
    }
    // Nobody lives any more.
    let nobody = HashSet::new();
    until!({
        recover(&sides, &decisions, &nobody).await;
        let left = [sides[0].prepared().await, sides[1].prepared().await];
        left.iter()
            .all(|side| side.as_ref().is_ok_and(Vec::is_empty))
    });
    let committed = decisions
        .0
        .lock()
        .unwrap()
        .values()
        .filter(|commit| **commit)
        .count();
    println!("{rounds} transfers, {committed} committed");
    assert!(committed > 10, "{committed} of {rounds}");
    let total = sum(&stand).await + sum(&other).await;
    assert_eq!(total, 200 * ACCOUNTS);
    let mut open = sides[0].begin(long()).await.unwrap();
    balance_in(&mut *open, 1).await;
    open.commit().await.unwrap();
}
