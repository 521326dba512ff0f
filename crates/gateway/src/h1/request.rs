use std::{mem::MaybeUninit, ops::Range};

use super::{
    Body, FieldKind, Fields,
    fields::{list_members, part, range_in},
    protocols::protocols,
};
use crate::{
    fault::Fault,
    host::{self, Authority},
    matcher::HeaderLines,
};

/// The head of one request. Its memory is kept for the next.
#[derive(Debug, Default)]
pub(crate) struct RequestHead {
    bytes: Vec<u8>,
    method: Range<u32>,
    target: Range<u32>,
    /// 0 or 1.
    pub(crate) minor: u8,
    pub(crate) fields: Fields,
}

/// How a request is framed, and what it asks of the connection.
#[derive(Debug)]
pub(crate) struct Framing {
    pub(crate) body: Body,
    pub(crate) keep_alive: bool,
    pub(crate) expects_continue: bool,
}

/// The most header lines that can be configured.
pub(crate) const MOST_HEADERS: usize = 256;

impl RequestHead {
    /// Reads a whole head, the empty line at its end included.
    pub(crate) fn parse(&mut self, head: &[u8], most_headers: usize) -> Result<(), Fault> {
        self.clear();
        self.bytes.extend_from_slice(head);
        let head = &self.bytes;
        let mut space = [const { MaybeUninit::uninit() }; MOST_HEADERS];
        let space = &mut space[..most_headers.min(MOST_HEADERS)];
        let mut request = httparse::Request::new(&mut []);
        match httparse::ParserConfig::default().parse_request_with_uninit_headers(
            &mut request,
            head,
            space,
        ) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(Fault::malformed("the head is cut off")),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(Fault::head_too_large(
                    "the request has too many header lines",
                ));
            }
            Err(httparse::Error::Version) => {
                return Err(Fault::malformed(
                    "the version is neither HTTP/1.1 nor HTTP/1.0",
                ));
            }
            Err(httparse::Error::HeaderName) => {
                return Err(Fault::malformed("a header's name is malformed"));
            }
            Err(httparse::Error::HeaderValue) => {
                return Err(Fault::malformed("a header's value is malformed"));
            }
            Err(_) => return Err(Fault::malformed("the request line is malformed")),
        }
        self.method = range_in(head, request.method.unwrap_or_default().as_bytes());
        self.target = range_in(head, request.path.unwrap_or_default().as_bytes());
        self.minor = request.version.unwrap_or(1);
        for field in &*request.headers {
            self.fields.push(head, field);
        }
        Ok(())
    }

    /// Forgets what was read.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
        (self.method, self.target, self.minor) = (0..0, 0..0, 1);
    }

    /// The method; empty when no head was read.
    pub(crate) fn method(&self) -> &str {
        std::str::from_utf8(part(&self.bytes, &self.method)).unwrap_or_default()
    }

    /// The target as it was sent.
    pub(crate) fn target(&self) -> &[u8] {
        part(&self.bytes, &self.target)
    }

    /// Whether a safe or idempotent method (RFC 9110 §9.2.2) or the client's own key allows the
    /// request to be sent twice.
    pub(crate) fn idempotent(&self) -> bool {
        matches!(self.method(), "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS")
            || self.has(FieldKind::IdempotencyKey)
    }

    pub(crate) fn fields(&self) -> impl Iterator<Item = (FieldKind, &[u8], &[u8])> {
        self.fields.iter(&self.bytes)
    }

    /// The first value of a field, by its name in lower case.
    pub(crate) fn named(&self, name: &[u8]) -> Option<&[u8]> {
        let mut fields = self.fields();
        let (_, _, value) = fields.find(|(_, have, _)| have.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    pub(crate) fn has(&self, kind: FieldKind) -> bool {
        self.fields.has(kind)
    }

    pub(crate) fn has_any(&self, kinds: &[FieldKind]) -> bool {
        self.fields.has_any(kinds)
    }

    pub(crate) fn values(&self, kind: FieldKind) -> impl Iterator<Item = &[u8]> {
        self.fields.values(&self.bytes, kind)
    }

    pub(crate) fn single(&self, kind: FieldKind) -> Result<Option<&[u8]>, ()> {
        self.fields.single(&self.bytes, kind)
    }

    /// The body's framing (RFC 9112 §6), far stricter than the RFC allows: a request that two
    /// parsers could cut at two places is refused, never repaired.
    pub(crate) fn framing(&self) -> Result<Framing, Fault> {
        let length = self
            .single(FieldKind::ContentLength)
            .map_err(|()| Fault::malformed("Content-Length stands more than once"))?;
        let coding = self
            .single(FieldKind::TransferEncoding)
            .map_err(|()| Fault::malformed("Transfer-Encoding stands more than once"))?;
        if self.has(FieldKind::Twin) && self.has_framing_twin() {
            return Err(Fault::malformed(
                "a framing header is spelt with an underscore",
            ));
        }
        let body = match (length, coding) {
            (None, None) => Body::none(),
            (Some(_), Some(_)) => {
                return Err(Fault::malformed(
                    "Content-Length and Transfer-Encoding both stand",
                ));
            }
            (Some(length), None) => Body::of_length(
                decimal(length).ok_or_else(|| Fault::malformed("Content-Length is no number"))?,
            ),
            (None, Some(_)) if self.minor == 0 => {
                return Err(Fault::malformed("HTTP/1.0 knows no Transfer-Encoding"));
            }
            (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Body::chunked(true),
            (None, Some(_)) => {
                return Err(Fault::malformed("Transfer-Encoding is other than chunked"));
            }
        };
        let expects_continue = match self.single(FieldKind::Expect) {
            Ok(None) => false,
            Ok(Some(value)) if value.eq_ignore_ascii_case(b"100-continue") => {
                self.minor == 1 && !body.is_done()
            }
            _ => return Err(Fault::expectation()),
        };
        Ok(Framing {
            body,
            keep_alive: self.keep_alive(),
            expects_continue,
        })
    }

    fn has_framing_twin(&self) -> bool {
        let twin = |name: &[u8]| {
            name.eq_ignore_ascii_case(b"content_length")
                || name.eq_ignore_ascii_case(b"transfer_encoding")
        };
        self.fields()
            .any(|(kind, name, _)| kind == FieldKind::Twin && twin(name))
    }

    fn keep_alive(&self) -> bool {
        let mut keep_alive = self.minor == 1;
        for option in self.values(FieldKind::Connection).flat_map(list_members) {
            if option.eq_ignore_ascii_case(b"close") {
                return false;
            }
            keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
        keep_alive
    }

    /// Whether the client offers to go on in another protocol that the gateway passes on. `Upgrade`
    /// may always be ignored (RFC 9110 §7.8), and is where it means nothing: in HTTP/1.0, without
    /// `Connection: upgrade`, and to a HEAD request.
    pub(crate) fn asks_for_upgrade(&self) -> bool {
        self.has(FieldKind::Upgrade)
            && self.minor == 1
            && self.method() != "HEAD"
            && self.connection_names(b"upgrade")
            && self.offered_protocols().next().is_some()
    }

    /// Whether the client says that it takes trailers.
    pub(crate) fn takes_trailers(&self) -> bool {
        self.values(FieldKind::Te)
            .flat_map(list_members)
            .any(|member| member.eq_ignore_ascii_case(b"trailers"))
    }

    /// The protocols of `Upgrade` that the gateway passes on.
    pub(crate) fn offered_protocols(&self) -> impl Iterator<Item = &[u8]> {
        protocols(self.values(FieldKind::Upgrade))
    }

    /// Whether `Connection` names this field, which then ends here.
    pub(crate) fn connection_names(&self, name: &[u8]) -> bool {
        self.values(FieldKind::Connection)
            .flat_map(list_members)
            .any(|option| option.eq_ignore_ascii_case(name))
    }

    /// The host asked for and the path with its query: of an origin-form or absolute-form target
    /// (RFC 9112 §3.2). `None` for the host only in HTTP/1.0. The text of `Host` goes along.
    pub(crate) fn destination(&self) -> Result<Destination<'_>, Fault> {
        let host_text = self
            .single(FieldKind::Host)
            .map_err(|()| Fault::malformed("Host stands more than once"))?;
        if host_text.is_none() && self.minor == 1 {
            return Err(Fault::malformed("Host is missing"));
        }
        let authority = match host_text {
            Some(text) => {
                Some(host::parse(text).ok_or_else(|| Fault::malformed("Host is malformed"))?)
            }
            None => None,
        };
        let target = self.target();
        if target.starts_with(b"/") {
            let path_and_query = target;
            return Ok(Destination {
                authority,
                host_text,
                path_and_query,
            });
        }
        let (named, path_and_query) = absolute(target)
            .ok_or_else(|| Fault::malformed("the target is neither a path nor an http URL"))?;
        let named_authority =
            host::parse(named).ok_or_else(|| Fault::malformed("the target's host is malformed"))?;
        // RFC 9112 §3.2.2 lets the target win over Host; one that differs is an attack or a defect.
        let same = |other: Authority<'_>| {
            other.host.eq_ignore_ascii_case(named_authority.host)
                && other.port.unwrap_or(80) == named_authority.port.unwrap_or(80)
        };
        if authority.is_some_and(|authority| !same(authority)) {
            return Err(Fault::malformed("the target's host differs from Host"));
        }
        let (authority, host_text) = (Some(named_authority), Some(named));
        Ok(Destination {
            authority,
            host_text,
            path_and_query,
        })
    }
}

impl HeaderLines for RequestHead {
    fn every(&self, name: &str, see: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.fields()
            .filter(|(_, other, _)| other.eq_ignore_ascii_case(name.as_bytes()))
            .all(|(_, _, value)| see(value))
    }
}

/// Where a request wants to go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Destination<'a> {
    pub(crate) authority: Option<Authority<'a>>,
    pub(crate) host_text: Option<&'a [u8]>,
    pub(crate) path_and_query: &'a [u8],
}

fn absolute(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let scheme = target.get(..7)?;
    if !scheme.eq_ignore_ascii_case(b"http://") {
        return None;
    }
    let rest = &target[7..];
    match rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
    {
        Some(end) if rest[end] == b'/' => Some((&rest[..end], &rest[end..])),
        Some(_) => None,
        None => Some((rest, b"/")),
    }
}

/// Digits alone: no sign, no list, no white space, and no overflow.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
