use serde_json::{Value, json};

use super::world::{Answer, World, id};

async fn order(world: &World, token: &str, key: &str, body: Value) -> Answer {
    world.keyed("orders", "/orders", token, key, body).await
}

async fn lines(world: &World, quantity: i64) -> Value {
    json!({ "lines": [{ "product_id": world.products().await[0].0, "quantity": quantity }] })
}

#[tokio::test]
async fn a_cart_becomes_a_paid_order() {
    let world = World::whole().await;
    let (ada, admin) = (world.customer("ada").await, world.admin().await);
    order(&world, &ada, "empty", json!({}))
        .await
        .is_problem(412, "shop.cart_empty");
    let products = world.products().await;
    for (product, _, _) in &products[..2] {
        let item = json!({ "product_id": product, "quantity": 2 });
        world.post("carts", "/carts/me/items", &ada, item).await;
    }
    let total = 2 * (products[0].1 + products[1].1);
    let made = order(&world, &ada, "k1", json!({})).await;
    assert_eq!(
        (made.status, &made.body["state"]),
        (201, &json!("paid")),
        "{made:?}"
    );
    assert_eq!(
        made.body["total"],
        json!({ "cents": total, "currency": "EUR" })
    );
    assert_eq!(
        world.get("carts", "/carts/me", &ada).await.body,
        json!({ "items": [] })
    );

    let again = order(&world, &ada, "k1", json!({})).await;
    assert_eq!((again.status, &again.body["id"]), (200, &made.body["id"]));
    let other = order(&world, &ada, "k1", lines(&world, 1).await).await;
    other.is_problem(409, "shop.idempotency_key_reused");
    world
        .post("orders", "/orders", &ada, json!({}))
        .await
        .is_problem(400, "shop.idempotency_key_missing");

    let path = format!("/orders/{}", id(&made.body["id"]));
    let bob = world.customer("bob").await;
    world
        .get("orders", &path, &bob)
        .await
        .is_problem(404, "shop.order_unknown");
    assert_eq!(world.get("orders", &path, &admin).await.status, 200);
    let payment = format!("/payments/{}", id(&made.body["id"]));
    assert_eq!(
        world.get("payments", &payment, &ada).await.body["captured_cents"],
        total
    );
    world.check_books();
}

#[tokio::test]
async fn an_order_is_shipped_delivered_and_refunded_in_part() {
    let world = World::whole().await;
    let (ada, admin) = (world.customer("ada").await, world.admin().await);
    let made = order(&world, &ada, "k", lines(&world, 1).await).await.body;
    let path = |what: &str| format!("/orders/{}/{what}", id(&made["id"]));
    let call = |what: &'static str, token: &str| {
        let (path, token) = (path(what), token.to_owned());
        let world = &world;
        async move { world.post("orders", &path, &token, json!({})).await }
    };
    call("ship", &ada).await.is_problem(403, "sdk.role_missing");
    call("deliver", &ada)
        .await
        .is_problem(412, "shop.order_state");
    for _ in 0..2 {
        assert_eq!(call("ship", &admin).await.body["state"], "shipped");
    }
    call("cancel", &ada)
        .await
        .is_problem(412, "shop.order_state");
    assert_eq!(call("deliver", &ada).await.body["state"], "delivered");

    let amount =
        |cents: i64| json!({ "amount": { "cents": cents, "currency": "EUR" }, "reason": "late" });
    let refund = |key: &'static str, cents| {
        let (world, admin, path) = (&world, &admin, path("refunds"));
        async move {
            world
                .keyed("orders", &path, admin, key, amount(cents))
                .await
        }
    };
    let done = refund("r1", 100).await;
    assert_eq!(
        (done.status, &done.body["state"]),
        (201, &json!("done")),
        "{done:?}"
    );
    let again = refund("r1", 100).await;
    assert_eq!((again.status, &again.body["id"]), (200, &done.body["id"]));
    refund("r1", 99)
        .await
        .is_problem(409, "shop.idempotency_key_reused");
    refund("r2", made["total"]["cents"].as_i64().unwrap())
        .await
        .is_problem(412, "shop.refund_exceeds");
    let now = world
        .get("orders", &format!("/orders/{}", id(&made["id"])), &ada)
        .await
        .body;
    assert_eq!(
        (&now["state"], &now["refunded"]["cents"]),
        (&json!("delivered"), &json!(100))
    );
    world.check_books();
}

