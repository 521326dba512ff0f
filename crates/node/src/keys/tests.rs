use std::net::SocketAddr;

use axum::{Router, http::StatusCode, routing::get};
use parking_lot::Mutex;
use sinew_core::{InstanceId, Name};
use sinew_token::SigningKey;

use super::*;

/// An issuer that answers what it is told to.
#[derive(Clone, Default)]
struct Issuer(Arc<Mutex<(u16, String)>>);

impl Issuer {
    fn says(&self, status: u16, text: &str) {
        *self.0.lock() = (status, text.to_owned());
    }

    async fn start(&self) -> SocketAddr {
        let issuer = self.clone();
        let answer = move || async move {
            let (status, text) = issuer.0.lock().clone();
            (StatusCode::from_u16(status).unwrap(), text)
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/jwks.json", get(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }
}

fn endpoint(id: &str, address: SocketAddr, status: EndpointStatus) -> Endpoint {
    Endpoint {
        id: InstanceId::new(id).unwrap(),
        address,
        status,
        metadata: Arc::default(),
    }
}

fn document(endpoints: Vec<Endpoint>) -> Document<KeySet> {
    let (_, receiver) = watch::channel(endpoints.into());
    let url = ServiceUrl {
        service: Name::new("users").unwrap(),
        path: "/jwks.json".into(),
    };
    Document::new(url, receiver, KeySet::parse)
}

#[tokio::test]
async fn another_instance_is_asked_and_what_was_good_stays() {
    let issuer = Issuer::default();
    let key = SigningKey::generate().unwrap();
    issuer.says(200, &key.jwks());
    let address = issuer.start().await;
    // Bound and dropped: nobody listens there.
    let dead = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut document = document(vec![
        endpoint("a", dead, EndpointStatus::Up),
        endpoint("b", address, EndpointStatus::Up),
        endpoint("c", dead, EndpointStatus::Down),
    ]);
    // Whichever it begins with.
    for n in 0..10 {
        assert_eq!(
            document.refresh().await.unwrap(),
            n == 0,
            "only the first is news"
        );
    }
    for (status, text) in [
        (500, key.jwks()),
        (200, "{".to_owned()),
        (404, String::new()),
    ] {
        issuer.says(status, &text);
        document.refresh().await.unwrap_err();
        assert_eq!(document.value.as_ref().unwrap().len(), 1);
    }
    issuer.says(200, &SigningKey::generate().unwrap().jwks());
    assert!(document.refresh().await.unwrap(), "keys are rotated");
}

#[tokio::test]
async fn without_an_instance_that_is_up_nobody_is_asked() {
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    for endpoints in [
        vec![],
        vec![endpoint("a", address, EndpointStatus::Draining)],
    ] {
        let error = document(endpoints).refresh().await.unwrap_err();
        assert_eq!(error.code(), "node.keys_unavailable");
        assert!(error.message().contains("no instance of users"), "{error}");
    }
}
