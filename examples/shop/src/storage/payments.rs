//! Payments, their refunds, and how the simulated bank behaves.

use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};
use sinew_core::Kind;
use uuid::Uuid;

use super::{
    row::{execute, one, parsed, parsed_optional, text},
    sqlite::Migration,
};
use crate::{
    domain::{
        money::Money,
        payment::{Charge, NoRefund, Payment},
    },
    fault::{Fault, Result},
};

pub(crate) const MIGRATIONS: &[Migration] = &[Migration::Sql(
    "CREATE TABLE payments (
         order_id       TEXT PRIMARY KEY,
         user_id        TEXT NOT NULL,
         status         TEXT NOT NULL CHECK (status IN ('pending', 'captured', 'declined', 'voided')),
         amount_cents   INTEGER,
         currency       TEXT,
         captured_cents INTEGER NOT NULL,
         refunded_cents INTEGER NOT NULL,
         created_ms     INTEGER NOT NULL,
         changed_ms     INTEGER NOT NULL,
         CHECK (0 <= refunded_cents AND refunded_cents <= captured_cents),
         CHECK (captured_cents = 0 OR captured_cents = amount_cents)
     ) STRICT;
     CREATE TABLE refunds (
         id           TEXT PRIMARY KEY,
         order_id     TEXT NOT NULL REFERENCES payments (order_id),
         amount_cents INTEGER NOT NULL CHECK (amount_cents > 0),
         at_ms        INTEGER NOT NULL
     ) STRICT;
     CREATE TABLE bank (
         id               INTEGER PRIMARY KEY CHECK (id = 1),
         seed             INTEGER NOT NULL,
         decline_permille INTEGER NOT NULL,
         latency_ms       INTEGER NOT NULL,
         outage           INTEGER NOT NULL
     ) STRICT;
     INSERT INTO bank VALUES (1, 0, 50, 5, 0);",
)];

/// A payment with what belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) order_id: Uuid,
    pub(crate) user_id: Uuid,
    pub(crate) payment: Payment,
    pub(crate) created_ms: i64,
    pub(crate) changed_ms: i64,
}

/// How the simulated bank behaves; shared by all replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bank {
    #[serde(skip)]
    pub(crate) seed: i64,
    pub(crate) decline_permille: i64,
    pub(crate) latency_ms: i64,
    pub(crate) outage: bool,
}

/// What is changed of it.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BankChange {
    #[serde(skip)]
    pub(crate) seed: Option<i64>,
    pub(crate) decline_permille: Option<i64>,
    pub(crate) latency_ms: Option<i64>,
    pub(crate) outage: Option<bool>,
}

pub(crate) fn find(db: &Connection, order: Uuid) -> Result<Option<Record>> {
    one(
        db,
        "SELECT * FROM payments WHERE order_id = ?1",
        [text(order)],
        record,
    )
}

/// Errors: `shop.payment_unknown`.
pub(crate) fn get(db: &Connection, order: Uuid) -> Result<Record> {
    find(db, order)?.ok_or_else(unknown)
}

/// Records that the bank is about to be asked; the flag says whether it is to be asked at all.
/// Errors: `shop.payment_voided`, `shop.payment_differs`.
pub(crate) fn begin_charge(
    db: &Connection,
    order: Uuid,
    user: Uuid,
    amount: Money,
    now_ms: i64,
) -> Result<(Record, bool)> {
    let known = find(db, order)?;
    match (
        Payment::charge(known.as_ref().map(|known| &known.payment), amount),
        known,
    ) {
        (Charge::AskBank(_), Some(known)) => Ok((known, true)),
        (Charge::AskBank(payment), None) => {
            let new = Record {
                order_id: order,
                user_id: user,
                payment,
                created_ms: now_ms,
                changed_ms: now_ms,
            };
            put(db, &new)?;
            Ok((new, true))
        }
        (Charge::Settled, Some(known)) => Ok((known, false)),
        (Charge::Voided, _) => Err(Fault::new(
            Kind::FailedPrecondition,
            "shop.payment_voided",
            "the payment was made void, the order cannot be charged any more",
        )),
        (Charge::Differs | Charge::Settled, _) => Err(Fault::new(
            Kind::AlreadyExists,
            "shop.payment_differs",
            "the order was charged with another amount",
        )),
    }
}

