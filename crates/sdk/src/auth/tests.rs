use axum::{Router, routing::get};
use sinew_token::{SigningKey, jwks};

use super::*;
use crate::{Environment, Service};

/// With the background fetch switched off, it must be the unknown key that causes a fetch.
#[tokio::test]
async fn an_unknown_key_has_the_keys_fetched() {
    let (old, new) = (
        SigningKey::generate().unwrap(),
        SigningKey::generate().unwrap(),
    );
    let published = Arc::new(parking_lot::Mutex::new(old.jwks()));
    let shown = published.clone();
    let show = move || {
        let shown = shown.lock().clone();
        async { shown }
    };
    let service = Service::with_environment("users", Environment::default()).unwrap();
    let running = service
        .routes(Router::new().route("/keys", get(show)))
        .start()
        .await
        .unwrap();
    let client = Client::fixed([("users", running.address())], None).unwrap();
    let auth = Auth::new(&client, "shop", "shop").keys("users", "/keys");
    auth.inner.refreshing.set(()).unwrap();

    let token = |key: &SigningKey| {
        let now = Clock::system().now();
        key.sign(&Claims::new(
            "shop",
            "shop",
            "u",
            now,
            Duration::from_secs(60),
        ))
        .unwrap()
    };
    assert!(auth.verify(&token(&old)).await.is_ok());
    *published.lock() = jwks([&old, &new]);
    let mut tries = 0;
    while let Err(error) = auth.verify(&token(&new)).await {
        // The last fetch was a moment ago, so the next one is not allowed yet.
        assert_eq!(error.code(), "token.key_unknown");
        tries += 1;
        assert!(tries < 300, "the new key is never fetched");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
