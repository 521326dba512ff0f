use std::path::Path;

use super::*;

/// A small shop in which everything adds up: one order of each kind, two products.
fn shop(folder: &Path) {
    let write = |name: &str, sql: &str| {
        let connection = Connection::open(folder.join(format!("{name}.db"))).unwrap();
        connection
            .pragma_update(None, "journal_mode", "wal")
            .unwrap();
        connection.execute_batch(sql).unwrap();
    };
    write(
        "users",
        "CREATE TABLE users (id); INSERT INTO users VALUES ('u');",
    );
    write(
        "carts",
        "CREATE TABLE items (user_id, product_id, quantity);",
    );
    write(
        "products",
        "CREATE TABLE products (id, supplied, available, reserved, sold);
         CREATE TABLE reservations (id, state);
         CREATE TABLE restocks (key, product_id, quantity);
         INSERT INTO products VALUES ('tea', 100, 95, 0, 5), ('jam', 60, 60, 0, 0);
         INSERT INTO restocks VALUES ('a', 'tea', 100), ('b', 'jam', 50), ('c', 'jam', 10);
         INSERT INTO reservations VALUES ('paid', 'sold'), ('delivered', 'sold'),
            ('cancelled', 'returned'), ('declined', 'released'), ('short', 'released');",
    );
    write(
        "orders",
        "CREATE TABLE orders (id, user_id, idempotency_key, state, currency, total_cents, refunded_cents, resting);
         CREATE TABLE order_lines (order_id, product_id, quantity);
         CREATE TABLE refunds (id, order_id, amount_cents, state);
         INSERT INTO orders VALUES ('paid', 'u', '1', 'paid', 'EUR', 900, 100, 1),
            ('delivered', 'u', '2', 'delivered', 'EUR', 600, 0, 1),
            ('cancelled', 'u', '3', 'cancelled', 'EUR', 300, 300, 1),
            ('declined', 'u', '4', 'payment_failed', 'EUR', 300, 0, 1),
            ('short', 'u', '5', 'rejected', NULL, NULL, 0, 1);
         INSERT INTO order_lines VALUES ('paid', 'tea', 3), ('delivered', 'tea', 2),
            ('cancelled', 'jam', 1), ('declined', 'jam', 1), ('short', 'jam', 999);
         INSERT INTO refunds VALUES ('r1', 'paid', 100, 'done'), ('r2', 'cancelled', 300, 'done');",
    );
    write(
        "payments",
        "CREATE TABLE payments (order_id, user_id, status, currency, captured_cents, refunded_cents);
         CREATE TABLE refunds (id, order_id, amount_cents);
         INSERT INTO payments VALUES ('paid', 'u', 'captured', 'EUR', 900, 100),
            ('delivered', 'u', 'captured', 'EUR', 600, 0),
            ('cancelled', 'u', 'captured', 'EUR', 300, 300),
            ('declined', 'u', 'declined', 'EUR', 0, 0);
         INSERT INTO refunds VALUES ('r1', 'paid', 100), ('r2', 'cancelled', 300);",
    );
}

fn promise(id: &str, state: &str) -> Acknowledged {
    Acknowledged::Order {
        id: id.to_owned(),
        state: state.to_owned(),
    }
}

fn broken(folder: &Path, promises: &[Acknowledged]) -> Vec<String> {
    let audit = audit(folder, promises).unwrap();
    let table = audit.table();
    let wrong: Vec<_> = audit.checks.iter().filter(|check| !check.ok()).collect();
    assert_eq!(table.matches("WRONG").count(), wrong.len(), "{table}");
    assert_eq!(audit.ok(), wrong.is_empty());
    wrong.iter().map(|check| check.what.clone()).collect()
}

#[test]
fn a_shop_that_adds_up_passes() {
    let folder = tempfile::Builder::new()
        .prefix("a shop? 100%#")
        .tempdir()
        .unwrap();
    shop(folder.path());
    let promises = [
        Acknowledged::User("u".to_owned()),
        promise("paid", "paid"),
        promise("delivered", "paid"),
        promise("cancelled", "cancelling"),
        Acknowledged::Refund {
            id: "r1".to_owned(),
            cents: 100,
        },
    ];
    assert_eq!(broken(folder.path(), &promises), [""; 0]);
    assert_eq!(unsettled(folder.path()).unwrap(), 0);
}

