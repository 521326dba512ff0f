//! The orders service.

mod answer;

use std::time::Duration;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use sinew_core::{Kind, new_id};
use sinew_sdk::{
    Json, Path, Problem, Query,
    auth::{Admin, User},
};
use uuid::Uuid;

use super::{
    Reply,
    request::{Paging, idempotency_key, user_id},
};
use crate::{
    checkout::{Checkout, Outcome},
    domain::{
        cart::{Line, check_lines},
        money::Money,
        order::{Event, Progress, Refund},
    },
    fault::{Checks, Fault, Result},
    shapes::{OrderReply, Page, RefundReply},
    storage::orders::{self, Order, Wanted},
};
use answer::{answered, first_answer, later_answer};

/// How long a caller waits for the work on his order, at most.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a repeated request waits for the first one's work to end, and how often it looks.
const REPEAT_PATIENCE: Duration = Duration::from_secs(2);
const REPEAT_LOOK: Duration = Duration::from_millis(50);

pub(crate) fn router(checkout: Checkout) -> Router {
    Router::new()
        .route("/orders", get(mine).post(create))
        .route("/orders/{id}", get(one))
        .route("/orders/{id}/cancel", post(cancel))
        .route("/orders/{id}/ship", post(ship))
        .route("/orders/{id}/deliver", post(deliver))
        .route("/orders/{id}/refunds", post(refund))
        .with_state(checkout)
}

/// Nothing means: what is in the cart.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    lines: Option<Vec<Line>>,
    expected_total: Option<Money>,
}

async fn create(
    State(checkout): State<Checkout>,
    user: User,
    headers: HeaderMap,
    Json(mut request): Json<Request>,
) -> Result<Response, Problem> {
    let (user, key) = (user_id(&user)?, idempotency_key(&headers)?);
    if let Some(lines) = &request.lines {
        request.lines = Some(check_lines(lines)?);
    }
    let hash = hash(&request);
    let (known_key, known_hash) = (key.clone(), hash.clone());
    let known = checkout
        .store()
        .read(move |db| orders::by_key(db, user, &known_key, &known_hash));
    if let Some(known) = known.await? {
        return later_answer(wait_for(&checkout, known).await?);
    }

    let from_cart = request.lines.is_none();
    let lines = match request.lines {
        Some(lines) => lines,
        None => cart(&checkout, user).await?,
    };
    let wanted = Wanted {
        id: new_id(),
        user_id: user,
        key,
        request_hash: hash,
        progress: Progress::new(request.expected_total, from_cart),
        lines,
    };
    let lease = checkout.lease();
    let made = checkout.store().write(move |db| {
        // The same request may have come in twice at once, here or at another replica.
        match orders::by_key(db, wanted.user_id, &wanted.key, &wanted.request_hash)? {
            Some(known) => Ok((known, false)),
            None => Ok((orders::create(db, &wanted, &lease)?, true)),
        }
    });
    match made.await? {
        (order, true) => {
            let id = order.id;
            match checkout.drive(order, PATIENCE).await? {
                Some(outcome) => first_answer(outcome),
                None => first_answer(Outcome {
                    order: read(&checkout, id).await?,
                    refusal: None,
                }),
            }
        }
        (known, false) => later_answer(wait_for(&checkout, known).await?),
    }
}

/// What is in the user's cart. Errors: `shop.cart_empty`, `shop.dependency_unavailable`.
async fn cart(checkout: &Checkout, user: Uuid) -> Result<Vec<Line>> {
    let lines = checkout.peers().cart(user).await;
    let lines = lines.map_err(|error| Fault::dependency("carts").with_source(error.detail()))?;
    if lines.is_empty() {
        let text = "there is nothing in the cart";
        return Err(Fault::new(
            Kind::FailedPrecondition,
            "shop.cart_empty",
            text,
        ));
    }
    check_lines(&lines)
}

