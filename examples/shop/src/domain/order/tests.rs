use proptest::prelude::*;

use super::*;
use crate::domain::money::Currency;

fn eur(cents: i64) -> Money {
    Money::new(cents, Currency::EUR)
}

/// The other services, as far as one order sees them.
#[derive(Clone, Copy, Debug, Default)]
struct World {
    /// 0 nothing, 1 reserved, 2 sold, 3 released, 4 returned.
    stock: u8,
    captured: i64,
    refunded: i64,
    declined: bool,
    void: bool,
    /// The last refund that was done.
    seen: Option<Uuid>,
}

/// How the performing of an effect ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Luck {
    Fine,
    /// The other service says no.
    Refused,
    /// It was done, but the answer is lost.
    AnswerLost,
    /// It was not even asked.
    Unreachable,
}

impl World {
    /// Performs an effect as the other services would; the event that comes of it, if any.
    fn perform(&mut self, effect: Effect, luck: Luck) -> Option<Event> {
        let heard = luck == Luck::Fine;
        if luck == Luck::Unreachable {
            return match effect {
                Effect::Reserve => Some(Event::ReserveUnknown),
                Effect::Charge(_) => Some(Event::ChargeUnknown),
                _ => None,
            };
        }
        match effect {
            Effect::Reserve if luck == Luck::Refused && self.stock == 0 => {
                Some(Event::ReserveRefused(Failure::StockInsufficient))
            }
            Effect::Reserve => {
                assert!(self.stock <= 1, "reserved after {}", self.stock);
                self.stock = 1;
                let total = eur(1000);
                Some(if luck == Luck::AnswerLost {
                    Event::ReserveUnknown
                } else {
                    Event::Reserved { total }
                })
            }
            Effect::Charge(amount) => {
                assert!(!self.void, "charged after the void");
                if luck == Luck::Refused && self.captured == 0 {
                    self.declined = true;
                }
                if !self.declined {
                    self.captured = amount.cents;
                }
                Some(match luck {
                    Luck::AnswerLost => Event::ChargeUnknown,
                    _ if self.declined => Event::Declined,
                    _ => Event::Captured,
                })
            }
            Effect::CommitStock => {
                assert!(matches!(self.stock, 1 | 2), "sold after {}", self.stock);
                self.stock = 2;
                heard.then_some(Event::StockCommitted)
            }
            Effect::Void => {
                self.void = true;
                self.refunded = self.captured;
                heard.then_some(Event::Voided)
            }
            Effect::Release => {
                assert!(
                    matches!(self.stock, 0 | 1 | 3),
                    "released after {}",
                    self.stock
                );
                self.stock = 3;
                heard.then_some(Event::Released)
            }
            Effect::ReturnStock => {
                assert!(matches!(self.stock, 2 | 4), "returned after {}", self.stock);
                self.stock = 4;
                heard.then_some(Event::StockReturned)
            }
            Effect::Refund { id, amount } => {
                // Idempotent by id: the test gives each refund an id of its own.
                if self.seen != Some(id) {
                    self.refunded += amount.cents;
                    self.seen = Some(id);
                }
                assert!(self.refunded <= self.captured);
                heard.then_some(Event::Refunded { id })
            }
            Effect::ClearCart => heard.then_some(Event::CartCleared),
        }
    }
}

fn luck() -> impl Strategy<Value = Luck> {
    prop_oneof![
        4 => Just(Luck::Fine),
        1 => Just(Luck::Refused),
        1 => Just(Luck::AnswerLost),
        1 => Just(Luck::Unreachable),
    ]
}

#[derive(Clone, Copy, Debug)]
enum Wish {
    Cancel,
    Ship,
    Deliver,
    Refund(i64),
    Work(Luck),
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        1 => Just(Wish::Cancel),
        1 => Just(Wish::Ship),
        1 => Just(Wish::Deliver),
        1 => (-5i64..1200).prop_map(Wish::Refund),
        8 => luck().prop_map(Wish::Work),
    ]
}

