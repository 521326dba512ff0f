use std::{sync::Arc, time::Duration};

use sinew_core::Kind;

use super::{
    Case, Network, Opening, case,
    stand::{Stand, add, balance_in, branch, fails, long, until},
};
use crate::sql::{BranchId, Settled, Sql};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            engines_without_branches_say_so,
            NoPreparedBranches,
            "Engines without branches answer `sql.unsupported`."
        ),
        case!(
            a_prepared_branch_is_committed,
            PreparedBranches,
            "`prepare` makes it durable without deciding it."
        ),
        case!(
            a_prepared_branch_is_rolled_back,
            PreparedBranches,
            "Until somebody who knows the decision settles it."
        ),
        case!(
            settling_is_idempotent,
            PreparedBranches,
            "A branch that is not there any more, or never was, answers `Absent`."
        ),
        case!(
            an_unprepared_branch_is_gone,
            PreparedBranches,
            "A branch that is not prepared is gone with its session."
        ),
        case!(
            a_failed_branch_cannot_be_prepared,
            PreparedBranches,
            "Afterwards statements and `prepare` answer `sql.transaction_failed`."
        ),
        case!(
            a_prepared_branch_holds_its_locks,
            PreparedBranches,
            "From then on it holds its locks and needs no session."
        ),
        case!(anybody_may_settle_it, PreparedBranches, "From anywhere."),
        case!(
            only_its_namespace_is_listed,
            PreparedBranches,
            "Lists what is in doubt, of the engine's namespace alone."
        ),
        case!(
            names_are_used_once,
            PreparedBranches,
            "`sql.branch_exists` while it is in doubt."
        ),
        case!(
            a_living_session_is_ruled_out,
            PreparedBranches,
            "A session that could still prepare the branch is ruled out first."
        ),
        case!(
            it_outlives_the_server,
            PreparedBranches,
            "It outlives the crash of the database."
        ),
        case!(
            a_crash_before_prepare_leaves_nothing,
            PreparedBranches,
            "A branch that is not prepared is gone with its session."
        ),
        case!(
            it_outlives_its_client,
            PreparedBranches,
            "It outlives the crash of its client."
        ),
        case!(
            a_client_lost_before_prepare_leaves_nothing,
            PreparedBranches,
            "A branch that is not prepared is gone with its session."
        ),
        case!(
            an_unclear_prepare_is_settled_like_any_other,
            PreparedBranches,
            "A caller that got no clear answer to `prepare` settles the branch by its decision."
        ),
        case!(
            many_branches_are_listed,
            PreparedBranches,
            "All branches that are prepared and not settled."
        ),
    ]
}

/// A branch that added 5 to account 1, prepared.
async fn prepare(sql: &dyn Sql, id: &BranchId) {
    let mut open = sql.begin_branch(id.clone(), long()).await.unwrap();
    assert_eq!(open.id(), id);
    open.execute(add(1, 5)).await.unwrap();
    open.prepare().await.unwrap();
}

async fn in_doubt(sql: &dyn Sql) -> Vec<String> {
    let prepared = sql.prepared().await.unwrap();
    prepared
        .into_iter()
        .map(|branch| branch.id.to_string())
        .collect()
}

async fn engines_without_branches_say_so(stand: Stand) {
    let sql = stand.sql();
    let id = branch("x");
    let code = "sql.unsupported";
    let kind = Kind::FailedPrecondition;
    fails(sql.begin_branch(id.clone(), long()).await, kind, code);
    fails(sql.commit_prepared(&id).await, kind, code);
    fails(sql.rollback_prepared(&id).await, kind, code);
    fails(sql.prepared().await, kind, code);
}

async fn a_prepared_branch_is_committed(stand: Stand) {
    stand.accounts(1).await;
    let (sql, id) = (stand.sql(), branch("order-1"));
    let mut open = sql.begin_branch(id.clone(), long()).await.unwrap();
    open.execute(add(1, 5)).await.unwrap();
    assert_eq!(balance_in(&mut *open, 1).await, 105);
    assert!(in_doubt(&*sql).await.is_empty());
    open.prepare().await.unwrap();
    assert_eq!(stand.balance(1).await, 100);
    assert_eq!(in_doubt(&*sql).await, [id.to_string()]);
    assert_eq!(sql.commit_prepared(&id).await.unwrap(), Settled::Done);
    assert_eq!(stand.balance(1).await, 105);
    assert!(in_doubt(&*sql).await.is_empty());
}

