use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instance's share of the requests, compared with others of its service: 0 (none) to 10000, in
/// thousandths; 1 when nothing is said.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

const ONE: u32 = 1_000;
const MOST: f64 = 10_000.0;

impl Weight {
    /// A weight, if it is a number from 0 to 10000; rounded to thousandths, but never down to 0.
    pub fn new(weight: f64) -> Option<Self> {
        if !(0.0..=MOST).contains(&weight) {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "its range was checked"
        )]
        let thousandths = (weight * f64::from(ONE)).round() as u32;
        Some(Self(thousandths.max(u32::from(weight > 0.0))))
    }

    /// As a number.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / f64::from(ONE)
    }

    /// In thousandths.
    pub fn thousandths(self) -> u32 {
        self.0
    }

    /// Whether it is as if nothing were said.
    pub fn is_default(&self) -> bool {
        self.0 == ONE
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(ONE)
    }
}

impl FromStr for Weight {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse().ok().and_then(Self::new).ok_or(())
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_f64().fmt(f)
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_f64().fmt(f)
    }
}

impl Serialize for Weight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_f64())
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let weight = f64::deserialize(deserializer)?;
        Self::new(weight).ok_or_else(|| serde::de::Error::custom("a weight is from 0 to 10000"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_bounded_and_round_to_thousandths() {
        for (given, thousandths) in [
            (0.0, 0),
            (1.0, 1000),
            (0.5, 500),
            (0.00001, 1),
            (1e4, 10_000_000),
        ] {
            let weight = Weight::new(given).unwrap();
            assert_eq!(weight.thousandths(), thousandths);
        }
        for bad in [-1.0, 10_000.5, f64::NAN, f64::INFINITY] {
            assert_eq!(Weight::new(bad), None);
        }
        assert_eq!("3".parse(), Ok(Weight::new(3.0).unwrap()));
        assert_eq!("heavy".parse::<Weight>(), Err(()));
    }
}