/// Tells requests apart that come with the same key.
fn hash(request: &Request) -> String {
    let text = serde_json::to_vec(request).unwrap_or_default();
    let hash = digest(&SHA256, &text);
    hash.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The order when the work on it has ended, or as it is when that takes too long.
async fn wait_for(checkout: &Checkout, mut order: Order) -> Result<Order> {
    let looks = REPEAT_PATIENCE.as_millis() / REPEAT_LOOK.as_millis();
    for _ in 0..looks {
        // Work that was put off ends later than anybody waits here.
        if order.progress.state.settled() || order.attempts > 0 {
            break;
        }
        tokio::time::sleep(REPEAT_LOOK).await;
        order = read(checkout, order.id).await?;
    }
    Ok(order)
}

async fn read(checkout: &Checkout, id: Uuid) -> Result<Order> {
    checkout.store().read(move |db| orders::get(db, id)).await
}

/// The order, if it is the user's or the user may see all.
async fn visible(checkout: &Checkout, user: &User, id: Uuid) -> Result<Order> {
    let asking = user_id(user)?;
    let order = read(checkout, id).await?;
    if order.user_id != asking && !user.is_admin() {
        return Err(orders::unknown());
    }
    Ok(order)
}

async fn mine(
    State(checkout): State<Checkout>,
    user: User,
    Query(paging): Query<Paging>,
) -> Reply<Page<OrderReply>> {
    let (user, limit, before) = (user_id(&user)?, paging.limit()?, paging.cursor);
    let more = limit as i64 + 1;
    let found = checkout
        .store()
        .read(move |db| orders::list(db, user, before, more))
        .await?;
    let items = found.into_iter().map(OrderReply::from).collect();
    Ok(Json(Page::new(items, limit, |order: &OrderReply| order.id)))
}

async fn one(
    State(checkout): State<Checkout>,
    user: User,
    Path(id): Path<Uuid>,
) -> Reply<OrderReply> {
    Ok(Json(visible(&checkout, &user, id).await?.into()))
}

async fn cancel(
    State(checkout): State<Checkout>,
    user: User,
    Path(id): Path<Uuid>,
) -> Result<Response, Problem> {
    visible(&checkout, &user, id).await?;
    asked(
        &checkout,
        id,
        Event::Cancel {
            refund_id: new_id(),
        },
    )
    .await
}

async fn ship(
    State(checkout): State<Checkout>,
    _: Admin,
    Path(id): Path<Uuid>,
) -> Result<Response, Problem> {
    asked(&checkout, id, Event::Ship).await
}

async fn deliver(
    State(checkout): State<Checkout>,
    user: User,
    Path(id): Path<Uuid>,
) -> Result<Response, Problem> {
    visible(&checkout, &user, id).await?;
    asked(&checkout, id, Event::Deliver).await
}

/// Does what is asked of an order and the work that comes of it.
async fn asked(checkout: &Checkout, id: Uuid, event: Event) -> Result<Response, Problem> {
    let lease = checkout.lease();
    let asking = checkout.store().write(move |db| {
        let before = orders::get(db, id)?;
        let order = orders::ask(db, id, event, (None, None), &lease)?;
        Ok((order.revision != before.revision, order))
    });
    let (changed, order) = asking.await?;
    // Asked for again, it is somebody else's work already.
    let order = if changed {
        match checkout.drive(order, PATIENCE).await? {
            Some(outcome) => outcome.order,
            None => read(checkout, id).await?,
        }
    } else {
        order
    };
    Ok(answered(order))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefundRequest {
    amount: Money,
    reason: Option<String>,
}

async fn refund(
    State(checkout): State<Checkout>,
    _: Admin,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    Json(RefundRequest { amount, reason }): Json<RefundRequest>,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?;
    let mut checks = Checks::default();
    checks.check(amount.cents > 0, "amount.cents", "must be at least 1");
    let short = reason
        .as_ref()
        .is_none_or(|reason| reason.chars().count() <= 500);
    checks.check(short, "reason", "must be at most 500 characters");
    checks.finish()?;

    let (lease, asked_key) = (checkout.lease(), key.clone());
    let asking = checkout.store().write(move |db| {
        let order = orders::get(db, id)?;
        let paid_in = order.progress.total.map(|total| total.currency);
        let mut checks = Checks::default();
        let same = paid_in.is_none_or(|currency| currency == amount.currency);
        checks.check(same, "amount.currency", "must be the order's");
        checks.finish()?;
        if let Some(known) = orders::refund_by_key(db, id, &asked_key, amount.cents)? {
            return Ok((order, Some(known)));
        }
        let refund = Event::Refund(Refund {
            id: new_id(),
            cents: amount.cents,
        });
        let texts = (reason.as_deref(), Some(asked_key.as_str()));
        Ok((orders::ask(db, id, refund, texts, &lease)?, None))
    });
    let (order, known) = asking.await?;
    if let Some(known) = known {
        return Ok(Json(RefundReply::new(id, amount, known)).into_response());
    }
    checkout.drive(order, PATIENCE).await?;
    let stored = checkout
        .store()
        .read(move |db| orders::refund_by_key(db, id, &key, amount.cents));
    let stored = stored.await?.ok_or_else(orders::unknown)?;
    let status = if stored.done {
        StatusCode::CREATED
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Json(RefundReply::new(id, amount, stored))).into_response())
}
