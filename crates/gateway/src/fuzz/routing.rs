//! Paths and what is matched with them.

use super::{Outcome, fuzz, holds};
use crate::{
    address_range::AddressRange,
    path::{canonicalise, canonicalise_query},
    pattern::{PathPattern, Segment, compile},
    variables::{Text, Values},
};

fn canonical(input: &[u8]) -> Option<Vec<u8>> {
    let mut out = b"kept".to_vec();
    canonicalise(input, &mut out).ok()?;
    out.starts_with(b"kept").then(|| out.split_off(4))
}

fn path(input: &[u8]) -> Outcome {
    let mut query = Vec::new();
    if canonicalise_query(input, &mut query).is_ok() {
        holds!(
            query.iter().all(u8::is_ascii_graphic),
            "a query that is not printable"
        );
        let mut again = Vec::new();
        let same = canonicalise_query(&query, &mut again).is_ok() && again == query;
        holds!(same, "a query that changes again");
    }
    let Some(once) = canonical(input) else {
        return Ok(());
    };
    holds!(canonical(&once).as_ref() == Some(&once), "it changes again");
    holds!(once.len() <= input.len() * 3, "it grows");
    holds!(once.iter().all(u8::is_ascii_graphic), "not printable");
    holds!(
        !once.iter().any(|byte| b"?#;\\\"<>".contains(byte)),
        "it holds what it must not"
    );
    let mut segments = once[1..].split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        holds!(segment != b"." && segment != b"..", "a dot segment");
        holds!(
            !segment.is_empty() || segments.peek().is_none(),
            "an empty segment"
        );
    }
    let upper = once.to_ascii_uppercase();
    for bad in [
        "%2F", "%5C", "%2E", "%00", "%3B", "%252F", "%252E", "%255C", "%2525", "%0A",
    ] {
        let there = upper.windows(bad.len()).any(|part| part == bad.as_bytes());
        holds!(!there, "{bad} passes");
    }
    Ok(())
}

const PATHS: &[&[u8]] = &[
    b"/",
    b"/a/b/",
    b"/%61%2D%7e",
    b"/a%3fb%23c",
    b"/\xc3\xa4/%c3%a4",
    b"/100%25",
    b"/a/.../b;x=1",
    b"/x/%2e%2e/y//z",
    b"/{id}/*",
];

const WORDS: &[&[u8]] = &[
    b"/",
    b"a",
    b".",
    b"..",
    b"%2e",
    b"%2E",
    b"%2f",
    b"%5c",
    b"\\",
    b"%25",
    b"25",
    b"2f",
    b"%",
    b"%61",
    b"%32",
    b";",
    b"%3b",
    b"%00",
    b"%c3%a4",
    b"\xc3\xa4",
    b"%c0%ae",
    b"~",
    b"#",
    b"?",
    b" ",
    b"\0",
    b"{",
    b"}",
    b"{id}",
    b"/**",
    b"*",
    b"(",
    b")",
    b"|",
    b"\\d+",
    b"[a-z]",
    b"?",
    b"+",
    b"{rest}",
    b"{path}",
    b"{host}",
    b"~/",
];

#[test]
fn paths() {
    fuzz(PATHS, WORDS, path);
}

fn template(input: &[u8]) -> Outcome {
    // The pattern, a path and a text with variables.
    let mut lines = input.split(|byte| *byte == b'\n');
    let mut next = || String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let (pattern, path, text) = (next(), next(), next());
    let Ok(pattern) = PathPattern::parse(&pattern) else {
        return Ok(());
    };
    let shown = pattern.to_string();
    let back = PathPattern::parse(&shown);
    holds!(
        back.as_ref().ok() == Some(&pattern),
        "{shown} is read as {back:?}"
    );
    holds!(pattern.segments().count() <= 8_192, "too many segments");
    let begins = shown
        .trim_start_matches('~')
        .starts_with(pattern.fixed_beginning());
    holds!(
        begins,
        "{shown} does not begin with {}",
        pattern.fixed_beginning()
    );
    for segment in pattern.segments() {
        if let Segment::Capture(name) = segment {
            holds!(
                !name.is_empty() && name.len() <= 64,
                "a capture called {name:?}"
            );
        }
    }
    let regex = match &pattern {
        PathPattern::Regex(expression) => compile(expression).ok(),
        _ => None,
    };
    let regex = regex.as_ref();
    let Some(path) = canonical(path.as_bytes()).and_then(|path| String::from_utf8(path).ok())
    else {
        return Ok(());
    };
    if let Ok(parsed) = Text::parse(&text, &pattern, regex) {
        let mut filled = Vec::new();
        let host = "www.example";
        let path = path.as_str();
        parsed.render(Values { host, path, regex }, &mut filled);
        let most = text.len() + (text.len() / 3 + 1) * (path.len() + host.len());
        holds!(filled.len() <= most, "it grows to {}", filled.len());
    }
    Ok(())
}

#[test]
fn templates() {
    let seeds: &[&[u8]] = &[
        b"/users/{id}/orders/**\n/users/7/orders/9\n/v2/{id}{rest}",
        b"/a/**\n/a/b\n{path}",
        b"/a\n/a\nhttps://{host}/x",
        b"~/img/(?<name>[a-z]+)\\.png\n/img/x.png\n/pictures/{name}",
        b"/{a}/{b}/\n/1/2/\n{a}-{b}",
        b"~/a|/b\n/b\n/c",
    ];
    fuzz(seeds, WORDS, template);
}

fn range(input: &[u8]) -> Outcome {
    let Ok(range) = AddressRange::parse(&String::from_utf8_lossy(input)) else {
        return Ok(());
    };
    let text = range.to_string();
    let back = AddressRange::parse(&text);
    holds!(
        back.as_ref().ok() == Some(&range),
        "{text} is read as {back:?}"
    );
    let first = text.split('/').next().unwrap_or_default();
    let first = first.parse().map_err(|_| "no address".to_owned())?;
    holds!(
        range.contains(first) || text.starts_with("::ffff:"),
        "{text} without its first"
    );
    holds!(
        range.overlaps(&range) || text.starts_with("::ffff:"),
        "{text} does not meet itself"
    );
    Ok(())
}

#[test]
fn address_ranges() {
    let seeds: &[&[u8]] = &[
        b"10.0.0.0/8",
        b"2001:db8::/32",
        b"::1",
        b"0.0.0.0/0",
        b"::ffff:1.2.3.4",
    ];
    let words: &[&[u8]] = &[
        b"/", b"0", b"8", b"32", b"128", b"129", b":", b"::", b".", b"ffff", b"+",
    ];
    fuzz(seeds, words, range);
}