async fn a_prepared_branch_is_rolled_back(stand: Stand) {
    stand.accounts(1).await;
    let (sql, id) = (stand.sql(), branch("order-1"));
    prepare(&*sql, &id).await;
    assert_eq!(sql.rollback_prepared(&id).await.unwrap(), Settled::Done);
    assert_eq!(stand.balance(1).await, 100);
    assert!(in_doubt(&*sql).await.is_empty());
    stand.execute(add(1, 1)).await;
}

async fn settling_is_idempotent(stand: Stand) {
    stand.accounts(1).await;
    let (sql, id) = (stand.sql(), branch("order-1"));
    assert_eq!(sql.commit_prepared(&id).await.unwrap(), Settled::Absent);
    assert_eq!(sql.rollback_prepared(&id).await.unwrap(), Settled::Absent);
    for round in 1..=3 {
        prepare(&*sql, &id).await;
        assert_eq!(sql.commit_prepared(&id).await.unwrap(), Settled::Done);
        assert_eq!(sql.commit_prepared(&id).await.unwrap(), Settled::Absent);
        // Too late for the opposite.
        assert_eq!(sql.rollback_prepared(&id).await.unwrap(), Settled::Absent);
        assert_eq!(stand.balance(1).await, 100 + 5 * round);
    }
    prepare(&*sql, &id).await;
    let both = tokio::join!(sql.commit_prepared(&id), sql.commit_prepared(&id));
    let both = [both.0.unwrap(), both.1.unwrap()];
    assert!(both.contains(&Settled::Done), "{both:?}");
    assert_eq!(stand.balance(1).await, 120);
}

async fn an_unprepared_branch_is_gone(stand: Stand) {
    stand.accounts(1).await;
    let (sql, id) = (stand.sql(), branch("order-1"));
    for explicit in [true, false] {
        let mut open = sql.begin_branch(id.clone(), long()).await.unwrap();
        open.execute(add(1, 5)).await.unwrap();
        if explicit {
            open.rollback().await.unwrap();
        } else {
            drop(open);
        }
        assert_eq!(sql.rollback_prepared(&id).await.unwrap(), Settled::Absent);
        assert!(in_doubt(&*sql).await.is_empty());
        assert_eq!(stand.balance(1).await, 100);
    }
    stand.execute(add(1, 1)).await;
}

async fn a_failed_branch_cannot_be_prepared(stand: Stand) {
    stand.accounts(1).await;
    let (sql, id) = (stand.sql(), branch("order-1"));
    let mut open = sql.begin_branch(id.clone(), long()).await.unwrap();
    open.execute(add(1, 5)).await.unwrap();
    let twice = open
        .execute("insert into accounts values (1, 1)".into())
        .await;
    fails(twice, Kind::AlreadyExists, "sql.unique");
    fails(
        open.prepare().await,
        Kind::FailedPrecondition,
        "sql.transaction_failed",
    );
    assert_eq!(sql.commit_prepared(&id).await.unwrap(), Settled::Absent);
    assert_eq!(stand.balance(1).await, 100);
}

async fn a_prepared_branch_holds_its_locks(stand: Stand) {
    stand.accounts(1).await;
    let (sql, id) = (stand.sql(), branch("order-1"));
    prepare(&*sql, &id).await;
    let waits = add(1, 100).within(Duration::from_millis(300));
    let refused = sql.execute(waits).await.unwrap_err();
    assert!(
        matches!(refused.code(), "engine.timeout" | "sql.conflict"),
        "{refused:?}"
    );
    assert_eq!(sql.commit_prepared(&id).await.unwrap(), Settled::Done);
    // What waited when its caller gave up may still be done, or not.
    until!({
        let balance = stand.balance(1).await;
        balance == 105 || balance == 205
    });
}

