use sinew_core::new_id;

use super::*;
use crate::{domain::money::Currency, storage::Store};

struct Shelf {
    store: Store,
    ids: Vec<Uuid>,
    _folder: tempfile::TempDir,
}

/// A shelf of products with these many pieces each, sorted by id.
async fn shelf(stocks: &[i64]) -> Shelf {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("products.db"), MIGRATIONS).unwrap();
    let mut ids = Vec::new();
    for stock in stocks {
        let product = Product {
            id: new_id(),
            name: "thing".into(),
            description: String::new(),
            price: Money::new(250, Currency::EUR),
            available: *stock,
            created_ms: 1,
            changed_ms: 1,
        };
        ids.push(product.id);
        store.write(move |db| add(db, &product)).await.unwrap();
    }
    Shelf {
        store,
        ids,
        _folder: folder,
    }
}

impl Shelf {
    fn lines(&self, quantities: &[i64]) -> Vec<Line> {
        let pairs = self.ids.iter().zip(quantities);
        pairs
            .map(|(id, quantity)| Line {
                product_id: *id,
                quantity: *quantity,
            })
            .collect()
    }

    async fn reserve(&self, id: Uuid, quantities: &[i64]) -> Result<Reservation> {
        let lines = self.lines(quantities);
        self.store.write(move |db| reserve(db, id, &lines, 2)).await
    }

    async fn settle(&self, id: Uuid, command: Command) -> Result<Reservation> {
        self.store.write(move |db| settle(db, id, command, 3)).await
    }

    async fn counts(&self, index: usize) -> (i64, i64, i64, i64) {
        let id = self.ids[index];
        let s = self.store.read(move |db| stock(db, id)).await.unwrap();
        (s.supplied, s.available, s.reserved, s.sold)
    }
}

#[tokio::test]
async fn a_reservation_lives_and_each_call_may_be_repeated() {
    let shelf = shelf(&[5, 5]).await;
    let id = new_id();
    for _ in 0..2 {
        let reserved = shelf.reserve(id, &[2, 1]).await.unwrap();
        assert_eq!(reserved.lines[0].unit.cents, 250);
        assert_eq!(shelf.counts(0).await, (5, 3, 2, 0));
    }
    for _ in 0..2 {
        shelf.settle(id, Command::Commit).await.unwrap();
        assert_eq!(shelf.counts(0).await, (5, 3, 0, 2));
    }
    assert_eq!(
        shelf.settle(id, Command::Release).await.unwrap_err().code(),
        "shop.reservation_closed"
    );
    for _ in 0..2 {
        shelf.settle(id, Command::Return).await.unwrap();
        assert_eq!(
            (shelf.counts(0).await, shelf.counts(1).await),
            ((5, 5, 0, 0), (5, 5, 0, 0))
        );
    }
}

#[tokio::test]
async fn a_shortage_reserves_nothing() {
    let shelf = shelf(&[5, 1]).await;
    let fault = shelf.reserve(new_id(), &[2, 2]).await.unwrap_err();
    assert_eq!(fault.code(), "shop.stock_insufficient");
    let shortage = &fault.more().shortages[0];
    assert_eq!(
        (shortage.product_id, shortage.requested, shortage.available),
        (shelf.ids[1], 2, 1)
    );
    assert_eq!(shelf.counts(0).await, (5, 5, 0, 0));
}

#[tokio::test]
async fn a_deleted_product_can_be_returned_but_not_reserved() {
    let shelf = shelf(&[5]).await;
    let (id, product) = (new_id(), shelf.ids[0]);
    shelf.reserve(id, &[1]).await.unwrap();
    shelf
        .store
        .write(move |db| delete(db, product, 4))
        .await
        .unwrap();
    assert_eq!(
        shelf
            .reserve(new_id(), &[1])
            .await
            .unwrap_err()
            .more()
            .shortages[0]
            .available,
        0
    );
    shelf.settle(id, Command::Commit).await.unwrap();
    shelf.settle(id, Command::Return).await.unwrap();
    assert_eq!(shelf.counts(0).await, (5, 5, 0, 0));
    let code = shelf
        .store
        .read(move |db| get(db, product))
        .await
        .unwrap_err()
        .code()
        .to_owned();
    assert_eq!(code, "shop.product_unknown");
}

#[tokio::test]
async fn a_late_reserve_finds_the_tombstone() {
    let shelf = shelf(&[5]).await;
    let id = new_id();
    for _ in 0..2 {
        shelf.settle(id, Command::Release).await.unwrap();
    }
    assert_eq!(
        shelf.reserve(id, &[1]).await.unwrap_err().code(),
        "shop.reservation_closed"
    );
    assert_eq!(shelf.counts(0).await, (5, 5, 0, 0));
    let unknown = shelf.settle(new_id(), Command::Commit).await.unwrap_err();
    assert_eq!(unknown.code(), "shop.reservation_unknown");
}

#[tokio::test]
async fn the_same_id_with_other_lines_is_refused() {
    let shelf = shelf(&[5]).await;
    let id = new_id();
    shelf.reserve(id, &[1]).await.unwrap();
    assert_eq!(
        shelf.reserve(id, &[2]).await.unwrap_err().code(),
        "shop.reservation_differs"
    );
}

#[tokio::test]
async fn the_last_pieces_are_sold_once() {
    let shelf = shelf(&[10]).await;
    let tries = (0..40)
        .map(|_| shelf.reserve(new_id(), &[1]))
        .collect::<Vec<_>>();
    let mut won = 0;
    for outcome in tries {
        match outcome.await {
            Ok(_) => won += 1,
            Err(fault) => assert_eq!(fault.code(), "shop.stock_insufficient"),
        }
    }
    assert_eq!((won, shelf.counts(0).await), (10, (10, 0, 10, 0)));
}

#[tokio::test]
async fn a_restock_counts_once_per_key() {
    let shelf = shelf(&[1, 1]).await;
    let restock_of = |index: usize, quantity| {
        let id = shelf.ids[index];
        shelf
            .store
            .write(move |db| restock(db, id, "key", quantity, 4))
    };
    for _ in 0..2 {
        restock_of(0, 5).await.unwrap();
        assert_eq!(shelf.counts(0).await, (6, 6, 0, 0));
    }
    for (index, quantity) in [(0, 6), (1, 5)] {
        let fault = restock_of(index, quantity).await.unwrap_err();
        assert_eq!(fault.code(), "shop.idempotency_key_reused");
    }
}

#[tokio::test]
async fn the_catalogue_is_filled_once_and_read_in_pages() {
    let shelf = shelf(&[]).await;
    let mut seen: Vec<Product> = Vec::new();
    loop {
        let after = seen.last().map(|product| product.id);
        let page = shelf
            .store
            .read(move |db| list(db, after, 15))
            .await
            .unwrap();
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    assert_eq!(seen.len(), 40);
    assert!(seen.windows(2).all(|pair| pair[0].id < pair[1].id));
    assert!(
        seen.iter()
            .all(|product| product.available > 0 && product.price.cents > 0)
    );
}
