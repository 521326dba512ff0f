//! Heads: of requests, of responses, and of requests of HTTP/2.

use http::{HeaderName, HeaderValue, Request};

use super::{Outcome, below, cuts, fuzz, holds};
use crate::{
    grpc,
    h1::{FieldKind, HeadScan, RequestHead, ResponseHead, Scanned},
    h2::{Framing, render},
    host, trace,
};

pub(super) const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"/",
    b"0",
    b"5",
    b"close",
    b"keep-alive",
    b"chunked",
    b"identity",
    b"Host: b\r\n",
    b"Host:",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"transfer_encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Upgrade: h2c\r\n",
    b"Expect: 100-continue\r\n",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"GET ",
    b"POST ",
    b"http://",
    b"[::1]",
    b"@",
    b"%2e",
    b"..",
    b"X: ",
    b"\x80",
    b"\xff",
    b"\r\n\r\n",
];

/// The same end however the bytes arrive.
fn scan(input: &[u8]) -> Result<Scanned, String> {
    let random = cuts(input);
    let whole = HeadScan::default().next(input);
    let (mut pieces, mut end) = (HeadScan::default(), 0);
    loop {
        let found = pieces.next(&input[..end]);
        if found != Scanned::Partial || end == input.len() {
            holds!(found == whole, "in pieces {found:?}, at once {whole:?}");
            return Ok(whole);
        }
        end = (end + 1 + below(&random, 9)).min(input.len());
    }
}

fn clean(bytes: &[u8]) -> bool {
    !bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

/// What was read, written down as the gateway would.
fn written(head: &RequestHead) -> Vec<u8> {
    let mut to = head.method().as_bytes().to_vec();
    to.push(b' ');
    to.extend_from_slice(head.target());
    to.extend_from_slice(format!(" HTTP/1.{}\r\n", head.minor).as_bytes());
    push_fields(head.fields(), &mut to);
    to
}

fn push_fields<'a>(
    fields: impl Iterator<Item = (FieldKind, &'a [u8], &'a [u8])>,
    to: &mut Vec<u8>,
) {
    for (_, name, value) in fields {
        for part in [name, b": ", value, b"\r\n"] {
            to.extend_from_slice(part);
        }
    }
    to.extend_from_slice(b"\r\n");
}

fn request(input: &[u8]) -> Outcome {
    let Scanned::End(length) = scan(input)? else {
        return Ok(());
    };
    let mut head = RequestHead::default();
    if head.parse(&input[..length], 100).is_err() {
        return Ok(());
    }
    holds!(head.fields().count() <= 100, "too many fields");
    holds!(!head.method().is_empty(), "no method");
    holds!(clean(head.method().as_bytes()), "a line end in the method");
    holds!(
        clean(head.target()) && !head.target().contains(&b' '),
        "the target goes on"
    );
    for (_, name, value) in head.fields() {
        let token = !name.is_empty() && !name.iter().any(|byte| b" \t:".contains(byte));
        holds!(token && clean(name) && clean(value), "a field is two");
        holds!(value.trim_ascii() == value, "white space around a value");
    }
    let text = written(&head);
    holds!(
        HeadScan::default().next(&text) == Scanned::End(text.len()),
        "it ends elsewhere"
    );
    let mut again = RequestHead::default();
    holds!(
        again.parse(&text, 100).is_ok(),
        "what was written is refused"
    );
    holds!(written(&again) == text, "what was written reads otherwise");
    let [one, other] = [&head, &again].map(|head| {
        let framing = head.framing().ok();
        framing.map(|f| (f.body.left(), f.body.is_chunked(), f.keep_alive))
    });
    holds!(one == other, "framed {one:?} and then {other:?}");
    if let Some((left, chunked, _)) = one {
        let has = |kind| head.values(kind).count();
        let (lengths, codings) = (
            has(FieldKind::ContentLength),
            has(FieldKind::TransferEncoding),
        );
        holds!(lengths + codings <= 1, "framed by two fields");
        holds!(chunked == (codings == 1), "chunked without a word");
        holds!(
            lengths == 1 || chunked || left == Some(0),
            "a length from nowhere"
        );
    }
    if let Ok(destination) = head.destination() {
        holds!(head.values(FieldKind::Host).count() <= 1, "two hosts");
        holds!(
            destination.path_and_query.starts_with(b"/"),
            "a path without a slash"
        );
        if let Some(authority) = destination.authority {
            let back = host::parse(authority.host.as_bytes());
            let same = back.is_some_and(|back| back.host == authority.host && back.port.is_none());
            holds!(same, "the host {:?} is none", authority.host);
        }
    }
    if let Some(context) = trace::context(&head) {
        holds!(context.len() >= 55, "a trace context that is too short");
    }
    let offered: Vec<_> = head.offered_protocols().collect();
    for protocol in offered {
        let lower = protocol.to_ascii_lowercase();
        holds!(
            lower.split(|byte| *byte == b'/').next() != Some(b"http") && lower != b"h2c",
            "another HTTP is offered"
        );
    }
    if let Some(time) = grpc::timeout(&head) {
        let longest = 99_999_999 * 3_600_000;
        holds!(time <= longest, "a deadline beyond all");
    }
    Ok(())
}

