//! The carts service.

use std::time::Duration;

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, post, put},
};
use serde::Deserialize;
use sinew_core::{Clock, Kind};
use sinew_sdk::{Client, Json, Path, Problem, ServiceKey, auth::User};
use uuid::Uuid;

use super::{
    Reply,
    request::{now_ms, user_id},
};
use crate::{
    domain::cart::{Line, check_quantity},
    fault::{Fault, Result},
    shapes::Cart,
    storage::{Store, carts},
};

/// How long products may take to say whether there is such a product.
const LOOK_UP: Duration = Duration::from_secs(3);

#[derive(Clone, Debug)]
pub(crate) struct Carts {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) client: Client,
}

pub(crate) fn router(state: Carts) -> Router {
    Router::new()
        .route("/carts/me", get(mine).delete(clear))
        .route("/carts/me/items", post(add))
        .route("/carts/me/items/{product_id}", put(set).delete(remove))
        .route("/internal/carts/{user_id}", get(anyones))
        .route("/internal/carts/{user_id}/purchased", post(purchased))
        .with_state(state)
}

async fn mine(State(shop): State<Carts>, user: User) -> Reply<Cart> {
    let user = user_id(&user)?;
    let items = shop.store.read(move |db| carts::get(db, user)).await?;
    Ok(Json(Cart { items }))
}

async fn anyones(State(shop): State<Carts>, _: ServiceKey, Path(user): Path<Uuid>) -> Reply<Cart> {
    let items = shop.store.read(move |db| carts::get(db, user)).await?;
    Ok(Json(Cart { items }))
}

async fn add(State(shop): State<Carts>, user: User, Json(added): Json<Line>) -> Reply<Cart> {
    let user = user_id(&user)?;
    check_quantity(added.quantity, 1)?;
    check_exists(&shop.client, added.product_id).await?;
    let items = shop.store.write(move |db| {
        carts::add(db, user, added)?;
        carts::get(db, user)
    });
    Ok(Json(Cart {
        items: items.await?,
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Quantity {
    quantity: i64,
}

async fn set(
    State(shop): State<Carts>,
    user: User,
    Path(product_id): Path<Uuid>,
    Json(Quantity { quantity }): Json<Quantity>,
) -> Reply<Cart> {
    let user = user_id(&user)?;
    check_quantity(quantity, 0)?;
    let items = shop.store.write(move |db| {
        carts::set(
            db,
            user,
            Line {
                product_id,
                quantity,
            },
        )?;
        carts::get(db, user)
    });
    Ok(Json(Cart {
        items: items.await?,
    }))
}

async fn remove(State(shop): State<Carts>, user: User, Path(product): Path<Uuid>) -> Reply<Cart> {
    let user = user_id(&user)?;
    let items = shop.store.write(move |db| {
        carts::remove(db, user, product)?;
        carts::get(db, user)
    });
    Ok(Json(Cart {
        items: items.await?,
    }))
}

async fn clear(State(shop): State<Carts>, user: User) -> Reply<Cart> {
    let user = user_id(&user)?;
    shop.store.write(move |db| carts::clear(db, user)).await?;
    Ok(Json(Cart { items: Vec::new() }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Purchase {
    order_id: Uuid,
    lines: Vec<Line>,
}

async fn purchased(
    State(shop): State<Carts>,
    _: ServiceKey,
    Path(user): Path<Uuid>,
    Json(Purchase { order_id, lines }): Json<Purchase>,
) -> Result<StatusCode, Problem> {
    let now = now_ms(&shop.clock);
    shop.store
        .write(move |db| carts::purchased(db, user, order_id, &lines, now))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn check_exists(client: &Client, product: Uuid) -> Result<()> {
    let request = client
        .get("products", format!("/products/{product}"))
        .timeout(LOOK_UP);
    match request
        .send()
        .await
        .and_then(|reply| reply.error_for_status())
    {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == Kind::NotFound => Err(Fault::new(
            Kind::NotFound,
            "shop.product_unknown",
            "there is no such product",
        )),
        Err(error) => Err(Fault::dependency("products").with_source(error)),
    }
}
