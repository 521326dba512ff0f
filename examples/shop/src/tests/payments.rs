use serde_json::{Value, json};
use uuid::Uuid;

use super::world::{Answer, World, answer, id};

async fn charge(world: &World, order: u128, user: Uuid, cents: i64) -> Answer {
    let body = json!({ "user_id": user, "amount": { "cents": cents, "currency": "EUR" } });
    let path = format!("/internal/payments/{}", Uuid::from_u128(order));
    answer(world.client.put("payments", path).internal().json(&body)).await
}

async fn call(world: &World, order: u128, rest: &str, body: Value) -> Answer {
    let path = format!("/internal/payments/{}/{rest}", Uuid::from_u128(order));
    let request = match rest {
        "void" => world.client.post("payments", path),
        _ => world.client.put("payments", path),
    };
    answer(request.internal().json(&body)).await
}

#[tokio::test]
async fn a_payment_is_charged_refunded_and_seen_by_its_owner() {
    let world = World::of(&["users", "payments"]).await;
    let (ada, bob, admin) = (
        world.customer("ada").await,
        world.customer("bob").await,
        world.admin().await,
    );
    let me = id(&world.get("users", "/users/me", &ada).await.body["id"]);
    for _ in 0..2 {
        let charged = charge(&world, 1, me, 900).await;
        assert_eq!(
            (charged.status, &charged.body["status"]),
            (200, &json!("captured"))
        );
    }
    charge(&world, 1, me, 901)
        .await
        .is_problem(409, "shop.payment_differs");
    let refund = |n: u128| format!("refunds/{}", Uuid::from_u128(n));
    let eur = |cents: i64| json!({ "amount": { "cents": cents, "currency": "EUR" } });
    for _ in 0..2 {
        assert_eq!(
            call(&world, 1, &refund(8), eur(400)).await.body["refunded_cents"],
            400
        );
    }
    call(&world, 1, &refund(9), eur(501))
        .await
        .is_problem(412, "shop.refund_exceeds");
    call(&world, 2, &refund(9), eur(1))
        .await
        .is_problem(404, "shop.payment_unknown");

    let path = format!("/payments/{}", Uuid::from_u128(1));
    assert_eq!(
        world.get("payments", &path, &ada).await.body["captured_cents"],
        900
    );
    assert_eq!(world.get("payments", &path, &admin).await.status, 200);
    world
        .get("payments", &path, &bob)
        .await
        .is_problem(404, "shop.payment_unknown");
}

#[tokio::test]
async fn the_bank_declines_and_fails_as_it_is_told() {
    let world = World::of(&["users", "payments"]).await;
    let admin = world.admin().await;
    let user = Uuid::from_u128(99);
    let bank = |change: Value| world.put("payments", "/payments/bank", &admin, change);
    bank(json!({ "decline_permille": 1001 }))
        .await
        .is_problem(400, "shop.invalid_request");
    let now = bank(json!({ "decline_permille": 1000 })).await.body;
    assert_eq!(
        now,
        json!({ "decline_permille": 1000, "latency_ms": 0, "outage": false })
    );
    assert_eq!(
        charge(&world, 1, user, 100).await.body["status"],
        "declined"
    );

    bank(json!({ "decline_permille": 0, "outage": true })).await;
    charge(&world, 2, user, 100)
        .await
        .is_problem(503, "shop.bank_unavailable");
    // What was decided stays decided, and a void needs no bank while no money is held.
    assert_eq!(
        charge(&world, 1, user, 100).await.body["status"],
        "declined"
    );
    let voided = call(&world, 2, "void", json!({ "user_id": user })).await;
    assert_eq!(voided.body["status"], "voided");
    bank(json!({ "outage": false })).await;
    charge(&world, 2, user, 100)
        .await
        .is_problem(412, "shop.payment_voided");

    // A void of what was captured sends the money back, for which the bank is needed.
    charge(&world, 3, user, 100).await;
    bank(json!({ "outage": true })).await;
    let void = json!({ "user_id": user });
    call(&world, 3, "void", void.clone())
        .await
        .is_problem(503, "shop.bank_unavailable");
    bank(json!({ "outage": false })).await;
    let voided = call(&world, 3, "void", void).await.body;
    assert_eq!(
        (&voided["status"], &voided["refunded_cents"]),
        (&json!("voided"), &json!(100))
    );
}
