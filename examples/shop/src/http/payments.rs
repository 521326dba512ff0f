//! The payments service. Between two short transactions it asks the bank, and holds nothing
//! meanwhile: what was recorded before tells whoever comes next how far it got.

use axum::{
    Router,
    extract::State,
    routing::{get, post, put},
};
use serde::Deserialize;
use sinew_core::Clock;
use sinew_sdk::{
    Json, Path, ServiceKey,
    auth::{Admin, User},
};
use uuid::Uuid;

use super::{
    Reply,
    request::{now_ms, user_id},
};
use crate::{
    bank,
    domain::{money::Money, payment::Payment},
    fault::Checks,
    shapes::PaymentReply,
    storage::{
        Store,
        payments::{self, Bank, BankChange},
    },
};

#[derive(Clone, Debug)]
pub(crate) struct Payments {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
}

pub(crate) fn router(state: Payments) -> Router {
    Router::new()
        .route("/payments/bank", get(bank_now).put(change_bank))
        .route("/payments/{order_id}", get(one))
        .route("/internal/payments/{order_id}", put(charge))
        .route("/internal/payments/{order_id}/void", post(void))
        .route(
            "/internal/payments/{order_id}/refunds/{refund_id}",
            put(refund),
        )
        .with_state(state)
}

async fn one(
    State(shop): State<Payments>,
    user: User,
    Path(order): Path<Uuid>,
) -> Reply<PaymentReply> {
    let asking = user_id(&user)?;
    let record = shop.store.read(move |db| payments::get(db, order)).await?;
    if record.user_id != asking && !user.is_admin() {
        // As if there were none: whether others have orders is not his business.
        return Err(payments::unknown().into());
    }
    Ok(Json(record.into()))
}

async fn bank_now(State(shop): State<Payments>, _: Admin) -> Reply<Bank> {
    Ok(Json(shop.store.read(payments::bank).await?))
}

async fn change_bank(
    State(shop): State<Payments>,
    _: Admin,
    Json(change): Json<BankChange>,
) -> Reply<Bank> {
    check_bank(change)?;
    let bank = shop
        .store
        .write(move |db| payments::change_bank(db, change))
        .await?;
    tracing::info!(?bank, "the bank was changed");
    Ok(Json(bank))
}

/// Errors: `shop.invalid_request`.
pub(crate) fn check_bank(change: BankChange) -> crate::fault::Result<()> {
    let mut checks = Checks::default();
    let rate = change
        .decline_permille
        .is_none_or(|rate| (0..=1000).contains(&rate));
    checks.check(rate, "decline_permille", "must be 0 to 1000");
    let latency = change
        .latency_ms
        .is_none_or(|latency| (0..=60_000).contains(&latency));
    checks.check(latency, "latency_ms", "must be 0 to 60000");
    checks.finish()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Charge {
    user_id: Uuid,
    amount: Money,
}

async fn charge(
    State(shop): State<Payments>,
    _: ServiceKey,
    Path(order): Path<Uuid>,
    Json(Charge { user_id, amount }): Json<Charge>,
) -> Reply<PaymentReply> {
    let now = now_ms(&shop.clock);
    let begun = shop.store.write(move |db| {
        let (record, ask_bank) = payments::begin_charge(db, order, user_id, amount, now)?;
        Ok((
            record,
            if ask_bank {
                Some(payments::bank(db)?)
            } else {
                None
            },
        ))
    });
    let record = match begun.await? {
        (record, None) => record,
        (_, Some(bank)) => {
            let approved = bank::authorise(bank, order).await?;
            let now = now_ms(&shop.clock);
            shop.store
                .write(move |db| payments::answered(db, order, approved, now))
                .await?
        }
    };
    Ok(Json(record.into()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Void {
    user_id: Uuid,
}

async fn void(
    State(shop): State<Payments>,
    _: ServiceKey,
    Path(order): Path<Uuid>,
    Json(Void { user_id }): Json<Void>,
) -> Reply<PaymentReply> {
    let now = now_ms(&shop.clock);
    // Without money to send back the bank is not needed: a void must work in its outage too.
    let (at_once, bank) = shop
        .store
        .write(move |db| {
            let known = payments::find(db, order)?;
            let (_, back) = Payment::voided(known.as_ref().map(|known| &known.payment));
            let at_once = if back == 0 {
                Some(payments::void(db, order, user_id, now)?)
            } else {
                None
            };
            Ok((at_once, payments::bank(db)?))
        })
        .await?;
    let record = match at_once {
        Some(record) => record,
        None => {
            bank::give_back(bank).await?;
            shop.store
                .write(move |db| payments::void(db, order, user_id, now))
                .await?
        }
    };
    Ok(Json(record.into()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refund {
    amount: Money,
}

async fn refund(
    State(shop): State<Payments>,
    _: ServiceKey,
    Path((order, refund)): Path<(Uuid, Uuid)>,
    Json(Refund { amount }): Json<Refund>,
) -> Reply<PaymentReply> {
    let bank = shop.store.read(move |db| {
        if payments::refunded(db, order, refund, amount.cents)? {
            return Ok(None);
        }
        payments::check_refund(db, order, amount)?;
        payments::bank(db).map(Some)
    });
    if let Some(bank) = bank.await? {
        bank::give_back(bank).await?;
    }
    let now = now_ms(&shop.clock);
    let record = shop
        .store
        .write(move |db| payments::refund(db, order, refund, amount, now));
    Ok(Json(record.await?.into()))
}
