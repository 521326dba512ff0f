use serde_json::json;

use super::world::World;

#[tokio::test]
async fn somebody_registers_logs_in_and_sees_himself() {
    let world = World::of(&["users"]).await;
    let token = world.customer("ada").await;
    let me = world.get("users", "/users/me", &token).await;
    assert_eq!(
        (me.status, &me.body["email"]),
        (200, &json!("ada@example.com"))
    );
    assert!(me.body.get("password_hash").is_none());
    world
        .get("users", "/users/me", "")
        .await
        .is_problem(401, "sdk.token_missing");

    let body = json!({ "name": "Eve", "email": " ADA@example.com ", "password": "another one" });
    world
        .post("users", "/users", "", body)
        .await
        .is_problem(409, "shop.email_taken");
    let body = json!({ "name": "", "email": "nobody", "password": "short" });
    let wrong = world.post("users", "/users", "", body).await;
    wrong.is_problem(400, "shop.invalid_request");
    let fields: Vec<_> = wrong.body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["field"])
        .collect();
    assert_eq!(fields, ["name", "email", "password"]);
}

#[tokio::test]
async fn unknown_accounts_and_wrong_passwords_look_the_same() {
    let world = World::of(&["users"]).await;
    world.customer("ada").await;
    let mut seen = Vec::new();
    for email in ["ada@example.com", "nobody@example.com"] {
        for _ in 0..6 {
            world
                .log_in(email, "wrong password")
                .await
                .is_problem(401, "shop.credentials_wrong");
        }
        let locked = world.log_in(email, "wrong password").await;
        locked.is_problem(429, "shop.too_many_attempts");
        seen.push(locked.body);
    }
    assert_eq!(seen[0]["detail"], seen[1]["detail"]);
    // The right password does not help while the account is locked.
    world
        .log_in("ada@example.com", "a fine password")
        .await
        .is_problem(429, "shop.too_many_attempts");
}

#[tokio::test]
async fn a_new_password_ends_the_old_tokens() {
    let mut world = World::of(&["users"]).await;
    let old = world.customer("ada").await;
    let change =
        |current: &str| json!({ "current_password": current, "new_password": "a finer password" });
    let wrong = world
        .put("users", "/users/me/password", &old, change("not it at all"))
        .await;
    wrong.is_problem(401, "shop.credentials_wrong");
    let changed = world
        .put(
            "users",
            "/users/me/password",
            &old,
            change("a fine password"),
        )
        .await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let new = changed.token();

    world
        .get("users", "/users/me", &old)
        .await
        .is_problem(401, "shop.credentials_changed");
    assert_eq!(world.get("users", "/users/me", &new).await.status, 200);
    let me = world.get("users", "/users/me", &new).await.body["id"].clone();
    let revoked = world
        .get("users", "/.well-known/revoked.json", "")
        .await
        .body;
    assert_eq!(revoked["min_version"][me.as_str().unwrap()], 2);
    // Others hear of it when they fetch the revocations again; this one starts only now.
    world.start("carts").await;
    assert_eq!(world.get("carts", "/carts/me", &new).await.status, 200);
    assert_eq!(world.get("carts", "/carts/me", &old).await.status, 401);

    world
        .log_in("ada@example.com", "a fine password")
        .await
        .is_problem(401, "shop.credentials_wrong");
    assert_eq!(
        world
            .log_in("ada@example.com", "a finer password")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn replicas_share_key_and_administrator() {
    let mut world = World::of(&["users"]).await;
    let token = world.admin().await;
    let keys = world.get("users", "/.well-known/jwks.json", "").await.body;
    world.kill("users");
    world.start("users").await;
    assert_eq!(
        world.get("users", "/.well-known/jwks.json", "").await.body,
        keys
    );
    let me = world.get("users", "/users/me", &token).await;
    assert_eq!((me.status, &me.body["role"]), (200, &json!("admin")));
    #[cfg(unix)]
    for file in [
        "users-admin-password",
        "users-signing-key",
        "users.db",
        "users.db-wal",
    ] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(world.data().join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}
