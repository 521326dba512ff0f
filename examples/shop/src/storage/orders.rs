//! Orders: where each stands, who works on it, and its refunds.

mod rows;
#[cfg(test)]
mod tests;

use rusqlite::{Connection, params};
use sinew_core::Kind;
use uuid::Uuid;

use super::{
    row::{all, execute, one, parsed, text},
    sqlite::Migration,
};
use crate::{
    domain::{
        cart::Line,
        money::Money,
        order::{Event, Progress, step},
        product::PricedLine,
    },
    fault::{Fault, Result},
};

pub(crate) const MIGRATIONS: &[Migration] = &[Migration::Sql(
    "CREATE TABLE orders (
         id                TEXT PRIMARY KEY,
         user_id           TEXT NOT NULL,
         idempotency_key   TEXT NOT NULL,
         request_hash      TEXT NOT NULL,
         state             TEXT NOT NULL,
         failure           TEXT,
         currency          TEXT,
         total_cents       INTEGER,
         expected_cents    INTEGER,
         expected_currency TEXT,
         refunded_cents    INTEGER NOT NULL DEFAULT 0,
         refund_id         TEXT,
         refund_cents      INTEGER,
         clear_cart        INTEGER NOT NULL,
         resting           INTEGER NOT NULL,
         revision          INTEGER NOT NULL,
         owner             TEXT,
         lease_until_ms    INTEGER NOT NULL,
         attempts          INTEGER NOT NULL DEFAULT 0,
         created_ms        INTEGER NOT NULL,
         changed_ms        INTEGER NOT NULL,
         UNIQUE (user_id, idempotency_key),
         CHECK (refunded_cents >= 0 AND (refunded_cents = 0 OR refunded_cents <= total_cents))
     ) STRICT;
     CREATE INDEX orders_by_user ON orders (user_id, id);
     CREATE INDEX orders_at_work ON orders (lease_until_ms) WHERE resting = 0;
     CREATE TABLE order_lines (
         order_id   TEXT NOT NULL REFERENCES orders (id),
         product_id TEXT NOT NULL,
         quantity   INTEGER NOT NULL CHECK (quantity > 0),
         name       TEXT,
         unit_cents INTEGER,
         PRIMARY KEY (order_id, product_id)
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE refunds (
         id              TEXT PRIMARY KEY,
         order_id        TEXT NOT NULL REFERENCES orders (id),
         idempotency_key TEXT,
         amount_cents    INTEGER NOT NULL CHECK (amount_cents > 0),
         reason          TEXT,
         state           TEXT NOT NULL CHECK (state IN ('pending', 'done')),
         created_ms      INTEGER NOT NULL,
         UNIQUE (order_id, idempotency_key)
     ) STRICT;",
)];

/// An order as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) id: Uuid,
    pub(crate) user_id: Uuid,
    pub(crate) progress: Progress,
    pub(crate) lines: Vec<OrderLine>,
    /// One more with each change; whoever changes it says which one he saw.
    pub(crate) revision: i64,
    /// How often in a row the work on it could not be done.
    pub(crate) attempts: u32,
    pub(crate) created_ms: i64,
    pub(crate) changed_ms: i64,
}

/// What is ordered of one product; name and price are known once it is reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OrderLine {
    pub(crate) line: Line,
    pub(crate) priced: Option<(String, Money)>,
}

/// An order that somebody asks for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) id: Uuid,
    pub(crate) user_id: Uuid,
    pub(crate) key: String,
    /// Of the whole request: the same key with another one is a mistake.
    pub(crate) request_hash: String,
    pub(crate) progress: Progress,
    pub(crate) lines: Vec<Line>,
}

/// The right to work on an order. When it runs out, any replica may take the order over.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) owner: String,
    pub(crate) now_ms: i64,
    pub(crate) until_ms: i64,
}

/// A refund as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredRefund {
    pub(crate) id: Uuid,
    pub(crate) cents: i64,
    pub(crate) reason: Option<String>,
    pub(crate) done: bool,
    pub(crate) created_ms: i64,
}

/// Makes an order, owned by the lease's owner, unless there is one of this user and key.
pub(crate) fn create(db: &Connection, wanted: &Wanted, lease: &Lease) -> Result<Order> {
    let Progress {
        expected,
        clear_cart,
        state,
        ..
    } = wanted.progress;
    execute(
        db,
        "INSERT INTO orders (id, user_id, idempotency_key, request_hash, state, expected_cents,
             expected_currency, clear_cart, resting, revision, owner, lease_until_ms, created_ms, changed_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, 1, ?9, ?10, ?11, ?11)",
        params![
            text(wanted.id),
            text(wanted.user_id),
            wanted.key,
            wanted.request_hash,
            state.as_str(),
            expected.map(|money| money.cents),
            expected.as_ref().map(|money| money.currency.as_str()),
            clear_cart,
            lease.owner,
            lease.until_ms,
            lease.now_ms
        ],
    )?;
    for line in &wanted.lines {
        let sql = "INSERT INTO order_lines (order_id, product_id, quantity) VALUES (?1, ?2, ?3)";
        execute(
            db,
            sql,
            params![text(wanted.id), text(line.product_id), line.quantity],
        )?;
    }
    get(db, wanted.id)
}

/// The order that this user made with this key. Errors: `shop.idempotency_key_reused`.
pub(crate) fn by_key(
    db: &Connection,
    user: Uuid,
    key: &str,
    request_hash: &str,
) -> Result<Option<Order>> {
    let sql = "SELECT id, request_hash FROM orders WHERE user_id = ?1 AND idempotency_key = ?2";
    let known = one(db, sql, params![text(user), key], |row| {
        Ok((
            parsed::<Uuid>(row, "id")?,
            row.get::<_, String>("request_hash")?,
        ))
    })?;
    match known {
        None => Ok(None),
        Some((id, hash)) if hash == request_hash => get(db, id).map(Some),
        Some(_) => Err(Fault::key_reused()),
    }
}

