use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use parking_lot::Mutex;
use sinew_core::Clock;
use sinew_sdk::{
    Client, Environment, Running, Service, ServiceKey,
    auth::{Admin, Auth, User},
};
use sinew_token::{Claims, KeySet, SigningKey, jwks};

use crate::{alone, to, to_running};

/// The service that issues tokens, with documents that the test can change.
struct Issuer {
    running: Running,
    keys: Arc<Mutex<String>>,
    revoked: Arc<Mutex<String>>,
    fetches: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start(key: &SigningKey) -> Self {
        let keys = Arc::new(Mutex::new(key.jwks()));
        let revoked = Arc::new(Mutex::new(r#"{"min_version":{}}"#.to_owned()));
        let fetches = Arc::new(AtomicUsize::new(0));
        let show = |text: &Arc<Mutex<String>>, count: Arc<AtomicUsize>| {
            let text = text.clone();
            move || {
                count.fetch_add(1, SeqCst);
                let text = text.lock().clone();
                async { text }
            }
        };
        let router = Router::new()
            .route("/keys", get(show(&keys, fetches.clone())))
            .route("/revoked", get(show(&revoked, Arc::default())));
        let running = alone("users").routes(router).start().await.unwrap();
        Self {
            running,
            keys,
            revoked,
            fetches,
        }
    }

    fn auth(&self) -> Auth {
        auth(&to("users", self.running.address()))
    }
}

fn auth(client: &Client) -> Auth {
    Auth::new(client, "shop", "shop")
        .keys("users", "/keys")
        .revocations("users", "/revoked")
}

async fn protected(auth: Auth) -> Running {
    let router = Router::new()
        .route("/me", get(|user: User| async move { user.id().to_owned() }))
        .route(
            "/admin",
            get(|Admin(user): Admin| async move { user.role().to_owned() }),
        )
        .route(
            "/maybe",
            get(|user: Option<User>| async move {
                user.map_or("nobody".to_owned(), |user| user.id().to_owned())
            }),
        );
    alone("it").auth(auth).routes(router).start().await.unwrap()
}

fn token(key: &SigningKey, role: &str, version: u64) -> String {
    let now = Clock::system().now();
    let claims = Claims::new("shop", "shop", "user-1", now, Duration::from_secs(60));
    key.sign(&claims.with_role(role).with_version(version))
        .unwrap()
}

/// Status and code, or body, of a GET with this token.
async fn ask(running: &Running, path: &str, token: Option<&str>) -> (u16, String) {
    let request = to_running(running).get("it", path).idempotent(false);
    let request = match token {
        Some(token) => request.bearer(token),
        None => request,
    };
    let reply = request.send().await.unwrap();
    if reply.status() == 401 {
        assert!(reply.headers().contains_key("www-authenticate"));
    }
    let said = reply
        .problem()
        .map_or_else(|| reply.text().into_owned(), |problem| problem.code);
    (reply.status().as_u16(), said)
}

fn said(status: u16, text: &str) -> (u16, String) {
    (status, text.to_owned())
}

#[tokio::test]
async fn tokens_are_verified_by_the_keys_that_the_issuer_publishes() {
    let key = SigningKey::generate().unwrap();
    let issuer = Issuer::start(&key).await;
    let it = protected(issuer.auth()).await;
    let (customer, admin) = (token(&key, "customer", 1), token(&key, "admin", 1));
    assert_eq!(ask(&it, "/me", Some(&customer)).await, said(200, "user-1"));
    assert_eq!(ask(&it, "/me", None).await, said(401, "sdk.token_missing"));
    assert_eq!(
        ask(&it, "/me", Some("x.y.z")).await,
        said(401, "token.malformed")
    );
    assert_eq!(
        ask(&it, "/admin", Some(&customer)).await,
        said(403, "sdk.role_missing")
    );
    assert_eq!(ask(&it, "/admin", Some(&admin)).await, said(200, "admin"));
    assert_eq!(ask(&it, "/maybe", None).await, said(200, "nobody"));
    assert_eq!(
        ask(&it, "/maybe", Some(&customer)).await,
        said(200, "user-1")
    );
    assert_eq!(
        ask(&it, "/maybe", Some("x.y.z")).await,
        said(401, "token.malformed")
    );
    let reply = to_running(&it)
        .get("it", "/me")
        .header("authorization", "Basic abc")
        .send()
        .await;
    assert_eq!(reply.unwrap().problem().unwrap().code, "sdk.token_missing");
}

#[tokio::test]
async fn a_new_key_is_fetched_when_it_is_met_and_strangers_do_not_cause_a_flood() {
    let (old, new) = (
        SigningKey::generate().unwrap(),
        SigningKey::generate().unwrap(),
    );
    let issuer = Issuer::start(&old).await;
    let it = protected(issuer.auth()).await;
    assert_eq!(
        ask(&it, "/me", Some(&token(&old, "customer", 1))).await.0,
        200
    );
    *issuer.keys.lock() = jwks([&old, &new]);
    // Met right after a fetch the new key may have to wait for the next one that is allowed.
    let token_of_new = token(&new, "customer", 1);
    let mut answer = said(0, "");
    for _ in 0..500 {
        answer = ask(&it, "/me", Some(&token_of_new)).await;
        if answer.0 == 200 {
            break;
        }
        assert_eq!(answer, said(401, "token.key_unknown"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(answer.0, 200);

    let before = issuer.fetches.load(SeqCst);
    for _ in 0..50 {
        let stranger = token(&SigningKey::generate().unwrap(), "admin", 1);
        assert_eq!(
            ask(&it, "/me", Some(&stranger)).await,
            said(401, "token.key_unknown")
        );
    }
    let fetches = issuer.fetches.load(SeqCst) - before;
    assert!(fetches < 20, "{fetches} fetches for 50 strangers");
}

#[tokio::test]
async fn revoked_tokens_end_and_what_is_known_outlives_the_issuer() {
    let key = SigningKey::generate().unwrap();
    let issuer = Issuer::start(&key).await;
    let it = protected(issuer.auth()).await;
    let (old, new) = (token(&key, "customer", 1), token(&key, "customer", 2));
    assert_eq!(ask(&it, "/me", Some(&old)).await.0, 200);
    *issuer.revoked.lock() = r#"{"min_version":{"user-1":2}}"#.to_owned();
    for _ in 0..1500 {
        if ask(&it, "/me", Some(&old)).await.0 != 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        ask(&it, "/me", Some(&old)).await,
        said(401, "token.revoked")
    );
    issuer.running.stop().await;
    assert_eq!(ask(&it, "/me", Some(&new)).await, said(200, "user-1"));
    assert_eq!(
        ask(&it, "/me", Some(&old)).await,
        said(401, "token.revoked")
    );
}

#[tokio::test]
async fn without_keys_there_is_no_guess() {
    let key = SigningKey::generate().unwrap();
    let nowhere = to("users", crate::refusing_address().await);
    let it = protected(auth(&nowhere)).await;
    let good = token(&key, "customer", 1);
    assert_eq!(
        ask(&it, "/me", Some(&good)).await,
        said(503, "sdk.auth_unavailable")
    );
    assert_eq!(ask(&it, "/maybe", None).await, said(200, "nobody"));
}

#[tokio::test]
async fn revocations_that_were_never_seen_are_not_taken_for_none() {
    let key = SigningKey::generate().unwrap();
    let issuer = Issuer::start(&key).await;
    *issuer.revoked.lock() = "<html>".to_owned();
    let it = protected(issuer.auth()).await;
    let good = token(&key, "customer", 1);
    assert_eq!(
        ask(&it, "/me", Some(&good)).await,
        said(503, "sdk.auth_unavailable")
    );
}

#[tokio::test]
async fn an_issuer_verifies_its_own_tokens_without_asking_anybody() {
    let key = SigningKey::generate().unwrap();
    let keys = KeySet::parse(key.jwks().as_bytes()).unwrap();
    let auth = Auth::fixed("shop", "shop", keys);
    let it = protected(auth.clone()).await;
    let old = token(&key, "customer", 1);
    assert_eq!(ask(&it, "/me", Some(&old)).await.0, 200);
    auth.set_revocations([("user-1".to_owned(), 2)].into_iter().collect());
    assert_eq!(
        ask(&it, "/me", Some(&old)).await,
        said(401, "token.revoked")
    );
}

#[tokio::test]
async fn other_services_are_known_by_the_key_that_they_share() {
    const KEY: &str = "0123456789abcdef0123456789abcdef";
    let environment = Environment::default().with("SINEW_SERVICE_KEY", KEY);
    let router = Router::new().route("/internal", get(|_: ServiceKey| async { "in" }));
    let service = Service::with_environment("it", environment)
        .unwrap()
        .routes(router);
    let it = service.start().await.unwrap();
    let with = |key: Option<&str>| Client::fixed([("it", it.address())], key).unwrap();
    let code = |reply: sinew_sdk::client::Response| reply.problem().unwrap().code;

    let reply = with(Some(KEY))
        .get("it", "/internal")
        .internal()
        .send()
        .await
        .unwrap();
    assert_eq!(reply.text(), "in");
    let wrong = "f".repeat(32);
    let reply = with(Some(&wrong))
        .get("it", "/internal")
        .internal()
        .send()
        .await
        .unwrap();
    assert_eq!(
        (reply.status().as_u16(), code(reply).as_str()),
        (403, "sdk.service_key_wrong")
    );
    let reply = with(None).get("it", "/internal").send().await.unwrap();
    assert_eq!(
        (reply.status().as_u16(), code(reply).as_str()),
        (401, "sdk.service_key_missing")
    );
}
