//! Products, their stock, and reservations of it.

use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};
use sinew_core::Kind;
use uuid::Uuid;

use super::{
    catalogue,
    row::{all, execute, one, parsed, text},
    sqlite::Migration,
};
use crate::{
    domain::{
        cart::Line,
        money::{Money, NoTotal},
        product::{PricedLine, Product},
        stock::{self, Command, Movement, Outcome, Stock},
    },
    fault::{Fault, Result, Shortage},
};

pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration::Sql(
        "CREATE TABLE products (
             id          TEXT PRIMARY KEY,
             name        TEXT NOT NULL,
             description TEXT NOT NULL,
             price_cents INTEGER NOT NULL CHECK (price_cents > 0),
             currency    TEXT NOT NULL,
             supplied    INTEGER NOT NULL,
             available   INTEGER NOT NULL CHECK (available >= 0),
             reserved    INTEGER NOT NULL CHECK (reserved >= 0),
             sold        INTEGER NOT NULL CHECK (sold >= 0),
             created_ms  INTEGER NOT NULL,
             changed_ms  INTEGER NOT NULL,
             deleted_ms  INTEGER,
             CHECK (supplied = available + reserved + sold)
         ) STRICT;
         CREATE TABLE restocks (
             key        TEXT PRIMARY KEY,
             product_id TEXT NOT NULL REFERENCES products (id),
             quantity   INTEGER NOT NULL,
             at_ms      INTEGER NOT NULL
         ) STRICT;
         CREATE TABLE reservations (
             id         TEXT PRIMARY KEY,
             state      TEXT NOT NULL CHECK (state IN ('reserved', 'sold', 'released', 'returned')),
             created_ms INTEGER NOT NULL,
             changed_ms INTEGER NOT NULL
         ) STRICT;
         CREATE TABLE reservation_lines (
             reservation_id TEXT NOT NULL REFERENCES reservations (id),
             product_id     TEXT NOT NULL REFERENCES products (id),
             name           TEXT NOT NULL,
             quantity       INTEGER NOT NULL CHECK (quantity > 0),
             unit_cents     INTEGER NOT NULL,
             currency       TEXT NOT NULL,
             PRIMARY KEY (reservation_id, product_id)
         ) STRICT, WITHOUT ROWID;",
    ),
    Migration::Code(catalogue::fill),
];

/// A reservation, as other services see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reservation {
    pub(crate) id: Uuid,
    pub(crate) state: stock::Reservation,
    pub(crate) lines: Vec<PricedLine>,
}

/// What an administrator changes; absent parts stay.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) price: Option<Money>,
}

/// Products with ids above `after`, in the order of their ids, which is that of their making.
pub(crate) fn list(db: &Connection, after: Option<Uuid>, limit: i64) -> Result<Vec<Product>> {
    all(
        db,
        "SELECT * FROM products WHERE id > ?1 AND deleted_ms IS NULL ORDER BY id LIMIT ?2",
        params![after.map(text).unwrap_or_default(), limit],
        product,
    )
}

/// Errors: `shop.product_unknown`.
pub(crate) fn get(db: &Connection, id: Uuid) -> Result<Product> {
    let sql = "SELECT * FROM products WHERE id = ?1 AND deleted_ms IS NULL";
    one(db, sql, [text(id)], product)?.ok_or_else(unknown)
}

/// Adds `product` with all its `available` pieces supplied.
pub(crate) fn add(db: &Connection, product: &Product) -> Result<()> {
    execute(
        db,
        "INSERT INTO products VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, 0, 0, ?7, ?7, NULL)",
        params![
            text(product.id),
            product.name,
            product.description,
            product.price.cents,
            product.price.currency.as_str(),
            product.available,
            product.created_ms
        ],
    )?;
    execute(
        db,
        "INSERT INTO restocks VALUES ('initial-' || ?1, ?1, ?2, ?3)",
        params![text(product.id), product.available, product.created_ms],
    )?;
    Ok(())
}

/// Errors: `shop.product_unknown`.
pub(crate) fn change(db: &Connection, id: Uuid, change: &Change, now_ms: i64) -> Result<Product> {
    let sql = "UPDATE products SET name = coalesce(?2, name), description = coalesce(?3, description),
                   price_cents = coalesce(?4, price_cents), currency = coalesce(?5, currency), changed_ms = ?6
               WHERE id = ?1 AND deleted_ms IS NULL RETURNING *";
    let params = params![
        text(id),
        change.name,
        change.description,
        change.price.map(|price| price.cents),
        change.price.as_ref().map(|price| price.currency.as_str()),
        now_ms
    ];
    one(db, sql, params, product)?.ok_or_else(unknown)
}