/// Errors: `shop.order_unknown`.
pub(crate) fn get(db: &Connection, id: Uuid) -> Result<Order> {
    let order = one(
        db,
        "SELECT * FROM orders WHERE id = ?1",
        [text(id)],
        rows::order,
    )?;
    rows::with_lines(db, order.ok_or_else(unknown)?)
}

/// The user's orders below `before`, newest first.
pub(crate) fn list(
    db: &Connection,
    user: Uuid,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Order>> {
    let sql = "SELECT * FROM orders WHERE user_id = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3";
    // `~` sorts after every id.
    let before = before.map_or_else(|| "~".to_owned(), text);
    let orders = all(db, sql, params![text(user), before, limit], rows::order)?;
    orders
        .into_iter()
        .map(|order| rows::with_lines(db, order))
        .collect()
}

/// Takes `event` into the order's record and renews the lease on it. `None`, and no change, when the
/// order is not at `revision` any more: somebody else works on it.
/// Errors: those of [`step`]; `shop.order_unknown`.
pub(crate) fn advance(
    db: &Connection,
    id: Uuid,
    revision: i64,
    event: Event,
    priced: &[PricedLine],
    lease: &Lease,
) -> Result<Option<Order>> {
    let order = get(db, id)?;
    if order.revision != revision {
        return Ok(None);
    }
    for line in priced {
        let sql = "UPDATE order_lines SET name = ?3, unit_cents = ?4
                   WHERE order_id = ?1 AND product_id = ?2";
        let params = params![text(id), text(line.product_id), line.name, line.unit.cents];
        execute(db, sql, params)?;
    }
    if let Event::Refunded { id } = event {
        execute(
            db,
            "UPDATE refunds SET state = 'done' WHERE id = ?1",
            [text(id)],
        )?;
    }
    let (to, _) = step(&order.progress, event)?;
    rows::put(db, &order, &to, lease)?;
    get(db, id).map(Some)
}

/// Does what somebody asks of an order that may be in any state. What is so already changes nothing.
/// `reason` and `key` belong to a refund. Errors: as [`advance`].
pub(crate) fn ask(
    db: &Connection,
    id: Uuid,
    event: Event,
    refund: (Option<&str>, Option<&str>),
    lease: &Lease,
) -> Result<Order> {
    let order = get(db, id)?;
    let (to, _) = step(&order.progress, event)?;
    if to == order.progress {
        return Ok(order);
    }
    let asked = to
        .refund
        .filter(|refund| order.progress.refund.as_ref() != Some(refund));
    if let Some(asked) = asked {
        let (reason, key) = refund;
        let sql = "INSERT INTO refunds VALUES (?1, ?2, ?3, ?4, ?5, 'pending', ?6)";
        let params = params![
            text(asked.id),
            text(id),
            key,
            asked.cents,
            reason,
            lease.now_ms
        ];
        execute(db, sql, params)?;
    }
    rows::put(db, &order, &to, lease)?;
    get(db, id)
}

/// Gives the order up until `until_ms`: what must be done could not be. Without effect when somebody
/// else works on it.
pub(crate) fn postpone(db: &Connection, id: Uuid, revision: i64, until_ms: i64) -> Result<()> {
    let sql = "UPDATE orders SET owner = NULL, lease_until_ms = ?3, attempts = attempts + 1,
                   revision = revision + 1
               WHERE id = ?1 AND revision = ?2 AND resting = 0";
    execute(db, sql, params![text(id), revision, until_ms]).map(drop)
}

/// Whether an order is to be taken over.
pub(crate) fn any_due(db: &Connection, now_ms: i64) -> Result<bool> {
    let sql = "SELECT 1 FROM orders WHERE resting = 0 AND lease_until_ms < ?1 LIMIT 1";
    Ok(one(db, sql, [now_ms], |_| Ok(()))?.is_some())
}

/// Takes over orders that nobody works on any more, at most `limit`. Their revision grows, so that
/// whoever worked on them before, and may still, cannot change them.
pub(crate) fn claim(db: &Connection, lease: &Lease, limit: i64) -> Result<Vec<Order>> {
    let sql = "UPDATE orders SET owner = ?1, lease_until_ms = ?2, revision = revision + 1
               WHERE id IN (SELECT id FROM orders WHERE resting = 0 AND lease_until_ms < ?3
                            ORDER BY lease_until_ms LIMIT ?4)
               RETURNING id";
    let params = params![lease.owner, lease.until_ms, lease.now_ms, limit];
    let ids: Vec<Uuid> = all(db, sql, params, |row| parsed(row, "id"))?;
    ids.into_iter().map(|id| get(db, id)).collect()
}

/// The refund that was asked for with this key. Errors: `shop.idempotency_key_reused`.
pub(crate) fn refund_by_key(
    db: &Connection,
    order: Uuid,
    key: &str,
    cents: i64,
) -> Result<Option<StoredRefund>> {
    let sql = "SELECT * FROM refunds WHERE order_id = ?1 AND idempotency_key = ?2";
    match one(db, sql, params![text(order), key], rows::refund)? {
        Some(known) if known.cents != cents => Err(Fault::key_reused()),
        known => Ok(known),
    }
}

pub(crate) fn unknown() -> Fault {
    Fault::new(
        Kind::NotFound,
        "shop.order_unknown",
        "there is no such order of yours",
    )
}
