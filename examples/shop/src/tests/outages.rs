//! What orders does when those it needs are gone.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::world::{World, id};

async fn wait_for_rest(world: &World, order: Uuid, token: &str) -> Value {
    for _ in 0..200 {
        let now = world
            .get("orders", &format!("/orders/{order}"), token)
            .await
            .body;
        let state = now["state"].as_str().unwrap();
        if ["paid", "cancelled", "payment_failed", "rejected"].contains(&state) {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the order does not come to rest")
}

#[tokio::test]
async fn without_payments_no_money_is_taken_and_the_order_fails_when_they_are_back() {
    let mut world = World::whole().await;
    let ada = world.customer("ada").await;
    let (product, _, available) = world.products().await[0];
    let body = json!({ "lines": [{ "product_id": product, "quantity": 1 }] });
    world.kill("payments");
    let gone = world
        .keyed("orders", "/orders", &ada, "k", body.clone())
        .await;
    gone.is_problem(503, "shop.payment_unavailable");
    let order = id(&gone.body["order_id"]);
    let again = world
        .keyed("orders", "/orders", &ada, "k", body.clone())
        .await;
    assert_eq!(
        (again.status, &again.body["state"]),
        (202, &json!("voiding"))
    );
    let cancel = world
        .post(
            "orders",
            &format!("/orders/{order}/cancel"),
            &ada,
            json!({}),
        )
        .await;
    cancel.is_problem(409, "shop.order_busy");

    world.start("payments").await;
    let ended = wait_for_rest(&world, order, &ada).await;
    assert_eq!(
        (&ended["state"], &ended["failure"]),
        (&json!("payment_failed"), &json!("payment_unavailable"))
    );
    let payment = world
        .get("payments", &format!("/payments/{order}"), &ada)
        .await
        .body;
    assert_eq!(payment["status"], "voided");
    assert_eq!(world.products().await[0].2, available);
    let again = world.keyed("orders", "/orders", &ada, "k", body).await;
    assert_eq!(
        (again.status, &again.body["state"]),
        (200, &json!("payment_failed"))
    );
    world.check_books();
}

#[tokio::test]
async fn a_bank_in_outage_fails_the_order_at_once() {
    let world = World::whole().await;
    let (ada, admin) = (world.customer("ada").await, world.admin().await);
    let (product, _, available) = world.products().await[0];
    world
        .put(
            "payments",
            "/payments/bank",
            &admin,
            json!({ "outage": true }),
        )
        .await;
    let body = json!({ "lines": [{ "product_id": product, "quantity": 1 }] });
    let gone = world.keyed("orders", "/orders", &ada, "k", body).await;
    gone.is_problem(503, "shop.payment_unavailable");
    let ended = wait_for_rest(&world, id(&gone.body["order_id"]), &ada).await;
    assert_eq!(ended["state"], "payment_failed");
    assert_eq!(world.products().await[0].2, available);
    world.check_books();
}

#[tokio::test]
async fn without_products_an_order_is_refused_in_the_end() {
    let mut world = World::whole().await;
    let ada = world.customer("ada").await;
    let product = world.products().await[0].0;
    let body = json!({ "lines": [{ "product_id": product, "quantity": 1 }] });
    world.kill("products");
    let gone = world.keyed("orders", "/orders", &ada, "k", body).await;
    gone.is_problem(503, "shop.dependency_unavailable");
    let order = id(&gone.body["order_id"]);
    world.start("products").await;
    let ended = wait_for_rest(&world, order, &ada).await;
    assert_eq!(
        (&ended["state"], &ended["failure"]),
        (&json!("rejected"), &json!("stock_unavailable"))
    );
    world.check_books();
}

#[tokio::test]
async fn without_carts_goods_can_be_ordered_by_line_and_the_cart_is_cleared_later() {
    let mut world = World::whole().await;
    let ada = world.customer("ada").await;
    let item = json!({ "product_id": world.products().await[0].0, "quantity": 1 });
    world.kill("carts");
    let cart = world
        .keyed("orders", "/orders", &ada, "k1", json!({}))
        .await;
    cart.is_problem(503, "shop.dependency_unavailable");
    assert!(cart.body.get("order_id").is_none());
    let lines = world
        .keyed("orders", "/orders", &ada, "k2", json!({ "lines": [item] }))
        .await;
    assert_eq!(lines.status, 201);
    world.check_books();
}
