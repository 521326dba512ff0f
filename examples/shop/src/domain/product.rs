//! Products: what may be written about one.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{money::Money, stock::MAX_STOCK};
use crate::fault::{Checks, Result};

/// No piece costs more, so that the largest order (100 lines of 1000 pieces) stays within
/// [`MAX_CENTS`](super::money::MAX_CENTS).
pub(crate) const MAX_PRICE_CENTS: i64 = 10_000_000;

/// A product as everybody may see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Product {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) price: Money,
    pub(crate) available: i64,
    pub(crate) created_ms: i64,
    pub(crate) changed_ms: i64,
}

/// A line of a reservation, with the name and the price that the product had then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PricedLine {
    pub(crate) product_id: Uuid,
    pub(crate) name: String,
    pub(crate) quantity: i64,
    pub(crate) unit: Money,
}

/// Checks what an administrator writes about a product; absent parts stay as they are.
pub(crate) fn check_product(
    name: Option<&str>,
    description: Option<&str>,
    price: Option<Money>,
    stock: Option<i64>,
) -> Result<()> {
    let mut checks = Checks::default();
    if let Some(name) = name {
        let length = name.trim().chars().count();
        checks.check(
            (1..=200).contains(&length),
            "name",
            "must be 1 to 200 characters",
        );
    }
    if let Some(description) = description {
        let fits = description.chars().count() <= 2000;
        checks.check(fits, "description", "must be at most 2000 characters");
    }
    if let Some(price) = price {
        let fits = (1..=MAX_PRICE_CENTS).contains(&price.cents);
        checks.check(fits, "price.cents", "must be 1 to 10000000");
    }
    if let Some(stock) = stock {
        checks.check(
            (0..=MAX_STOCK).contains(&stock),
            "stock",
            "must be 0 to 1000000000",
        );
    }
    checks.finish()
}
