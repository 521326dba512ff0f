//! The other services, as orders sees them.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use sinew_core::{Error, Kind};
use sinew_sdk::{
    Client,
    client::{Request, Response},
};
use uuid::Uuid;

use crate::{
    domain::{cart::Line, money::Money, payment::Status, product::PricedLine},
    fault::{Fault, More, Result},
    shapes::{Cart, PaymentReply},
    storage::{orders::Order, products::Reservation},
};

/// How long one step may take, its repetitions included: well below a lease.
const STEP: Duration = Duration::from_secs(3);
/// The buyer waits for his cart to be cleared, but not as long as for what matters.
const CLEAR: Duration = Duration::from_secs(1);

/// Why a call brought no result.
#[derive(Debug)]
pub(crate) enum PeerError {
    /// The other service understood and said no.
    Refused(Fault),
    /// It could not be reached or did not answer well: what was asked for may have happened.
    Unknown(Error),
}

/// What came of a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charged {
    Captured,
    Declined,
}

/// What orders needs of others. Each call may be repeated without harm.
#[async_trait]
pub(crate) trait Peers: Send + Sync + 'static {
    async fn cart(&self, user: Uuid) -> Result<Vec<Line>, PeerError>;
    async fn reserve(&self, order: &Order) -> Result<Vec<PricedLine>, PeerError>;
    async fn commit(&self, order: Uuid) -> Result<(), PeerError>;
    async fn release(&self, order: Uuid) -> Result<(), PeerError>;
    async fn return_stock(&self, order: Uuid) -> Result<(), PeerError>;
    async fn charge(&self, order: &Order, amount: Money) -> Result<Charged, PeerError>;
    async fn void(&self, order: &Order) -> Result<(), PeerError>;
    async fn refund(&self, order: Uuid, refund: Uuid, amount: Money) -> Result<(), PeerError>;
    async fn purchased(&self, order: &Order) -> Result<(), PeerError>;
}

/// The other services by name, over HTTP.
#[derive(Clone, Debug)]
pub(crate) struct HttpPeers {
    client: Client,
}

impl HttpPeers {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    async fn settle(&self, order: Uuid, command: &str) -> Result<(), PeerError> {
        let path = format!("/internal/reservations/{order}/{command}");
        send(self.client.post("products", path).idempotent(true))
            .await
            .map(drop)
    }
}

#[async_trait]
impl Peers for HttpPeers {
    async fn cart(&self, user: Uuid) -> Result<Vec<Line>, PeerError> {
        let reply = send(self.client.get("carts", format!("/internal/carts/{user}"))).await?;
        Ok(reply.json::<Cart>()?.items)
    }

    async fn reserve(&self, order: &Order) -> Result<Vec<PricedLine>, PeerError> {
        let path = format!("/internal/reservations/{}", order.id);
        let body = json!({ "lines": lines(order) });
        let reply = send(self.client.put("products", path).json(&body)).await?;
        Ok(reply.json::<Reservation>()?.lines)
    }

    async fn commit(&self, order: Uuid) -> Result<(), PeerError> {
        self.settle(order, "commit").await
    }

    async fn release(&self, order: Uuid) -> Result<(), PeerError> {
        self.settle(order, "release").await
    }

    async fn return_stock(&self, order: Uuid) -> Result<(), PeerError> {
        self.settle(order, "return").await
    }

    async fn charge(&self, order: &Order, amount: Money) -> Result<Charged, PeerError> {
        let path = format!("/internal/payments/{}", order.id);
        let body = json!({ "user_id": order.user_id, "amount": amount });
        let reply = send(self.client.put("payments", path).json(&body)).await?;
        match reply.json::<PaymentReply>()?.status {
            Status::Captured => Ok(Charged::Captured),
            Status::Declined => Ok(Charged::Declined),
            other => Err(PeerError::Unknown(Error::new(
                Kind::Internal,
                "shop.payment_state",
                format!("the charge ended {}", other.as_str()),
            ))),
        }
    }

    async fn void(&self, order: &Order) -> Result<(), PeerError> {
        let path = format!("/internal/payments/{}/void", order.id);
        let body = json!({ "user_id": order.user_id });
        send(
            self.client
                .post("payments", path)
                .idempotent(true)
                .json(&body),
        )
        .await
        .map(drop)
    }

    async fn refund(&self, order: Uuid, refund: Uuid, amount: Money) -> Result<(), PeerError> {
        let path = format!("/internal/payments/{order}/refunds/{refund}");
        let body = json!({ "amount": amount });
        send(self.client.put("payments", path).json(&body))
            .await
            .map(drop)
    }

    async fn purchased(&self, order: &Order) -> Result<(), PeerError> {
        let path = format!("/internal/carts/{}/purchased", order.user_id);
        let body = json!({ "order_id": order.id, "lines": lines(order) });
        let request = self
            .client
            .post("carts", path)
            .idempotent(true)
            .json(&body)
            .internal();
        checked(request.timeout(CLEAR).send().await?).map(drop)
    }
}

fn lines(order: &Order) -> Vec<Line> {
    order.lines.iter().map(|line| line.line).collect()
}

async fn send(request: Request) -> Result<Response, PeerError> {
    checked(request.internal().timeout(STEP).send().await?)
}

/// A refusal keeps what its problem document says beside the usual, such as the shortages.
fn checked(response: Response) -> Result<Response, PeerError> {
    let more = serde_json::from_slice::<More>(response.bytes()).unwrap_or_default();
    let error = match response.error_for_status() {
        Ok(response) => return Ok(response),
        Err(error) => error,
    };
    match error.kind() {
        Kind::InvalidArgument
        | Kind::NotFound
        | Kind::AlreadyExists
        | Kind::FailedPrecondition
        | Kind::OutOfRange => Err(PeerError::Refused(
            Fault::from(error).with_shortages(more.shortages),
        )),
        _ => Err(PeerError::Unknown(error)),
    }
}

impl PeerError {
    /// Everything, for the log.
    pub(crate) fn detail(&self) -> String {
        match self {
            Self::Refused(fault) => fault.error().detail(),
            Self::Unknown(error) => error.detail(),
        }
    }
}

impl From<Error> for PeerError {
    fn from(error: Error) -> Self {
        Self::Unknown(error)
    }
}
