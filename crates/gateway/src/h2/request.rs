//! The head of a request, from a stream's pseudo-fields and fields to the one form that all heads
//! are read in.

use http::{Method, header, request::Parts};

use super::incoming::push_field;
use crate::{
    fault::Fault,
    h1::{HeadScan, Scanned, push_number},
};

/// How the body goes on from here.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Framing {
    None,
    /// The head says how long it is, which the `h2` crate sees to.
    Declared,
    /// All of it is there.
    Length(usize),
    Chunked,
}

/// Renders the head. The `h2` crate has refused what RFC 9113 §8 calls malformed as far as it reads
/// fields one by one: upper case, pseudo-fields unknown, double or behind others, fields of a
/// connection, and a `Content-Length` that is not the length of the body.
pub(crate) fn render(head: &Parts, framing: Framing) -> Result<Vec<u8>, Fault> {
    let malformed = Fault::malformed;
    let uri = &head.uri;
    if uri
        .scheme_str()
        .is_some_and(|scheme| !matches!(scheme, "http" | "https"))
    {
        return Err(malformed("the scheme is neither http nor https"));
    }
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(malformed("Host stands more than once"));
    }
    let authority = match (uri.authority(), host) {
        (Some(authority), Some(host))
            if !authority
                .as_str()
                .as_bytes()
                .eq_ignore_ascii_case(host.as_bytes()) =>
        {
            return Err(malformed(":authority differs from Host"));
        }
        (Some(authority), _) => authority.as_str().as_bytes(),
        (None, Some(host)) => host.as_bytes(),
        (None, None) => return Err(malformed("neither :authority nor Host stands")),
    };
    let target = if head.method == Method::CONNECT {
        authority
    } else {
        let target = uri.path_and_query().map(|target| target.as_str());
        target
            .ok_or_else(|| malformed(":path is missing"))?
            .as_bytes()
    };

    let mut to = Vec::with_capacity(512);
    to.extend_from_slice(head.method.as_str().as_bytes());
    to.push(b' ');
    to.extend_from_slice(target);
    to.extend_from_slice(b" HTTP/1.1\r\n");
    push_field("host", authority, &mut to);
    for (name, value) in &head.headers {
        let ours = name == header::CONTENT_LENGTH
            && matches!(framing, Framing::Length(_) | Framing::Chunked);
        if name != header::HOST && name != header::COOKIE && !ours {
            push_field(name.as_str(), value.as_bytes(), &mut to);
        }
    }
    // RFC 9113 §8.2.3: cookies may come in pieces, and leave in one.
    let mut separator = &b"cookie: "[..];
    for cookie in head.headers.get_all(header::COOKIE) {
        to.extend_from_slice(separator);
        to.extend_from_slice(cookie.as_bytes());
        separator = b"; ";
    }
    if separator == b"; " {
        to.extend_from_slice(b"\r\n");
    }
    match framing {
        Framing::None | Framing::Declared => {}
        Framing::Length(length) => {
            to.extend_from_slice(b"content-length: ");
            push_number(length as u64, &mut to);
            to.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => to.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    to.extend_from_slice(b"\r\n");
    // Names and values cannot hold the end of a line. Should they ever, nothing passes.
    if HeadScan::default().next(&to) == Scanned::End(to.len()) {
        Ok(to)
    } else {
        Err(malformed("a field holds the end of a line"))
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn rendered(request: http::request::Builder, framing: Framing) -> Result<String, &'static str> {
        let (head, ()) = request.body(()).unwrap().into_parts();
        match render(&head, framing) {
            Ok(head) => Ok(String::from_utf8(head).unwrap()),
            Err(fault) => Err(fault.code),
        }
    }

    #[test]
    fn heads_come_into_one_form() {
        let get = || Request::get("http://a.example/x?y=1");
        assert_eq!(
            rendered(get().header("x", "1"), Framing::None).unwrap(),
            "GET /x?y=1 HTTP/1.1\r\nhost: a.example\r\nx: 1\r\n\r\n"
        );
        let cookies = get().header("cookie", "a=1").header("cookie", "b=2; c");
        assert_eq!(
            rendered(cookies, Framing::None).unwrap(),
            "GET /x?y=1 HTTP/1.1\r\nhost: a.example\r\ncookie: a=1; b=2; c\r\n\r\n"
        );
        let length = rendered(get(), Framing::Length(3)).unwrap();
        assert!(
            length.ends_with("\r\ncontent-length: 3\r\n\r\n"),
            "{length}"
        );
        let chunked = rendered(get(), Framing::Chunked).unwrap();
        assert!(chunked.ends_with("transfer-encoding: chunked\r\n\r\n"));
        assert!(rendered(get().header("host", "A.example"), Framing::None).is_ok());
        assert!(rendered(Request::get("/x").header("host", "b"), Framing::None).is_ok());
    }

    #[test]
    fn doubtful_heads_are_refused() {
        let get = || Request::get("http://a.example/");
        for bad in [
            get().header("host", "b.example"),
            get()
                .header("host", "a.example")
                .header("host", "a.example"),
            Request::get("ftp://a.example/"),
            Request::get("/x"),
        ] {
            assert_eq!(
                rendered(bad, Framing::None),
                Err("gateway.request_malformed")
            );
        }
    }
}
