//! What gRPC asks of those between a client and a service (the protocol's document
//! `PROTOCOL-HTTP2.md` of the gRPC project): deadlines pass on, and whoever answers in a service's
//! place says it in gRPC's words.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use sinew_core::Kind;

use crate::{
    h1::{FieldKind, RequestHead},
    timer::{Millis, millis},
};

/// How long the client waits for the whole of the answer.
pub(crate) const TIMEOUT: &str = "grpc-timeout";

/// Whether the request is a gRPC call. gRPC-Web is not: it is framed as any other HTTP.
pub(crate) fn is_call(head: &RequestHead) -> bool {
    field(head, b"content-type").is_some_and(is_call_type)
}

fn is_call_type(kind: &[u8]) -> bool {
    let rest = kind.strip_prefix(b"application/grpc");
    matches!(rest, Some([] | [b'+' | b';', ..]))
}

/// How long the client of a call waits, if it says so.
pub(crate) fn timeout(head: &RequestHead) -> Option<Millis> {
    read_timeout(field(head, TIMEOUT.as_bytes())?)
}

/// When a call must be over; `None` when it is none.
pub(crate) fn call_due(fields: &HeaderMap, now: Millis) -> Option<Millis> {
    let kind = fields.get(header::CONTENT_TYPE)?;
    let timeout = fields.get(TIMEOUT).map(HeaderValue::as_bytes);
    is_call_type(kind.as_bytes()).then(|| {
        timeout
            .and_then(read_timeout)
            .map_or(Millis::MAX, |time| now.saturating_add(time))
    })
}

pub(crate) fn read_timeout(text: &[u8]) -> Option<Millis> {
    let (unit, digits) = text.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let time = match unit {
        b'H' => Duration::from_secs(amount * 3_600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    };
    Some(millis(time))
}

/// The same as a field's value: at most eight digits and a unit.
pub(crate) fn timeout_text(left: Millis) -> HeaderValue {
    const MOST: u64 = 99_999_999;
    let text = if left <= MOST {
        format!("{left}m")
    } else {
        format!("{}S", (left / 1_000).min(MOST))
    };
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("0m"))
}

fn field<'a>(head: &'a RequestHead, name: &[u8]) -> Option<&'a [u8]> {
    let mut fields = head
        .fields()
        .filter(|(kind, ..)| matches!(kind, FieldKind::EndToEnd | FieldKind::Other));
    let (_, _, value) = fields.find(|(_, other, _)| other.eq_ignore_ascii_case(name))?;
    Some(value)
}

/// The status of a call that ends in an error of this kind (the codes are gRPC's own).
pub(crate) fn status(kind: Kind) -> u8 {
    match kind {
        Kind::InvalidArgument => 3,
        Kind::DeadlineExceeded => 4,
        Kind::NotFound => 5,
        Kind::AlreadyExists => 6,
        Kind::PermissionDenied => 7,
        Kind::ResourceExhausted => 8,
        Kind::FailedPrecondition => 9,
        Kind::Aborted => 10,
        Kind::OutOfRange => 11,
        Kind::Internal => 13,
        Kind::Unavailable => 14,
        Kind::DataLoss => 15,
        Kind::Unauthenticated => 16,
    }
}

/// How a call ends whose answer had begun: late, or because the instance broke it off.
pub(crate) fn broken_off(late: bool) -> HeaderMap {
    let (kind, message) = if late {
        (
            Kind::DeadlineExceeded,
            "gateway.total_timeout: the deadline is over",
        )
    } else {
        let message = "gateway.upstream_failed: the instance did not finish its answer";
        (Kind::Unavailable, message)
    };
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from(u16::from(status(kind))));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    trailers
}

/// Appends a message as `grpc-message` wants it: what is not printable ASCII, and `%`, encoded.
pub(crate) fn push_message(text: &str, to: &mut Vec<u8>) {
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            to.push(byte);
        } else {
            to.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &str) -> RequestHead {
        let mut head = RequestHead::default();
        let text = format!("POST /a HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
        head.parse(text.as_bytes(), 10).unwrap();
        head
    }

    #[test]
    fn calls_are_told_by_their_content_type() {
        for (kind, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(
                is_call(&head(&format!("Content-Type: {kind}\r\n"))),
                is,
                "{kind}"
            );
        }
        assert!(!is_call(&head("")));
    }

    #[test]
    fn timeouts_read_back() {
        let read = |text: &str| timeout(&head(&format!("grpc-timeout: {text}\r\n")));
        for (text, time) in [
            ("1H", 3_600_000),
            ("2M", 120_000),
            ("3S", 3_000),
            ("400m", 400),
            ("5000u", 5),
            ("6000000n", 6),
            ("1n", 1),
        ] {
            assert_eq!(read(text), Some(time), "{text}");
        }
        for bad in ["", "S", "1", "-1S", "123456789S", "1s", "1 S", "0x1S"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        for time in [0, 5, 99_999_999, 100_000_000, u64::MAX] {
            let text = timeout_text(time);
            assert!(text.len() <= 9, "{text:?}");
        }
        assert_eq!(timeout_text(1_500), "1500m");
    }

    #[test]
    fn messages_are_printable() {
        let mut text = Vec::new();
        push_message("100% \u{e4}\n", &mut text);
        assert_eq!(text, b"100%25 %C3%A4%0A");
    }
}
