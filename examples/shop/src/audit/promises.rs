//! What was acknowledged must be there: a service that answers and then forgets has lost data,
//! however well its tables agree.

use rusqlite::{Connection, OptionalExtension, Result};

use super::Check;
use crate::shoppers::Acknowledged;

/// Examples shown for a broken check.
const EXAMPLES: usize = 3;

pub(super) fn all(connection: &Connection, acknowledged: &[Acknowledged]) -> Result<Vec<Check>> {
    let mut users = Tally::default();
    let mut orders = Tally::default();
    let mut refunds = Tally::default();
    let mut user = connection.prepare("SELECT 1 FROM users.users WHERE id = ?1")?;
    let mut order = connection.prepare("SELECT state FROM orders.orders WHERE id = ?1")?;
    let mut refund = connection.prepare("SELECT amount_cents FROM orders.refunds WHERE id = ?1")?;
    for promise in acknowledged {
        match promise {
            Acknowledged::User(id) => users.add(id, user.exists([id])?),
            Acknowledged::Order { id, state } => {
                let now: Option<String> = order.query_row([id], |row| row.get(0)).optional()?;
                orders.add(id, now.is_some_and(|now| can_follow(state, &now)));
            }
            Acknowledged::Refund { id, cents } => {
                let now: Option<i64> = refund.query_row([id], |row| row.get(0)).optional()?;
                refunds.add(id, now.is_some() && now == i64::try_from(*cents).ok());
            }
        }
    }
    Ok(vec![
        users.check("promised: accounts are there"),
        orders.check("promised: orders are there, in a state that can follow"),
        refunds.check("promised: refunds are there, with their amounts"),
    ])
}

/// Whether an order that was `told` to be in one state may be in the state `now` later.
fn can_follow(told: &str, now: &str) -> bool {
    told == now
        || match told {
            "paid" => matches!(now, "shipped" | "delivered" | "cancelled"),
            "shipped" => now == "delivered",
            "cancelling" => now == "cancelled",
            _ => false,
        }
}

#[derive(Default)]
struct Tally {
    promised: u64,
    kept: u64,
    examples: Vec<String>,
}

impl Tally {
    fn add(&mut self, id: &str, kept: bool) {
        self.promised += 1;
        if kept {
            self.kept += 1;
        } else if self.examples.len() < EXAMPLES {
            self.examples.push(id.to_owned());
        }
    }

    fn check(self, what: &str) -> Check {
        Check {
            what: what.to_owned(),
            expected: self.promised.to_string(),
            actual: self.kept.to_string(),
            wrong: self.promised - self.kept,
            examples: self.examples,
        }
    }
}