/// Records what the bank said. Whoever comes first decides: a void that came meanwhile stands.
pub(crate) fn answered(
    db: &Connection,
    order: Uuid,
    approved: bool,
    now_ms: i64,
) -> Result<Record> {
    let known = get(db, order)?;
    let payment = known.payment.answered(approved);
    update(db, known, payment, now_ms)
}

/// Makes the payment void; all that was captured counts as given back. Leaves a tombstone when
/// there was no charge yet.
pub(crate) fn void(db: &Connection, order: Uuid, user: Uuid, now_ms: i64) -> Result<Record> {
    let known = find(db, order)?;
    let (payment, _) = Payment::voided(known.as_ref().map(|known| &known.payment));
    match known {
        Some(known) => update(db, known, payment, now_ms),
        None => {
            let new = Record {
                order_id: order,
                user_id: user,
                payment,
                created_ms: now_ms,
                changed_ms: now_ms,
            };
            put(db, &new)?;
            Ok(new)
        }
    }
}

/// Whether this refund was made before. Errors: `shop.payment_unknown`, `shop.refund_differs`.
pub(crate) fn refunded(db: &Connection, order: Uuid, refund: Uuid, cents: i64) -> Result<bool> {
    get(db, order)?;
    let sql = "SELECT order_id, amount_cents FROM refunds WHERE id = ?1";
    let before = one(db, sql, [text(refund)], |row| {
        Ok((
            parsed::<Uuid>(row, "order_id")?,
            row.get::<_, i64>("amount_cents")?,
        ))
    })?;
    match before {
        None => Ok(false),
        Some(before) if before == (order, cents) => Ok(true),
        Some(_) => Err(Fault::new(
            Kind::AlreadyExists,
            "shop.refund_differs",
            "there is a refund with this id and another amount",
        )),
    }
}

/// The payment as it would be after this refund.
/// Errors: `shop.refund_exceeds`, `shop.payment_state`, `shop.payment_unknown`.
pub(crate) fn check_refund(db: &Connection, order: Uuid, amount: Money) -> Result<Payment> {
    let exceeds = || {
        Fault::new(
            Kind::FailedPrecondition,
            "shop.refund_exceeds",
            "no more can be refunded than what was paid and not refunded before",
        )
    };
    let payment = get(db, order)?.payment;
    if payment
        .amount
        .is_some_and(|paid| paid.currency != amount.currency)
    {
        return Err(exceeds());
    }
    payment.refund(amount.cents).map_err(|reason| match reason {
        NoRefund::Exceeds => exceeds(),
        NoRefund::State(status) => Fault::new(
            Kind::FailedPrecondition,
            "shop.payment_state",
            format!("a payment that is {} cannot be refunded", status.as_str()),
        ),
    })
}

/// Records a refund, once per id. Errors: as [`refunded`] and [`check_refund`].
pub(crate) fn refund(
    db: &Connection,
    order: Uuid,
    refund: Uuid,
    amount: Money,
    now_ms: i64,
) -> Result<Record> {
    let known = get(db, order)?;
    if refunded(db, order, refund, amount.cents)? {
        return Ok(known);
    }
    let payment = check_refund(db, order, amount)?;
    let sql = "INSERT INTO refunds VALUES (?1, ?2, ?3, ?4)";
    execute(
        db,
        sql,
        params![text(refund), text(order), amount.cents, now_ms],
    )?;
    update(db, known, payment, now_ms)
}

pub(crate) fn bank(db: &Connection) -> Result<Bank> {
    let bank = one(db, "SELECT * FROM bank", [], |row| {
        Ok(Bank {
            seed: row.get("seed")?,
            decline_permille: row.get("decline_permille")?,
            latency_ms: row.get("latency_ms")?,
            outage: row.get("outage")?,
        })
    })?;
    bank.ok_or_else(|| rusqlite::Error::QueryReturnedNoRows.into())
}

pub(crate) fn change_bank(db: &Connection, change: BankChange) -> Result<Bank> {
    let sql = "UPDATE bank SET seed = coalesce(?1, seed), outage = coalesce(?4, outage),
                   decline_permille = coalesce(?2, decline_permille), latency_ms = coalesce(?3, latency_ms)";
    execute(
        db,
        sql,
        params![
            change.seed,
            change.decline_permille,
            change.latency_ms,
            change.outage
        ],
    )?;
    bank(db)
}

