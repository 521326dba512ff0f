//! The checks between databases, as data: a sentence, a query for the two figures to compare, and a
//! query for the ids of what breaks the rule.

use rusqlite::{Connection, Result};

use super::Check;

/// Examples shown for a broken check.
const EXAMPLES: usize = 3;

struct Rule {
    what: &'static str,
    /// Two columns: expected and actual, each one value.
    figures: &'static str,
    /// One column: the ids that break the rule.
    wrong: &'static str,
}

/// What several rules need: orders that keep their goods and their money, and sums per product.
const PREAMBLE: &str = "
    CREATE TEMP VIEW kept AS
        SELECT * FROM orders.orders WHERE state IN ('paid', 'shipped', 'delivered');
    CREATE TEMP VIEW sold AS
        SELECT l.product_id AS id, sum(l.quantity) AS quantity
        FROM orders.order_lines l JOIN kept o ON o.id = l.order_id GROUP BY l.product_id;
    CREATE TEMP VIEW supply AS
        SELECT product_id AS id, sum(quantity) AS quantity FROM products.restocks GROUP BY product_id;
";

const RULES: &[Rule] = &[
    Rule {
        what: "orders still at work",
        figures: "SELECT 0, count(*) FROM orders.orders WHERE resting = 0",
        wrong: "SELECT id FROM orders.orders WHERE resting = 0",
    },
    Rule {
        what: "stock: supplied = available + reserved + sold, each product",
        figures: "SELECT coalesce(sum(supplied), 0), coalesce(sum(available + reserved + sold), 0)
                  FROM products.products",
        wrong:
            "SELECT id FROM products.products
                WHERE supplied <> available + reserved + sold OR min(available, reserved, sold) < 0",
    },
    Rule {
        what: "stock: first stock + deliveries = supplied, each product",
        figures: "SELECT (SELECT coalesce(sum(quantity), 0) FROM products.restocks),
                         (SELECT coalesce(sum(supplied), 0) FROM products.products)",
        wrong: "SELECT p.id FROM products.products p LEFT JOIN supply s ON s.id = p.id
                WHERE p.supplied <> coalesce(s.quantity, 0)",
    },
    Rule {
        what: "stock: nothing reserved any more",
        figures: "SELECT 0, coalesce(sum(reserved), 0) FROM products.products",
        wrong: "SELECT id FROM products.products WHERE reserved <> 0",
    },
    Rule {
        what: "stock: pieces sold = pieces in paid orders, each product",
        figures: "SELECT (SELECT coalesce(sum(quantity), 0) FROM sold),
                         (SELECT coalesce(sum(sold), 0) FROM products.products)",
        wrong: "SELECT p.id FROM products.products p LEFT JOIN sold s ON s.id = p.id
                WHERE p.sold <> coalesce(s.quantity, 0)
                UNION ALL SELECT id FROM sold WHERE id NOT IN (SELECT id FROM products.products)",
    },
    Rule {
        what: "stock: each reservation ended as its order did",
        figures: "SELECT (SELECT count(*) FROM kept),
                         (SELECT count(*) FROM products.reservations WHERE state = 'sold')",
        // The last line: a reservation that no order knows of may exist only as a tombstone.
        wrong: "SELECT o.id FROM orders.orders o LEFT JOIN products.reservations r ON r.id = o.id
                WHERE o.resting = 1 AND coalesce(r.state, 'none') NOT IN (
                    CASE o.state WHEN 'cancelled' THEN 'returned'
                                 WHEN 'payment_failed' THEN 'released'
                                 WHEN 'rejected' THEN 'released' ELSE 'sold' END,
                    CASE o.state WHEN 'rejected' THEN 'none' ELSE '-' END)
                UNION ALL
                SELECT id FROM products.reservations
                WHERE state <> 'released' AND id NOT IN (SELECT id FROM orders.orders)",
    },
    Rule {
        what: "money: captured - refunded = value of paid orders (cents)",
        figures: "SELECT (SELECT coalesce(sum(total_cents - refunded_cents), 0) FROM kept),
                         (SELECT coalesce(sum(captured_cents - refunded_cents), 0)
                          FROM payments.payments)",
        wrong: "SELECT o.id FROM kept o LEFT JOIN payments.payments p ON p.order_id = o.id
                WHERE p.status IS NOT 'captured' OR p.captured_cents IS NOT o.total_cents
                   OR p.refunded_cents IS NOT o.refunded_cents OR p.currency IS NOT o.currency
                   OR p.user_id IS NOT o.user_id",
    },
    Rule {
        what: "money: cancelled orders were given back in full (cents)",
        figures: "SELECT coalesce(sum(o.total_cents), 0), coalesce(sum(p.refunded_cents), 0)
                  FROM orders.orders o LEFT JOIN payments.payments p ON p.order_id = o.id
                  WHERE o.state = 'cancelled'",
        wrong: "SELECT o.id FROM orders.orders o LEFT JOIN payments.payments p ON p.order_id = o.id
                WHERE o.state = 'cancelled'
                  AND (p.status IS NOT 'captured' OR p.captured_cents IS NOT o.total_cents
                       OR p.refunded_cents IS NOT o.total_cents
                       OR o.refunded_cents IS NOT o.total_cents)",
    },
    Rule {
        what: "money: nothing was kept of orders that failed (cents)",
        figures: "SELECT 0, coalesce(sum(p.captured_cents - p.refunded_cents), 0)
                  FROM orders.orders o JOIN payments.payments p ON p.order_id = o.id
                  WHERE o.state IN ('payment_failed', 'rejected')",
        wrong: "SELECT o.id FROM orders.orders o LEFT JOIN payments.payments p ON p.order_id = o.id
                WHERE o.state = 'payment_failed'
                  AND (coalesce(p.status, 'none') NOT IN ('declined', 'voided')
                       OR p.captured_cents <> p.refunded_cents)
                UNION ALL
                SELECT o.id FROM orders.orders o JOIN payments.payments p ON p.order_id = o.id
                WHERE o.state = 'rejected'",
    },
    Rule {
        what: "money: refunds the shop promised = refunds the bank made (cents)",
        figures: "SELECT (SELECT coalesce(sum(amount_cents), 0) FROM orders.refunds),
                         (SELECT coalesce(sum(amount_cents), 0) FROM payments.refunds)",
        wrong: "SELECT f.id FROM orders.refunds f LEFT JOIN payments.refunds m ON m.id = f.id
                WHERE f.state <> 'done' OR m.amount_cents IS NOT f.amount_cents
                   OR m.order_id IS NOT f.order_id
                UNION ALL
                SELECT p.order_id FROM payments.payments p
                WHERE p.status = 'captured' AND p.refunded_cents <> (
                    SELECT coalesce(sum(amount_cents), 0) FROM payments.refunds m
                    WHERE m.order_id = p.order_id)",
    },
    Rule {
        what: "no payment undecided, none without an order",
        figures: "SELECT 0, count(*) FROM payments.payments WHERE status = 'pending'",
        wrong: "SELECT order_id FROM payments.payments
                WHERE status = 'pending' OR order_id NOT IN (SELECT id FROM orders.orders)",
    },
    Rule {
        what: "no order without an outcome of its payment",
        figures: "SELECT (SELECT count(*) FROM orders.orders WHERE state <> 'rejected'),
                         (SELECT count(*) FROM payments.payments
                          WHERE status IN ('captured', 'declined', 'voided'))",
        wrong: "SELECT id FROM orders.orders
                WHERE state <> 'rejected' AND id NOT IN (SELECT order_id FROM payments.payments)",
    },
    Rule {
        what: "no order twice under one idempotency key",
        figures: "SELECT count(*), count(DISTINCT user_id || ' ' || idempotency_key)
                  FROM orders.orders",
        wrong: "SELECT min(id) FROM orders.orders GROUP BY user_id, idempotency_key
                HAVING count(*) > 1",
    },
];

pub(super) fn all(connection: &Connection) -> Result<Vec<Check>> {
    connection.execute_batch(PREAMBLE)?;
    RULES.iter().map(|rule| check(connection, rule)).collect()
}

fn check(connection: &Connection, rule: &Rule) -> Result<Check> {
    let (expected, actual): (i64, i64) =
        connection.query_row(rule.figures, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut statement = connection.prepare(rule.wrong)?;
    let mut rows = statement.query([])?;
    let (mut wrong, mut examples) = (0, Vec::new());
    while let Some(row) = rows.next()? {
        wrong += 1;
        if examples.len() < EXAMPLES {
            examples.push(row.get(0)?);
        }
    }
    let (expected, actual) = (expected.to_string(), actual.to_string());
    Ok(Check {
        what: rule.what.to_owned(),
        expected,
        actual,
        wrong,
        examples,
    })
}
