//! What the one who orders is told, by how far his order came.

use std::time::Duration;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use sinew_core::Kind;
use sinew_sdk::{Json, Problem};

use crate::{
    checkout::Outcome,
    domain::order::{Failure, State},
    fault::Fault,
    shapes::OrderReply,
    storage::orders::Order,
};

/// The answer to the request that made the order.
pub(super) fn first_answer(outcome: Outcome) -> Result<Response, Problem> {
    let Outcome { order, refusal } = outcome;
    let fault = match order.progress.failure {
        Some(Failure::PaymentUnavailable) => Some(Fault::unavailable(
            "shop.payment_unavailable",
            "the payment could not be made and no money is kept, order again later",
            Duration::from_secs(2),
        )),
        Some(Failure::StockUnavailable) => Some(Fault::dependency("products")),
        // What products said names the shortages.
        Some(failure) => refused(failure).map(|plain| refusal.unwrap_or(plain)),
        None => None,
    };
    if let Some(fault) = fault {
        return Err(fault.with_order(order.id).into());
    }
    let settled = order.progress.state.settled();
    let status = if settled {
        StatusCode::CREATED
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Json(OrderReply::from(order))).into_response())
}

/// The answer to the same request again: how the order stands now.
pub(super) fn later_answer(order: Order) -> Result<Response, Problem> {
    match order.progress.failure.and_then(refused) {
        Some(refusal) if order.progress.state == State::Rejected => {
            Err(refusal.with_order(order.id).into())
        }
        _ => Ok(answered(order)),
    }
}

/// The order: 200 when it is settled, 202 while it is worked on.
pub(super) fn answered(order: Order) -> Response {
    let settled = order.progress.state.settled();
    let status = if settled {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    (status, Json(OrderReply::from(order))).into_response()
}

/// What is wrong with the request itself, if that is why the order came to nothing.
fn refused(failure: Failure) -> Option<Fault> {
    let (code, text) = match failure {
        Failure::StockInsufficient => (
            "shop.stock_insufficient",
            "there are not enough pieces of some products",
        ),
        Failure::PriceChanged => ("shop.price_changed", "the total is not the expected one"),
        Failure::CurrenciesMixed => (
            "shop.currencies_mixed",
            "products that are sold in different currencies cannot be ordered together",
        ),
        Failure::StockUnavailable | Failure::PaymentDeclined | Failure::PaymentUnavailable => {
            return None;
        }
    };
    Some(Fault::new(Kind::FailedPrecondition, code, text))
}
