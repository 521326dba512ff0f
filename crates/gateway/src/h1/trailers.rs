//! Trailers (RFC 9110 §6.5): fields behind a chunked body. Some servers and libraries file them
//! with the fields of the head, so what would say there how to frame, route, trust or handle the
//! message never passes.

use super::{
    BodyFault, FieldKind,
    fields::{classify, list_members},
};

/// More fields than this are refused.
const MOST: usize = 64;

/// Fields that mean something only before the body, or that a policy may have looked at in the head
/// (RFC 9110 §6.5.1), beyond those that have a [`FieldKind`] of their own.
const NEVER: [&str; 20] = [
    "age",
    "allow",
    "clear-site-data",
    "content-disposition",
    "content-language",
    "content-security-policy",
    "early-data",
    "expires",
    "last-event-id",
    "link",
    "max-forwards",
    "pragma",
    "refresh",
    "retry-after",
    "strict-transport-security",
    "vary",
    "warning",
    "www-authenticate",
    "authentication-info",
    "method-override",
];
const NEVER_BEGINS: [&str; 10] = [
    "if-",
    "sec-",
    "proxy-",
    "access-control-",
    "accept-",
    "cookie",
    "set-cookie",
    "x-http-method",
    "x-method-override",
    "x-accel-",
];

/// Appends the last chunk and the trailers of `section` that pass: its lines and the empty one that
/// ends it. `ends_here` are names that `Connection` takes away.
pub(crate) fn push_last_chunk(
    section: &[u8],
    ends_here: impl Fn(&[u8]) -> bool,
    to: &mut Vec<u8>,
) -> Result<(), BodyFault> {
    to.extend_from_slice(b"0\r\n");
    if section.len() > 2 {
        let mut space = [httparse::EMPTY_HEADER; MOST];
        let fields = match httparse::parse_headers(section, &mut space) {
            Ok(httparse::Status::Complete((_, fields))) => fields,
            Err(httparse::Error::TooManyHeaders) => return Err(BodyFault("too many trailers")),
            _ => return Err(BodyFault("a trailer is malformed")),
        };
        for field in fields {
            if may_trail(field.name.as_bytes()) && !ends_here(field.name.as_bytes()) {
                to.extend_from_slice(field.name.as_bytes());
                to.extend_from_slice(b": ");
                to.extend_from_slice(field.value);
                to.extend_from_slice(b"\r\n");
            }
        }
    }
    to.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends the `Trailer` line for those announced that will pass.
pub(crate) fn push_announcement<'a>(announced: impl Iterator<Item = &'a [u8]>, to: &mut Vec<u8>) {
    let mut separator = &b"trailer: "[..];
    for name in announced.flat_map(list_members) {
        if may_trail(name) {
            to.extend_from_slice(separator);
            to.extend_from_slice(name);
            separator = b", ";
        }
    }
    if separator == b", " {
        to.extend_from_slice(b"\r\n");
    }
}

fn may_trail(name: &[u8]) -> bool {
    let begins = |with: &&str| {
        name.get(..with.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
    };
    classify(name) == FieldKind::Other
        && !NEVER
            .iter()
            .any(|one| name.eq_ignore_ascii_case(one.as_bytes()))
        && !NEVER_BEGINS.iter().any(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(section: &str) -> Result<String, BodyFault> {
        let mut to = Vec::new();
        push_last_chunk(section.as_bytes(), |name| name == b"x-hop", &mut to)?;
        Ok(String::from_utf8(to).unwrap())
    }

    #[test]
    fn what_steers_a_message_does_not_trail() {
        assert_eq!(passed("\r\n").unwrap(), "0\r\n\r\n");
        let section = "X-Sum:  a b \r\nETag: \"x\"\r\nx-hop: 1\r\nContent-Digest: y\r\ngrpc-status: 0\r\n\r\n";
        assert_eq!(
            passed(section).unwrap(),
            "0\r\nX-Sum: a b\r\nETag: \"x\"\r\nContent-Digest: y\r\ngrpc-status: 0\r\n\r\n"
        );
        for name in [
            "Content-Length",
            "Transfer-Encoding",
            "transfer_encoding",
            "Host",
            "Connection",
            "Upgrade",
            "TE",
            "Trailer",
            "Expect",
            "Range",
            "If-Match",
            "Cache-Control",
            "Authorization",
            "Cookie",
            "Set-Cookie",
            "Set-Cookie2",
            "Content-Type",
            "Content-Encoding",
            "Content-Range",
            "Location",
            "WWW-Authenticate",
            "X-Forwarded-For",
            "X-Auth-Subject",
            "X-Request-Id",
            "X-Service-Key",
            "traceparent",
            "Via",
            "Date",
            "Sec-WebSocket-Accept",
            "X-HTTP-Method-Override",
        ] {
            let trailing = passed(&format!("{name}: 1\r\nok: 1\r\n\r\n")).unwrap();
            assert_eq!(trailing, "0\r\nok: 1\r\n\r\n", "{name}");
            let mut line = Vec::new();
            push_announcement([name.as_bytes()].into_iter(), &mut line);
            assert_eq!(line, b"", "{name}");
        }
        let mut line = Vec::new();
        push_announcement([&b"X-Sum, Host"[..], b"ETag"].into_iter(), &mut line);
        assert_eq!(line, b"trailer: X-Sum, ETag\r\n");
    }

    #[test]
    fn malformed_and_many_are_refused() {
        for bad in [
            "x\r\n\r\n",
            "x : y\r\n\r\n",
            " x: y\r\n\r\n",
            "x: y\r\n z\r\n\r\n",
            "x: \0\r\n\r\n",
            ": y\r\n\r\n",
        ] {
            assert!(passed(bad).is_err(), "{bad:?}");
        }
        assert!(passed(&format!("{}\r\n", "a: b\r\n".repeat(MOST))).is_ok());
        assert!(passed(&format!("{}\r\n", "a: b\r\n".repeat(MOST + 1))).is_err());
    }
}
