//! The PROXY protocol: who may say for whom a connection is, and what they must say.

use std::time::Duration;

use sinew_gateway::{GatewayConfig, TlsConfig};

use crate::{
    authority::{self, Authority},
    support::*,
};

fn world(from: &[&str], service: &Service, head_timeout: Duration) -> World {
    let mut config = GatewayConfig {
        proxy_protocol_from: from.iter().map(|range| range.parse().unwrap()).collect(),
        ..config(vec![route("/**", "app")])
    };
    config.limits.head_timeout = head_timeout;
    World::with(config, &[service], None)
}

const LAST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn the_client_is_who_the_proxy_says() {
    let service = Service::saying("hello");
    let world = world(&["10.0.0.0/8", "127.0.0.1"], &service, PATIENCE);
    let mut block = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
    block.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    block.extend([0; 20]);
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    for (header, client) in [
        (
            b"PROXY TCP4 192.0.2.1 198.51.100.7 8080 443\r\n".to_vec(),
            "192.0.2.1",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (block, "2001:db8::1"),
        (local, "127.0.0.1"),
    ] {
        // With the request at once, and byte by byte.
        for piece in [usize::MAX, 1] {
            let mut client_side = world.client();
            let bytes = [&header[..], GET.as_bytes()].concat();
            for part in bytes.chunks(piece.min(bytes.len())) {
                std::io::Write::write_all(&mut client_side.0.stream, part).unwrap();
            }
            assert_eq!(client_side.response().text(), "hello");
            // It is said once per connection.
            client_side.send(GET);
            assert_eq!(client_side.response().text(), "hello");
            for request in service.requests().iter().rev().take(2) {
                assert_eq!(request.header("x-forwarded-for").as_deref(), Some(client));
            }
        }
    }
    assert_eq!(world.metric("sinew_gateway_proxy_headers_total"), 8.0);
}

#[test]
fn proxies_must_say_and_others_must_not() {
    let service = Service::saying("hello");
    let others = world(&["10.0.0.0/8"], &service, PATIENCE);
    let mut client = others.client();
    client.send(&format!(
        "PROXY TCP4 192.0.2.1 198.51.100.7 8080 443\r\n{GET}"
    ));
    assert_eq!(client.response().code(), "gateway.request_malformed");
    assert_eq!(others.get("/").text(), "hello");

    let world = world(&["127.0.0.0/8"], &service, Duration::from_secs(1));
    let asked = service.requests().len();
    for (said, reason) in [
        (GET, "malformed"),
        ("PROXY TCP4 192.0.2.1\r\n", "malformed"),
        ("PROXY TCP4 192.0.2.1 198", "timeout"),
        ("", "timeout"),
    ] {
        let series = format!("sinew_gateway_proxy_header_failures_total{{reason=\"{reason}\"}}");
        let before = world.metric(&series);
        let mut client = world.client();
        client.send(said);
        assert!(client.0.closed(), "{said:?} gets no answer");
        world.eventually("it is counted", |world| {
            world.metric(&series) == before + 1.0
        });
    }
    drop(world.client());
    let closed = "sinew_gateway_proxy_header_failures_total{reason=\"closed\"}";
    world.eventually("it is counted", |world| world.metric(closed) == 1.0);
    assert_eq!(service.requests().len(), asked);
}

#[test]
fn the_header_goes_before_the_handshake() {
    let authority = Authority::new();
    let service = Service::saying("hello");
    let config = GatewayConfig {
        proxy_protocol_from: vec!["127.0.0.1".parse().unwrap()],
        tls: Some(TlsConfig {
            address: "127.0.0.1:0".parse().unwrap(),
            certificates: vec![authority.files("a", &["a.example"])],
            ..TlsConfig::default()
        }),
        ..config(vec![route("/**", "app")])
    };
    let world = World::with(config, &[&service], None);
    let mut client = Client::connect(world.gateway.tls_address().unwrap());
    client.send("PROXY TCP4 192.0.2.1 198.51.100.7 8080 443\r\n");
    let answer = authority::ask_over_tls(client.0.stream, &authority, "a.example", LAST);
    assert!(answer.ends_with("hello"), "{answer}");
    let request = &service.requests()[0];
    assert_eq!(
        request.header("x-forwarded-for").as_deref(),
        Some("192.0.2.1")
    );
    assert_eq!(
        request.header("x-forwarded-proto").as_deref(),
        Some("https")
    );
}