fn response(input: &[u8]) -> Outcome {
    let Scanned::End(length) = scan(input)? else {
        return Ok(());
    };
    let mut head = ResponseHead::default();
    if head.parse(&input[..length]).is_err() {
        return Ok(());
    }
    holds!(
        (100..=599).contains(&head.status),
        "the status {}",
        head.status
    );
    holds!(clean(head.reason()), "a line end in the reason");
    holds!(
        head.fields()
            .all(|(_, name, value)| clean(name) && clean(value)),
        "a field is two"
    );
    let mut text = format!("HTTP/1.1 {} ", head.status).into_bytes();
    push_fields(head.fields(), text_line(&mut text));
    let mut again = ResponseHead::default();
    holds!(again.parse(&text).is_ok(), "what was written is refused");
    holds!(
        head.fields().eq(again.fields()),
        "what was written reads otherwise"
    );
    holds!(
        head.body(true).is_err() || head.body(true).is_ok_and(|body| body.is_done()),
        "to HEAD"
    );
    if let Ok(body) = head.body(false) {
        let declared = head.content_length().ok().flatten();
        let coded = head.has(FieldKind::TransferEncoding);
        let bodiless = matches!(head.status, 100..=199 | 204 | 304);
        holds!(
            bodiless || !(coded && declared.is_some()),
            "framed by two fields"
        );
        holds!(!body.is_chunked() || coded, "chunked without a word");
        holds!(
            bodiless || coded || declared.is_none() || body.left() == declared,
            "another length"
        );
    }
    Ok(())
}

fn text_line(text: &mut Vec<u8>) -> &mut Vec<u8> {
    text.extend_from_slice(b"\r\n");
    text
}

/// Lines of `name: value`, the first of them method, path and authority, as a request of HTTP/2.
fn mapping(input: &[u8]) -> Outcome {
    let mut lines = input.split(|byte| *byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let (method, path, authority) = (next(), next(), next());
    let uri = [b"http://", authority, path].concat();
    let mut builder = Request::builder().method(method).uri(&uri[..]);
    let mut fields = 0;
    for line in lines {
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let name = HeaderName::from_lowercase(&line[..colon]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            let own = ["host", "cookie", "content-length"].contains(&name.as_str());
            fields += usize::from(!own);
            builder = builder.header(name, value);
        }
    }
    let Ok(request) = builder.body(()) else {
        return Ok(());
    };
    let (parts, ()) = request.into_parts();
    for framing in [
        Framing::None,
        Framing::Declared,
        Framing::Length(7),
        Framing::Chunked,
    ] {
        let Ok(text) = render(&parts, framing) else {
            continue;
        };
        holds!(
            HeadScan::default().next(&text) == Scanned::End(text.len()),
            "it ends elsewhere"
        );
        let mut head = RequestHead::default();
        if head.parse(&text, 256).is_err() {
            continue;
        }
        holds!(head.method() == parts.method.as_str(), "another method");
        holds!(head.values(FieldKind::Host).count() == 1, "not one host");
        let own = |name: &[u8]| [&b"host"[..], b"cookie", b"content-length"].contains(&name);
        let kept = head.fields().filter(|(_, name, _)| !own(name)).count();
        let ours = usize::from(matches!(framing, Framing::Chunked));
        holds!(kept == fields + ours, "{kept} fields of {fields}");
        if let (Framing::Length(length), Ok(framing)) = (framing, head.framing()) {
            holds!(framing.body.left() == Some(length as u64), "another length");
        }
        if let (Framing::Chunked, Ok(framing)) = (framing, head.framing()) {
            holds!(framing.body.is_chunked(), "not chunked");
        }
    }
    Ok(())
}

const REQUESTS: &[&[u8]] = &[
    b"GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\nX-Y:  z \r\n\r\nhello",
    b"PUT http://a/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive, X-Hop\r\nCookie: a=b; c\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [::1]\r\nUpgrade: websocket, h2c\r\nConnection: Upgrade\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\ngrpc-timeout: 10S\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n",
];

#[test]
fn request_heads() {
    fuzz(REQUESTS, WORDS, request);
}

#[test]
fn response_heads() {
    let seeds: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 404 \r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 304\r\nContent-Length: 10\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n",
    ];
    fuzz(seeds, WORDS, response);
}

#[test]
fn http2_requests() {
    let seeds: &[&[u8]] = &[
        b"GET\n/a?b\na.example\nx:1\ncookie:a=1\ncookie:b=2",
        b"POST\n/\na:80\nhost:a:80\ncontent-length:7\nte:trailers",
        b"PUT\n/x/../y\n[::1]\ntransfer_encoding:chunked\ntransfer-encoding:chunked",
        b"OPTIONS\n*\na\nconnection:close\nx:\xff",
    ];
    fuzz(seeds, WORDS, mapping);
}
