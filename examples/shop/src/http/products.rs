//! The products service.

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::{get, post, put},
};
use serde::Deserialize;
use sinew_core::{Clock, new_id};
use sinew_sdk::{Json, Path, Problem, Query, ServiceKey, auth::Admin};
use uuid::Uuid;

use super::{
    Reply,
    request::{Paging, idempotency_key, now_ms},
};
use crate::{
    domain::{
        cart::{Line, check_lines},
        money::Money,
        product::{Product, check_product},
        stock::{Command, Stock},
    },
    fault::Checks,
    shapes::Page,
    storage::{
        Store,
        products::{self, Change, Reservation},
    },
};

#[derive(Clone, Debug)]
pub(crate) struct Products {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
}

pub(crate) fn router(state: Products) -> Router {
    Router::new()
        .route("/products", get(list).post(add))
        .route("/products/{id}", get(one).patch(change).delete(delete))
        .route("/products/{id}/stock", get(stock))
        .route("/products/{id}/restock", post(restock))
        .route("/internal/reservations/{id}", put(reserve))
        .route("/internal/reservations/{id}/commit", post(commit))
        .route("/internal/reservations/{id}/release", post(release))
        .route("/internal/reservations/{id}/return", post(give_back))
        .with_state(state)
}

async fn list(State(shop): State<Products>, Query(paging): Query<Paging>) -> Reply<Page<Product>> {
    let (limit, after) = (paging.limit()?, paging.cursor);
    let more = limit as i64 + 1;
    let items = shop
        .store
        .read(move |db| products::list(db, after, more))
        .await?;
    Ok(Json(Page::new(items, limit, |product| product.id)))
}

async fn one(State(shop): State<Products>, Path(id): Path<Uuid>) -> Reply<Product> {
    Ok(Json(
        shop.store.read(move |db| products::get(db, id)).await?,
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewProduct {
    name: String,
    #[serde(default)]
    description: String,
    price: Money,
    stock: i64,
}

async fn add(
    State(shop): State<Products>,
    _: Admin,
    Json(new): Json<NewProduct>,
) -> Result<(StatusCode, Json<Product>), Problem> {
    check_product(
        Some(&new.name),
        Some(&new.description),
        Some(new.price),
        Some(new.stock),
    )?;
    let now = now_ms(&shop.clock);
    let product = Product {
        id: new_id(),
        name: new.name.trim().to_owned(),
        description: new.description,
        price: new.price,
        available: new.stock,
        created_ms: now,
        changed_ms: now,
    };
    let added = product.clone();
    shop.store
        .write(move |db| products::add(db, &added))
        .await?;
    Ok((StatusCode::CREATED, Json(product)))
}

async fn change(
    State(shop): State<Products>,
    _: Admin,
    Path(id): Path<Uuid>,
    Json(change): Json<Change>,
) -> Reply<Product> {
    check_product(
        change.name.as_deref(),
        change.description.as_deref(),
        change.price,
        None,
    )?;
    let now = now_ms(&shop.clock);
    Ok(Json(
        shop.store
            .write(move |db| products::change(db, id, &change, now))
            .await?,
    ))
}

async fn delete(
    State(shop): State<Products>,
    _: Admin,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, Problem> {
    let now = now_ms(&shop.clock);
    shop.store
        .write(move |db| products::delete(db, id, now))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn stock(State(shop): State<Products>, _: Admin, Path(id): Path<Uuid>) -> Reply<Stock> {
    Ok(Json(
        shop.store.read(move |db| products::stock(db, id)).await?,
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Restock {
    quantity: i64,
}

async fn restock(
    State(shop): State<Products>,
    _: Admin,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    Json(Restock { quantity }): Json<Restock>,
) -> Reply<Stock> {
    let key = idempotency_key(&headers)?;
    let mut checks = Checks::default();
    checks.check(
        (1..=1_000_000).contains(&quantity),
        "quantity",
        "must be 1 to 1000000",
    );
    checks.finish()?;
    let now = now_ms(&shop.clock);
    let stock = shop
        .store
        .write(move |db| products::restock(db, id, &key, quantity, now));
    Ok(Json(stock.await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reserve {
    lines: Vec<Line>,
}

async fn reserve(
    State(shop): State<Products>,
    _: ServiceKey,
    Path(id): Path<Uuid>,
    Json(Reserve { lines }): Json<Reserve>,
) -> Reply<Reservation> {
    let (lines, now) = (check_lines(&lines)?, now_ms(&shop.clock));
    Ok(Json(
        shop.store
            .write(move |db| products::reserve(db, id, &lines, now))
            .await?,
    ))
}

async fn commit(state: State<Products>, key: ServiceKey, id: Path<Uuid>) -> Reply<Reservation> {
    settle(state, key, id, Command::Commit).await
}

async fn release(state: State<Products>, key: ServiceKey, id: Path<Uuid>) -> Reply<Reservation> {
    settle(state, key, id, Command::Release).await
}

async fn give_back(state: State<Products>, key: ServiceKey, id: Path<Uuid>) -> Reply<Reservation> {
    settle(state, key, id, Command::Return).await
}

async fn settle(
    State(shop): State<Products>,
    _: ServiceKey,
    Path(id): Path<Uuid>,
    command: Command,
) -> Reply<Reservation> {
    let now = now_ms(&shop.clock);
    Ok(Json(
        shop.store
            .write(move |db| products::settle(db, id, command, now))
            .await?,
    ))
}
