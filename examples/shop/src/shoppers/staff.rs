//! The shop's own people: they send orders off, give money back, and fill up the shelves.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, rngs::StdRng};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{
    Acknowledged, Operation, Shared,
    client::{Abandoned, Ask, Client},
};

const PATIENCE: Duration = Duration::from_secs(40);
const TOKEN_AGE: Duration = Duration::from_secs(45 * 60);
/// The account that the users service makes at its first start.
const EMAIL: &str = "admin@shop.example";
/// Less than this on the shelf, and it is filled up.
const LOW: u64 = 200;
/// By this many.
const DELIVERY: u64 = 1_000;
/// How often the shelves are looked at.
const ROUND: Duration = Duration::from_secs(1);

pub(super) struct Staff {
    shared: Arc<Shared>,
    token: Mutex<Option<(Arc<str>, Duration)>>,
}

impl Staff {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            token: Mutex::new(None),
        }
    }

    /// The admin's token. One log in serves all; who comes meanwhile waits for it.
    async fn token(&self, client: &mut Client) -> Result<Arc<str>, Abandoned> {
        let mut kept = self.token.lock().await;
        let now = self.shared.clock.monotonic();
        if let Some((token, since)) = &*kept
            && now.saturating_sub(*since) < TOKEN_AGE
        {
            return Ok(token.clone());
        }
        let body = json!({ "email": EMAIL, "password": self.shared.options.admin_password });
        let ask = Ask::new(Operation::LogIn, "/api/users/login")
            .body(body)
            .repeatable();
        let answer = client.ask(&ask, PATIENCE).await?;
        if answer.status != 200 {
            return Err(client.surprised(ask.operation, &answer));
        }
        let token: Arc<str> = answer.text("access_token").into();
        *kept = Some((token.clone(), now));
        Ok(token)
    }

    pub(super) async fn ship(&self, client: &mut Client, id: &str) -> Result<(), Abandoned> {
        let token = self.token(client).await?;
        let ask = Ask::new(Operation::Ship, format!("/api/orders/{id}/ship"));
        let ask = ask.token(&token).repeatable();
        let answer = client.ask(&ask, PATIENCE).await?;
        match (answer.status.as_u16(), answer.code()) {
            (200, _) => {
                let state = answer.text("state");
                client.recorder.acknowledge(Acknowledged::Order {
                    id: id.to_owned(),
                    state,
                });
                Ok(())
            }
            (412, "shop.order_state") if answer.repeated => Ok(()),
            _ => Err(client.surprised(ask.operation, &answer)),
        }
    }

    /// Gives back a part of what was paid, sometimes all of it.
    pub(super) async fn refund(
        &self,
        client: &mut Client,
        id: &str,
        order: &Value,
        random: &mut StdRng,
    ) -> Result<(), Abandoned> {
        let token = self.token(client).await?;
        let total = order["total"]["cents"].as_u64().unwrap_or_default();
        let part = if random.random_bool(0.2) {
            total
        } else {
            (total / 3).max(1)
        };
        let body = json!({
            "amount": { "cents": part, "currency": order["total"]["currency"] },
            "reason": "arrived scratched",
        });
        let ask = Ask::new(Operation::Refund, format!("/api/orders/{id}/refunds"));
        let ask = ask.token(&token).key(format!("refund-{id}")).body(body);
        let answer = client.ask(&ask, PATIENCE).await?;
        match (answer.status.as_u16(), answer.code()) {
            (200..=202, _) => {
                let refund = Acknowledged::Refund {
                    id: answer.text("id"),
                    cents: part,
                };
                client.recorder.acknowledge(refund);
                client.recorder.count(|outcomes| outcomes.refunds += 1);
                Ok(())
            }
            _ => Err(client.surprised(ask.operation, &answer)),
        }
    }

    /// Keeps the shelves filled until the run ends.
    pub(super) async fn restock(self: Arc<Self>) {
        let mut client = self.shared.client();
        while !self.shared.stop.is_cancelled() {
            // A round that failed is counted; the next one comes soon.
            let _ = self.round(&mut client).await;
            tokio::select! {
                () = self.shared.clock.sleep(ROUND) => {}
                () = self.shared.stop.cancelled() => {}
            }
        }
    }

    async fn round(&self, client: &mut Client) -> Result<(), Abandoned> {
        let token = self.token(client).await?;
        let mut path = "/api/products?limit=100".to_owned();
        loop {
            let ask = Ask::new(Operation::Browse, &path);
            let page = client.ask(&ask, PATIENCE).await?;
            if page.status != 200 {
                return Err(client.surprised(ask.operation, &page));
            }
            for product in page.body["items"].as_array().into_iter().flatten() {
                let id = product["id"].as_str().unwrap_or_default();
                if product["available"]
                    .as_u64()
                    .is_some_and(|available| available < LOW)
                {
                    self.fill_up(client, &token, id).await?;
                }
            }
            match page.body["next_cursor"].as_str() {
                Some(cursor) => path = format!("/api/products?limit=100&cursor={cursor}"),
                None => return Ok(()),
            }
        }
    }

    async fn fill_up(
        &self,
        client: &mut Client,
        token: &Arc<str>,
        product: &str,
    ) -> Result<(), Abandoned> {
        let ask = Ask::new(
            Operation::Restock,
            format!("/api/products/{product}/restock"),
        );
        let key = sinew_core::new_id().to_string();
        let ask = ask
            .token(token)
            .key(key)
            .body(json!({ "quantity": DELIVERY }));
        let answer = client.ask(&ask, PATIENCE).await?;
        match answer.status.as_u16() {
            200 => Ok(()),
            _ => Err(client.surprised(ask.operation, &answer)),
        }
    }
}