#[tokio::test]
async fn a_cancelled_order_gives_everything_back() {
    let world = World::whole().await;
    let (ada, admin) = (world.customer("ada").await, world.admin().await);
    let before = world.products().await[0];
    let made = order(&world, &ada, "k", lines(&world, 3).await).await.body;
    assert_eq!(world.products().await[0].2, before.2 - 3);
    let path = format!("/orders/{}/refunds", id(&made["id"]));
    let part = json!({ "amount": { "cents": 50, "currency": "EUR" } });
    assert_eq!(
        world.keyed("orders", &path, &admin, "r", part).await.status,
        201
    );
    let path = format!("/orders/{}/cancel", id(&made["id"]));
    for _ in 0..2 {
        let cancelled = world.post("orders", &path, &ada, json!({})).await;
        assert_eq!(
            (cancelled.status, &cancelled.body["state"]),
            (200, &json!("cancelled"))
        );
        assert_eq!(cancelled.body["refunded"], made["total"]);
    }
    assert_eq!(world.products().await[0], before);
    world.check_books();
}

#[tokio::test]
async fn refusals_cost_nothing() {
    let world = World::whole().await;
    let (ada, admin) = (world.customer("ada").await, world.admin().await);
    let before = world.products().await;
    // More than there is.
    let few = json!({ "name": "Rare", "price": { "cents": 500, "currency": "EUR" }, "stock": 1 });
    let rare = id(&world.post("products", "/products", &admin, few).await.body["id"]);
    let body = json!({ "lines": [{ "product_id": rare, "quantity": 2 }] });
    let short = order(&world, &ada, "much", body.clone()).await;
    short.is_problem(412, "shop.stock_insufficient");
    assert_eq!(short.body["shortages"][0]["available"], 1);
    let again = order(&world, &ada, "much", body).await;
    again.is_problem(412, "shop.stock_insufficient");
    assert_eq!(again.body["order_id"], short.body["order_id"]);

    // Another price than the buyer saw.
    let mut body = lines(&world, 1).await;
    body["expected_total"] = json!({ "cents": before[0].1 + 1, "currency": "EUR" });
    order(&world, &ada, "price", body.clone())
        .await
        .is_problem(412, "shop.price_changed");
    body["expected_total"]["cents"] = json!(before[0].1);
    assert_eq!(order(&world, &ada, "price2", body).await.status, 201);

    // Two currencies.
    let foreign = json!({ "name": "Far", "price": { "cents": 5, "currency": "USD" }, "stock": 1 });
    let foreign = id(&world
        .post("products", "/products", &admin, foreign)
        .await
        .body["id"]);
    let mut body = lines(&world, 1).await;
    body["lines"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "product_id": foreign, "quantity": 1 }));
    order(&world, &ada, "mixed", body)
        .await
        .is_problem(412, "shop.currencies_mixed");

    // No money.
    world
        .put(
            "payments",
            "/payments/bank",
            &admin,
            json!({ "decline_permille": 1000 }),
        )
        .await;
    let declined = order(&world, &ada, "poor", lines(&world, 1).await).await;
    assert_eq!(
        (declined.status, &declined.body["state"]),
        (201, &json!("payment_failed"))
    );
    assert_eq!(declined.body["failure"], "payment_declined");
    assert_eq!(
        order(&world, &ada, "poor", lines(&world, 1).await)
            .await
            .status,
        200
    );

    assert_eq!(
        world.products().await[0].2,
        before[0].2 - 1,
        "only one order was paid"
    );
    let path = format!("/orders?limit=2&cursor={}", id(&declined.body["id"]));
    let page = world.get("orders", &path, &ada).await.body;
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    assert_eq!(page["items"][0]["failure"], "currencies_mixed");
    world.check_books();
}

#[tokio::test]
async fn the_same_request_many_times_at_once_makes_one_order() {
    let world = World::whole().await;
    let ada = world.customer("ada").await;
    let body = lines(&world, 1).await;
    let before = world.products().await[0].2;
    let (a, b, c, d) = tokio::join!(
        order(&world, &ada, "k", body.clone()),
        order(&world, &ada, "k", body.clone()),
        order(&world, &ada, "k", body.clone()),
        order(&world, &ada, "k", body.clone()),
    );
    let answers = [a, b, c, d];
    assert_eq!(
        answers.iter().filter(|answer| answer.status == 201).count(),
        1,
        "{answers:?}"
    );
    assert!(
        answers
            .iter()
            .all(|answer| answer.body["id"] == answers[0].body["id"])
    );
    assert_eq!(world.products().await[0].2, before - 1);
    world.check_books();
}
