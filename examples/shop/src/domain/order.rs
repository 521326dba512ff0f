//! The life of an order, as one pure state machine.
//!
//! An order is always in one [`Progress`]; [`Progress::next`] says what must be done for it now, and
//! [`step`] what it becomes when that has happened or somebody asks for something. What is to be done
//! follows from the stored progress alone, so after a crash any replica goes on where the order
//! stands. Every effect is idempotent by the order's id (a refund by its own id).
//!
//! A decision to give up is stored before anything is taken back: from `Voiding` and `Releasing` no
//! path leads to `Paid`, whatever answers arrive late.

use serde::{Deserialize, Serialize};
use sinew_core::Kind;
use uuid::Uuid;

use super::{money::Money, stock::UnknownState};
use crate::fault::Fault;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Stock is being reserved.
    Reserving,
    /// Stock is reserved, the payment is being charged.
    Charging,
    /// Paid for; the reserved stock is being sold.
    Confirming,
    /// Whether the charge happened is not known; the payment is being made void.
    Voiding,
    /// Given up; the stock is being released.
    Releasing,
    Paid,
    Shipped,
    Delivered,
    /// Called off; money and stock go back.
    Cancelling,
    Cancelled,
    /// Not paid for, and no money is held.
    PaymentFailed,
    /// Refused before any payment.
    Rejected,
}

/// Why an order came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Failure {
    StockInsufficient,
    PriceChanged,
    CurrenciesMixed,
    /// Products could not be reached.
    StockUnavailable,
    PaymentDeclined,
    /// Payments could not be reached, or its bank.
    PaymentUnavailable,
}

/// Money that is on its way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refund {
    pub(crate) id: Uuid,
    pub(crate) cents: i64,
}

/// Everything that decides how an order goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) state: State,
    pub(crate) failure: Option<Failure>,
    /// What the caller expects to pay, if he said so.
    pub(crate) expected: Option<Money>,
    /// Known once the stock is reserved.
    pub(crate) total: Option<Money>,
    /// Refunds that are done.
    pub(crate) refunded: i64,
    /// The one refund that is at work.
    pub(crate) refund: Option<Refund>,
    /// Once paid, what was bought must leave the buyer's cart.
    pub(crate) clear_cart: bool,
}

/// What happened, or what somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Reserved {
        total: Money,
    },
    ReserveRefused(Failure),
    /// Products did not answer: it may have reserved.
    ReserveUnknown,
    Captured,
    Declined,
    /// Payments did not answer, or its bank did not: it may have charged.
    ChargeUnknown,
    StockCommitted,
    Voided,
    Released,
    CartCleared,
    Refunded {
        id: Uuid,
    },
    StockReturned,

    Cancel {
        refund_id: Uuid,
    },
    Ship,
    Deliver,
    Refund(Refund),
}

/// What must be done for an order now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Reserve,
    Charge(Money),
    CommitStock,
    Void,
    Release,
    ClearCart,
    Refund { id: Uuid, amount: Money },
    ReturnStock,
}

impl Progress {
    pub(crate) const fn new(expected: Option<Money>, clear_cart: bool) -> Self {
        Self {
            state: State::Reserving,
            failure: None,
            expected,
            total: None,
            refunded: 0,
            refund: None,
            clear_cart,
        }
    }

    /// What must be done now; `None` when the order rests.
    pub(crate) fn next(&self) -> Option<Effect> {
        let refund = || {
            let (refund, total) = (self.refund?, self.total?);
            let amount = Money::new(refund.cents, total.currency);
            Some(Effect::Refund {
                id: refund.id,
                amount,
            })
        };
        match self.state {
            State::Reserving => Some(Effect::Reserve),
            // An order reaches Charging with a total only.
            State::Charging => self.total.map(Effect::Charge),
            State::Confirming => Some(Effect::CommitStock),
            State::Voiding => Some(Effect::Void),
            State::Releasing => Some(Effect::Release),
            State::Cancelling => refund().or(Some(Effect::ReturnStock)),
            State::Paid | State::Shipped | State::Delivered | State::Cancelled => {
                refund().or_else(|| self.clear_cart.then_some(Effect::ClearCart))
            }
            State::PaymentFailed | State::Rejected => None,
        }
    }

    /// What the order still brings in, in cents.
    fn value(&self) -> i64 {
        self.total.map_or(0, |total| total.cents) - self.refunded
    }
}

/// What the order becomes by `event`, and what must be done then. An event that asks for what is so
/// already changes nothing. Errors: `shop.order_state`, `shop.order_busy`, `shop.refund_exceeds`.
pub(crate) fn step(from: &Progress, event: Event) -> Result<(Progress, Option<Effect>), Fault> {
    let to = transition(from, event)?;
    Ok((to, to.next()))
}