async fn anybody_may_settle_it(stand: Stand) {
    stand.accounts(1).await;
    let other = stand.subject.open(Opening::default()).await;
    let sql = stand.sql();
    for (n, commit) in [true, false, true].into_iter().enumerate() {
        let id = branch(&format!("order-{n}"));
        prepare(&*sql, &id).await;
        assert_eq!(in_doubt(&*other).await, [id.to_string()]);
        let settled = match commit {
            true => other.commit_prepared(&id).await,
            false => other.rollback_prepared(&id).await,
        };
        assert_eq!(settled.unwrap(), Settled::Done);
        assert!(in_doubt(&*sql).await.is_empty());
    }
    assert_eq!(stand.balance(1).await, 110);
}

async fn only_its_namespace_is_listed(stand: Stand) {
    stand.accounts(1).await;
    let foreign = stand
        .subject
        .open(Opening {
            namespace: Some("another"),
            ..Opening::default()
        })
        .await;
    let (sql, id) = (stand.sql(), branch("order-1"));
    prepare(&*foreign, &id).await;
    assert!(in_doubt(&*sql).await.is_empty());
    assert_eq!(sql.commit_prepared(&id).await.unwrap(), Settled::Absent);
    assert_eq!(in_doubt(&*foreign).await, [id.to_string()]);
    assert_eq!(foreign.rollback_prepared(&id).await.unwrap(), Settled::Done);
}

async fn names_are_used_once(stand: Stand) {
    stand.accounts(2).await;
    let (sql, id) = (stand.sql(), branch("order-1"));
    prepare(&*sql, &id).await;
    let again = async {
        let mut open = sql.begin_branch(id.clone(), long()).await?;
        open.execute(add(2, 5)).await?;
        open.prepare().await
    };
    fails(again.await, Kind::AlreadyExists, "sql.branch_exists");
    // Another part of the same transaction is another branch.
    let part = BranchId::new("order-1", "b").unwrap();
    let mut open = sql.begin_branch(part.clone(), long()).await.unwrap();
    open.execute(add(2, 5)).await.unwrap();
    open.prepare().await.unwrap();
    assert_eq!(in_doubt(&*sql).await, [id.to_string(), part.to_string()]);
    for id in [&id, &part] {
        assert_eq!(sql.commit_prepared(id).await.unwrap(), Settled::Done);
    }
    assert_eq!((stand.balance(1).await, stand.balance(2).await), (105, 105));
}

async fn a_living_session_is_ruled_out(stand: Stand) {
    stand.accounts(1).await;
    let other = stand
        .subject
        .open(Opening {
            statement: Some(Duration::from_millis(500)),
            ..Opening::default()
        })
        .await;
    let (sql, id) = (stand.sql(), branch("order-1"));
    let mut open = sql.begin_branch(id.clone(), long()).await.unwrap();
    open.execute(add(1, 5)).await.unwrap();
    // "Absent" would be a lie: the branch can still be prepared.
    fails(
        other.rollback_prepared(&id).await,
        Kind::Aborted,
        "sql.branch_busy",
    );
    open.prepare().await.unwrap();
    assert_eq!(other.rollback_prepared(&id).await.unwrap(), Settled::Done);
    assert_eq!(stand.balance(1).await, 100);
}

async fn it_outlives_the_server(stand: Stand) {
    stand.accounts(3).await;
    let sql = stand.sql();
    let (commit, rollback) = (branch("order-1"), branch("order-2"));
    prepare(&*sql, &commit).await;
    let mut open = sql.begin_branch(rollback.clone(), long()).await.unwrap();
    open.execute(add(2, 7)).await.unwrap();
    open.prepare().await.unwrap();
    stand.subject.crash().await;
    until!(sql.prepared().await.is_ok());
    assert_eq!(
        in_doubt(&*sql).await,
        [commit.to_string(), rollback.to_string()]
    );
    assert_eq!(stand.balance(1).await, 100);
    assert_eq!(sql.commit_prepared(&commit).await.unwrap(), Settled::Done);
    // What was settled stays settled, whatever happens next.
    stand.subject.crash().await;
    until!(sql.prepared().await.is_ok());
    assert_eq!(
        sql.rollback_prepared(&rollback).await.unwrap(),
        Settled::Done
    );
    assert_eq!(sql.commit_prepared(&commit).await.unwrap(), Settled::Absent);
    assert_eq!((stand.balance(1).await, stand.balance(2).await), (105, 100));
    assert!(in_doubt(&*sql).await.is_empty());
}