fn update(db: &Connection, known: Record, payment: Payment, now_ms: i64) -> Result<Record> {
    if payment == known.payment {
        return Ok(known);
    }
    let changed = Record {
        payment,
        changed_ms: now_ms,
        ..known
    };
    put(db, &changed)?;
    Ok(changed)
}

fn put(db: &Connection, record: &Record) -> Result<()> {
    let Record { payment, .. } = record;
    execute(
        db,
        "INSERT INTO payments VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (order_id) DO UPDATE SET status = ?3, captured_cents = ?6, refunded_cents = ?7, changed_ms = ?9",
        params![
            text(record.order_id),
            text(record.user_id),
            payment.status.as_str(),
            payment.amount.map(|amount| amount.cents),
            payment.amount.as_ref().map(|amount| amount.currency.as_str()),
            payment.captured,
            payment.refunded,
            record.created_ms,
            record.changed_ms
        ],
    )
    .map(drop)
}

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let cents: Option<i64> = row.get("amount_cents")?;
    let amount = cents.zip(parsed_optional(row, "currency")?);
    Ok(Record {
        order_id: parsed(row, "order_id")?,
        user_id: parsed(row, "user_id")?,
        payment: Payment {
            status: parsed(row, "status")?,
            amount: amount.map(|(cents, currency)| Money::new(cents, currency)),
            captured: row.get("captured_cents")?,
            refunded: row.get("refunded_cents")?,
        },
        created_ms: row.get("created_ms")?,
        changed_ms: row.get("changed_ms")?,
    })
}

pub(crate) fn unknown() -> Fault {
    Fault::new(
        Kind::NotFound,
        "shop.payment_unknown",
        "there is no payment for this order",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{money::Currency, payment::Status},
        storage::Store,
    };

    #[tokio::test]
    async fn a_payment_is_kept_through_charge_refund_and_void() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("payments.db"), MIGRATIONS).unwrap();
        let (order, user) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let eur = |cents| Money::new(cents, Currency::EUR);
        let outcome = store.write(move |db| {
            assert!(begin_charge(db, order, user, eur(500), 1)?.1);
            assert!(
                begin_charge(db, order, user, eur(500), 1)?.1,
                "the first asker may be gone"
            );
            assert_eq!(answered(db, order, true, 2)?.payment.captured, 500);
            assert!(!begin_charge(db, order, user, eur(500), 3)?.1);
            let differs = begin_charge(db, order, user, eur(501), 3).unwrap_err();
            assert_eq!(differs.code(), "shop.payment_differs");
            for _ in 0..2 {
                let record = refund(db, order, Uuid::from_u128(9), eur(200), 4)?;
                assert_eq!(record.payment.refunded, 200);
            }
            let much = refund(db, order, Uuid::from_u128(10), eur(301), 4).unwrap_err();
            assert_eq!(much.code(), "shop.refund_exceeds");
            let other = refund(db, order, Uuid::from_u128(9), eur(1), 4).unwrap_err();
            assert_eq!(other.code(), "shop.refund_differs");
            void(db, order, user, 5)
        });
        let record = outcome.await.unwrap();
        assert_eq!(
            (record.payment.status, record.payment.refunded),
            (Status::Voided, 500)
        );
        assert_eq!(store.read(move |db| get(db, order)).await.unwrap(), record);
    }

    #[tokio::test]
    async fn a_void_leaves_a_tombstone_and_wins_over_a_late_answer() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("payments.db"), MIGRATIONS).unwrap();
        let user = Uuid::from_u128(2);
        let amount = Money::new(500, Currency::EUR);
        let outcome = store.write(move |db| {
            let (early, late) = (Uuid::from_u128(1), Uuid::from_u128(3));
            void(db, early, user, 1)?;
            let refused = begin_charge(db, early, user, amount, 2).unwrap_err();
            assert_eq!(refused.code(), "shop.payment_voided");
            begin_charge(db, late, user, amount, 2)?;
            void(db, late, user, 3)?;
            answered(db, late, true, 4)
        });
        let payment = outcome.await.unwrap().payment;
        assert_eq!((payment.status, payment.captured), (Status::Voided, 0));
    }
}
