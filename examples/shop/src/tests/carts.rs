use serde_json::json;
use uuid::Uuid;

use super::world::{World, answer, id};

#[tokio::test]
async fn a_cart_is_filled_and_emptied() {
    let world = World::of(&["users", "products", "carts"]).await;
    let (ada, bob) = (world.customer("ada").await, world.customer("bob").await);
    let products = world.products().await;
    let item =
        |n: usize, quantity: i64| json!({ "product_id": products[n].0, "quantity": quantity });
    for (n, quantity) in [(0, 1), (1, 2), (0, 3)] {
        let cart = world
            .post("carts", "/carts/me/items", &ada, item(n, quantity))
            .await;
        assert_eq!(cart.status, 200, "{cart:?}");
    }
    let cart = world.get("carts", "/carts/me", &ada).await.body;
    assert_eq!(cart, json!({ "items": [item(0, 4), item(1, 2)] }));
    assert_eq!(
        world.get("carts", "/carts/me", &bob).await.body,
        json!({ "items": [] })
    );

    let path = format!("/carts/me/items/{}", products[0].0);
    let cart = world
        .put("carts", &path, &ada, json!({ "quantity": 7 }))
        .await
        .body;
    assert_eq!(cart["items"][0], item(0, 7));
    let cart = world.delete("carts", &path, &ada).await.body;
    assert_eq!(cart, json!({ "items": [item(1, 2)] }));
    world
        .put("carts", &path, &ada, json!({ "quantity": 1 }))
        .await
        .is_problem(404, "shop.item_unknown");
    let unknown = json!({ "product_id": Uuid::nil(), "quantity": 1 });
    let unknown = world.post("carts", "/carts/me/items", &ada, unknown).await;
    unknown.is_problem(404, "shop.product_unknown");
    let none = world
        .post("carts", "/carts/me/items", &ada, item(0, 0))
        .await;
    none.is_problem(400, "shop.invalid_request");
    assert_eq!(
        world.delete("carts", "/carts/me", &ada).await.body,
        json!({ "items": [] })
    );
}

#[tokio::test]
async fn what_was_bought_leaves_the_cart_once() {
    let world = World::of(&["users", "products", "carts"]).await;
    let ada = world.customer("ada").await;
    let me = id(&world.get("users", "/users/me", &ada).await.body["id"]);
    let item = json!({ "product_id": world.products().await[0].0, "quantity": 3 });
    world
        .post("carts", "/carts/me/items", &ada, item.clone())
        .await;
    let mut bought = item;
    bought["quantity"] = json!(1);
    for _ in 0..2 {
        let body = json!({ "order_id": Uuid::from_u128(5), "lines": [bought] });
        let path = format!("/internal/carts/{me}/purchased");
        let done = answer(world.client.post("carts", path).internal().json(&body)).await;
        assert_eq!(done.status, 204);
    }
    let cart = answer(
        world
            .client
            .get("carts", format!("/internal/carts/{me}"))
            .internal(),
    )
    .await;
    assert_eq!(cart.body["items"][0]["quantity"], 2);
}

#[tokio::test]
async fn without_products_nothing_is_added_but_carts_are_seen() {
    let mut world = World::of(&["users", "products", "carts"]).await;
    let ada = world.customer("ada").await;
    let item = json!({ "product_id": world.products().await[0].0, "quantity": 1 });
    world.kill("products");
    let gone = world.post("carts", "/carts/me/items", &ada, item).await;
    gone.is_problem(503, "shop.dependency_unavailable");
    assert_eq!(world.get("carts", "/carts/me", &ada).await.status, 200);
}
