//! The payment of one order.

use serde::{Deserialize, Serialize};

use super::{money::Money, stock::UnknownState};

/// Where a payment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// The bank is being asked.
    Pending,
    /// The money is taken.
    Captured,
    /// The bank said no.
    Declined,
    /// No money is held, and none will be: a charge that comes later is refused.
    Voided,
}

/// The state of a payment. `0 ≤ refunded ≤ captured ≤ amount` always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Payment {
    pub(crate) status: Status,
    /// What was asked for; `None` when it was voided before it was ever asked for.
    pub(crate) amount: Option<Money>,
    pub(crate) captured: i64,
    pub(crate) refunded: i64,
}

/// What a charge leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charge {
    /// Record this (when it is new), then ask the bank.
    AskBank(Payment),
    /// The outcome is known: answer it.
    Settled,
    /// It was voided: no charge can succeed any more.
    Voided,
    /// The order was charged with another amount.
    Differs,
}

/// Why money cannot be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRefund {
    /// More than what is left of the capture.
    Exceeds,
    /// Nothing is captured.
    State(Status),
}

impl Payment {
    /// A charge of `amount` on top of what is known.
    pub(crate) fn charge(known: Option<&Self>, amount: Money) -> Charge {
        match known {
            None => Charge::AskBank(Self {
                status: Status::Pending,
                amount: Some(amount),
                captured: 0,
                refunded: 0,
            }),
            Some(known) if known.status == Status::Voided => Charge::Voided,
            Some(known) if known.amount != Some(amount) => Charge::Differs,
            // The bank was asked, and whoever asked may be gone. The bank is idempotent by order.
            Some(known) if known.status == Status::Pending => Charge::AskBank(*known),
            Some(_) => Charge::Settled,
        }
    }

    /// What the bank's answer makes of it. Only a pending payment takes one: an authorisation that
    /// is voided before it was captured lapses at the bank.
    pub(crate) fn answered(self, approved: bool) -> Self {
        match (self.status, approved) {
            (Status::Pending, true) => Self {
                status: Status::Captured,
                captured: self.amount.map_or(0, |amount| amount.cents),
                ..self
            },
            (Status::Pending, false) => Self {
                status: Status::Declined,
                ..self
            },
            _ => self,
        }
    }

    /// The payment once it is void, and how many cents must go back for that. A declined payment
    /// stays as it is: it holds no money and never will.
    pub(crate) fn voided(known: Option<&Self>) -> (Self, i64) {
        match known {
            None => (
                Self {
                    status: Status::Voided,
                    amount: None,
                    captured: 0,
                    refunded: 0,
                },
                0,
            ),
            Some(known) if known.status == Status::Declined => (*known, 0),
            Some(known) => {
                let back = known.captured - known.refunded;
                (
                    Self {
                        status: Status::Voided,
                        refunded: known.captured,
                        ..*known
                    },
                    back,
                )
            }
        }
    }

    /// The payment after `cents` of it went back.
    pub(crate) fn refund(self, cents: i64) -> Result<Self, NoRefund> {
        if self.status != Status::Captured {
            return Err(NoRefund::State(self.status));
        }
        if cents <= 0 || cents > self.captured - self.refunded {
            return Err(NoRefund::Exceeds);
        }
        Ok(Self {
            refunded: self.refunded + cents,
            ..self
        })
    }
}

impl Status {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Captured => "captured",
            Self::Declined => "declined",
            Self::Voided => "voided",
        }
    }
}

impl std::str::FromStr for Status {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        [Self::Pending, Self::Captured, Self::Declined, Self::Voided]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::money::Currency;

    #[derive(Clone, Copy, Debug)]
    enum Call {
        Charge(i64),
        Answer(bool),
        Void,
        Refund(i64),
    }

    fn call() -> impl Strategy<Value = Call> {
        prop_oneof![
            prop_oneof![Just(500i64), Just(700)].prop_map(Call::Charge),
            any::<bool>().prop_map(Call::Answer),
            Just(Call::Void),
            (-10i64..800).prop_map(Call::Refund),
        ]
    }

    proptest! {
        /// Whatever is called in whatever order: refunds never exceed the capture, the capture is
        /// the amount or nothing, and a void payment stays void and holds nothing.
        #[test]
        fn money_is_bounded_and_void_is_final(calls in prop::collection::vec(call(), 0..40)) {
            let mut payment: Option<Payment> = None;
            for call in calls {
                let before = payment;
                match call {
                    Call::Charge(cents) => {
                        let amount = Money::new(cents, Currency::EUR);
                        if let Charge::AskBank(next) = Payment::charge(payment.as_ref(), amount) {
                            payment = Some(next);
                        }
                    }
                    Call::Answer(approved) => payment = payment.map(|p| p.answered(approved)),
                    Call::Void => payment = Some(Payment::voided(payment.as_ref()).0),
                    Call::Refund(cents) => {
                        if let Some(Ok(next)) = payment.map(|p| p.refund(cents)) {
                            payment = Some(next);
                        }
                    }
                }
                if let Some(p) = payment {
                    let amount = p.amount.map_or(0, |amount| amount.cents);
                    prop_assert!(0 <= p.refunded && p.refunded <= p.captured);
                    prop_assert!(p.captured == 0 || p.captured == amount);
                    prop_assert_eq!(p.captured > 0 && p.status != Status::Voided, p.status == Status::Captured);
                    if p.status == Status::Voided {
                        prop_assert_eq!(p.captured, p.refunded);
                    }
                }
                if let Some(b) = before && matches!(b.status, Status::Voided | Status::Declined) {
                    prop_assert_eq!(payment, before);
                }
            }
        }
    }

    #[test]
    fn a_charge_after_the_void_is_refused() {
        let (void, back) = Payment::voided(None);
        assert_eq!(back, 0);
        let amount = Money::new(100, Currency::EUR);
        assert_eq!(Payment::charge(Some(&void), amount), Charge::Voided);
    }

    #[test]
    fn a_void_of_a_capture_gives_back_what_is_left() {
        let amount = Money::new(100, Currency::EUR);
        let Charge::AskBank(pending) = Payment::charge(None, amount) else {
            panic!("a first charge asks the bank")
        };
        let captured = pending.answered(true).refund(30).unwrap();
        let (void, back) = Payment::voided(Some(&captured));
        assert_eq!(
            (void.status, void.refunded, back),
            (Status::Voided, 100, 70)
        );
        assert_eq!(void.answered(true), void);
    }
}
