//! TLS with instances: whom the gateway believes, and what it does when it does not.

use std::{io::Read, net::SocketAddr, sync::Arc};

use rustls::{ServerConfig, ServerConnection, StreamOwned, server::WebPkiClientVerifier};
use sinew_gateway::{FixedDiscovery, Gateway, GatewayConfig, UpstreamTlsConfig};

use crate::{
    authority::{self, Authority, Issued},
    support::*,
};

/// An instance that answers every request with "secured" over TLS.
fn secured(config: ServerConfig) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            let session = ServerConnection::new(config.clone()).unwrap();
            std::thread::spawn(move || {
                let mut stream = StreamOwned::new(session, socket);
                let mut asked = Vec::new();
                let mut bytes = [0; 1 << 10];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    asked.extend_from_slice(&bytes[..count]);
                    if asked.ends_with(b"\r\n\r\n") {
                        asked.clear();
                        if std::io::Write::write_all(&mut stream, ok("secured").as_bytes()).is_err()
                        {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

fn upstream(authority: &Authority) -> UpstreamTlsConfig {
    UpstreamTlsConfig {
        service: name("app"),
        ca: Some(authority.path("ca.pem")),
        server_name: None,
        cert: None,
        key: None,
    }
}

fn world(upstream: UpstreamTlsConfig, instance: SocketAddr) -> World {
    let config = GatewayConfig {
        upstream_tls: vec![upstream],
        ..config(vec![route("/**", "app")])
    };
    let world = World::with(config, &[], None);
    world.set_addresses(&[instance]);
    world
}

fn failures(world: &World, reason: &str) -> f64 {
    world.metric(&format!(
        "sinew_gateway_upstream_tls_handshake_failures_total{{service=\"app\",reason=\"{reason}\"}}"
    ))
}

fn handshakes(world: &World) -> f64 {
    world.metric(
        "sinew_gateway_upstream_tls_handshakes_total{service=\"app\",version=\"1.3\",resumed=\"no\"}",
    )
}

#[test]
fn connections_are_verified_and_kept() {
    let authority = Authority::new();
    let instance = secured(authority.server_config(&authority.issue(&["app"])));
    let world = world(upstream(&authority), instance);
    for method in ["GET", "POST", "GET", "POST"] {
        // A POST asks the system whether the kept connection is still there; the tickets that came
        // on it meanwhile are no news.
        let answer = world.ask(&format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(answer.text(), "secured");
    }
    assert_eq!(handshakes(&world), 1.0);
    assert_eq!(world.metric("sinew_gateway_upstream_connects_total"), 1.0);
}

#[test]
fn an_instance_that_proves_nothing_is_no_instance() {
    let authority = Authority::new();
    let expired = authority.issue_with(&["app"], |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let other = Authority::new();
    let plain = Service::start(|wire| {
        wire.fill();
        wire.send("HTTP/1.1 400 Bad Request\r\n\r\n");
        while wire.fill() {}
    });
    for (instance, reason) in [
        (
            secured(other.server_config(&other.issue(&["app"]))),
            "certificate_unknown_authority",
        ),
        (
            secured(authority.server_config(&authority.issue(&["users"]))),
            "certificate_wrong_name",
        ),
        (
            secured(authority.server_config(&expired)),
            "certificate_expired",
        ),
        (plain.address, "not_tls"),
    ] {
        let world = world(upstream(&authority), instance);
        let answer = world.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!(
            (answer.status(), answer.code().as_str()),
            (503, "gateway.unreachable")
        );
        assert_eq!(failures(&world, reason), 1.0, "{reason}");
        assert_eq!(
            world.metric("sinew_gateway_upstream_connect_failures_total"),
            1.0
        );
        // The others are asked instead.
        let good = secured(authority.server_config(&authority.issue(&["app"])));
        world.set_addresses(&[instance, good]);
        for _ in 0..5 {
            assert_eq!(world.get("/").text(), "secured");
        }
    }
}

#[test]
fn an_instance_that_hangs_in_the_handshake_is_given_up() {
    let authority = Authority::new();
    let silent = Service::start(|wire| while wire.fill() {});
    let mut route = route("/**", "app");
    route.connect_timeout = std::time::Duration::from_millis(200);
    let config = GatewayConfig {
        upstream_tls: vec![upstream(&authority)],
        ..config(vec![route])
    };
    let world = World::with(config, &[&silent], None);
    assert_eq!(world.get("/").code(), "gateway.connect_timeout");
    assert_eq!(failures(&world, "timeout"), 1.0);
}

#[test]
fn the_name_can_be_another_and_the_gateway_can_show_who_it_is() {
    let authority = Authority::new();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(authority.roots());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
    let issued = authority.issue(&["orders.internal", "127.0.0.1"]);
    let Issued { cert, key } = &issued;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let strict = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    let instance = secured(strict);
    let own = authority.files("own", &["gateway.example"]);
    for server_name in ["orders.internal", "127.0.0.1"] {
        let config = UpstreamTlsConfig {
            server_name: Some(server_name.to_owned()),
            cert: Some(own.cert.clone()),
            key: Some(own.key.clone()),
            ..upstream(&authority)
        };
        assert_eq!(
            world(config, instance).get("/").text(),
            "secured",
            "{server_name}"
        );
    }
    let nobody = UpstreamTlsConfig {
        server_name: Some("orders.internal".to_owned()),
        ..upstream(&authority)
    };
    // In TLS 1.3 the instance says so only after the handshake, so the request may have been sent.
    let answer = world(nobody, instance).get("/");
    assert!(matches!(answer.status(), 502 | 503), "{answer:?}");
}

#[test]
fn a_changed_authority_is_believed_from_the_next_connection_on() {
    let (first, second) = (Authority::new(), Authority::new());
    let instance = secured(second.server_config(&second.issue(&["app"])));
    let world = world(upstream(&first), instance);
    assert_eq!(world.get("/").status(), 503);
    let pem = std::fs::read_to_string(second.path("ca.pem")).unwrap();
    authority::replace(&first.path("ca.pem"), &pem);
    world.eventually("the new authority is believed", |world| {
        world.get("/").status() == 200
    });
}

#[test]
fn what_cannot_work_is_refused_at_the_start() {
    let authority = Authority::new();
    let own = authority.files("own", &["gateway.example"]);
    let start = |upstream_tls: Vec<UpstreamTlsConfig>| {
        let config = GatewayConfig {
            upstream_tls,
            ..config(vec![route("/**", "app")])
        };
        Gateway::start(config, Arc::new(FixedDiscovery::new()), None)
    };
    let good = upstream(&authority);
    for (entries, place, why) in [
        (
            vec![UpstreamTlsConfig {
                ca: None,
                ..good.clone()
            }],
            "gateway.upstream_tls[0].service:",
            "set `ca`",
        ),
        (
            vec![UpstreamTlsConfig {
                ca: Some(authority.path("absent")),
                ..good.clone()
            }],
            "gateway.upstream_tls[0].ca:",
            "cannot be read",
        ),
        (
            vec![good.clone(), good.clone()],
            "gateway.upstream_tls[1].service:",
            "two entries",
        ),
        (
            vec![UpstreamTlsConfig {
                server_name: Some("a b".into()),
                ..good.clone()
            }],
            "gateway.upstream_tls[0].server_name:",
            "DNS name",
        ),
        (
            vec![UpstreamTlsConfig {
                cert: Some(own.cert),
                ..good.clone()
            }],
            "gateway.upstream_tls[0].cert:",
            "needs its `key`",
        ),
    ] {
        let error = start(entries).unwrap_err();
        let message = error.message();
        assert!(
            message.starts_with(place) && message.contains(why),
            "{message}"
        );
    }
}
