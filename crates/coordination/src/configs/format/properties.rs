//! Properties as `java.util.Properties` reads and writes them: `key = value`, `key: value` or `key value`,
//! comments after `#` or `!`, lines that go on after a backslash, `\t`, `\n`, `\uXXXX`.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::Value;

/// Reads pairs; of equal keys the last counts. An error is the number of the line that cannot be read.
pub fn parse(content: &str) -> Result<BTreeMap<String, String>, usize> {
    let mut pairs = BTreeMap::new();
    let mut lines = content.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let mut logical = line.trim_start_matches(BLANKS).to_owned();
        if logical.is_empty() || logical.starts_with(['#', '!']) {
            continue;
        }
        while goes_on(&logical) {
            logical.pop();
            let Some((_, next)) = lines.next() else {
                break;
            };
            logical.push_str(next.trim_start_matches(BLANKS));
        }
        let (key, value) = split(&logical);
        let read = |text| unescape(text).ok_or(index + 1);
        pairs.insert(read(key)?, read(value)?);
    }
    Ok(pairs)
}

/// Writes settings, one a line, so that [`parse`] reads them back.
pub fn write<'a, V: 'a + std::borrow::Borrow<Value>>(
    settings: impl IntoIterator<Item = (&'a String, &'a V)>,
) -> String {
    let mut text = String::new();
    for (key, value) in settings {
        escape(&mut text, key, true);
        text.push('=');
        match value.borrow() {
            Value::String(value) => escape(&mut text, value, false),
            other => escape(&mut text, &other.to_string(), false),
        }
        text.push('\n');
    }
    text
}

const BLANKS: [char; 3] = [' ', '\t', '\u{c}'];

/// Whether an odd number of backslashes ends the line.
fn goes_on(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// At the first unescaped `=`, `:` or blank; blanks around the separator belong to it.
fn split(line: &str) -> (&str, &str) {
    let mut is_escaped = false;
    let end = line.find(|c: char| {
        let ends = !is_escaped && (matches!(c, '=' | ':') || BLANKS.contains(&c));
        is_escaped = c == '\\' && !is_escaped;
        ends
    });
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start_matches(BLANKS);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, rest.trim_start_matches(BLANKS))
}

fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    // Java writes what is beyond 16 bits as two surrogates.
    let mut high: Option<u16> = None;
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => match chars.next()? {
                't' => '\t',
                'n' => '\n',
                'r' => '\r',
                'f' => '\u{c}',
                'u' => {
                    let digits: String = chars.by_ref().take(4).collect();
                    let is_hex = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit());
                    let unit = u16::from_str_radix(is_hex.then_some(&digits)?, 16).ok()?;
                    match (high.take(), unit) {
                        (None, 0xd800..0xdc00) => {
                            high = Some(unit);
                            continue;
                        }
                        (None, unit) => char::from_u32(u32::from(unit))?,
                        (Some(high), low) => char::decode_utf16([high, low]).next()?.ok()?,
                    }
                }
                other => other,
            },
            c => c,
        };
        if high.is_some() {
            return None;
        }
        plain.push(c);
    }
    high.is_none().then_some(plain)
}

fn escape(text: &mut String, plain: &str, is_key: bool) {
    let mut is_leading = true;
    for c in plain.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{c}' => text.push_str("\\f"),
            ' ' if is_key || is_leading => text.push_str("\\ "),
            '=' | ':' | '#' | '!' if is_key => {
                text.push('\\');
                text.push(c);
            }
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
        is_leading &= c == ' ';
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_read_as_java_reads_them() {
        let text = "# comment\n! too\n\na=1\n  b : 2\nc 3\nd=\ne\nf\\ g\\=h = x=y:z \n\
                    long = one, \\\n    two\nu=\\u00e9\\ud83d\\ude00\ntab=a\\tb\npath=c\\\\\na=last\n";
        let pairs = parse(text).unwrap();
        let expected = [
            ("a", "last"),
            ("b", "2"),
            ("c", "3"),
            ("d", ""),
            ("e", ""),
            ("f g=h", "x=y:z "),
            ("long", "one, two"),
            ("path", "c\\"),
            ("tab", "a\tb"),
            ("u", "é😀"),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(pairs, BTreeMap::from(expected));
        for (bad, line) in [
            ("a=\\u12", 1),
            ("\nb=\\uzzzz", 2),
            ("a=\\ud800x", 1),
            ("a=\\udc00", 1),
        ] {
            assert_eq!(parse(bad), Err(line), "{bad}");
        }
        assert_eq!(parse("a=b\\").unwrap()["a"], "b");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(pairs in prop::collection::btree_map(".{1,6}|[ =:#!\\\\\n\r\t]{1,4}", ".{0,6}|[ =:#!\\\\\n\r\t]{0,4}", 0..6)) {
            let values: BTreeMap<String, Value> = pairs.iter().map(|(k, v)| (k.clone(), Value::String(v.clone()))).collect();
            prop_assert_eq!(parse(&write(&values)).unwrap(), pairs);
        }

        #[test]
        fn nothing_breaks_it(text in "[ -~\n\\\\u=:]{0,60}") {
            let _ = parse(&text);
        }
    }
}
