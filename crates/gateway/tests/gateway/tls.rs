//! TLS with clients: who is shown what, who gets in, and what happens to those who do not.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned, pki_types::ServerName};
use sinew_gateway::{
    Auth, ClientCertificate, FixedDiscovery, Gateway, GatewayConfig, TlsConfig, TlsVersion,
    UnknownName,
};

use crate::{
    authority::{self, Authority, Issued},
    h2_support,
    support::*,
};

type Secured = StreamOwned<ClientConnection, TcpStream>;

fn tls(certificates: Vec<sinew_gateway::CertificateFiles>) -> TlsConfig {
    TlsConfig {
        address: "127.0.0.1:0".parse().unwrap(),
        certificates,
        ..TlsConfig::default()
    }
}

fn world_with(tls: TlsConfig, service: &Service) -> World {
    let config = GatewayConfig {
        tls: Some(tls),
        ..config(vec![route("/**", "app")])
    };
    World::with(config, &[service], None)
}

fn address(world: &World) -> SocketAddr {
    world.gateway.tls_address().unwrap()
}

/// Shakes hands, asking for this name.
fn shake(
    to: SocketAddr,
    name: &str,
    config: impl Into<Arc<ClientConfig>>,
) -> std::io::Result<Secured> {
    let mut socket = TcpStream::connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut session = ClientConnection::new(config.into(), name).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(session, socket))
}

/// One request on the connection, and its answer's head and body.
fn get(stream: &mut Secured, request: &str) -> std::io::Result<String> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut text = String::new();
    loop {
        let mut bytes = [0; 1 << 10];
        let count = stream.read(&mut bytes)?;
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            length.is_some_and(|length| body.len() == length.parse::<usize>().unwrap())
        });
        if whole || count == 0 {
            return Ok(text);
        }
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// The first certificate that a client which asks for this name is shown.
fn shown(world: &World, name: &str, config: &Arc<ClientConfig>) -> Vec<u8> {
    let stream = shake(address(world), name, config.clone()).unwrap();
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

fn der(issued: &Issued) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::from_pem_slice(issued.cert.as_bytes())
        .unwrap()
        .to_vec()
}

#[test]
fn the_name_chooses_the_certificate() {
    let authority = Authority::new();
    let [first, second, wild] = [
        &["a.example", "unknown.example", "127.0.0.1"][..],
        &["b.example"],
        &["*.c.example"],
    ]
    .map(|names| authority.issue(names));
    let files = vec![
        authority.place("first", &first),
        authority.place("second", &second),
        authority.place("wild", &wild),
    ];
    let service = Service::saying("hello");
    let world = world_with(tls(files.clone()), &service);
    let config = Arc::new(authority.client_config(None));
    for (name, expected) in [
        ("a.example", &first),
        ("b.example", &second),
        ("B.Example", &second),
        ("x.c.example", &wild),
        ("unknown.example", &first),
        // An address is never asked for by name.
        ("127.0.0.1", &first),
    ] {
        assert_eq!(shown(&world, name, &config), der(expected), "{name}");
    }

    let strict = TlsConfig {
        unknown_name: UnknownName::Refuse,
        ..tls(files)
    };
    let world = world_with(strict, &service);
    assert_eq!(shown(&world, "b.example", &config), der(&second));
    for name in ["d.example", "c.example", "x.y.c.example", "127.0.0.1"] {
        assert!(
            shake(address(&world), name, config.clone()).is_err(),
            "{name}"
        );
    }
    let refused = "sinew_gateway_tls_handshake_failures_total{reason=\"no_certificate\"}";
    world.eventually("all four are counted", |world| world.metric(refused) == 4.0);
}

