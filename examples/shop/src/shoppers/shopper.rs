//! One shopper: an account, a token, and one purchase after another.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use super::{
    Acknowledged, Operation, Shared,
    client::{Abandoned, Answer, Ask, Client},
    staff::Staff,
};

/// How long a shopper keeps trying one thing before starting over.
const PATIENCE: Duration = Duration::from_secs(40);
/// Tokens last an hour; a new one is fetched in good time.
const TOKEN_AGE: Duration = Duration::from_secs(45 * 60);

pub(super) struct Shopper {
    shared: Arc<Shared>,
    client: Client,
    staff: Arc<Staff>,
    random: StdRng,
    email: String,
    password: String,
    session: Option<Session>,
    orders: u64,
    /// An order was given up whose end is not known: it may still empty the cart.
    loose_end: bool,
    /// Tells this run's keys from those of an earlier one over the same data.
    run: String,
}

struct Session {
    token: Arc<str>,
    since: Duration,
}

impl Shopper {
    pub(super) fn new(shared: Arc<Shared>, staff: Arc<Staff>, number: u32) -> Self {
        let seed = shared.options.seed;
        // Far apart for neighbours, whatever the generator makes of its seed.
        let own = seed ^ (u64::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let run = sinew_core::new_id().simple().to_string();
        Self {
            client: shared.client(),
            staff,
            random: StdRng::seed_from_u64(own),
            email: format!("shopper-{number}-{run}@example.com"),
            password: format!("correct horse {seed} {number}"),
            session: None,
            orders: 0,
            loose_end: false,
            run,
            shared,
        }
    }

    /// Shops until told to stop; finishes the purchase at hand first.
    pub(super) async fn run(mut self) {
        while !self.shared.stop.is_cancelled() {
            if self.purchase().await.is_err() {
                // What failed is counted where it failed; a shopper takes a breath and starts over.
                let breath = Duration::from_millis(self.random.random_range(50..250));
                tokio::select! {
                    () = self.shared.clock.sleep(breath) => {}
                    () = self.shared.stop.cancelled() => {}
                }
            }
        }
    }

    async fn purchase(&mut self) -> Result<(), Abandoned> {
        let Some(ticket) = self.shared.take_ticket() else {
            // The last orders are in others' hands; one of them may still come back.
            self.shared.clock.sleep(Duration::from_millis(20)).await;
            return Ok(());
        };
        let token = self.token().await?;
        let products = self.browse().await?;
        if products.is_empty() {
            let now = self.shared.clock.monotonic();
            let nothing = "the catalogue is empty".to_owned();
            self.client.recorder.failed(Operation::Browse, now, nothing);
            return Err(Abandoned);
        }
        let lines = self.fill_cart(&token, &products).await?;
        let loose_end = std::mem::replace(&mut self.loose_end, true);
        let Some(order) = self.order(&token, lines, loose_end).await? else {
            return Ok(());
        };
        self.loose_end = false;
        let state = order.text("state");
        if matches!(state.as_str(), "paid" | "payment_failed")
            && order.text("failure") != "payment_unavailable"
        {
            ticket.used();
        }
        if state == "paid" {
            self.after_payment(&token, order.text("id"), &order.body)
                .await?;
        }
        Ok(())
    }

    /// A valid token: from the last log in, or by logging in, with a new account the first time.
    async fn token(&mut self) -> Result<Arc<str>, Abandoned> {
        let now = self.shared.clock.monotonic();
        if let Some(session) = &self.session {
            if now.saturating_sub(session.since) < TOKEN_AGE {
                return Ok(session.token.clone());
            }
        } else {
            self.register().await?;
        }
        let body = json!({ "email": self.email, "password": self.password });
        let ask = Ask::new(Operation::LogIn, "/api/users/login")
            .body(body)
            .repeatable();
        let answer = self.client.ask(&ask, PATIENCE).await?;
        self.keep_token(&answer, ask.operation)
    }

    async fn register(&mut self) -> Result<(), Abandoned> {
        let name = format!("Shopper {}", &self.email[8..self.email.len().min(16)]);
        let body = json!({ "name": name, "email": self.email, "password": self.password });
        let ask = Ask::new(Operation::Register, "/api/users")
            .body(body)
            .repeatable();
        let answer = self.client.ask(&ask, PATIENCE).await?;
        match answer.status.as_u16() {
            201 => {
                self.client
                    .recorder
                    .acknowledge(Acknowledged::User(answer.text("id")));
                Ok(())
            }
            // The account was made by an attempt whose answer was lost, or before an earlier log in
            // failed.
            409 if answer.code() == "shop.email_taken" => Ok(()),
            _ => Err(self.surprised(ask.operation, &answer)),
        }
    }

    fn keep_token(&mut self, answer: &Answer, operation: Operation) -> Result<Arc<str>, Abandoned> {
        if answer.status != 200 {
            self.session = None;
            return Err(self.surprised(operation, answer));
        }
        let token: Arc<str> = answer.text("access_token").into();
        let since = self.shared.clock.monotonic();
        self.session = Some(Session {
            token: token.clone(),
            since,
        });
        Ok(token)
    }

    /// Looks at one or two pages of the catalogue and at a few products.
    async fn browse(&mut self) -> Result<Vec<Value>, Abandoned> {
        let mut path = "/api/products?limit=20".to_owned();
        let mut products: Vec<Value> = Vec::new();
        for _ in 0..2 {
            let page = self.get(Operation::Browse, &path, None).await?;
            products.extend(page["items"].as_array().into_iter().flatten().cloned());
            let Some(cursor) = page["next_cursor"].as_str() else {
                break;
            };
            path = format!("/api/products?limit=20&cursor={cursor}");
            self.think().await;
        }
        for _ in 0..self.random.random_range(0..3) {
            if products.is_empty() {
                break;
            }
            let chosen = self.random.random_range(0..products.len());
            let id = id_of(&products[chosen]);
            self.get(Operation::View, &format!("/api/products/{id}"), None)
                .await?;
            self.think().await;
        }
        Ok(products)
    }

    /// Fills the cart, or, one time in four, makes up a list to order directly.
    async fn fill_cart(
        &mut self,
        token: &Arc<str>,
        products: &[Value],
    ) -> Result<Option<Value>, Abandoned> {
        let count = self.random.random_range(1..=3.min(products.len()));
        let chosen = rand::seq::index::sample(&mut self.random, products.len(), count);
        let chosen: Vec<(String, u32)> = chosen
            .into_iter()
            .map(|index| (id_of(&products[index]), self.random.random_range(1..=3)))
            .collect();
        if self.random.random_bool(0.25) {
            let lines = chosen
                .iter()
                .map(|(id, n)| json!({ "product_id": id, "quantity": n }));
            return Ok(Some(lines.collect()));
        }
        for (id, quantity) in &chosen {
            let body = json!({ "product_id": id, "quantity": quantity });
            let ask = Ask::new(Operation::AddToCart, "/api/carts/me/items")
                .token(token)
                .body(body);
            self.expect_ok(&ask).await?;
            self.think().await;
        }
        if self.random.random_bool(0.2) {
            let path = format!("/api/carts/me/items/{}", chosen[0].0);
            let quantity = self.random.random_range(1..=4);
            let body = json!({ "quantity": quantity });
            self.expect_ok(
                &Ask::new(Operation::ChangeCart, path)
                    .token(token)
                    .body(body),
            )
            .await?;
        }
        if chosen.len() > 1 && self.random.random_bool(0.1) {
            let path = format!("/api/carts/me/items/{}", chosen[1].0);
            self.expect_ok(&Ask::new(Operation::RemoveFromCart, path).token(token))
                .await?;
        }
        self.get(Operation::Cart, "/api/carts/me", Some(token))
            .await?;
        Ok(None)
    }

    /// Orders, and asks again under the same key until it is known how the order ended. `None` when
    /// an earlier order that was given up (`loose_end`) had emptied the cart.
    async fn order(
        &mut self,
        token: &Arc<str>,
        lines: Option<Value>,
        loose_end: bool,
    ) -> Result<Option<Answer>, Abandoned> {
        self.orders += 1;
        let key = format!("{}-{}", self.run, self.orders);
        let body = lines.map_or_else(|| json!({}), |lines| json!({ "lines": lines }));
        let ask = Ask::new(Operation::Order, "/api/orders")
            .token(token)
            .key(key)
            .body(body);
        let began = self.shared.clock.monotonic();
        let answer = loop {
            let answer = self.client.ask(&ask, PATIENCE).await?;
            if answer.status != 202 {
                break answer;
            }
            // Still at work, somewhere.
            if self.shared.clock.monotonic().saturating_sub(began) > PATIENCE {
                let why = "the order did not come to rest".to_owned();
                self.client.recorder.failed(ask.operation, began, why);
                return Err(Abandoned);
            }
            self.shared.clock.sleep(Duration::from_millis(100)).await;
        };
        let recorder = self.client.recorder.clone();
        let took = self.shared.clock.monotonic().saturating_sub(began);
        match (answer.status.as_u16(), answer.code()) {
            (200 | 201, _) => {}
            (412, "shop.stock_insufficient") => {
                recorder.count(|outcomes| outcomes.out_of_stock += 1);
                self.empty_cart(token).await?;
                return Ok(Some(answer));
            }
            (412, "shop.cart_empty") if loose_end => return Ok(None),
            _ => return Err(self.surprised(ask.operation, &answer)),
        }
        let (id, state, failure) = (
            answer.text("id"),
            answer.text("state"),
            answer.text("failure"),
        );
        recorder.acknowledge(Acknowledged::Order {
            id,
            state: state.clone(),
        });
        match (state.as_str(), failure.as_str()) {
            ("paid", _) => recorder.count(|outcomes| outcomes.paid += 1),
            ("payment_failed", "payment_declined") => {
                recorder.count(|outcomes| outcomes.declined += 1)
            }
            ("rejected", "stock_insufficient") => {
                recorder.count(|outcomes| outcomes.out_of_stock += 1);
                return Ok(Some(answer));
            }
            ("payment_failed" | "rejected", "payment_unavailable" | "stock_unavailable") => {
                recorder.count(|outcomes| outcomes.unavailable += 1);
                recorder.failed(ask.operation, began, format!("{state}: {failure}"));
                return Ok(Some(answer));
            }
            _ => return Err(self.surprised(ask.operation, &answer)),
        }
        recorder.order_took(took);
        Ok(Some(answer))
    }

    /// After a shortage: what cannot be had is not asked for again and again.
    async fn empty_cart(&mut self, token: &Arc<str>) -> Result<(), Abandoned> {
        self.expect_ok(&Ask::new(Operation::RemoveFromCart, "/api/carts/me").token(token))
            .await
    }

    /// What people do with an order that is paid.
    async fn after_payment(
        &mut self,
        token: &Arc<str>,
        id: String,
        order: &Value,
    ) -> Result<(), Abandoned> {
        self.think().await;
        match self.random.random_range(0..100) {
            0..8 => self.cancel(token, &id).await?,
            8..18 => {
                self.staff
                    .refund(&mut self.client, &id, order, &mut self.random)
                    .await?
            }
            18..28 => {
                self.staff.ship(&mut self.client, &id).await?;
                self.deliver(token, &id).await?;
            }
            28..38 => {
                self.get(
                    Operation::ViewOrder,
                    &format!("/api/orders/{id}"),
                    Some(token),
                )
                .await?;
            }
            38..44 => {
                self.get(
                    Operation::ViewPayment,
                    &format!("/api/payments/{id}"),
                    Some(token),
                )
                .await?;
            }
            44..48 => {
                self.get(Operation::ListOrders, "/api/orders?limit=10", Some(token))
                    .await?;
            }
            48 => self.change_password(token).await?,
            _ => {}
        }
        Ok(())
    }

    async fn cancel(&mut self, token: &Arc<str>, id: &str) -> Result<(), Abandoned> {
        let path = format!("/api/orders/{id}/cancel");
        let ask = Ask::new(Operation::Cancel, path).token(token).repeatable();
        let answer = self.client.ask(&ask, PATIENCE).await?;
        match (answer.status.as_u16(), answer.code()) {
            (200 | 202, _) => {
                let state = answer.text("state");
                let recorder = &self.client.recorder;
                recorder.acknowledge(Acknowledged::Order {
                    id: id.to_owned(),
                    state,
                });
                recorder.count(|outcomes| outcomes.cancelled += 1);
                Ok(())
            }
            (412, "shop.order_state") if answer.repeated => Ok(()),
            _ => Err(self.surprised(ask.operation, &answer)),
        }
    }

    async fn deliver(&mut self, token: &Arc<str>, id: &str) -> Result<(), Abandoned> {
        let path = format!("/api/orders/{id}/deliver");
        let ask = Ask::new(Operation::ConfirmDelivery, path)
            .token(token)
            .repeatable();
        let answer = self.client.ask(&ask, PATIENCE).await?;
        match (answer.status.as_u16(), answer.code()) {
            (200, _) => {
                let state = answer.text("state");
                let recorder = &self.client.recorder;
                recorder.acknowledge(Acknowledged::Order {
                    id: id.to_owned(),
                    state,
                });
                recorder.count(|outcomes| outcomes.delivered += 1);
                Ok(())
            }
            (412, "shop.order_state") if answer.repeated => Ok(()),
            _ => Err(self.surprised(ask.operation, &answer)),
        }
    }

    async fn change_password(&mut self, token: &Arc<str>) -> Result<(), Abandoned> {
        let new = format!("{}*", self.password);
        if new.len() > 100 {
            return Ok(());
        }
        let body = json!({ "current_password": self.password, "new_password": new });
        let ask = Ask::new(Operation::ChangePassword, "/api/users/me/password");
        let ask = Ask {
            repeatable: false,
            ..ask.token(token).body(body)
        };
        // Whether it happened is not known when the answer is lost: a new account is the way out.
        let answer = match self.client.ask(&ask, PATIENCE).await {
            Ok(answer) => answer,
            Err(abandoned) => {
                self.session = None;
                self.email = format!("again-{}", self.email);
                return Err(abandoned);
            }
        };
        self.password = new;
        self.keep_token(&answer, ask.operation).map(drop)
    }

    async fn get(
        &mut self,
        operation: Operation,
        path: &str,
        token: Option<&Arc<str>>,
    ) -> Result<Value, Abandoned> {
        let mut ask = Ask::new(operation, path);
        ask.token = token.cloned();
        let answer = self.client.ask(&ask, PATIENCE).await?;
        if answer.status == 200 {
            Ok(answer.body)
        } else {
            Err(self.surprised(operation, &answer))
        }
    }

    async fn expect_ok(&mut self, ask: &Ask) -> Result<(), Abandoned> {
        let answer = self.client.ask(ask, PATIENCE).await?;
        let gone = answer.repeated && answer.code() == "shop.item_unknown";
        if answer.status == 200 || gone {
            Ok(())
        } else {
            Err(self.surprised(ask.operation, &answer))
        }
    }

    /// An answer that should not have come.
    fn surprised(&mut self, operation: Operation, answer: &Answer) -> Abandoned {
        if answer.status == 401 {
            self.session = None;
            self.email = format!("again-{}", self.email);
        }
        self.client.surprised(operation, answer)
    }

    async fn think(&mut self) {
        let most = self.shared.options.think;
        if !most.is_zero() {
            let time = most.mul_f64(self.random.random_range(0.0..=1.0));
            self.shared.clock.sleep(time).await;
        }
    }
}

fn id_of(product: &Value) -> String {
    product["id"].as_str().unwrap_or_default().to_owned()
}
