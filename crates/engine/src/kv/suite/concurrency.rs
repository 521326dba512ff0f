use std::sync::Arc;

use super::{
    Case, case,
    stand::{Stand, put, soon, text},
};
use crate::kv::{Entry, Kv, Span, Transaction, transact};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            increments_are_not_lost,
            Nothing,
            "Writes all of `writes` if all of `conditions` hold, or nothing."
        ),
        case!(
            transfers_conserve_the_sum,
            Nothing,
            "`revision`: the revision that the page is a snapshot of."
        ),
        case!(
            no_write_skew,
            Nothing,
            "`transact`: one serialisable transaction."
        ),
        case!(
            a_counted_list_has_no_phantoms,
            Nothing,
            "No key of the span was written or deleted after this revision."
        ),
    ]
}

fn number(entry: &Option<Entry>) -> i64 {
    entry
        .as_ref()
        .map_or(0, |entry| text(&entry.value).parse().unwrap())
}

/// Runs `tasks` tasks and waits for them.
async fn together<F, T>(tasks: usize, task: F)
where
    F: Fn(usize) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    let running: Vec<_> = (0..tasks)
        .map(|number| tokio::spawn(task(number)))
        .collect();
    for task in running {
        soon(task).await.unwrap();
    }
}

async fn increments_are_not_lost(stand: Stand) {
    async fn increment(kv: Arc<dyn Kv>) {
        for _ in 0..20 {
            transact(&kv, |tx| async move {
                let before = number(&tx.get("counter").await?);
                tx.put("counter", (before + 1).to_string());
                Ok(())
            })
            .await
            .unwrap();
        }
    }
    together(8, |_| increment(stand.kv())).await;
    assert_eq!(stand.value("counter").await.as_deref(), Some("160"));
    assert_eq!(stand.revision().await, 160);
}

async fn transfers_conserve_the_sum(stand: Stand) {
    const ACCOUNTS: usize = 6;
    fn account(index: usize) -> String {
        format!("account/{}", index % ACCOUNTS)
    }
    async fn transfer(kv: Arc<dyn Kv>, task: usize) {
        for n in 0..30 {
            let (from, to) = (account(task + n), account(task * 3 + n * 5 + 1));
            if from == to {
                continue;
            }
            let (from, to) = (&from, &to);
            transact(&kv, |tx| async move {
                let (source, target) = (tx.get(from.clone()).await?, tx.get(to.clone()).await?);
                tx.put(from.clone(), (number(&source) - 1).to_string());
                tx.put(to.clone(), (number(&target) + 1).to_string());
                Ok(())
            })
            .await
            .unwrap();
        }
    }
    async fn audit(kv: Arc<dyn Kv>) {
        for _ in 0..100 {
            let page = kv.range(Span::prefix("account/"), 100, None).await.unwrap();
            assert_eq!(page.next, None);
            let sum: i64 = page
                .entries
                .into_iter()
                .map(|entry| number(&Some(entry)))
                .sum();
            assert_eq!(sum, 600, "at {}", page.revision);
            tokio::task::yield_now().await;
        }
    }
    stand
        .commit(
            (0..ACCOUNTS)
                .map(|index| put(&account(index), "100"))
                .collect(),
        )
        .await;
    let auditing = tokio::spawn(audit(stand.kv()));
    together(6, |task| transfer(stand.kv(), task)).await;
    soon(auditing).await.unwrap();
    audit(stand.kv()).await;
}

/// Two on call, and each may leave as long as the other stays.
async fn no_write_skew(stand: Stand) {
    async fn leave(tx: Transaction<'_>, me: String) -> sinew_core::Result<()> {
        let on_call = number(&tx.get("a").await?) + number(&tx.get("b").await?);
        if on_call == 2 {
            tx.put(me, "0");
        }
        Ok(())
    }
    for _ in 0..20 {
        stand.commit(vec![put("a", "1"), put("b", "1")]).await;
        together(2, |task| {
            let kv = stand.kv();
            let me = ["a", "b"][task].to_owned();
            async move {
                transact(&kv, |tx| leave(tx, me.clone())).await.unwrap();
            }
        })
        .await;
        let staying = number(&stand.get("a").await) + number(&stand.get("b").await);
        assert_eq!(staying, 1);
    }
}

/// Nobody adds beyond ten, though all add different keys.
async fn a_counted_list_has_no_phantoms(stand: Stand) {
    async fn add(kv: Arc<dyn Kv>, task: usize) {
        for n in 0..4 {
            transact(&kv, |tx| async move {
                if tx.range(Span::prefix("list/"), 100).await?.len() < 10 {
                    tx.put(format!("list/{task}.{n}"), "");
                }
                Ok(())
            })
            .await
            .unwrap();
        }
    }
    together(6, |task| add(stand.kv(), task)).await;
    assert_eq!(stand.list(Span::prefix("list/")).await.len(), 10);
}
