//! Bodies of requests and replies that more than one service knows.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    domain::{
        cart::Line,
        money::Money,
        order::{Failure, State},
        payment::Status,
    },
    storage::{
        orders::{Order, StoredRefund},
        payments::Record,
    },
};

/// A page of a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next_cursor: Option<Uuid>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cart {
    pub(crate) items: Vec<Line>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OrderReply {
    pub(crate) id: Uuid,
    pub(crate) user_id: Uuid,
    pub(crate) state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<Failure>,
    pub(crate) lines: Vec<LineReply>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) total: Option<Money>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refunded: Option<Money>,
    pub(crate) created_ms: i64,
    pub(crate) changed_ms: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LineReply {
    pub(crate) product_id: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) quantity: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<Money>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RefundReply {
    pub(crate) id: Uuid,
    pub(crate) order_id: Uuid,
    pub(crate) amount: Money,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) state: RefundState,
    pub(crate) created_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RefundState {
    Pending,
    Done,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PaymentReply {
    pub(crate) order_id: Uuid,
    pub(crate) user_id: Uuid,
    pub(crate) status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) amount: Option<Money>,
    pub(crate) captured_cents: i64,
    pub(crate) refunded_cents: i64,
    pub(crate) created_ms: i64,
    pub(crate) changed_ms: i64,
}

impl<T> Page<T> {
    /// A page of at most `limit` items, made of one more if there are more.
    pub(crate) fn new(mut items: Vec<T>, limit: usize, id: impl Fn(&T) -> Uuid) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next_cursor = items.last().filter(|_| more).map(id);
        Self { items, next_cursor }
    }
}

impl From<Order> for OrderReply {
    fn from(order: Order) -> Self {
        let total = order.progress.total;
        let lines = order.lines.into_iter().map(|line| {
            let (name, unit) = line.priced.unzip();
            LineReply {
                product_id: line.line.product_id,
                name,
                quantity: line.line.quantity,
                unit,
            }
        });
        Self {
            id: order.id,
            user_id: order.user_id,
            state: order.progress.state,
            failure: order.progress.failure,
            lines: lines.collect(),
            total,
            refunded: total.map(|total| Money::new(order.progress.refunded, total.currency)),
            created_ms: order.created_ms,
            changed_ms: order.changed_ms,
        }
    }
}

impl RefundReply {
    pub(crate) fn new(order: Uuid, amount: Money, stored: StoredRefund) -> Self {
        Self {
            id: stored.id,
            order_id: order,
            amount,
            reason: stored.reason,
            state: if stored.done {
                RefundState::Done
            } else {
                RefundState::Pending
            },
            created_ms: stored.created_ms,
        }
    }
}

impl From<Record> for PaymentReply {
    fn from(record: Record) -> Self {
        Self {
            order_id: record.order_id,
            user_id: record.user_id,
            status: record.payment.status,
            amount: record.payment.amount,
            captured_cents: record.payment.captured,
            refunded_cents: record.payment.refunded,
            created_ms: record.created_ms,
            changed_ms: record.changed_ms,
        }
    }
}
