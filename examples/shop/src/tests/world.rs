//! The shop's services in this process, each on a port of its own, over one data folder.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use serde_json::{Value, json};
use sinew_sdk::{
    Client, Environment, Running, Service,
    client::{Request, Response},
};
use uuid::Uuid;

use crate::{
    audit::audit,
    service::assemble,
    storage::{Store, orders},
};

const KEY: &str = "a service key for tests";

pub(super) struct World {
    folder: tempfile::TempDir,
    running: BTreeMap<&'static str, Running>,
    addresses: BTreeMap<&'static str, SocketAddr>,
    pub(super) client: Client,
}

/// What somebody answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<String>,
    pub(super) body: Value,
}

impl World {
    /// With these services, started in this order: those that are called come first.
    pub(super) async fn of(services: &[&'static str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let client = Client::fixed([], Some(KEY)).unwrap();
        let mut world = Self {
            folder,
            running: BTreeMap::new(),
            addresses: BTreeMap::new(),
            client,
        };
        for name in services {
            world.start(name).await;
        }
        world
    }

    pub(super) async fn whole() -> Self {
        Self::of(&["users", "products", "payments", "carts", "orders"]).await
    }

    /// Starts a service, again on the port that it had.
    pub(super) async fn start(&mut self, name: &'static str) {
        let port = self
            .addresses
            .get(name)
            .map_or(0, SocketAddr::port)
            .to_string();
        let environment = [
            ("SINEW_DATA", self.folder.path().to_str().unwrap()),
            ("SINEW_SERVICE_KEY", KEY),
            ("PORT", &port),
            ("SHOP_ARGON2_MEMORY_KIB", "8"),
            ("SHOP_ARGON2_PASSES", "1"),
            ("SHOP_BANK_LATENCY_MS", "0"),
            ("SHOP_BANK_DECLINE_PERMILLE", "0"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let service =
            Service::with_environment(name, environment.into_iter().collect::<Environment>());
        let service = assemble(name, service.unwrap(), self.client.clone())
            .await
            .unwrap();
        let running = service.start().await.unwrap();
        self.addresses.insert(name, running.address());
        self.running.insert(name, running);
        self.client = Client::fixed(self.addresses.clone(), Some(KEY)).unwrap();
    }

    /// Ends a service without any order.
    pub(super) fn kill(&mut self, name: &str) {
        self.running.remove(name);
    }

    /// Ends a service in order, and all that it does in the background.
    pub(super) async fn stop(&mut self, name: &str) {
        if let Some(running) = self.running.remove(name) {
            running.stop().await;
        }
    }

    pub(super) fn data(&self) -> &Path {
        self.folder.path()
    }

    /// The database of orders, as one more replica would open it.
    pub(super) fn orders(&self) -> Store {
        Store::open(&self.data().join("orders.db"), orders::MIGRATIONS).unwrap()
    }

    pub(super) async fn get(&self, service: &str, path: &str, token: &str) -> Answer {
        answer(bearer(self.client.get(service, path), token)).await
    }

    pub(super) async fn post(&self, service: &str, path: &str, token: &str, body: Value) -> Answer {
        answer(bearer(self.client.post(service, path).json(&body), token)).await
    }

    pub(super) async fn put(&self, service: &str, path: &str, token: &str, body: Value) -> Answer {
        answer(bearer(self.client.put(service, path).json(&body), token)).await
    }

    pub(super) async fn delete(&self, service: &str, path: &str, token: &str) -> Answer {
        answer(bearer(self.client.delete(service, path), token)).await
    }

    /// As [`World::post`], with an Idempotency-Key.
    pub(super) async fn keyed(
        &self,
        service: &str,
        path: &str,
        token: &str,
        key: &str,
        body: Value,
    ) -> Answer {
        let request = self
            .client
            .post(service, path)
            .header("Idempotency-Key", key)
            .json(&body);
        answer(bearer(request, token).timeout(std::time::Duration::from_secs(20))).await
    }

    /// The token of a new customer.
    pub(super) async fn customer(&self, name: &str) -> String {
        let email = format!("{name}@example.com");
        let body = json!({ "name": name, "email": email, "password": "a fine password" });
        let made = self.post("users", "/users", "", body).await;
        assert_eq!(made.status, 201, "{made:?}");
        self.log_in(&email, "a fine password").await.token()
    }

    pub(super) async fn admin(&self) -> String {
        let password = std::fs::read_to_string(self.data().join("users-admin-password")).unwrap();
        self.log_in("admin@shop.example", &password).await.token()
    }

    pub(super) async fn log_in(&self, email: &str, password: &str) -> Answer {
        let body = json!({ "email": email, "password": password });
        self.post("users", "/users/login", "", body).await
    }

    /// Some products of the catalogue: (id, price, available).
    pub(super) async fn products(&self) -> Vec<(Uuid, i64, i64)> {
        let page = self.get("products", "/products?limit=5", "").await;
        let items = page.body["items"].as_array().unwrap().iter();
        items
            .map(|item| {
                let price = item["price"]["cents"].as_i64().unwrap();
                (id(&item["id"]), price, item["available"].as_i64().unwrap())
            })
            .collect()
    }

    /// Every promise that the databases can break, checked; see `crate::audit`.
    pub(super) fn check_books(&self) {
        let audit = audit(self.data(), &[]).unwrap();
        assert!(audit.ok(), "{}", audit.table());
    }
}

impl Answer {
    pub(super) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    pub(super) fn token(&self) -> String {
        self.body["access_token"].as_str().unwrap().to_owned()
    }

    /// Asserts that it is this problem.
    #[track_caller]
    pub(super) fn is_problem(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.code()), (status, code), "{self:?}");
        if matches!(status, 429 | 503) {
            assert!(self.retry_after.is_some(), "{self:?}");
        }
    }
}

pub(super) fn id(value: &Value) -> Uuid {
    value.as_str().unwrap().parse().unwrap()
}

pub(super) async fn answer(request: Request) -> Answer {
    let response: Response = request.send().await.unwrap();
    let retry_after = response.headers().get("retry-after");
    Answer {
        status: response.status().as_u16(),
        retry_after: retry_after.map(|value| value.to_str().unwrap().to_owned()),
        body: serde_json::from_slice(response.bytes()).unwrap_or(Value::Null),
    }
}

fn bearer(request: Request, token: &str) -> Request {
    if token.is_empty() {
        request
    } else {
        request.bearer(token)
    }
}
