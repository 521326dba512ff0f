use sinew_core::Kind;

use super::{
    Case, case,
    stand::{Stand, add, balance_in, fails},
};
use crate::sql::{Begin, Isolation, Statement};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            nothing_uncommitted_is_read,
            Nothing,
            "Read committed: only what is committed is read."
        ),
        case!(
            reads_are_repeatable,
            Nothing,
            "Repeatable read: all plain reads show the database as of the first one."
        ),
        case!(
            committed_reads_move_on,
            ConcurrentWriters,
            "Read committed: reading the same again may show something else."
        ),
        case!(
            serialisable_ones_have_an_order,
            Nothing,
            "Serializable: as if all transactions ran one after the other."
        ),
        case!(
            deadlocks_are_conflicts,
            ConcurrentWriters,
            "`sql.conflict` (Aborted) means that another transaction won."
        ),
    ]
}

async fn nothing_uncommitted_is_read(stand: Stand) {
    stand.accounts(1).await;
    let sql = stand.sql();
    let mut writer = sql.begin(Begin::default()).await.unwrap();
    writer.execute(add(1, 5)).await.unwrap();
    for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead] {
        let begin = Begin::at(isolation).read_only();
        let mut reader = sql.begin(begin).await.unwrap();
        assert_eq!(balance_in(&mut *reader, 1).await, 100, "{isolation:?}");
        reader.commit().await.unwrap();
    }
    writer.rollback().await.unwrap();
}

async fn reads_are_repeatable(stand: Stand) {
    stand.accounts(2).await;
    let begin = Begin::at(Isolation::RepeatableRead).read_only();
    let mut reader = stand.sql().begin(begin).await.unwrap();
    assert_eq!(balance_in(&mut *reader, 1).await, 100);
    stand.execute(add(1, 5)).await;
    stand.execute(add(2, 5)).await;
    stand.execute("insert into accounts values (3, 1)").await;
    assert_eq!(balance_in(&mut *reader, 1).await, 100);
    // What it had not read before is as of the first read, too.
    assert_eq!(balance_in(&mut *reader, 2).await, 100);
    let all = reader.query("select * from accounts".into()).await.unwrap();
    assert_eq!(all.len(), 2);
    reader.commit().await.unwrap();
    assert_eq!(stand.balance(1).await, 105);
}

async fn committed_reads_move_on(stand: Stand) {
    stand.accounts(1).await;
    let begin = Begin::at(Isolation::ReadCommitted);
    let mut reader = stand.sql().begin(begin).await.unwrap();
    assert_eq!(balance_in(&mut *reader, 1).await, 100);
    stand.execute(add(1, 5)).await;
    assert_eq!(balance_in(&mut *reader, 1).await, 105);
    reader.commit().await.unwrap();
}

/// The write skew: each takes from its own account because both together hold enough. In any order, the second would see too little.
async fn serialisable_ones_have_an_order(stand: Stand) {
    stand.accounts(2).await;
    let sql = stand.sql();
    let withdraw = async |own: i64| {
        let begin = Begin::at(Isolation::Serializable);
        let mut open = sql.begin(begin).await?;
        let sum = Statement::new("select sum(balance) from accounts");
        let rows = open.query(sum).await?;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        if rows[0][0].as_i64().unwrap() >= 200 {
            open.execute(add(own, -200)).await?;
        }
        open.commit().await
    };
    let both = tokio::join!(withdraw(1), withdraw(2));
    for result in [both.0, both.1] {
        if let Err(error) = result {
            assert_eq!(error.code(), "sql.conflict", "{error:?}");
        }
    }
    let sum = stand.balance(1).await + stand.balance(2).await;
    assert!(sum >= 0, "both withdrew: {sum}");
    assert!([0, 200].contains(&sum));
}

async fn deadlocks_are_conflicts(stand: Stand) {
    stand.accounts(2).await;
    let sql = stand.sql();
    let mut first = sql.begin(Begin::default()).await.unwrap();
    let mut second = sql.begin(Begin::default()).await.unwrap();
    first.execute(add(1, 1)).await.unwrap();
    second.execute(add(2, 1)).await.unwrap();
    let (one, other) = tokio::join!(
        async {
            let done = first.execute(add(2, 1)).await;
            match &done {
                Ok(_) => first.commit().await.unwrap(),
                Err(_) => first.rollback().await.unwrap(),
            }
            done
        },
        async {
            let done = second.execute(add(1, 1)).await;
            match &done {
                Ok(_) => second.commit().await.unwrap(),
                Err(_) => second.rollback().await.unwrap(),
            }
            done
        }
    );
    let lost = match (one, other) {
        (Ok(_), lost) | (lost, Ok(_)) => lost,
        both => panic!("both lost: {both:?}"),
    };
    fails(lost, Kind::Aborted, "sql.conflict");
    assert_eq!((stand.balance(1).await, stand.balance(2).await), (101, 101));
}
