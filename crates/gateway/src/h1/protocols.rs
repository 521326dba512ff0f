//! `Upgrade` (RFC 9110 §7.8): which protocols a connection may go on in.

use super::fields::list_members;

/// Another version of HTTP, or TLS, is a matter of one connection: passed on, either would hide
/// requests from the gateway.
const NEVER: [&str; 7] = ["h2c", "h2", "h3", "http", "https", "tls", "ssl"];

/// The members of `Upgrade` that are passed on.
pub(super) fn protocols<'a>(
    values: impl Iterator<Item = &'a [u8]>,
) -> impl Iterator<Item = &'a [u8]> {
    values.flat_map(list_members).filter(|one| passes(one))
}

/// Appends them as a header line.
pub(crate) fn push_protocols<'a>(protocols: impl Iterator<Item = &'a [u8]>, to: &mut Vec<u8>) {
    let mut separator = &b"upgrade: "[..];
    for protocol in protocols {
        to.extend_from_slice(separator);
        to.extend_from_slice(protocol);
        separator = b", ";
    }
    to.extend_from_slice(b"\r\n");
}

/// Whether it is well formed, `name` or `name/version`, and may pass.
fn passes(protocol: &[u8]) -> bool {
    let token = |part: &[u8]| {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        !part.is_empty() && part.iter().all(allowed)
    };
    let mut parts = protocol.splitn(2, |byte| *byte == b'/');
    let name = parts.next().unwrap_or_default();
    token(name)
        && parts.next().is_none_or(token)
        && !NEVER
            .iter()
            .any(|never| name.eq_ignore_ascii_case(never.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_versions_of_http_do_not_pass() {
        let values = [
            &b"h2c, WebSocket,foo/2.1"[..],
            b"HTTP/2.0, TLS/1.3, H2C, a b, /x, x/, x/y/z, x;y, ,SPDY/3.1",
        ];
        let mut line = Vec::new();
        push_protocols(protocols(values.into_iter()), &mut line);
        assert_eq!(line, b"upgrade: WebSocket, foo/2.1, SPDY/3.1\r\n");
    }
}
