use serde_json::json;
use uuid::Uuid;

use super::world::{World, answer, id};

#[tokio::test]
async fn everybody_browses_and_administrators_keep_shop() {
    let world = World::of(&["users", "products"]).await;
    let (admin, customer) = (world.admin().await, world.customer("ada").await);
    let (mut seen, mut path) = (Vec::new(), "/products?limit=17".to_owned());
    loop {
        let page = world.get("products", &path, "").await;
        seen.extend(page.body["items"].as_array().unwrap().clone());
        let Some(cursor) = page.body["next_cursor"].as_str() else {
            break;
        };
        path = format!("/products?limit=17&cursor={cursor}");
    }
    assert_eq!(seen.len(), 40);
    world
        .get("products", "/products?limit=0", "")
        .await
        .is_problem(400, "shop.invalid_request");

    let new = json!({ "name": "Bell", "price": { "cents": 500, "currency": "EUR" }, "stock": 3 });
    world
        .post("products", "/products", &customer, new.clone())
        .await
        .is_problem(403, "sdk.role_missing");
    let made = world.post("products", "/products", &admin, new).await;
    assert_eq!(made.status, 201, "{made:?}");
    let path = format!("/products/{}", id(&made.body["id"]));
    let request = world
        .client
        .patch("products", &path)
        .bearer(&admin)
        .json(&json!({ "name": "Gong" }));
    assert_eq!(answer(request).await.body["name"], "Gong");
    assert_eq!(world.get("products", &path, "").await.body["name"], "Gong");

    let restock = format!("{path}/restock");
    let unkeyed = world
        .post("products", &restock, &admin, json!({ "quantity": 2 }))
        .await;
    unkeyed.is_problem(400, "shop.idempotency_key_missing");
    for _ in 0..2 {
        let stock = world
            .keyed("products", &restock, &admin, "r1", json!({ "quantity": 2 }))
            .await;
        assert_eq!(
            (&stock.body["supplied"], &stock.body["available"]),
            (&json!(5), &json!(5))
        );
    }
    assert_eq!(world.delete("products", &path, &admin).await.status, 204);
    world
        .get("products", &path, "")
        .await
        .is_problem(404, "shop.product_unknown");
}

#[tokio::test]
async fn stock_is_for_services_only() {
    let world = World::of(&["users", "products"]).await;
    let (product, price, available) = world.products().await[0];
    let order = Uuid::from_u128(1);
    let path = format!("/internal/reservations/{order}");
    let body = json!({ "lines": [{ "product_id": product, "quantity": 2 }] });
    let admin = world.admin().await;
    world
        .put("products", &path, &admin, body.clone())
        .await
        .is_problem(401, "sdk.service_key_missing");

    let reserve = |body| answer(world.client.put("products", &path).internal().json(&body));
    let reserved = reserve(body).await;
    assert_eq!(reserved.status, 200, "{reserved:?}");
    assert_eq!(reserved.body["lines"][0]["unit"]["cents"], price);
    let other = json!({ "lines": [{ "product_id": product, "quantity": 3 }] });
    reserve(other)
        .await
        .is_problem(409, "shop.reservation_differs");

    let much = json!({ "lines": [{ "product_id": Uuid::nil(), "quantity": 1 }] });
    let path = format!("/internal/reservations/{}", Uuid::from_u128(2));
    let short = answer(world.client.put("products", &path).internal().json(&much)).await;
    short.is_problem(412, "shop.stock_insufficient");
    assert_eq!(
        short.body["shortages"][0],
        json!({ "product_id": Uuid::nil(), "requested": 1, "available": 0 })
    );
    let stock = world
        .get("products", &format!("/products/{product}/stock"), &admin)
        .await
        .body;
    assert_eq!(
        (&stock["available"], &stock["reserved"]),
        (&json!(available - 2), &json!(2))
    );
}