#[test]
fn each_kind_of_harm_is_seen() {
    // What was done to which database, and the beginnings of the checks that must notice.
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "orders",
            "UPDATE orders SET resting = 0 WHERE id = 'paid'",
            &["orders still"],
        ),
        (
            "products",
            "UPDATE products SET available = 94 WHERE id = 'tea'",
            &["stock: supplied"],
        ),
        (
            "products",
            "DELETE FROM restocks WHERE key = 'c'",
            &["stock: first"],
        ),
        (
            "products",
            "UPDATE products SET available = 59, reserved = 1 WHERE id = 'jam'",
            &["stock: nothing reserved"],
        ),
        (
            "products",
            "UPDATE products SET sold = 1, available = 59 WHERE id = 'jam';
             UPDATE products SET sold = 4, available = 96 WHERE id = 'tea'",
            &["stock: pieces sold"],
        ),
        (
            "products",
            "DELETE FROM reservations WHERE id = 'cancelled'",
            &["stock: each res"],
        ),
        (
            "products",
            "INSERT INTO reservations VALUES ('x', 'reserved')",
            &["stock: each res"],
        ),
        (
            "payments",
            "UPDATE payments SET captured_cents = 901 WHERE order_id = 'paid';
             UPDATE payments SET captured_cents = 599 WHERE order_id = 'delivered'",
            &["money: captured"],
        ),
        (
            "payments",
            "UPDATE payments SET status = 'captured', captured_cents = 300 WHERE order_id = 'declined'",
            &["money: captured", "money: nothing was kept"],
        ),
        (
            "payments",
            "DELETE FROM refunds WHERE id = 'r1'",
            &["money: refunds"],
        ),
        (
            "payments",
            "UPDATE payments SET refunded_cents = 0 WHERE order_id = 'cancelled'",
            &["money: captured", "money: cancelled", "money: refunds"],
        ),
        (
            "orders",
            "UPDATE refunds SET state = 'pending' WHERE id = 'r1'",
            &["money: refunds"],
        ),
        (
            "payments",
            "DELETE FROM payments WHERE order_id = 'declined'",
            &["money: nothing was kept", "no order without"],
        ),
        (
            "payments",
            "UPDATE payments SET status = 'pending' WHERE order_id = 'declined'",
            &[
                "money: nothing was kept",
                "no payment undecided",
                "no order without",
            ],
        ),
        (
            "orders",
            "INSERT INTO orders VALUES ('twin', 'u', '5', 'rejected', NULL, NULL, 0, 1)",
            &["no order twice"],
        ),
    ];
    for (database, harm, noticed) in cases {
        let folder = tempfile::tempdir().unwrap();
        shop(folder.path());
        let connection = Connection::open(folder.path().join(format!("{database}.db"))).unwrap();
        connection.execute_batch(harm).unwrap();
        drop(connection);
        let broken = broken(folder.path(), &[]);
        assert!(
            broken.len() == noticed.len()
                && broken
                    .iter()
                    .zip(*noticed)
                    .all(|(check, start)| check.starts_with(start)),
            "{harm}: {broken:?}"
        );
    }
}

#[test]
fn a_broken_promise_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    shop(folder.path());
    let cases = [
        Acknowledged::User("nobody".to_owned()),
        promise("nothing", "paid"),
        promise("declined", "paid"),
        promise("paid", "cancelled"),
        Acknowledged::Refund {
            id: "r1".to_owned(),
            cents: 99,
        },
    ];
    for case in cases {
        assert_eq!(
            broken(folder.path(), std::slice::from_ref(&case)).len(),
            1,
            "{case:?}"
        );
    }
}

#[test]
fn a_database_of_a_killed_service_is_read_with_its_log() {
    let folder = tempfile::tempdir().unwrap();
    shop(folder.path());
    // Left open, so that the last write lies in the write-ahead log alone.
    let open = Connection::open(folder.path().join("orders.db")).unwrap();
    open.execute_batch("PRAGMA wal_autocheckpoint = 0; UPDATE orders SET resting = 0")
        .unwrap();
    assert_eq!(unsettled(folder.path()).unwrap(), 5);
    let copy = tempfile::tempdir().unwrap();
    for name in ["orders.db", "orders.db-wal"] {
        std::fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
    }
    assert_eq!(unsettled(copy.path()).unwrap(), 5);
}

#[test]
fn what_is_not_there_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        audit(folder.path(), &[]).unwrap_err().code(),
        "shop.audit_unreadable"
    );
}
