//! What each service answers over HTTP. The calls are listed in the shop's README.

pub(crate) mod carts;
pub(crate) mod orders;
pub(crate) mod payments;
pub(crate) mod products;
mod request;
pub(crate) mod users;

use sinew_sdk::{Json, Problem};

use crate::fault::Fault;

/// What a handler answers.
type Reply<T> = Result<Json<T>, Problem>;

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let more = fault.more().clone();
        let mut problem = Self::from(sinew_core::Error::from(fault));
        if !more.errors.is_empty() {
            problem = problem.with("errors", more.errors);
        }
        if !more.shortages.is_empty() {
            problem = problem.with("shortages", more.shortages);
        }
        match more.order_id {
            Some(order) => problem.with("order_id", order),
            None => problem,
        }
    }
}