/// Takes a product off the shelf. Its row stays: reservations and the books refer to it.
/// Errors: `shop.product_unknown` when there never was one.
pub(crate) fn delete(db: &Connection, id: Uuid, now_ms: i64) -> Result<()> {
    let sql = "UPDATE products SET deleted_ms = coalesce(deleted_ms, ?2) WHERE id = ?1";
    if execute(db, sql, params![text(id), now_ms])? == 0 {
        Err(unknown())
    } else {
        Ok(())
    }
}

/// Errors: `shop.product_unknown`.
pub(crate) fn stock(db: &Connection, id: Uuid) -> Result<Stock> {
    let sql = "SELECT supplied, available, reserved, sold FROM products WHERE id = ?1";
    one(db, sql, [text(id)], counts)?.ok_or_else(unknown)
}

/// Adds pieces, once per `key`. Errors: `shop.product_unknown`, `shop.idempotency_key_reused`,
/// `shop.stock_too_large`.
pub(crate) fn restock(
    db: &Connection,
    id: Uuid,
    key: &str,
    quantity: i64,
    now_ms: i64,
) -> Result<Stock> {
    get(db, id)?;
    let sql = "SELECT product_id, quantity FROM restocks WHERE key = ?1";
    let before = one(db, sql, [key], |row| {
        Ok((
            parsed::<Uuid>(row, "product_id")?,
            row.get::<_, i64>("quantity")?,
        ))
    })?;
    match before {
        Some(before) if before == (id, quantity) => return stock(db, id),
        Some(_) => return Err(Fault::key_reused()),
        None => {}
    }
    shift(db, id, Movement::Supply, quantity)?.ok_or_else(|| {
        Fault::new(
            Kind::FailedPrecondition,
            "shop.stock_too_large",
            "no product can have more than 1000000000 pieces",
        )
    })?;
    let sql = "INSERT INTO restocks VALUES (?1, ?2, ?3, ?4)";
    execute(db, sql, params![key, text(id), quantity, now_ms])?;
    stock(db, id)
}

/// Reserves all `lines` (sorted, one per product) or none, once per `id`; see [`Command::Reserve`].
/// Errors: `shop.stock_insufficient`, `shop.currencies_mixed`, `shop.reservation_closed`,
/// `shop.reservation_differs`.
pub(crate) fn reserve(
    db: &Connection,
    id: Uuid,
    lines: &[Line],
    now_ms: i64,
) -> Result<Reservation> {
    let known = reservation(db, id)?;
    let from = known.as_ref().map(|known| known.state);
    match (known, stock::Reservation::outcome(from, Command::Reserve)) {
        (Some(known), Outcome::Already) => {
            let same = known.lines.iter().map(|l| (l.product_id, l.quantity));
            if same.eq(lines.iter().map(|l| (l.product_id, l.quantity))) {
                return Ok(known);
            }
            return Err(Fault::new(
                Kind::AlreadyExists,
                "shop.reservation_differs",
                "there is a reservation with this id and other lines",
            ));
        }
        (None, Outcome::Becomes(..)) => {}
        _ => return Err(closed()),
    }

    let (mut priced, mut shortages) = (Vec::with_capacity(lines.len()), Vec::new());
    for line in lines {
        let sql = "SELECT * FROM products WHERE id = ?1 AND deleted_ms IS NULL";
        let found = one(db, sql, [text(line.product_id)], product)?;
        let available = found.as_ref().map_or(0, |product| product.available);
        match found {
            Some(product) if product.available >= line.quantity => priced.push(PricedLine {
                product_id: product.id,
                name: product.name,
                quantity: line.quantity,
                unit: product.price,
            }),
            _ => shortages.push(Shortage {
                product_id: line.product_id,
                requested: line.quantity,
                available,
            }),
        }
    }
    if !shortages.is_empty() {
        return Err(Fault::new(
            Kind::FailedPrecondition,
            "shop.stock_insufficient",
            "there are not enough pieces of some products",
        )
        .with_shortages(shortages));
    }
    if Money::total(priced.iter().map(|line| (line.quantity, line.unit))) == Err(NoTotal::Mixed) {
        return Err(Fault::new(
            Kind::FailedPrecondition,
            "shop.currencies_mixed",
            "products that are sold in different currencies cannot be ordered together",
        ));
    }

    put_state(db, id, stock::Reservation::Reserved, now_ms)?;
    for line in &priced {
        execute(
            db,
            "INSERT INTO reservation_lines VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                text(id),
                text(line.product_id),
                line.name,
                line.quantity,
                line.unit.cents,
                line.unit.currency.as_str()
            ],
        )?;
        shift(db, line.product_id, Movement::Reserve, line.quantity)?.ok_or_else(closed)?;
    }
    Ok(Reservation {
        id,
        state: stock::Reservation::Reserved,
        lines: priced,
    })
}

