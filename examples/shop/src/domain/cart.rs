//! Lines of products and quantities: a cart, or what somebody orders.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::fault::{Checks, Result};

/// A cart or an order has at most so many lines.
pub(crate) const MAX_LINES: usize = 100;
/// A line has at most so many pieces.
pub(crate) const MAX_QUANTITY: i64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    pub(crate) product_id: Uuid,
    pub(crate) quantity: i64,
}

/// Checks what somebody asks for and brings it into one form: a line per product, sorted by it.
pub(crate) fn check_lines(lines: &[Line]) -> Result<Vec<Line>> {
    let mut checks = Checks::default();
    checks.check(
        (1..=MAX_LINES).contains(&lines.len()),
        "lines",
        "must be 1 to 100 lines",
    );
    let mut merged: Vec<Line> = Vec::with_capacity(lines.len().min(MAX_LINES));
    let mut sorted: Vec<Line> = lines.iter().take(MAX_LINES).copied().collect();
    sorted.sort_by_key(|line| line.product_id);
    for line in sorted {
        checks.check(
            (1..=MAX_QUANTITY).contains(&line.quantity),
            "lines.quantity",
            "must be 1 to 1000",
        );
        match merged.last_mut() {
            Some(last) if last.product_id == line.product_id => {
                last.quantity = last.quantity.saturating_add(line.quantity);
                checks.check(
                    last.quantity <= MAX_QUANTITY,
                    "lines.quantity",
                    "must be at most 1000 of one product",
                );
            }
            _ => merged.push(line),
        }
    }
    checks.finish()?;
    Ok(merged)
}

/// Checks a quantity of one product in a cart; `least` is 0 where that means to take it out.
pub(crate) fn check_quantity(quantity: i64, least: i64) -> Result<()> {
    let mut checks = Checks::default();
    let message = if least == 0 {
        "must be 0 to 1000"
    } else {
        "must be 1 to 1000"
    };
    checks.check(
        (least..=MAX_QUANTITY).contains(&quantity),
        "quantity",
        message,
    );
    checks.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_product_become_one() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let line = |product_id, quantity| Line {
            product_id,
            quantity,
        };
        let lines = check_lines(&[line(b, 1), line(a, 2), line(b, 3)]).unwrap();
        assert_eq!(lines, [line(a, 2), line(b, 4)]);
        for bad in [
            vec![],
            vec![line(a, 0)],
            vec![line(a, 1001)],
            vec![line(a, 600), line(a, 600)],
        ] {
            assert!(check_lines(&bad).is_err(), "{bad:?}");
        }
        let many: Vec<_> = (0..101).map(|n| line(Uuid::from_u128(n), 1)).collect();
        assert!(check_lines(&many).is_err());
        assert!(check_lines(&[line(a, i64::MAX), line(a, i64::MAX)]).is_err());
    }
}
