//! Money: whole cents of one currency.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// No amount is larger: a sum of a hundred thousand such still fits an `i64`, and each is an exact
/// number in every JSON library.
pub(crate) const MAX_CENTS: i64 = 1_000_000_000_000;

/// An amount of one currency; from outside always between 0 and [`MAX_CENTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Money {
    #[serde(deserialize_with = "cents")]
    pub(crate) cents: i64,
    pub(crate) currency: Currency,
}

/// Three capital letters, as in ISO 4217.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Currency([u8; 3]);

impl Money {
    pub(crate) const fn new(cents: i64, currency: Currency) -> Self {
        Self { cents, currency }
    }

    /// The price of lines of `(quantity, unit price)`. `Mixed` when they are in different
    /// currencies, `TooLarge` beyond [`MAX_CENTS`].
    pub(crate) fn total(lines: impl IntoIterator<Item = (i64, Money)>) -> Result<Self, NoTotal> {
        let mut total: Option<Money> = None;
        for (quantity, unit) in lines {
            let so_far = total.unwrap_or(Money::new(0, unit.currency));
            if so_far.currency != unit.currency {
                return Err(NoTotal::Mixed);
            }
            let cents = unit
                .cents
                .checked_mul(quantity)
                .and_then(|cents| cents.checked_add(so_far.cents))
                .filter(|cents| (0..=MAX_CENTS).contains(cents))
                .ok_or(NoTotal::TooLarge)?;
            total = Some(Money::new(cents, unit.currency));
        }
        total.ok_or(NoTotal::Empty)
    }
}

/// Why lines have no total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoTotal {
    Empty,
    Mixed,
    TooLarge,
}

impl Currency {
    pub(crate) const EUR: Self = Self(*b"EUR");

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for Currency {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match <[u8; 3]>::try_from(text.as_bytes()) {
            Ok(letters) if letters.iter().all(u8::is_ascii_uppercase) => Ok(Self(letters)),
            _ => Err("a currency is three capital letters, such as EUR"),
        }
    }
}

impl TryFrom<String> for Currency {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.as_str().to_owned()
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn cents<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let cents = i64::deserialize(deserializer)?;
    if (0..=MAX_CENTS).contains(&cents) {
        Ok(cents)
    } else {
        Err(serde::de::Error::custom(
            "cents must be between 0 and 1000000000000",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up_and_refuse_what_has_none() {
        let eur = |cents| Money::new(cents, Currency::EUR);
        assert_eq!(Money::total([(2, eur(150)), (1, eur(99))]), Ok(eur(399)));
        assert_eq!(Money::total([]), Err(NoTotal::Empty));
        assert_eq!(
            Money::total([(1000, eur(MAX_CENTS))]),
            Err(NoTotal::TooLarge)
        );
        assert_eq!(Money::total([(i64::MAX, eur(3))]), Err(NoTotal::TooLarge));
        let usd = Money::new(1, "USD".parse().unwrap());
        assert_eq!(Money::total([(1, eur(1)), (1, usd)]), Err(NoTotal::Mixed));
    }

    #[test]
    fn amounts_from_outside_are_bounded() {
        let parse = |text: &str| serde_json::from_str::<Money>(text);
        assert!(parse(r#"{"cents":0,"currency":"EUR"}"#).is_ok());
        for bad in [
            r#"{"cents":-1,"currency":"EUR"}"#,
            r#"{"cents":1000000000001,"currency":"EUR"}"#,
            r#"{"cents":1.5,"currency":"EUR"}"#,
            r#"{"cents":1,"currency":"eur"}"#,
            r#"{"cents":1}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
