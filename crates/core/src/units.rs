//! Times and sizes as people write them in `sinew.toml`: `"250ms"`, `"15s"`, `"1MiB"`. For serde's
//! `with`: `#[serde(with = "sinew_core::units::duration")]`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

const TIMES: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// `digits` and a unit of `units`, multiplied.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Reads a time like `250ms`.
pub fn read_duration(text: &str) -> Option<Duration> {
    parse(text, TIMES).map(Duration::from_millis)
}

/// The largest unit that shows `value` without a rest.
fn format(value: u64, units: &[(&str, u64)]) -> String {
    let exact = |(_, factor): &&(&str, u64)| value != 0 && value.is_multiple_of(*factor);
    let (unit, factor) = units.iter().rev().find(exact).unwrap_or(&units[0]);
    format!("{}{unit}", value / factor)
}

/// A `Duration` as a whole number and `ms`, `s`, `m` or `h`.
pub mod duration {
    use super::*;

    /// Writes the largest unit that leaves no rest.
    pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        let millis = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
        to.serialize_str(&format(millis, TIMES))
    }

    /// Reads it; the error says how to write one.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        parse(&text, TIMES)
            .map(Duration::from_millis)
            .ok_or_else(|| {
                D::Error::custom(format!(
                    "{text:?} is not a time: write a number and ms, s, m or h"
                ))
            })
    }
}

/// Bytes as a whole number and `B`, `KiB`, `MiB` or `GiB`.
pub mod size {
    use super::*;

    /// Writes the largest unit that leaves no rest.
    pub fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format(*value, SIZES))
    }

    /// Reads it; the error says how to write one.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        parse(&text, SIZES).ok_or_else(|| {
            D::Error::custom(format!(
                "{text:?} is not a size: write a number and B, KiB, MiB or GiB"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for (text, value) in [
            ("0ms", 0),
            ("250ms", 250),
            ("15s", 15_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(
                (parse(text, TIMES), format(value, TIMES).as_str()),
                (Some(value), text)
            );
        }
        assert_eq!(parse("2 m", TIMES), Some(120_000));
        assert_eq!(parse("1MiB", SIZES), Some(1 << 20));
        assert_eq!(format(1 << 20, SIZES), "1MiB");
        for bad in [
            "",
            "1",
            "s",
            "-1s",
            "1 sec",
            "1.5s",
            "99999999999999999999s",
            "1kb",
        ] {
            assert_eq!(parse(bad, TIMES).or(parse(bad, SIZES)), None, "{bad}");
        }
    }
}
