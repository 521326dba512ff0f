use super::*;
use crate::{
    domain::{
        money::Currency,
        order::{Refund, State},
    },
    storage::Store,
};

const USER: Uuid = Uuid::from_u128(7);

fn lease(owner: &str, now_ms: i64) -> Lease {
    Lease {
        owner: owner.into(),
        now_ms,
        until_ms: now_ms + 100,
    }
}

fn wanted(key: &str) -> Wanted {
    Wanted {
        id: sinew_core::new_id(),
        user_id: USER,
        key: key.into(),
        request_hash: "hash".into(),
        progress: Progress::new(None, false),
        lines: vec![Line {
            product_id: Uuid::from_u128(1),
            quantity: 2,
        }],
    }
}

fn eur(cents: i64) -> Money {
    Money::new(cents, Currency::EUR)
}

/// Runs `test` in a transaction of an empty database.
async fn with_db<T: Send + 'static>(
    test: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
) -> T {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("orders.db"), MIGRATIONS).unwrap();
    store.write(test).await.unwrap()
}

/// A paid order of 500 cents.
fn paid(db: &Connection, key: &str) -> Result<Order> {
    let mut order = create(db, &wanted(key), &lease("a", 0))?;
    for event in [
        Event::Reserved { total: eur(500) },
        Event::Captured,
        Event::StockCommitted,
    ] {
        let priced = [PricedLine {
            product_id: Uuid::from_u128(1),
            name: "thing".into(),
            quantity: 2,
            unit: eur(250),
        }];
        let next = advance(db, order.id, order.revision, event, &priced, &lease("a", 1))?;
        order = next.expect("nobody else works on it");
    }
    Ok(order)
}

#[tokio::test]
async fn what_is_written_is_read_back() {
    with_db(|db| {
        let order = paid(db, "k")?;
        assert_eq!((order.progress.state, order.revision), (State::Paid, 4));
        assert_eq!(order.lines[0].priced, Some(("thing".into(), eur(250))));
        assert_eq!(get(db, order.id)?, order);
        assert_eq!(by_key(db, USER, "k", "hash")?, Some(order));
        let reused = by_key(db, USER, "k", "other").unwrap_err();
        assert_eq!(reused.code(), "shop.idempotency_key_reused");
        assert_eq!(by_key(db, Uuid::nil(), "k", "hash")?, None);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn two_orders_cannot_share_a_key() {
    with_db(|db| {
        create(db, &wanted("k"), &lease("a", 0))?;
        assert!(create(db, &wanted("k"), &lease("a", 0)).is_err());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_order_is_taken_over_when_its_lease_ran_out_and_the_old_owner_is_fenced() {
    with_db(|db| {
        let order = create(db, &wanted("k"), &lease("a", 0))?;
        assert!(
            claim(db, &lease("b", 100), 9)?.is_empty(),
            "the lease still runs"
        );
        assert!(any_due(db, 101)?);
        let taken = claim(db, &lease("b", 101), 9)?;
        assert_eq!((taken.len(), taken[0].id), (1, order.id));
        assert!(claim(db, &lease("c", 101), 9)?.is_empty());

        let event = Event::ReserveUnknown;
        assert_eq!(
            advance(db, order.id, order.revision, event, &[], &lease("a", 102))?,
            None
        );
        postpone(db, order.id, order.revision, 9_999)?;
        let next = advance(
            db,
            order.id,
            taken[0].revision,
            event,
            &[],
            &lease("b", 102),
        )?;
        assert_eq!(next.unwrap().progress.state, State::Releasing);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_postponed_order_waits_and_counts() {
    with_db(|db| {
        let order = create(db, &wanted("k"), &lease("a", 0))?;
        postpone(db, order.id, order.revision, 50)?;
        assert!(!any_due(db, 50)?);
        assert_eq!(claim(db, &lease("b", 51), 9)?[0].attempts, 1);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn orders_at_rest_are_nobodys() {
    with_db(|db| {
        paid(db, "k")?;
        assert!(!any_due(db, i64::MAX)?);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn refunds_are_kept_with_their_key() {
    with_db(|db| {
        let order = paid(db, "k")?;
        let refund = Refund {
            id: sinew_core::new_id(),
            cents: 200,
        };
        let asked = (Some("scratched"), Some("rk"));
        let order = ask(db, order.id, Event::Refund(refund), asked, &lease("a", 2))?;
        assert!(!refund_by_key(db, order.id, "rk", 200)?.unwrap().done);
        assert!(refund_by_key(db, order.id, "rk", 201).is_err());
        let done = Event::Refunded { id: refund.id };
        let order = advance(db, order.id, order.revision, done, &[], &lease("a", 3))?.unwrap();
        assert_eq!(order.progress.refunded, 200);
        let stored = refund_by_key(db, order.id, "rk", 200)?.unwrap();
        assert!(stored.done && stored.reason.as_deref() == Some("scratched"));

        let cancel = Event::Cancel {
            refund_id: sinew_core::new_id(),
        };
        let order = ask(db, order.id, cancel, (None, None), &lease("a", 4))?;
        assert_eq!(order.progress.refund.unwrap().cents, 300);
        let again = ask(db, order.id, cancel, (None, None), &lease("a", 5))?;
        assert_eq!(again.revision, order.revision);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn lists_go_from_the_newest_to_the_oldest() {
    with_db(|db| {
        let ids = (0..5).map(|n| Ok(create(db, &wanted(&n.to_string()), &lease("a", 0))?.id));
        let ids: Vec<Uuid> = ids.collect::<Result<_>>()?;
        let page = list(db, USER, None, 3)?;
        let seen: Vec<_> = page.iter().map(|order| order.id).collect();
        assert_eq!(seen, [ids[4], ids[3], ids[2]]);
        let page = list(db, USER, Some(ids[2]), 3)?;
        assert_eq!(page.len(), 2);
        assert!(list(db, Uuid::nil(), None, 3)?.is_empty());
        Ok(())
    })
    .await;
}