/// Commits, releases or returns a reservation; see [`stock::Reservation::outcome`].
/// Errors: `shop.reservation_unknown`, `shop.reservation_closed`.
pub(crate) fn settle(
    db: &Connection,
    id: Uuid,
    command: Command,
    now_ms: i64,
) -> Result<Reservation> {
    let known = reservation(db, id)?;
    let from = known.as_ref().map(|known| known.state);
    let lines = known.map(|known| known.lines).unwrap_or_default();
    match stock::Reservation::outcome(from, command) {
        Outcome::Becomes(state, movement) => {
            put_state(db, id, state, now_ms)?;
            for line in &lines {
                shift(db, line.product_id, movement, line.quantity)?.ok_or_else(closed)?;
            }
            Ok(Reservation { id, state, lines })
        }
        Outcome::Tombstone(state) => {
            put_state(db, id, state, now_ms)?;
            Ok(Reservation { id, state, lines })
        }
        Outcome::Already => {
            let state = from.ok_or_else(unknown_reservation)?;
            Ok(Reservation { id, state, lines })
        }
        Outcome::Closed => Err(closed()),
        Outcome::Unknown => Err(unknown_reservation()),
    }
}

fn reservation(db: &Connection, id: Uuid) -> Result<Option<Reservation>> {
    let sql = "SELECT state FROM reservations WHERE id = ?1";
    let Some(state) = one(db, sql, [text(id)], |row| parsed(row, "state"))? else {
        return Ok(None);
    };
    let sql = "SELECT * FROM reservation_lines WHERE reservation_id = ?1 ORDER BY product_id";
    let lines = all(db, sql, [text(id)], |row| {
        Ok(PricedLine {
            product_id: parsed(row, "product_id")?,
            name: row.get("name")?,
            quantity: row.get("quantity")?,
            unit: Money::new(row.get("unit_cents")?, parsed(row, "currency")?),
        })
    })?;
    Ok(Some(Reservation { id, state, lines }))
}

fn put_state(db: &Connection, id: Uuid, state: stock::Reservation, now_ms: i64) -> Result<()> {
    let sql = "INSERT INTO reservations VALUES (?1, ?2, ?3, ?3)
               ON CONFLICT (id) DO UPDATE SET state = ?2, changed_ms = ?3";
    execute(db, sql, params![text(id), state.as_str(), now_ms]).map(drop)
}

/// Moves pieces of one product; `None` when there are too few.
fn shift(db: &Connection, id: Uuid, movement: Movement, quantity: i64) -> Result<Option<()>> {
    let Some(to) = stock(db, id)?.moved(movement, quantity) else {
        return Ok(None);
    };
    let sql =
        "UPDATE products SET supplied = ?2, available = ?3, reserved = ?4, sold = ?5 WHERE id = ?1";
    execute(
        db,
        sql,
        params![text(id), to.supplied, to.available, to.reserved, to.sold],
    )?;
    Ok(Some(()))
}

fn product(row: &Row<'_>) -> rusqlite::Result<Product> {
    Ok(Product {
        id: parsed(row, "id")?,
        name: row.get("name")?,
        description: row.get("description")?,
        price: Money::new(row.get("price_cents")?, parsed(row, "currency")?),
        available: row.get("available")?,
        created_ms: row.get("created_ms")?,
        changed_ms: row.get("changed_ms")?,
    })
}

fn counts(row: &Row<'_>) -> rusqlite::Result<Stock> {
    Ok(Stock {
        supplied: row.get("supplied")?,
        available: row.get("available")?,
        reserved: row.get("reserved")?,
        sold: row.get("sold")?,
    })
}

fn unknown() -> Fault {
    Fault::new(
        Kind::NotFound,
        "shop.product_unknown",
        "there is no such product",
    )
}

fn unknown_reservation() -> Fault {
    Fault::new(
        Kind::NotFound,
        "shop.reservation_unknown",
        "there is no such reservation",
    )
}

fn closed() -> Fault {
    Fault::new(
        Kind::FailedPrecondition,
        "shop.reservation_closed",
        "the reservation is not in a state for this any more",
    )
}

#[cfg(test)]
mod tests;
