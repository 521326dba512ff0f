//! `numeric` in PostgreSQL's binary format: a count of digits to base 10,000, the weight of the first, sign, the number of decimals
//! shown, then the digits; all of 16 bits (`numeric_send` in its sources).

use std::fmt::Write;

const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const MINUS_INFINITY: u16 = 0xF000;

/// As PostgreSQL would write it.
pub(super) fn read(bytes: &[u8]) -> Option<String> {
    let word = |index: usize| {
        let pair = bytes.get(2 * index..2 * index + 2)?;
        Some(u16::from_be_bytes([pair[0], pair[1]]))
    };
    let count = usize::from(word(0)?);
    let weight = i32::from(word(1)?.cast_signed());
    let sign = word(2)?;
    let scale = usize::from(word(3)?);
    match sign {
        POSITIVE | NEGATIVE => {}
        NAN => return Some("NaN".into()),
        INFINITY => return Some("Infinity".into()),
        MINUS_INFINITY => return Some("-Infinity".into()),
        _ => return None,
    }
    let digits: Vec<u16> = (0..count)
        .map(|index| word(4 + index))
        .collect::<Option<_>>()?;
    let group = |at: i32| {
        usize::try_from(weight - at)
            .ok()
            .and_then(|index| digits.get(index))
            .copied()
            .unwrap_or(0)
    };
    let mut text = String::new();
    if sign == NEGATIVE {
        text.push('-');
    }
    if weight < 0 {
        text.push('0');
    }
    for at in (0..=weight).rev() {
        let group = group(at);
        let _ = match at == weight {
            true => write!(text, "{group}"),
            false => write!(text, "{group:04}"),
        };
    }
    if scale > 0 {
        text.push('.');
        let mut decimals = String::new();
        let mut at = -1;
        while decimals.len() < scale {
            let _ = write!(decimals, "{:04}", group(at));
            at -= 1;
        }
        text.push_str(&decimals[..scale]);
    }
    Some(text)
}

/// `None` when the text is no decimal number, or too long for the format.
pub(super) fn write(text: &str) -> Option<Vec<u8>> {
    let special = match text {
        "NaN" => Some(NAN),
        "Infinity" => Some(INFINITY),
        "-Infinity" => Some(MINUS_INFINITY),
        _ => None,
    };
    if let Some(sign) = special {
        return Some(words(&[0, 0, sign, 0]));
    }
    let (sign, rest) = match text.as_bytes().first()? {
        b'-' => (NEGATIVE, &text[1..]),
        b'+' => (POSITIVE, &text[1..]),
        _ => (POSITIVE, text),
    };
    let (whole, decimals) = rest.split_once('.').unwrap_or((rest, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || whole.len() + decimals.len() == 0 {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    // Both sides in whole groups of four.
    let before = "0".repeat((4 - whole.len() % 4) % 4);
    let after = "0".repeat((4 - decimals.len() % 4) % 4);
    let all = [&before, whole, decimals, &after].concat();
    let mut groups: Vec<u16> = all
        .as_bytes()
        .chunks(4)
        .map(|four| {
            four.iter()
                .fold(0, |all, digit| all * 10 + u16::from(digit - b'0'))
        })
        .collect();
    let mut weight = i32::try_from(whole.len().div_ceil(4)).ok()? - 1;
    let leading = groups.iter().take_while(|group| **group == 0).count();
    groups.drain(..leading);
    weight -= i32::try_from(leading).ok()?;
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let sign = if groups.is_empty() { POSITIVE } else { sign };
    let weight = if groups.is_empty() { 0 } else { weight };
    // The format keeps 14 bits for the number of decimals.
    let scale = u16::try_from(decimals.len())
        .ok()
        .filter(|scale| *scale < 1 << 14)?;
    let head = [
        u16::try_from(groups.len()).ok()?,
        i16::try_from(weight).ok()?.cast_unsigned(),
        sign,
        scale,
    ];
    Some(words(&[&head[..], &groups].concat()))
}

fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_as_they_were_written() {
        for text in [
            "0",
            "1",
            "-1",
            "10000",
            "9999",
            "0.5",
            "0.0001",
            "0.00001",
            "12345678.90",
            "-0.10",
            "100000000",
            "123456789012345678901234567890.12345678901234567890",
            "0.000",
            "NaN",
            "Infinity",
            "-Infinity",
            "10000.0001",
            "20000000000000000000000000000000",
        ] {
            assert_eq!(read(&write(text).unwrap()).as_deref(), Some(text));
        }
        for (written, told) in [
            ("+7", "7"),
            ("007.50", "7.50"),
            (".5", "0.5"),
            ("5.", "5"),
            ("-0", "0"),
        ] {
            assert_eq!(read(&write(written).unwrap()).as_deref(), Some(told));
        }
        for text in ["", "-", ".", "1e5", "0x1", "1.2.3", "--1", "٣"] {
            assert_eq!(write(text), None, "{text}");
        }
        assert_eq!(read(&[0, 1, 0]), None);
    }
}
