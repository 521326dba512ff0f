//! Stock: how many pieces of a product there are and where each of them is, and the life of a
//! reservation.

use serde::{Deserialize, Serialize};

/// Counts of one product. Always `supplied = available + reserved + sold`, and none is negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stock {
    /// The initial stock and all that came in since.
    pub(crate) supplied: i64,
    pub(crate) available: i64,
    pub(crate) reserved: i64,
    pub(crate) sold: i64,
}

/// How pieces move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Movement {
    /// available → reserved
    Reserve,
    /// reserved → available
    Release,
    /// reserved → sold
    Sell,
    /// sold → available
    Return,
    /// → available
    Supply,
}

/// No stock is larger.
pub(crate) const MAX_STOCK: i64 = 1_000_000_000;

impl Stock {
    /// The counts after `quantity` pieces moved; `None` when there are not so many to move.
    pub(crate) fn moved(self, movement: Movement, quantity: i64) -> Option<Self> {
        let mut to = self;
        match movement {
            Movement::Reserve => {
                (to.available, to.reserved) = shift(to.available, to.reserved, quantity)?
            }
            Movement::Release => {
                (to.reserved, to.available) = shift(to.reserved, to.available, quantity)?
            }
            Movement::Sell => (to.reserved, to.sold) = shift(to.reserved, to.sold, quantity)?,
            Movement::Return => (to.sold, to.available) = shift(to.sold, to.available, quantity)?,
            Movement::Supply => {
                to.supplied = to.supplied.checked_add(quantity)?;
                to.available = to.available.checked_add(quantity)?;
            }
        }
        (quantity > 0 && to.supplied <= MAX_STOCK).then_some(to)
    }
}

fn shift(from: i64, to: i64, quantity: i64) -> Option<(i64, i64)> {
    if from < quantity {
        None
    } else {
        Some((from - quantity, to.checked_add(quantity)?))
    }
}

/// Where a reservation stands. `Released` and `Returned` are final; a reservation that was released
/// before it was ever made stays as a tombstone, so that the late request has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reservation {
    Reserved,
    Sold,
    Released,
    Returned,
}

/// What a caller wants of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Reserve,
    Commit,
    Release,
    Return,
}

/// What a command does to a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It becomes this, and its pieces move.
    Becomes(Reservation, Movement),
    /// It becomes this, with no pieces to move.
    Tombstone(Reservation),
    /// It was done before: answer as then.
    Already,
    /// It cannot be done any more.
    Closed,
    /// There is nothing that it could be done to.
    Unknown,
}

impl Reservation {
    /// What `command` does to a reservation that stands at `from` (`None`: not known).
    pub(crate) fn outcome(from: Option<Self>, command: Command) -> Outcome {
        use Command as C;
        use Reservation as R;
        match (from, command) {
            (None, C::Reserve) => Outcome::Becomes(R::Reserved, Movement::Reserve),
            (None, C::Release) => Outcome::Tombstone(R::Released),
            (None, C::Commit | C::Return) => Outcome::Unknown,

            (Some(R::Reserved), C::Commit) => Outcome::Becomes(R::Sold, Movement::Sell),
            (Some(R::Reserved), C::Release) => Outcome::Becomes(R::Released, Movement::Release),
            (Some(R::Sold), C::Return) => Outcome::Becomes(R::Returned, Movement::Return),

            (Some(R::Reserved | R::Sold), C::Reserve)
            | (Some(R::Sold), C::Commit)
            | (Some(R::Released), C::Release)
            | (Some(R::Returned), C::Return) => Outcome::Already,

            (Some(R::Reserved), C::Return)
            | (Some(R::Sold), C::Release)
            | (Some(R::Released), C::Reserve | C::Commit | C::Return)
            | (Some(R::Returned), C::Reserve | C::Commit | C::Release) => Outcome::Closed,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Sold => "sold",
            Self::Released => "released",
            Self::Returned => "returned",
        }
    }
}

impl std::str::FromStr for Reservation {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        [Self::Reserved, Self::Sold, Self::Released, Self::Returned]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
}

/// A stored state that this version does not know.
#[derive(Debug)]
pub(crate) struct UnknownState(pub(crate) String);

impl std::fmt::Display for UnknownState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the state {:?} is not known", self.0)
    }
}

impl std::error::Error for UnknownState {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn untouched(supplied: i64) -> Stock {
        Stock {
            supplied,
            available: supplied,
            reserved: 0,
            sold: 0,
        }
    }

    fn command() -> impl Strategy<Value = Command> {
        prop_oneof![
            Just(Command::Reserve),
            Just(Command::Commit),
            Just(Command::Release),
            Just(Command::Return)
        ]
    }

    proptest! {
        /// Any calls in any order, repeated or late: no piece appears or is lost, and each
        /// reservation holds its pieces in exactly the place that its state names.
        #[test]
        fn pieces_are_conserved(
            supplied in 0i64..20,
            calls in prop::collection::vec((0usize..4, command()), 0..60),
        ) {
            let quantities = [1i64, 2, 3, 7];
            let mut stock = untouched(supplied);
            let mut reservations = [None; 4];
            for (index, command) in calls {
                match Reservation::outcome(reservations[index], command) {
                    Outcome::Becomes(state, movement) => {
                        match stock.moved(movement, quantities[index]) {
                            Some(moved) => (stock, reservations[index]) = (moved, Some(state)),
                            // Only a first reservation can find too few.
                            None => prop_assert_eq!(movement, Movement::Reserve),
                        }
                    }
                    Outcome::Tombstone(state) => reservations[index] = Some(state),
                    Outcome::Already | Outcome::Closed | Outcome::Unknown => {}
                }
                let held = |at| -> i64 {
                    quantities.iter().zip(&reservations).filter(|(_, r)| **r == Some(at)).map(|(q, _)| q).sum()
                };
                prop_assert_eq!(stock.supplied, stock.available + stock.reserved + stock.sold);
                prop_assert_eq!(stock.reserved, held(Reservation::Reserved));
                prop_assert_eq!(stock.sold, held(Reservation::Sold));
                prop_assert!(stock.available >= 0);
            }
        }

        /// Once released or returned, nothing has an effect any more.
        #[test]
        fn the_end_is_final(command in command()) {
            for end in [Reservation::Released, Reservation::Returned] {
                let outcome = Reservation::outcome(Some(end), command);
                prop_assert!(matches!(outcome, Outcome::Already | Outcome::Closed), "{outcome:?}");
            }
        }
    }

    #[test]
    fn a_reserve_after_its_release_has_no_effect() {
        let Outcome::Tombstone(state) = Reservation::outcome(None, Command::Release) else {
            panic!("an unknown reservation leaves a tombstone")
        };
        assert_eq!(
            Reservation::outcome(Some(state), Command::Reserve),
            Outcome::Closed
        );
    }

    #[test]
    fn nothing_moves_that_is_not_there() {
        let stock = untouched(2);
        assert_eq!(stock.moved(Movement::Reserve, 3), None);
        assert_eq!(stock.moved(Movement::Sell, 1), None);
        assert_eq!(stock.moved(Movement::Supply, MAX_STOCK), None);
        assert_eq!(stock.moved(Movement::Reserve, 0), None);
        assert_eq!(stock.moved(Movement::Reserve, -1), None);
    }
}
