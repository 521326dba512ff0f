//! Routes that ask for a token.

use std::{sync::Arc, time::Duration};

use sinew_core::{Clock, Timestamp};
use sinew_gateway::{Auth, Keys, TokenKeys};
use sinew_token::{Claims, KeySet, Revocations, SigningKey, Verifier};
use tokio::sync::watch;

use crate::support::*;

struct Published(watch::Sender<Option<Arc<TokenKeys>>>);

impl Keys for Published {
    fn watch(&self) -> watch::Receiver<Option<Arc<TokenKeys>>> {
        self.0.subscribe()
    }
}

struct Issuer {
    key: SigningKey,
    published: Arc<Published>,
}

impl Issuer {
    fn new() -> Self {
        let published = Arc::new(Published(watch::channel(None).0));
        Self {
            key: SigningKey::generate().unwrap(),
            published,
        }
    }

    fn publish(&self, revocations: &str) {
        let keys = TokenKeys {
            verifier: Verifier::new("users", "shop"),
            keys: KeySet::parse(self.key.jwks().as_bytes()).unwrap(),
            revocations: Revocations::parse(revocations.as_bytes()).unwrap(),
        };
        self.published.0.send_replace(Some(Arc::new(keys)));
    }

    fn token(&self, subject: &str, now: Timestamp) -> String {
        let claims = Claims::new("users", "shop", subject, now, Duration::from_secs(3_600));
        self.key
            .sign(&claims.with_role("customer").with_version(1))
            .unwrap()
    }
}

fn world(issuer: &Issuer, service: &Service) -> World {
    let mut guarded = route("/**", "app");
    guarded.auth = vec![Auth::Jwt];
    World::with(
        config(vec![guarded, route("/open", "app")]),
        &[service],
        Some(issuer.published.clone()),
    )
}

fn ask(world: &World, header: &str) -> Response {
    world.ask(&format!("GET /x HTTP/1.1\r\nHost: a\r\n{header}\r\n"))
}

#[test]
fn tokens_open_guarded_routes() {
    let (issuer, service) = (Issuer::new(), Service::saying("in"));
    let world = world(&issuer, &service);
    let token = issuer.token("user 1", Clock::system().now());
    let bearer =
        format!("Authorization: Bearer {token}\r\nX-Auth-Subject: root\r\nX-Auth-Role: admin\r\n");

    let early = ask(&world, &bearer);
    assert_eq!(
        (early.status(), early.code().as_str()),
        (503, "gateway.keys_unknown")
    );
    assert!(early.header("retry-after").is_some());
    assert_eq!(world.get("/open").text(), "in");

    issuer.publish("{\"min_version\":{}}");
    for _ in 0..3 {
        assert_eq!(ask(&world, &bearer).text(), "in");
    }
    let request = service.requests().pop().unwrap();
    assert_eq!(
        request.header("x-auth-subject").as_deref(),
        Some("user%201")
    );
    assert_eq!(request.header("x-auth-role").as_deref(), Some("customer"));
    assert_eq!(
        request.header("authorization"),
        Some(format!("Bearer {token}"))
    );
}

#[test]
fn whatever_is_no_valid_token_is_401() {
    let (issuer, service) = (Issuer::new(), Service::saying("in"));
    let world = world(&issuer, &service);
    issuer.publish("{\"min_version\":{}}");
    let now = Clock::system().now();
    let good = issuer.token("user-1", now);
    assert_eq!(
        ask(&world, &format!("Authorization: bearer {good}\r\n")).status(),
        200
    );
    let expired = issuer.token("user-1", Timestamp(now.0 - 7_200_000));
    let stranger = Issuer::new().token("user-1", now);
    let (rest, signature) = good.rsplit_once('.').unwrap();
    for (bad, what) in [
        (String::new(), "none"),
        ("Authorization: Basic YTpi\r\n".into(), "basic"),
        ("Authorization: Bearer\r\n".into(), "empty"),
        ("Authorization: Bearer x\r\n".into(), "no token"),
        (format!("Authorization: Bearer {expired}\r\n"), "expired"),
        (
            format!("Authorization: Bearer {stranger}\r\n"),
            "stranger's",
        ),
        (
            format!(
                "Authorization: Bearer {rest}.{}\r\n",
                signature.replace(|c: char| c.is_ascii_digit(), "A")
            ),
            "forged",
        ),
        (format!("Authorization: Bearer {rest}.\r\n"), "unsigned"),
        (
            format!("Authorization: Bearer {good}\r\nAuthorization: Bearer {good}\r\n"),
            "two",
        ),
        (
            format!("Authorization: Bearer {}\r\n", "a".repeat(10_000)),
            "long",
        ),
    ] {
        let response = ask(&world, &bad);
        assert_eq!(
            (response.status(), response.code().as_str()),
            (401, "gateway.unauthenticated"),
            "{what}"
        );
        let challenge = response.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("Bearer"), "{what}: {challenge}");
        assert!(!response.text().contains(&good), "{what}");
    }
    assert_eq!(service.requests().len(), 1);
}

#[test]
fn a_revoked_token_is_refused_though_it_was_seen_before() {
    let (issuer, service) = (Issuer::new(), Service::saying("in"));
    let world = world(&issuer, &service);
    issuer.publish("{\"min_version\":{}}");
    let bearer = format!(
        "Authorization: Bearer {}\r\n",
        issuer.token("user-1", Clock::system().now())
    );
    assert_eq!(ask(&world, &bearer).status(), 200);
    issuer.publish("{\"min_version\":{\"user-1\":2}}");
    assert_eq!(ask(&world, &bearer).status(), 401);
    issuer.publish("{\"min_version\":{\"user-2\":2}}");
    assert_eq!(ask(&world, &bearer).status(), 200);
}

#[test]
fn a_route_with_a_proof_is_shut_when_no_keys_are_configured() {
    let service = Service::saying("in");
    let mut guarded = route("/**", "app");
    guarded.auth = vec![Auth::Jwt];
    let world = World::with(config(vec![guarded]), &[&service], None);
    assert_eq!(world.get("/").status(), 503);
    assert!(service.requests().is_empty());
}
