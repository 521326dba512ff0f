//! Between an order and its rows.

use rusqlite::{Connection, Row, params};

use super::{Lease, Order, OrderLine, StoredRefund};
use crate::{
    domain::{
        cart::Line,
        money::{Currency, Money},
        order::{Progress, Refund},
    },
    fault::Result,
    storage::row::{all, execute, parsed, parsed_optional, text},
};

/// Writes what became of the order; an order at rest is nobody's.
pub(super) fn put(db: &Connection, order: &Order, to: &Progress, lease: &Lease) -> Result<()> {
    let resting = to.next().is_none();
    execute(
        db,
        "UPDATE orders SET state = ?2, failure = ?3, currency = ?4, total_cents = ?5,
             refunded_cents = ?6, refund_id = ?7, refund_cents = ?8, clear_cart = ?9, resting = ?10,
             owner = ?11, lease_until_ms = ?12, changed_ms = ?13, attempts = 0, revision = revision + 1
         WHERE id = ?1",
        params![
            text(order.id),
            to.state.as_str(),
            to.failure.map(|failure| failure.as_str()),
            to.total.as_ref().map(|total| total.currency.as_str()),
            to.total.map(|total| total.cents),
            to.refunded,
            to.refund.map(|refund| text(refund.id)),
            to.refund.map(|refund| refund.cents),
            to.clear_cart,
            resting,
            (!resting).then_some(&lease.owner),
            if resting { 0 } else { lease.until_ms },
            lease.now_ms
        ],
    )
    .map(drop)
}

/// The order of a row, without its lines.
pub(super) fn order(row: &Row<'_>) -> rusqlite::Result<Order> {
    let money = |cents: &str, currency: &str| -> rusqlite::Result<Option<Money>> {
        let cents: Option<i64> = row.get(cents)?;
        let currency: Option<Currency> = parsed_optional(row, currency)?;
        Ok(cents
            .zip(currency)
            .map(|(cents, currency)| Money::new(cents, currency)))
    };
    let refund_cents: Option<i64> = row.get("refund_cents")?;
    let refund = parsed_optional(row, "refund_id")?.zip(refund_cents);
    Ok(Order {
        id: parsed(row, "id")?,
        user_id: parsed(row, "user_id")?,
        progress: Progress {
            state: parsed(row, "state")?,
            failure: parsed_optional(row, "failure")?,
            expected: money("expected_cents", "expected_currency")?,
            total: money("total_cents", "currency")?,
            refunded: row.get("refunded_cents")?,
            refund: refund.map(|(id, cents)| Refund { id, cents }),
            clear_cart: row.get("clear_cart")?,
        },
        lines: Vec::new(),
        revision: row.get("revision")?,
        attempts: row.get("attempts")?,
        created_ms: row.get("created_ms")?,
        changed_ms: row.get("changed_ms")?,
    })
}

/// The order with its lines, sorted by product.
pub(super) fn with_lines(db: &Connection, mut order: Order) -> Result<Order> {
    let currency = order.progress.total.map(|total| total.currency);
    let sql = "SELECT * FROM order_lines WHERE order_id = ?1 ORDER BY product_id";
    order.lines = all(db, sql, [text(order.id)], |row| {
        let name: Option<String> = row.get("name")?;
        let unit: Option<i64> = row.get("unit_cents")?;
        let unit = unit
            .zip(currency)
            .map(|(cents, currency)| Money::new(cents, currency));
        let line = Line {
            product_id: parsed(row, "product_id")?,
            quantity: row.get("quantity")?,
        };
        Ok(OrderLine {
            line,
            priced: name.zip(unit),
        })
    })?;
    Ok(order)
}

pub(super) fn refund(row: &Row<'_>) -> rusqlite::Result<StoredRefund> {
    Ok(StoredRefund {
        id: parsed(row, "id")?,
        cents: row.get("amount_cents")?,
        reason: row.get("reason")?,
        done: row.get::<_, String>("state")? == "done",
        created_ms: row.get("created_ms")?,
    })
}
