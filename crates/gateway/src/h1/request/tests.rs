use super::*;

fn parse(text: &str) -> Result<RequestHead, Fault> {
    let mut head = RequestHead::default();
    head.parse(text.as_bytes(), 100)?;
    Ok(head)
}

fn framing(headers: &str) -> Result<Framing, Fault> {
    parse(&format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n"))?.framing()
}

#[test]
fn plain_requests_are_read() {
    let head = parse("GET /a?b HTTP/1.1\r\nHost: a\r\nX-Y:  z \r\n\r\n").unwrap();
    assert_eq!(
        (head.method(), head.target(), head.minor),
        ("GET", &b"/a?b"[..], 1)
    );
    let fields: Vec<_> = head
        .fields()
        .map(|(_, name, value)| (name, value))
        .collect();
    assert_eq!(fields, [(&b"Host"[..], &b"a"[..]), (b"X-Y", b"z")]);
    assert!(framing("").unwrap().body.is_done());
    assert_eq!(
        framing("Content-Length: 5\r\n").unwrap().body.left(),
        Some(5)
    );
    assert!(
        framing("Transfer-Encoding: Chunked\r\n")
            .unwrap()
            .body
            .is_chunked()
    );
}

#[test]
fn ambiguous_framing_is_refused() {
    for bad in [
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
        "Content-Length: 1\r\nContent-Length: 1\r\n",
        "Content-Length: 1, 1\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x1\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content_Length: 1\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer_Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: chunked\r\n folded\r\n",
        "X: a\rb\r\n",
        "X: a\0b\r\n",
        "X y: a\r\n",
        ": a\r\n",
        " X: a\r\n",
        "X\r\n",
    ] {
        assert_eq!(framing(bad).map(|_| ()).unwrap_err().status, 400, "{bad:?}");
    }
    assert_eq!(framing("Expect: gold\r\n").unwrap_err().status, 417);
    let old = parse("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    assert_eq!(old.framing().unwrap_err().status, 400);
    for bad in [
        "GET / HTTP/2.0\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "GET /\r\n\r\n",
        "G@T / HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(parse(bad).unwrap_err().status, 400, "{bad:?}");
    }
    let mut many = RequestHead::default();
    assert_eq!(
        many.parse(b"GET / HTTP/1.1\r\na: b\r\nc: d\r\n\r\n", 1)
            .unwrap_err()
            .status,
        431
    );
}

#[test]
fn destinations_agree_with_host_or_are_refused() {
    let destination = |target: &str, host: &str| {
        let head = parse(&format!("GET {target} HTTP/1.1\r\n{host}\r\n")).unwrap();
        head.destination()
            .map(|d| {
                (
                    d.authority.unwrap().host.to_owned(),
                    d.path_and_query.to_vec(),
                )
            })
            .map_err(|fault| fault.status)
    };
    assert_eq!(
        destination("/x", "Host: a:80\r\n"),
        Ok(("a".into(), b"/x".to_vec()))
    );
    assert_eq!(
        destination("http://A/x?y", "Host: a:80\r\n"),
        Ok(("A".into(), b"/x?y".to_vec()))
    );
    assert_eq!(
        destination("http://a", "Host: a\r\n"),
        Ok(("a".into(), b"/".to_vec()))
    );
    for (target, host) in [
        ("/", ""),
        ("/", "Host: a\r\nHost: a\r\n"),
        ("/", "Host: a b\r\n"),
        ("/", "Host: u@a\r\n"),
        ("http://b/", "Host: a\r\n"),
        ("http://a:81/", "Host: a\r\n"),
        ("https://a/", "Host: a\r\n"),
        ("ftp://a/", "Host: a\r\n"),
        ("http://u@a/", "Host: a\r\n"),
        ("a:80", "Host: a\r\n"),
        ("*", "Host: a\r\n"),
    ] {
        assert_eq!(destination(target, host), Err(400), "{target} {host}");
    }
}

#[test]
fn connections_stay_or_close() {
    let keeps = |line: &str| parse(line).unwrap().framing().unwrap().keep_alive;
    assert!(keeps("GET / HTTP/1.1\r\n\r\n"));
    assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
    assert!(keeps("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    assert!(!keeps(
        "GET / HTTP/1.1\r\nConnection: keep-alive, Close\r\n\r\n"
    ));
}
