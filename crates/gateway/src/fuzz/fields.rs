//! Single fields: names, cookies, deadlines, hosts.

use super::{Outcome, fuzz, holds};
use crate::{
    grpc,
    h1::{FieldKind, classify},
    host,
    matcher::{HeaderLines, every_cookie},
};

fn name(input: &[u8]) -> Outcome {
    let kind = classify(input);
    for other in [input.to_ascii_uppercase(), input.to_ascii_lowercase()] {
        let same = classify(&other);
        holds!(same == kind, "{kind:?}, in another case {same:?}");
    }
    let replaced = |from: u8, to: u8| -> Vec<u8> {
        let each = |byte: &u8| if *byte == from { to } else { *byte };
        input.iter().map(each).collect()
    };
    let plain = classify(&replaced(b'_', b'-'));
    let guarded = !matches!(plain, FieldKind::Other | FieldKind::EndToEnd);
    if input.contains(&b'_') && guarded {
        // Those never pass, whatever they are called.
        let ends = matches!(plain, FieldKind::Identity | FieldKind::Forwarding);
        let stopped = kind == FieldKind::Twin || (ends && kind == plain);
        holds!(stopped, "{plain:?} passes as {kind:?}");
    }
    holds!(plain != FieldKind::Twin, "a twin without an underscore");
    Ok(())
}

#[test]
fn field_names() {
    let seeds: &[&[u8]] = &[
        b"X-Forwarded-For",
        b"x_forwarded_for",
        b"X-Auth-Subject",
        b"Content-Length",
        b"transfer_encoding",
        b"X-Client-Certificate-Sha256",
        b"ssl_client_s_dn",
        b"True-Client-IP",
        b"Accept-Encoding",
        b"my_header",
        b"",
    ];
    let words: &[&[u8]] = &[
        b"-",
        b"_",
        b"x-",
        b"X-Auth-",
        b"forwarded",
        b"client-cert",
        b"ssl-",
        b"\0",
        b"\xff",
    ];
    fuzz(seeds, words, name);
}

/// The values of `Cookie` lines.
struct Lines<'a>(Vec<&'a [u8]>);

impl HeaderLines for Lines<'_> {
    fn every(&self, name: &str, see: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        name != "cookie" || self.0.iter().all(|line| see(line))
    }
}

fn cookie(input: &[u8]) -> Outcome {
    let lines = Lines(input.split(|byte| *byte == b'\n').collect());
    // Written in another way: names and values of all pairs, and then those of one name.
    let mut pairs: Vec<(&[u8], &[u8])> = Vec::new();
    for line in &lines.0 {
        for pair in line.split(|byte| *byte == b';') {
            let pair = pair.trim_ascii();
            let mut halves = pair.splitn(2, |byte| *byte == b'=');
            let half = halves.next().unwrap_or_default();
            pairs.push((half, halves.next().unwrap_or_default()));
        }
    }
    for wanted in ["a", "session", ""] {
        let mut seen = Vec::new();
        let all = every_cookie(&lines, wanted, &mut |value| {
            seen.push(value.to_vec());
            true
        });
        let named = pairs.iter().filter(|(name, _)| *name == wanted.as_bytes());
        let expected: Vec<_> = named.map(|(_, value)| value.to_vec()).collect();
        holds!(
            all && seen == expected,
            "{wanted:?} is {seen:?}, not {expected:?}"
        );
        let mut count = 0;
        let stopped = every_cookie(&lines, wanted, &mut |_| {
            count += 1;
            false
        });
        let once = count == usize::from(!seen.is_empty()) && stopped == seen.is_empty();
        holds!(once, "it goes on after a no");
    }
    Ok(())
}

#[test]
fn cookies() {
    let seeds: &[&[u8]] = &[
        b"a=b",
        b"a=b; session=x=y; a",
        b"session=\"q;r\";; =x;a =b\na=2",
        b"",
    ];
    let words: &[&[u8]] = &[
        b";", b"; ", b"=", b"a", b"session", b" ", b"\t", b"\n", b"\"", b"\xff",
    ];
    fuzz(seeds, words, cookie);
}

fn timeout(input: &[u8]) -> Outcome {
    let Some(time) = grpc::read_timeout(input) else {
        return Ok(());
    };
    holds!((2..=9).contains(&input.len()), "of {} bytes", input.len());
    holds!(
        input[..input.len() - 1].iter().all(u8::is_ascii_digit),
        "not of digits"
    );
    let text = grpc::timeout_text(time);
    let back = grpc::read_timeout(text.as_bytes()).unwrap_or(u64::MAX);
    // Eight digits of seconds are three years.
    let near = time - back.min(time) < 1_000 || back == 99_999_999_000;
    holds!(back <= time && near, "{time} ms, written {text:?}");
    Ok(())
}

#[test]
fn grpc_timeouts() {
    let seeds: &[&[u8]] = &[b"10S", b"99999999H", b"1n", b"400m", b"0u", b"12345678M"];
    let words: &[&[u8]] = &[
        b"0",
        b"9",
        b"99999999",
        b"H",
        b"M",
        b"S",
        b"m",
        b"u",
        b"n",
        b" ",
        b"-",
    ];
    fuzz(seeds, words, timeout);
}

fn authority(input: &[u8]) -> Outcome {
    let Some(found) = host::parse(input) else {
        return Ok(());
    };
    let text = match found.port {
        Some(port) => format!("{}:{port}", found.host),
        None => found.host.to_owned(),
    };
    holds!(
        host::parse(text.as_bytes()) == Some(found),
        "{text:?} is another"
    );
    holds!(
        !found.host.is_empty() && found.host.len() <= 253,
        "a host of {} bytes",
        found.host.len()
    );
    let odd = |byte: u8| b"/\\@?# %,\r\n\0".contains(&byte);
    holds!(!found.host.bytes().any(odd), "{:?} is a host", found.host);
    Ok(())
}

#[test]
fn authorities() {
    let seeds: &[&[u8]] = &[
        b"www.example",
        b"Www.Example.:8080",
        b"[::1]:80",
        b"127.0.0.1",
        b"a:",
    ];
    let words: &[&[u8]] = &[
        b":",
        b".",
        b"..",
        b"[",
        b"]",
        b"::1",
        b"@",
        b"/",
        b"%41",
        b"65536",
        b"0",
        b" ",
        b"\0",
        b"\xc3\xa4",
        b"-",
        b"_",
    ];
    fuzz(seeds, words, authority);
}