#[test]
fn services_learn_that_it_was_tls() {
    let authority = Authority::new();
    let service = Service::saying("hello");
    let files = vec![authority.files("a", &["a.example"])];
    let world = world_with(tls(files), &service);
    let mut stream = shake(address(&world), "a.example", authority.client_config(None)).unwrap();
    assert_eq!(stream.conn.alpn_protocol(), None, "it offered none");
    for _ in 0..2 {
        assert!(get(&mut stream, GET).unwrap().ends_with("hello"));
    }
    let request = &service.requests()[0];
    let port = address(&world).port().to_string();
    for (name, value) in [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", port.as_str()),
        ("forwarded", "for=127.0.0.1;proto=https;host=\"a.example\""),
    ] {
        assert_eq!(request.header(name).as_deref(), Some(value), "{name}");
    }
    // The plain listener goes on beside it.
    assert_eq!(world.get("/").text(), "hello");
    let request = &service.requests()[2];
    assert_eq!(request.header("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(request.header("x-forwarded-port"), None);
}

#[test]
fn the_oldest_version_is_the_configured_one_and_sessions_are_resumed() {
    let authority = Authority::new();
    let service = Service::saying("hello");
    let files = vec![authority.files("a", &["a.example"])];
    for (minimum, version, taken) in [
        (TlsVersion::V1_2, &rustls::version::TLS12, true),
        (TlsVersion::V1_2, &rustls::version::TLS13, true),
        (TlsVersion::V1_3, &rustls::version::TLS13, true),
        (TlsVersion::V1_3, &rustls::version::TLS12, false),
    ] {
        let config = TlsConfig {
            minimum_version: minimum,
            ..tls(files.clone())
        };
        let world = world_with(config, &service);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(authority.roots())
            .with_no_client_auth();
        let client = Arc::new(client);
        let first = shake(address(&world), "a.example", client.clone());
        assert_eq!(first.is_ok(), taken, "{minimum:?} {version:?}");
        let Ok(mut first) = first else { continue };
        // Tickets come with the first answer.
        assert!(get(&mut first, GET).unwrap().ends_with("hello"));
        assert_eq!(first.conn.handshake_kind(), Some(HandshakeKind::Full));
        let mut second = shake(address(&world), "a.example", client).unwrap();
        assert!(get(&mut second, GET).unwrap().ends_with("hello"));
        assert_eq!(second.conn.handshake_kind(), Some(HandshakeKind::Resumed));
        let number = if version.version == rustls::ProtocolVersion::TLSv1_2 {
            "1.2"
        } else {
            "1.3"
        };
        for resumed in ["yes", "no"] {
            let series = format!(
                "sinew_gateway_tls_handshakes_total{{version=\"{number}\",resumed=\"{resumed}\"}}"
            );
            assert_eq!(world.metric(&series), 1.0);
        }
    }
}

#[test]
fn only_what_the_gateway_speaks_is_agreed_on() {
    let authority = Authority::new();
    let service = Service::saying("hello");
    let world = world_with(tls(vec![authority.files("a", &["a.example"])]), &service);
    for (offered, agreed) in [
        (&["http/1.0", "http/1.1"][..], Some("http/1.1")),
        (&["http/1.0"], Some("http/1.0")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["spdy/1"], None),
    ] {
        let mut config = authority.client_config(None);
        config.alpn_protocols = offered
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let stream = shake(address(&world), "a.example", config);
        let stream = stream.ok();
        let protocol = stream
            .as_ref()
            .and_then(|stream| stream.conn.alpn_protocol());
        assert_eq!(protocol, agreed.map(str::as_bytes), "{offered:?}");
    }
}

#[test]
fn http_2_is_spoken_with_whoever_agrees_on_it() {
    let authority = Authority::new();
    let service = Service::saying("hello");
    let world = world_with(tls(vec![authority.files("a", &["a.example"])]), &service);
    let mut config = authority.client_config(None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    h2_support::run(async {
        let socket = tokio::net::TcpStream::connect(address(&world)).await;
        let name = ServerName::try_from("a.example").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, socket.unwrap()).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::task::spawn_local(connection);
        let mut asked = Vec::new();
        for _ in 0..3 {
            let answer = h2_support::ask(&sender, h2_support::get("/"), None).await;
            asked.push(answer.unwrap());
        }
        assert!(asked.iter().all(|answer| answer.text() == "hello"));
    });
    let requests = service.requests();
    assert_eq!(requests.len(), 3);
    for request in requests {
        let proto = request.header("x-forwarded-proto");
        assert_eq!(proto.as_deref(), Some("https"));
    }
}

#[test]
fn changed_files_are_used_and_broken_ones_are_not() {
    let authority = Authority::new();
    let service = Service::saying("hello");
    let [old, new] = [0, 1].map(|_| authority.issue(&["a.example"]));
    let files = authority.place("a", &old);
    let world = world_with(tls(vec![files.clone()]), &service);
    let config = Arc::new(authority.client_config(None));
    let mut kept = shake(address(&world), "a.example", config.clone()).unwrap();
    assert!(get(&mut kept, GET).unwrap().ends_with("hello"));

    authority::replace(
        &files.cert,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
    );
    let failures = "sinew_gateway_tls_reload_failures_total";
    world.eventually("the broken file is noticed", |world| {
        world.metric(failures) == 1.0
    });
    assert_eq!(shown(&world, "a.example", &config), der(&old));

    authority::replace(&files.cert, &new.cert);
    authority::replace(&files.key, &new.key);
    let fresh = Arc::new(authority.client_config(None));
    world.eventually("the new one is shown", |world| {
        shown(world, "a.example", &fresh) == der(&new)
    });
    assert!(world.metric("sinew_gateway_tls_reloads_total") >= 1.0);
    let days = format!(
        "sinew_gateway_tls_certificate_days_left{{file=\"{}\"}}",
        files.cert.display()
    );
    assert!(world.metric(&days) > 100.0);
    assert!(
        get(&mut kept, GET).unwrap().ends_with("hello"),
        "connections stay"
    );
}

#[test]
fn a_service_knows_a_client_by_its_certificate() {
    let authority = Authority::new();
    let service = Service::saying("hello");
    let tls = TlsConfig {
        client_ca: Some(authority.path("ca.pem")),
        ..tls(vec![authority.files("a", &["a.example"])])
    };
    let mut guarded = route("/guarded/**", "app");
    guarded.auth = vec![Auth::ClientCertificate];
    let config = GatewayConfig {
        tls: Some(tls),
        ..config(vec![guarded, route("/**", "app")])
    };
    let world = World::with(config, &[&service], None);
    let guarded = "GET /guarded/x HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let forged = "GET /open HTTP/1.1\r\nHost: a.example\r\nX-Client-Certificate-Subject: CN=root\r\n\
        x_client_certificate_cn: root\r\nClient-Cert: :AA==:\r\nX-SSL-Client-CN: root\r\n\r\n";

    // Without one, whether over TLS or not.
    let mut nobody = shake(address(&world), "a.example", authority.client_config(None)).unwrap();
    let refused = get(&mut nobody, guarded).unwrap();
    assert!(
        refused.starts_with("HTTP/1.1 403 Forbidden\r\n"),
        "{refused}"
    );
    assert!(
        refused.contains("gateway.client_certificate_required"),
        "{refused}"
    );
    assert_eq!(
        world.ask(guarded).code(),
        "gateway.client_certificate_required"
    );
    assert!(service.requests().is_empty());
    assert!(get(&mut nobody, forged).unwrap().ends_with("hello"));
    let identities = |request: &Message| -> Vec<String> {
        let about = |name: &str| {
            let name = name.to_ascii_lowercase().replace('_', "-");
            name.contains("cert") || name.contains("ssl")
        };
        let named = request.headers.iter().filter(|(name, _)| about(name));
        named
            .map(|(name, value)| format!("{name}: {value}"))
            .collect()
    };
    assert_eq!(identities(&service.requests()[0]), [""; 0]);

    let issued = authority.issue_client("alice", "spiffe://example/alice");
    let client = Arc::new(authority.client_config(Some(&issued)));
    for resumed in [false, true] {
        let mut alice = shake(address(&world), "a.example", client.clone()).unwrap();
        assert!(get(&mut alice, guarded).unwrap().ends_with("hello"));
        let kind = if resumed {
            HandshakeKind::Resumed
        } else {
            HandshakeKind::Full
        };
        assert_eq!(alice.conn.handshake_kind(), Some(kind));
        assert!(get(&mut alice, forged).unwrap().ends_with("hello"));
        for request in service.requests().iter().rev().take(2) {
            let identities = identities(request);
            assert_eq!(
                identities[..4],
                [
                    "x-client-certificate-subject: CN=alice",
                    "x-client-certificate-cn: alice",
                    "x-client-certificate-dns: client.example",
                    "x-client-certificate-uri: spiffe://example/alice",
                ]
            );
            let digest = ring::digest::digest(&ring::digest::SHA256, &der(&issued));
            let hex: String = digest
                .as_ref()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(
                identities[4..],
                [format!("x-client-certificate-sha256: {hex}")]
            );
        }
    }

    // One that nobody here knows is worse than none.
    let other = Authority::new().issue_client("mallory", "spiffe://example/alice");
    let client = authority.client_config(Some(&other));
    assert!(
        shake(address(&world), "a.example", client)
            .and_then(|mut stream| get(&mut stream, GET))
            .is_err()
    );
    let refused =
        "sinew_gateway_tls_handshake_failures_total{reason=\"certificate_unknown_authority\"}";
    world.eventually("it is counted", |world| world.metric(refused) == 1.0);
}

#[test]
fn a_listener_can_require_certificates() {
    let authority = Authority::new();
    let service = Service::saying("hello");
    let config = TlsConfig {
        client_ca: Some(authority.path("ca.pem")),
        client_certificate: ClientCertificate::Required,
        ..tls(vec![authority.files("a", &["a.example"])])
    };
    let world = world_with(config, &service);
    let ask = |shown: Option<&Issued>| {
        let stream = shake(address(&world), "a.example", authority.client_config(shown));
        stream.and_then(|mut stream| get(&mut stream, GET))
    };
    let expired = authority.issue_with(&["client.example"], |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    assert!(
        ask(Some(&authority.issue(&["client.example"])))
            .unwrap()
            .ends_with("hello")
    );
    assert!(ask(None).is_err());
    assert!(ask(Some(&expired)).is_err());
    for reason in ["certificate_missing", "certificate_expired"] {
        let series = format!("sinew_gateway_tls_handshake_failures_total{{reason=\"{reason}\"}}");
        world.eventually("it is counted", |world| world.metric(&series) == 1.0);
    }
    assert_eq!(service.requests().len(), 1);
}

#[test]
fn plain_requests_are_sent_to_tls_where_that_is_asked_for() {
    let authority = Authority::new();
    let service = Service::saying("hello");
    for (public_port, port) in [
        (None, None),
        (Some(443), Some("")),
        (Some(8000), Some(":8000")),
    ] {
        let config = TlsConfig {
            redirect: true,
            public_port,
            ..tls(vec![authority.files("a", &["a.example"])])
        };
        let world = world_with(config, &service);
        let own = format!(":{}", address(&world).port());
        let port = port.unwrap_or(&own);
        let mut client = world.client();
        // The connection is kept, as after any other answer.
        for _ in 0..2 {
            client.send(
                "POST /a/%62?c=d HTTP/1.1\r\nHost: A.Example:80\r\nContent-Length: 2\r\n\r\nhi",
            );
            let answer = client.response();
            assert_eq!(
                (answer.status(), answer.code().as_str()),
                (308, "gateway.tls_required")
            );
            let location = format!("https://a.example{port}/a/b?c=d");
            assert_eq!(answer.header("location"), Some(location));
        }
        assert_eq!(
            world.ask("GET / HTTP/1.0\r\n\r\n").status(),
            403,
            "where to?"
        );
        let client = authority.client_config(None);
        let mut stream = shake(address(&world), "a.example", client).unwrap();
        assert!(get(&mut stream, GET).unwrap().ends_with("hello"));
    }
}

#[test]
fn those_who_do_not_shake_hands_are_let_go() {
    let authority = Authority::new();
    let service = Service::saying("hello");
    let config = TlsConfig {
        handshake_timeout: Duration::from_secs(1),
        // One that hangs must not keep the others out for longer than that.
        handshakes: 1,
        ..tls(vec![authority.files("a", &["a.example"])])
    };
    let world = world_with(config, &service);
    let connect = || {
        let stream = TcpStream::connect(address(&world)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let ended = |mut stream: TcpStream| {
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    };
    let count = |reason: &str| {
        world.metric(&format!(
            "sinew_gateway_tls_handshake_failures_total{{reason=\"{reason}\"}}"
        ))
    };
    let silent = connect();
    let mut half = connect();
    half.write_all(&[22, 3, 1, 2]).unwrap();
    // On a machine that is busy enough, an honest client is late, too.
    let mut stream = (0..10)
        .find_map(|_| shake(address(&world), "a.example", authority.client_config(None)).ok())
        .expect("it gets in");
    assert!(get(&mut stream, GET).unwrap().ends_with("hello"));
    ended(silent);
    ended(half);
    world.eventually("both are counted", |_| count("timeout") >= 2.0);

    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        &[0; 100],
        &[22, 3, 1, 0, 4, 1, 0, 0, 0],
    ] {
        let mut stream = connect();
        stream.write_all(garbage).unwrap();
        ended(stream);
    }
    world.eventually("all three are counted", |_| count("not_tls") == 3.0);
    let mut left = connect();
    left.write_all(&[22, 3, 1]).unwrap();
    drop(left);
    world.eventually("one who left is counted", |_| count("closed") == 1.0);
    assert!(get(&mut stream, GET).unwrap().ends_with("hello"));
}

#[test]
fn an_end_that_was_meant_is_told_from_one_that_was_not() {
    let authority = Authority::new();
    let service = Service::start(|wire| {
        while let Some(request) = wire.message(false) {
            if request.first.contains("whole") {
                wire.send(&ok("whole"));
            } else {
                wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
                return;
            }
        }
    });
    let world = world_with(tls(vec![authority.files("a", &["a.example"])]), &service);
    // An old client is told of a body's end by that of the connection and by nothing else.
    let old = |path: &str| {
        let mut stream =
            shake(address(&world), "a.example", authority.client_config(None)).unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\nHost: a\r\n\r\n").as_bytes())
            .unwrap();
        let mut text = String::new();
        let read = stream
            .read_to_string(&mut text)
            .map_err(|error| error.kind());
        (
            text.split("\r\n\r\n").nth(1).map(str::to_owned),
            read.map(|_| ()),
        )
    };
    assert_eq!(old("/whole"), (Some("whole".into()), Ok(())));
    assert_eq!(
        old("/half"),
        (Some("half".into()), Err(ErrorKind::UnexpectedEof))
    );
}

#[test]
fn draining_is_not_held_up_by_a_handshake() {
    let authority = Authority::new();
    let service = Service::saying("hello");
    let config = TlsConfig {
        handshake_timeout: Duration::from_secs(3_600),
        ..tls(vec![authority.files("a", &["a.example"])])
    };
    let world = world_with(config, &service);
    let silent = TcpStream::connect(address(&world)).unwrap();
    world.eventually("it is there", |world| {
        world.gateway.stats().connections == 1
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(world.gateway.drain(Duration::from_secs(60)));
    assert_eq!(world.gateway.stats().connections, 0);
    assert!(TcpStream::connect(address(&world)).is_err());
    drop(silent);
}

#[test]
fn what_cannot_work_is_refused_at_the_start() {
    let authority = Authority::new();
    let good = authority.files("good", &["a.example"]);
    let other = authority.files("other", &["b.example"]);
    let nameless = authority.files("nameless", &[]);
    let secret = authority.write("secret.pem", "hunter2\n-----BEGIN hunter2\nhunter2");
    let start = |tls: TlsConfig| {
        let config = GatewayConfig {
            tls: Some(tls),
            ..config(vec![route("/**", "app")])
        };
        Gateway::start(config, Arc::new(FixedDiscovery::new()), None)
    };
    assert!(
        start(tls(vec![nameless.clone()])).is_ok(),
        "it is for those who ask for none"
    );
    let pair = |cert: &std::path::Path, key: &std::path::Path| sinew_gateway::CertificateFiles {
        cert: cert.to_owned(),
        key: key.to_owned(),
    };
    let absent = authority.path("absent.pem");
    for (tls, place, why) in [
        (tls(vec![]), "gateway.tls:", "certificates"),
        (
            tls(vec![pair(&absent, &good.key)]),
            "gateway.tls.certificates[0].cert:",
            "cannot be read",
        ),
        (
            tls(vec![pair(&good.key, &good.key)]),
            "gateway.tls.certificates[0].cert:",
            "no certificate",
        ),
        (
            tls(vec![good.clone(), pair(&good.cert, &other.key)]),
            "gateway.tls.certificates[1].key:",
            "is not the key of",
        ),
        (
            tls(vec![pair(&good.cert, &good.cert)]),
            "gateway.tls.certificates[0].key:",
            "no private key",
        ),
        (
            tls(vec![pair(&good.cert, &secret)]),
            "gateway.tls.certificates[0].key:",
            "malformed",
        ),
        (
            tls(vec![pair(&secret, &good.key)]),
            "gateway.tls.certificates[0].cert:",
            "malformed",
        ),
        (
            tls(vec![good.clone(), nameless]),
            "gateway.tls.certificates[1].cert:",
            "no DNS name",
        ),
        (
            TlsConfig {
                client_ca: Some(absent),
                ..tls(vec![good.clone()])
            },
            "gateway.tls.client_ca:",
            "cannot be read",
        ),
        (
            TlsConfig {
                client_certificate: ClientCertificate::Required,
                ..tls(vec![good.clone()])
            },
            "gateway.tls.client_certificate:",
            "client_ca",
        ),
        (
            TlsConfig {
                handshakes: 0,
                ..tls(vec![good.clone()])
            },
            "gateway.tls.handshakes:",
            "at least 1",
        ),
    ] {
        let error = start(tls).unwrap_err();
        assert_eq!(error.code(), "gateway.config_invalid");
        let message = error.message();
        assert!(
            message.starts_with(place) && message.contains(why),
            "{message}"
        );
        assert!(!message.contains("hunter2"), "{message}");
    }

    let mut guarded = route("/**", "app");
    guarded.auth = vec![Auth::ClientCertificate];
    let config = GatewayConfig {
        tls: Some(tls(vec![good])),
        ..config(vec![guarded])
    };
    let error = Gateway::start(config, Arc::new(FixedDiscovery::new()), None).unwrap_err();
    assert_eq!(error.code(), "gateway.routes_invalid");
}