fn transition(from: &Progress, event: Event) -> Result<Progress, Fault> {
    use State as S;
    let to = |state| Ok(Progress { state, ..*from });
    let give_up = |state, failure| {
        Ok(Progress {
            state,
            failure: Some(failure),
            ..*from
        })
    };
    match (from.state, event) {
        (S::Reserving, Event::Reserved { total }) => {
            let priced = Progress {
                total: Some(total),
                ..*from
            };
            match from.expected {
                Some(expected) if expected != total => Ok(Progress {
                    state: S::Releasing,
                    failure: Some(Failure::PriceChanged),
                    ..priced
                }),
                _ => Ok(Progress {
                    state: S::Charging,
                    ..priced
                }),
            }
        }
        (S::Reserving, Event::ReserveRefused(failure)) => give_up(S::Rejected, failure),
        (S::Reserving, Event::ReserveUnknown) => give_up(S::Releasing, Failure::StockUnavailable),

        (S::Charging, Event::Captured) => to(S::Confirming),
        (S::Charging, Event::Declined) => give_up(S::Releasing, Failure::PaymentDeclined),
        (S::Charging, Event::ChargeUnknown) => give_up(S::Voiding, Failure::PaymentUnavailable),

        (S::Confirming, Event::StockCommitted) => to(S::Paid),
        (S::Voiding, Event::Voided) => to(S::Releasing),
        (S::Releasing, Event::Released) => to(match from.failure {
            Some(Failure::PaymentDeclined | Failure::PaymentUnavailable) => S::PaymentFailed,
            _ => S::Rejected,
        }),

        (_, Event::CartCleared) if from.clear_cart => Ok(Progress {
            clear_cart: false,
            ..*from
        }),
        (_, Event::Refunded { id }) if from.refund.is_some_and(|refund| refund.id == id) => {
            let cents = from.refund.map_or(0, |refund| refund.cents);
            Ok(Progress {
                refunded: from.refunded + cents,
                refund: None,
                ..*from
            })
        }
        (S::Cancelling, Event::StockReturned) if from.refund.is_none() => to(S::Cancelled),

        (S::Cancelling | S::Cancelled, Event::Cancel { .. })
        | (S::Shipped, Event::Ship)
        | (S::Delivered, Event::Deliver) => Ok(*from),
        (S::Paid, Event::Cancel { .. }) if from.refund.is_some() => Err(busy()),
        (S::Paid, Event::Cancel { refund_id }) => {
            let cents = from.value();
            let refund = (cents > 0).then_some(Refund {
                id: refund_id,
                cents,
            });
            Ok(Progress {
                state: S::Cancelling,
                refund,
                ..*from
            })
        }
        (S::Paid, Event::Ship) => to(S::Shipped),
        (S::Shipped, Event::Deliver) => to(S::Delivered),
        (S::Paid | S::Shipped | S::Delivered, Event::Refund(_)) if from.refund.is_some() => {
            Err(busy())
        }
        (S::Paid | S::Shipped | S::Delivered, Event::Refund(refund)) => {
            if refund.cents <= 0 || refund.cents > from.value() {
                return Err(Fault::new(
                    Kind::FailedPrecondition,
                    "shop.refund_exceeds",
                    "no more can be refunded than what was paid and not refunded before",
                ));
            }
            Ok(Progress {
                refund: Some(refund),
                ..*from
            })
        }

        (state, event) if event.asked() && !state.settled() => Err(busy()),
        (state, event) => Err(Fault::new(
            Kind::FailedPrecondition,
            "shop.order_state",
            format!(
                "an order that is {} cannot {}",
                state.in_words(),
                event.in_words()
            ),
        )),
    }
}

fn busy() -> Fault {
    Fault::new(
        Kind::Aborted,
        "shop.order_busy",
        "the order is being worked on, try again in a moment",
    )
}

impl Event {
    /// Whether it is a wish, not something that happened.
    const fn asked(self) -> bool {
        matches!(
            self,
            Self::Cancel { .. } | Self::Ship | Self::Deliver | Self::Refund(_)
        )
    }

    const fn in_words(self) -> &'static str {
        match self {
            Self::Cancel { .. } => "be cancelled",
            Self::Ship => "be shipped",
            Self::Deliver => "be delivered",
            Self::Refund(_) => "be refunded",
            _ => "take this step",
        }
    }
}

impl State {
    const ALL: [Self; 12] = [
        Self::Reserving,
        Self::Charging,
        Self::Confirming,
        Self::Voiding,
        Self::Releasing,
        Self::Paid,
        Self::Shipped,
        Self::Delivered,
        Self::Cancelling,
        Self::Cancelled,
        Self::PaymentFailed,
        Self::Rejected,
    ];

    /// Whether the order stays in this state until somebody asks for something.
    pub(crate) const fn settled(self) -> bool {
        matches!(
            self,
            Self::Paid
                | Self::Shipped
                | Self::Delivered
                | Self::Cancelled
                | Self::PaymentFailed
                | Self::Rejected
        )
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Reserving => "reserving",
            Self::Charging => "charging",
            Self::Confirming => "confirming",
            Self::Voiding => "voiding",
            Self::Releasing => "releasing",
            Self::Paid => "paid",
            Self::Shipped => "shipped",
            Self::Delivered => "delivered",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::PaymentFailed => "payment_failed",
            Self::Rejected => "rejected",
        }
    }

    const fn in_words(self) -> &'static str {
        match self {
            Self::PaymentFailed => "not paid",
            other => other.as_str(),
        }
    }
}

impl std::str::FromStr for State {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
}

impl Failure {
    const ALL: [Self; 6] = [
        Self::StockInsufficient,
        Self::PriceChanged,
        Self::CurrenciesMixed,
        Self::StockUnavailable,
        Self::PaymentDeclined,
        Self::PaymentUnavailable,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::StockInsufficient => "stock_insufficient",
            Self::PriceChanged => "price_changed",
            Self::CurrenciesMixed => "currencies_mixed",
            Self::StockUnavailable => "stock_unavailable",
            Self::PaymentDeclined => "payment_declined",
            Self::PaymentUnavailable => "payment_unavailable",
        }
    }
}

impl std::str::FromStr for Failure {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .into_iter()
            .find(|failure| failure.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
}

#[cfg(test)]
mod tests;