async fn a_crash_before_prepare_leaves_nothing(stand: Stand) {
    stand.accounts(1).await;
    let (sql, id) = (stand.sql(), branch("order-1"));
    let mut open = sql.begin_branch(id.clone(), long()).await.unwrap();
    open.execute(add(1, 5)).await.unwrap();
    stand.subject.crash().await;
    assert!(open.prepare().await.is_err());
    until!(sql.prepared().await.is_ok());
    assert!(in_doubt(&*sql).await.is_empty());
    assert_eq!(sql.commit_prepared(&id).await.unwrap(), Settled::Absent);
    assert_eq!(stand.balance(1).await, 100);
}

async fn it_outlives_its_client(stand: Stand) {
    stand.accounts(1).await;
    let client = stand.distant(Duration::from_secs(2)).await;
    let (sql, id) = (stand.sql(), branch("order-1"));
    prepare(&*client, &id).await;
    stand.subject.network(Network::Reset).await;
    drop(client);
    assert_eq!(in_doubt(&*sql).await, [id.to_string()]);
    assert_eq!(sql.commit_prepared(&id).await.unwrap(), Settled::Done);
    assert_eq!(stand.balance(1).await, 105);
}

async fn a_client_lost_before_prepare_leaves_nothing(stand: Stand) {
    stand.accounts(1).await;
    let client = stand.distant(Duration::from_secs(2)).await;
    let (sql, id) = (stand.sql(), branch("order-1"));
    let mut open = client.begin_branch(id.clone(), long()).await.unwrap();
    open.execute(add(1, 5)).await.unwrap();
    stand.subject.network(Network::Reset).await;
    assert!(open.prepare().await.is_err());
    assert_eq!(sql.rollback_prepared(&id).await.unwrap(), Settled::Absent);
    assert!(in_doubt(&*sql).await.is_empty());
    stand.execute(add(1, 1)).await;
    assert_eq!(stand.balance(1).await, 101);
}

async fn an_unclear_prepare_is_settled_like_any_other(stand: Stand) {
    stand.accounts(1).await;
    let client: Arc<dyn Sql> = stand.distant(Duration::from_secs(1)).await;
    let sql = stand.sql();
    let mut expected = 100;
    for (n, commit) in [false, true].into_iter().enumerate() {
        let id = branch(&format!("order-{n}"));
        let mut open = client.begin_branch(id.clone(), long()).await.unwrap();
        open.execute(add(1, 5)).await.unwrap();
        stand.subject.network(Network::Cut).await;
        // The command is lost or delayed: nobody knows.
        let unclear = open.prepare().await.unwrap_err();
        assert_eq!(unclear.kind(), Kind::DeadlineExceeded, "{unclear:?}");
        stand.subject.network(Network::Mended).await;
        until!({
            let settled = match commit {
                true => sql.commit_prepared(&id).await,
                false => sql.rollback_prepared(&id).await,
            };
            match settled {
                Ok(Settled::Done) if commit => {
                    expected += 5;
                    true
                }
                Ok(_) => true,
                Err(error) => {
                    assert_eq!(error.code(), "sql.branch_busy", "{error:?}");
                    false
                }
            }
        });
        // That was final: nothing appears later.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(in_doubt(&*sql).await.is_empty());
        assert_eq!(stand.balance(1).await, expected);
    }
}

async fn many_branches_are_listed(stand: Stand) {
    stand.accounts(30).await;
    let sql = stand.sql();
    let mut ids = Vec::new();
    for n in 1..=30 {
        let id = branch(&format!("order-{n:02}"));
        let mut open = sql.begin_branch(id.clone(), long()).await.unwrap();
        open.execute(add(n, 1)).await.unwrap();
        open.prepare().await.unwrap();
        ids.push(id);
    }
    let names: Vec<_> = ids.iter().map(ToString::to_string).collect();
    assert_eq!(in_doubt(&*sql).await, names);
    for id in &ids {
        assert_eq!(sql.commit_prepared(id).await.unwrap(), Settled::Done);
    }
    let sum = stand.value("select sum(balance) from accounts").await;
    assert_eq!(sum.as_i64(), Some(3030));
}