proptest! {
    /// Whatever luck each step has and whatever is asked for in between, once the order rests the
    /// other services agree with it; and it comes to rest as soon as they can be reached.
    #[test]
    fn the_books_agree_when_an_order_rests(
        wishes in prop::collection::vec(wish(), 0..60),
        clear_cart: bool,
        expected in prop_oneof![Just(None), Just(Some(eur(1000))), Just(Some(eur(999)))],
    ) {
        let mut order = Progress::new(expected, clear_cart);
        let mut world = World::default();
        let end = std::iter::repeat_n(Wish::Work(Luck::Fine), 12);
        for (number, wish) in (0u128..).zip(wishes.into_iter().chain(end)) {
            let id = Uuid::from_u128(number);
            let event = match wish {
                Wish::Cancel => Some(Event::Cancel { refund_id: id }),
                Wish::Ship => Some(Event::Ship),
                Wish::Deliver => Some(Event::Deliver),
                Wish::Refund(cents) => Some(Event::Refund(Refund { id, cents })),
                Wish::Work(luck) => order.next().and_then(|effect| world.perform(effect, luck)),
            };
            let Some(event) = event else { continue };
            match step(&order, event) {
                Ok((to, effect)) => {
                    prop_assert_eq!(effect, to.next());
                    prop_assert!(!gave_up(&order) || gave_up(&to), "{order:?} → {to:?}");
                    order = to;
                }
                Err(fault) => {
                    prop_assert!(event.asked(), "{order:?} refuses {event:?}");
                    let codes = ["shop.order_state", "shop.order_busy", "shop.refund_exceeds"];
                    prop_assert!(codes.contains(&fault.code()));
                }
            }
            if order.next().is_none() {
                check_books(&order, &world)?;
            }
        }
        prop_assert_eq!(order.next(), None, "{:?} does not come to rest", order);
    }

    /// An event that belongs to another state is refused and changes nothing.
    #[test]
    fn only_legal_transitions(state in prop::sample::select(State::ALL.to_vec()), n in 0usize..8) {
        let events = [
            Event::Captured, Event::Declined, Event::ChargeUnknown, Event::StockCommitted,
            Event::Voided, Event::Released, Event::StockReturned, Event::ReserveUnknown,
        ];
        let home = [
            State::Charging, State::Charging, State::Charging, State::Confirming,
            State::Voiding, State::Releasing, State::Cancelling, State::Reserving,
        ];
        let order = Progress { state, total: Some(eur(5)), ..Progress::new(None, false) };
        prop_assert_eq!(step(&order, events[n]).is_ok(), state == home[n]);
    }
}

fn gave_up(order: &Progress) -> bool {
    use State as S;
    matches!(
        order.state,
        S::Voiding | S::Releasing | S::PaymentFailed | S::Rejected
    )
}

fn check_books(order: &Progress, world: &World) -> Result<(), TestCaseError> {
    let held = world.captured - world.refunded;
    match order.state {
        State::Paid | State::Shipped | State::Delivered => {
            prop_assert_eq!((world.stock, world.captured), (2, 1000));
            prop_assert_eq!((held, world.refunded), (order.value(), order.refunded));
        }
        State::Cancelled => {
            prop_assert_eq!((world.stock, held, order.refunded), (4, 0, 1000));
        }
        State::PaymentFailed => {
            prop_assert_eq!((world.stock, held), (3, 0));
            prop_assert!(world.declined || world.void);
        }
        State::Rejected => {
            prop_assert!(matches!(world.stock, 0 | 3));
            prop_assert_eq!(
                (world.captured, world.void, world.declined),
                (0, false, false)
            );
        }
        other => prop_assert!(false, "{other:?} is no state to rest in"),
    }
    Ok(())
}

#[test]
fn stored_names_are_read_back() {
    for state in State::ALL {
        assert_eq!(state.as_str().parse::<State>().unwrap(), state);
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
    }
    for failure in Failure::ALL {
        assert_eq!(failure.as_str().parse::<Failure>().unwrap(), failure);
        assert_eq!(serde_json::to_value(failure).unwrap(), failure.as_str());
    }
}

#[test]
fn the_usual_path() {
    let mut order = Progress::new(None, false);
    let path = [
        (Event::Reserved { total: eur(700) }, State::Charging),
        (Event::Captured, State::Confirming),
        (Event::StockCommitted, State::Paid),
        (Event::Ship, State::Shipped),
        (Event::Deliver, State::Delivered),
    ];
    for (event, state) in path {
        order = step(&order, event).unwrap().0;
        assert_eq!(order.state, state);
    }
    let code = |event| step(&order, event).unwrap_err().code().to_owned();
    assert_eq!(
        code(Event::Cancel {
            refund_id: Uuid::nil()
        }),
        "shop.order_state"
    );
    let refund = |cents| {
        Event::Refund(Refund {
            id: Uuid::nil(),
            cents,
        })
    };
    assert_eq!(code(refund(701)), "shop.refund_exceeds");
    assert!(step(&order, refund(700)).is_ok());
}
