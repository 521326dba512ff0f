//! The host a request names, in the one form that routes are looked up by.

/// A host and port as they stand in `Host` or in an absolute target, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Authority<'a> {
    /// Without the port and without a dot at the end; upper case is left in place.
    pub(crate) host: &'a str,
    pub(crate) port: Option<u16>,
}

/// Reads `host[:port]`. `None` when it is no such thing: user information, an empty host, spaces,
/// percent encodings, a port that is no number.
pub(crate) fn parse(text: &[u8]) -> Option<Authority<'_>> {
    let text = std::str::from_utf8(text).ok()?;
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')?;
            rest[..end].parse::<std::net::Ipv6Addr>().ok()?;
            (&text[..end + 2], &rest[end + 1..])
        }
        None => match text.find(':') {
            Some(colon) => text.split_at(colon),
            None => (text, ""),
        },
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        None => return None,
        Some("") => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
        Some(_) => return None,
    };
    if host.starts_with('[') {
        return Some(Authority { host, port });
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let well_formed = (1..=253).contains(&host.len())
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        && !host.starts_with('.')
        && !host.contains("..")
        && !host.ends_with('.');
    well_formed.then_some(Authority { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lose_port_and_trailing_dot() {
        for (text, host, port) in [
            ("shop.example", "shop.example", None),
            ("Shop.Example.:8080", "Shop.Example", Some(8080)),
            ("127.0.0.1:80", "127.0.0.1", Some(80)),
            ("[::1]:8080", "[::1]", Some(8080)),
            ("[::1]", "[::1]", None),
            ("a:", "a", None),
        ] {
            assert_eq!(
                parse(text.as_bytes()),
                Some(Authority { host, port }),
                "{text}"
            );
        }
        for bad in [
            "", ":80", ".", "a..b", "a..", "user@a", "a b", "a/b", "a:80:90", "a:x", "a:99999",
            "[::1", "[x]", "::1", "ä", "a%41", "a,b", "[::1]x",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
