//! Carts.

use rusqlite::{Connection, Row, params};
use sinew_core::Kind;
use uuid::Uuid;

use super::{
    row::{all, execute, one, parsed, text},
    sqlite::Migration,
};
use crate::{
    domain::cart::{Line, MAX_LINES, MAX_QUANTITY},
    fault::{Checks, Fault, Result},
};

pub(crate) const MIGRATIONS: &[Migration] = &[Migration::Sql(
    "CREATE TABLE items (
         user_id    TEXT NOT NULL,
         product_id TEXT NOT NULL,
         quantity   INTEGER NOT NULL CHECK (quantity BETWEEN 1 AND 1000),
         PRIMARY KEY (user_id, product_id)
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE purchases (
         order_id TEXT PRIMARY KEY,
         at_ms    INTEGER NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX purchases_by_age ON purchases (at_ms);",
)];

/// How long it is remembered that an order's goods were taken out of the cart: longer than any
/// replica of orders may need to say so again.
const REMEMBERED_MS: i64 = 7 * 24 * 3_600_000;

pub(crate) fn get(db: &Connection, user: Uuid) -> Result<Vec<Line>> {
    let sql = "SELECT product_id, quantity FROM items WHERE user_id = ?1 ORDER BY product_id";
    all(db, sql, [text(user)], line)
}

/// Adds to what is there. Errors: `shop.invalid_request` when the cart or the line gets too large.
pub(crate) fn add(db: &Connection, user: Uuid, added: Line) -> Result<()> {
    let sql = "SELECT count(*), coalesce(sum(quantity) FILTER (WHERE product_id = ?2), 0),
                   count(*) FILTER (WHERE product_id = ?2)
               FROM items WHERE user_id = ?1";
    let params = params![text(user), text(added.product_id)];
    let (lines, quantity, there) = one(db, sql, params, |row| {
        Ok((
            row.get::<_, i64>(0)?,
            row.get::<_, i64>(1)?,
            row.get::<_, i64>(2)?,
        ))
    })?
    .unwrap_or_default();
    let mut checks = Checks::default();
    let room = there > 0 || usize::try_from(lines).is_ok_and(|lines| lines < MAX_LINES);
    checks.check(
        room,
        "product_id",
        "does not fit: a cart has at most 100 items",
    );
    let fits = quantity + added.quantity <= MAX_QUANTITY;
    checks.check(fits, "quantity", "must stay at most 1000 of one product");
    checks.finish()?;
    let sql = "INSERT INTO items VALUES (?1, ?2, ?3)
               ON CONFLICT DO UPDATE SET quantity = quantity + excluded.quantity";
    execute(
        db,
        sql,
        params![text(user), text(added.product_id), added.quantity],
    )
    .map(drop)
}

/// Sets the quantity of what is there; 0 takes it out. Errors: `shop.item_unknown`.
pub(crate) fn set(db: &Connection, user: Uuid, to: Line) -> Result<()> {
    if to.quantity == 0 {
        return remove(db, user, to.product_id);
    }
    let sql = "UPDATE items SET quantity = ?3 WHERE user_id = ?1 AND product_id = ?2";
    if execute(
        db,
        sql,
        params![text(user), text(to.product_id), to.quantity],
    )? == 0
    {
        let message = "there is no such product in the cart";
        return Err(Fault::new(Kind::NotFound, "shop.item_unknown", message));
    }
    Ok(())
}

pub(crate) fn remove(db: &Connection, user: Uuid, product: Uuid) -> Result<()> {
    let sql = "DELETE FROM items WHERE user_id = ?1 AND product_id = ?2";
    execute(db, sql, params![text(user), text(product)]).map(drop)
}

pub(crate) fn clear(db: &Connection, user: Uuid) -> Result<()> {
    execute(db, "DELETE FROM items WHERE user_id = ?1", [text(user)]).map(drop)
}

/// Takes out what was bought, once per order; what was put in since stays.
pub(crate) fn purchased(
    db: &Connection,
    user: Uuid,
    order: Uuid,
    lines: &[Line],
    now_ms: i64,
) -> Result<()> {
    execute(
        db,
        "DELETE FROM purchases WHERE at_ms < ?1",
        [now_ms - REMEMBERED_MS],
    )?;
    let sql = "INSERT INTO purchases VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    if execute(db, sql, params![text(order), now_ms])? == 0 {
        return Ok(());
    }
    for line in lines {
        let params = params![text(user), text(line.product_id), line.quantity];
        let sql = "DELETE FROM items WHERE user_id = ?1 AND product_id = ?2 AND quantity <= ?3";
        if execute(db, sql, params)? == 0 {
            let sql = "UPDATE items SET quantity = quantity - ?3
                       WHERE user_id = ?1 AND product_id = ?2";
            execute(db, sql, params)?;
        }
    }
    Ok(())
}

fn line(row: &Row<'_>) -> rusqlite::Result<Line> {
    Ok(Line {
        product_id: parsed(row, "product_id")?,
        quantity: row.get("quantity")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Store;

    #[tokio::test]
    async fn what_was_bought_leaves_once_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("carts.db"), MIGRATIONS).unwrap();
        let (user, order) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let line = |n, quantity| Line {
            product_id: Uuid::from_u128(n),
            quantity,
        };
        let held = store.write(move |db| {
            add(db, user, line(10, 2))?;
            add(db, user, line(11, 1))?;
            add(db, user, line(10, 3))?;
            for _ in 0..2 {
                purchased(db, user, order, &[line(10, 2), line(11, 1)], 1_000)?;
            }
            get(db, user)
        });
        assert_eq!(held.await.unwrap(), [line(10, 3)]);
        let set = store.write(move |db| set(db, user, line(11, 1))).await;
        assert_eq!(set.unwrap_err().code(), "shop.item_unknown");
        let much = store.write(move |db| add(db, user, line(10, 998))).await;
        assert_eq!(much.unwrap_err().code(), "shop.invalid_request");
        let many =
            store.write(move |db| (0..100).try_for_each(|n| add(db, user, line(100 + n, 1))));
        assert_eq!(many.await.unwrap_err().code(), "shop.invalid_request");
        let cleared = store.write(move |db| clear(db, user).and_then(|()| get(db, user)));
        assert!(cleared.await.unwrap().is_empty());
    }
}
