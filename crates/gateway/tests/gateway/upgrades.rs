//! Connections that go on in another protocol, and those that only say that they do.

use std::{io::Write, net::Shutdown, sync::mpsc, time::Duration};

use sinew_gateway::AccessLog;

use crate::support::*;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nContent-Length: 5\r\n\r\n";

/// Agrees to everything, and gives back every byte until there are no more.
fn echo() -> Service {
    Service::start(|wire| {
        if wire.message(false).is_none() {
            return;
        }
        wire.send(AGREED);
        loop {
            let bytes = std::mem::take(&mut wire.read);
            if wire.stream.write_all(&bytes).is_err() || !wire.fill() {
                return;
            }
        }
    })
}

fn upgraded(world: &World) -> Client {
    let mut client = world.client();
    client.send(ASK);
    assert_eq!(client.0.head().unwrap().status(), 101);
    client
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

#[test]
fn bytes_pass_both_ways_once_the_service_has_agreed() {
    let (seen, asked) = mpsc::channel();
    let service = Service::start(move |wire| {
        seen.send(wire.head().unwrap()).unwrap();
        // The first bytes of the other protocol come with the head.
        wire.send(&format!("{AGREED}hello"));
        while wire.fill() {
            let bytes = std::mem::take(&mut wire.read);
            wire.stream.write_all(&bytes).unwrap();
        }
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    client.send(ASK);
    let agreed = client.0.head().unwrap();
    assert_eq!(agreed.first, "HTTP/1.1 101 Switching Protocols");
    for (name, value) in [
        ("connection", Some("upgrade")),
        ("upgrade", Some("websocket")),
        ("sec-websocket-accept", Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")),
        ("content-length", None),
    ] {
        assert_eq!(agreed.header(name).as_deref(), value, "{name}");
    }
    assert_eq!(client.0.exactly(5).unwrap(), b"hello");
    for text in ["one", "GET /smuggled HTTP/1.1\r\n\r\n", "\0\r\n\0"] {
        client.send(text);
        assert_eq!(client.0.exactly(text.len()).unwrap(), text.as_bytes());
    }
    let request = asked.recv_timeout(PATIENCE).unwrap();
    for (name, value) in [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        ("x-forwarded-for", "127.0.0.1"),
    ] {
        assert_eq!(request.header(name).as_deref(), Some(value), "{name}");
    }
}

#[test]
fn what_a_client_sends_before_the_agreement_arrives_after_it() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let service = Service::start(move |wire| {
        wire.head();
        // Nothing but the request comes before the service has agreed.
        assert!(wire.read.is_empty());
        let _ = wait.lock().unwrap().recv();
        wire.stream.set_nonblocking(true).unwrap();
        let early = std::io::Read::read(&mut wire.stream, &mut [0]);
        assert!(early.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
        wire.stream.set_nonblocking(false).unwrap();
        wire.send(AGREED);
        let text = wire.exactly(5).unwrap();
        wire.stream.write_all(&text).unwrap();
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    client.send(&format!("{ASK}early"));
    world.eventually("the service is asked", |world| {
        world.gateway.stats().in_flight == 1
    });
    go.send(()).unwrap();
    assert_eq!(client.0.head().unwrap().status(), 101);
    assert_eq!(client.0.exactly(5).unwrap(), b"early");
}

#[test]
fn any_other_answer_is_an_answer_and_ends_the_connection() {
    for (status, line) in [
        (200, "200 OK"),
        (401, "401 Unauthorized"),
        (426, "426 Upgrade Required"),
    ] {
        let (saw, requests) = mpsc::channel();
        let service = Service::start(move |wire| {
            while let Some(request) = wire.message(false) {
                saw.send(request.first).unwrap();
                wire.send(&format!(
                    "HTTP/1.1 {line}\r\nUpgrade: websocket, h2c\r\nContent-Length: 2\r\n\r\nno"
                ));
            }
            assert!(wire.read.is_empty());
        });
        let world = World::of(&[&service]);
        let mut client = world.client();
        for protocol in ["websocket", "foo"] {
            client = world.client();
            let ask = ASK.replace("websocket", protocol);
            client.send(&format!("{ask}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"));
            let response = client.response();
            assert_eq!(
                (response.status(), response.text().as_str()),
                (status, "no")
            );
            let connection = response.header("connection").unwrap();
            assert!(connection.ends_with("close"), "{connection}");
            let upgrade = (status == 426).then_some("websocket");
            assert_eq!(response.header("upgrade").as_deref(), upgrade);
            assert!(client.0.closed());
        }
        drop(client);
        drop(world);
        let requests: Vec<_> = requests.try_iter().collect();
        assert_eq!(requests, ["GET /chat HTTP/1.1"; 2]);
    }
}

#[test]
fn agreements_to_what_was_not_offered_are_502() {
    let head = "HTTP/1.1 101 Switching Protocols\r\n";
    for (answer, why) in [
        (format!("{head}\r\n"), "no protocol"),
        (format!("{head}Upgrade: websocket\r\n\r\n"), "no Connection"),
        (format!("{head}Connection: upgrade\r\n\r\n"), "no Upgrade"),
        (
            format!("{head}Connection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
            "h2c",
        ),
        (
            format!("{head}Connection: upgrade\r\nUpgrade: foo\r\n\r\n"),
            "another",
        ),
        (
            format!("{head}Connection: upgrade\r\nUpgrade: websocket, foo\r\n\r\n"),
            "one more",
        ),
    ] {
        let service = Service::start(move |wire| {
            wire.head();
            wire.send(&answer);
            // Nothing ever comes through.
            assert!(wire.closed());
        });
        let world = World::of(&[&service]);
        let mut client = world.client();
        client.send(&format!("{ASK}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = client.response();
        assert_eq!(
            (response.status(), response.code().as_str()),
            (502, "gateway.upstream_failed"),
            "{why}"
        );
        assert!(client.0.closed(), "{why}");
        // Nobody asked for anything.
        let response = world.get("/");
        assert_eq!(response.status(), 502, "{why}");
    }
}

#[test]
fn offers_that_mean_nothing_are_ignored() {
    let service = Service::saying("plain");
    let world = World::of(&[&service]);
    let request =
        |line: &str, headers: &str| world.ask(&format!("{line}\r\nHost: a\r\n{headers}\r\n"));
    for (line, headers) in [
        (
            "GET / HTTP/1.1",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n",
        ),
        (
            "GET / HTTP/1.1",
            "Connection: Upgrade\r\nUpgrade: H2C, TLS/1.3, HTTP/2.0\r\n",
        ),
        ("GET / HTTP/1.1", "Upgrade: websocket\r\n"),
        (
            "GET / HTTP/1.1",
            "Connection: Upgrade\r\nUpgrade: web socket\r\n",
        ),
        ("GET / HTTP/1.1", "Connection: Upgrade\r\n"),
        (
            "GET / HTTP/1.0",
            "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        ),
    ] {
        let response = request(line, headers);
        assert_eq!(response.text(), "plain", "{headers}");
        let seen = service.requests().pop().unwrap();
        for name in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(seen.header(name), None, "{headers}");
        }
    }
    let response = request(
        "GET / HTTP/1.1",
        "Connection: Upgrade\r\nUpgrade: h2c, foo/2\r\nUpgrade: bar\r\n",
    );
    assert_eq!(response.text(), "plain");
    let seen = service.requests().pop().unwrap();
    assert_eq!(seen.header("upgrade").as_deref(), Some("foo/2, bar"));
}

#[test]
fn a_body_goes_before_the_other_protocol() {
    let service = Service::start(|wire| {
        let request = wire.message(false).unwrap();
        assert_eq!(request.text(), "{\"Tty\":true}");
        wire.send(&AGREED.replace("websocket", "tcp"));
        wire.stream.write_all(&request.body).unwrap();
        while wire.fill() {}
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    client.send(
        "POST /exec HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 12\r\n\r\n",
    );
    client.send("{\"Tty\":true}");
    assert_eq!(client.0.head().unwrap().status(), 101);
    assert_eq!(client.0.exactly(12).unwrap(), b"{\"Tty\":true}");
    client.send("input");
    let received = "sinew_gateway_upstream_upgraded_received_bytes_total{service=\"app\"}";
    world.eventually("the input is counted", |world| {
        world.metric(received) == 5.0
    });

    // One that agrees before it has heard all of it is taken for confused.
    let hasty = Service::start(|wire| {
        wire.head();
        wire.send(AGREED);
        wire.fill();
    });
    let world = World::of(&[&hasty]);
    let mut client = world.client();
    client.send(&ASK.replace("\r\n\r\n", "\r\nContent-Length: 10\r\n\r\nhalf"));
    assert_eq!(client.response().status(), 502);
}

#[test]
fn an_upgrade_is_not_sent_twice() {
    let (asked, count) = mpsc::channel();
    let dying = || {
        let asked = asked.clone();
        Service::start(move |wire| {
            if wire.head().is_some() {
                asked.send(()).unwrap();
            }
        })
    };
    let (one, two) = (dying(), dying());
    let mut patient = route("/**", "app");
    patient.retries = 5;
    let world = World::with(config(vec![patient]), &[&one, &two], None);
    let mut client = world.client();
    client.send(&ASK.replace("\r\n\r\n", "\r\nIdempotency-Key: x\r\n\r\n"));
    assert_eq!(client.response().code(), "gateway.upstream_failed");
    assert_eq!(count.try_iter().count(), 1);
    // One that takes no connection has seen nothing: another one gets it.
    let service = echo();
    world.set_addresses(&[nowhere(), service.address]);
    for _ in 0..8 {
        upgraded(&world);
    }
}

#[test]
fn each_side_may_end_before_the_other() {
    // The client first: what the service says afterwards still arrives.
    let service = Service::start(|wire| {
        wire.head();
        wire.send(AGREED);
        while wire.fill() {}
        let heard = wire.read.len();
        wire.send(&format!("heard {heard}"));
    });
    let world = World::of(&[&service]);
    let mut client = upgraded(&world);
    client.send("12345");
    client.0.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.0.exactly(7).unwrap(), b"heard 5");
    assert!(client.0.closed());

    // The service first.
    let (heard, later) = mpsc::channel();
    let service = Service::start(move |wire| {
        wire.head();
        wire.send(&format!("{AGREED}bye"));
        wire.stream.shutdown(Shutdown::Write).unwrap();
        while wire.fill() {}
        heard.send(std::mem::take(&mut wire.read)).unwrap();
    });
    let world = World::of(&[&service]);
    let mut client = upgraded(&world);
    assert_eq!(client.0.exactly(3).unwrap(), b"bye");
    assert!(client.0.closed());
    client.send("still here");
    client.0.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(later.recv_timeout(PATIENCE).unwrap(), b"still here");
    world.eventually("it is over", |world| world.gateway.stats().upgraded == 0);
}

#[test]
fn the_last_words_of_a_service_that_closes_arrive() {
    let service = Service::start(|wire| {
        wire.head();
        wire.send(&format!("{AGREED}bye"));
        // Closed with unread bytes: the connection is reset.
        std::thread::sleep(Duration::from_millis(50));
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    client.send(&format!("{ASK}unread"));
    assert_eq!(client.0.head().unwrap().status(), 101);
    assert_eq!(client.0.exactly(3).unwrap(), b"bye");
    assert!(client.0.closed());
}

#[test]
fn much_passes_both_ways_and_little_waits() {
    let service = echo();
    let world = World::of(&[&service]);
    let mut client = upgraded(&world);
    let mut sending = client.0.stream.try_clone().unwrap();
    let bytes: Vec<u8> = (0..8u32 << 20).map(|n| (n % 251) as u8).collect();
    let sent = bytes.clone();
    let sender = std::thread::spawn(move || sending.write_all(&sent).unwrap());
    assert!(client.0.exactly(bytes.len()).unwrap() == bytes);
    sender.join().unwrap();

    // A service that takes nothing holds the client back.
    let deaf = Service::start(|wire| {
        wire.head();
        wire.send(AGREED);
        std::thread::sleep(PATIENCE);
    });
    let mut config = config(vec![route("/**", "app")]);
    config.limits.body_timeout = Duration::from_millis(700);
    let world = World::with(config, &[&deaf], None);
    let client = upgraded(&world);
    let mut stream = client.0.stream.try_clone().unwrap();
    stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut total = 0;
    while let Ok(count) = stream.write(&bytes) {
        total += count;
        assert!(total < 64 << 20, "nothing holds the client back");
    }
    // And not for ever.
    world.eventually("it is closed", |world| world.gateway.stats().upgraded == 0);
}

#[test]
fn silence_ends_it_after_its_own_time() {
    let service = echo();
    let folder = std::env::temp_dir().join(format!("sinew-upgrades-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("access.log");
    let mut config = config(vec![route("/**", "app")]);
    config.access_log = AccessLog::File(path.clone());
    config.limits.idle_timeout = Duration::from_millis(100);
    config.limits.upgraded_idle_timeout = Duration::from_millis(600);
    let world = World::with(config, &[&service], None);
    let mut client = upgraded(&world);
    // Longer than an idle connection may wait, and talking counts.
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(300));
        client.send("ping");
        assert_eq!(client.0.exactly(4).unwrap(), b"ping");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    assert!(client.0.closed());
    world.eventually("it is logged", |_| {
        std::fs::read_to_string(&path).unwrap().ends_with('\n')
    });
    let line = std::fs::read_to_string(&path).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    for (key, value) in [("status", 101), ("body_in", 16), ("body_out", 16)] {
        assert_eq!(line[key], value, "{key}");
    }
    assert_eq!(line["code"], "gateway.upgraded_idle");
    assert!(line["took_ms"].as_f64().unwrap() > 1_000.0);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn they_are_counted_apart_from_requests() {
    let service = echo();
    let world = World::of(&[&service]);
    let mut client = upgraded(&world);
    client.send("ping");
    assert_eq!(client.0.exactly(4).unwrap(), b"ping");
    let stats = world.gateway.stats();
    assert_eq!((stats.upgraded, stats.in_flight, stats.requests), (1, 0, 1));
    for (series, value) in [
        ("sinew_gateway_upgraded_connections{thread=\"0\"}", 1.0),
        (
            "sinew_gateway_upstream_upgraded_connections{service=\"app\"}",
            1.0,
        ),
        (
            "sinew_gateway_upstream_upgrades_total{service=\"app\"}",
            1.0,
        ),
        (
            "sinew_gateway_upstream_upgraded_received_bytes_total{service=\"app\"}",
            4.0,
        ),
        (
            "sinew_gateway_upstream_upgraded_sent_bytes_total{service=\"app\"}",
            4.0,
        ),
        (
            "sinew_gateway_upstream_requests_active{service=\"app\"}",
            1.0,
        ),
    ] {
        world.eventually(series, |world| world.metric(series) == value);
    }
    drop(client);
    world.eventually("it is over", |world| world.gateway.stats().upgraded == 0);
    for series in [
        "sinew_gateway_upstream_upgraded_connections{service=\"app\"}",
        "sinew_gateway_upstream_requests_active{service=\"app\"}",
        "sinew_gateway_requests_in_flight{thread=\"0\"}",
    ] {
        world.eventually(series, |world| world.metric(series) == 0.0);
    }
}

#[test]
fn draining_waits_for_them_and_ends_them_at_its_limit() {
    let service = echo();
    let folder = std::env::temp_dir().join(format!("sinew-drain-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("access.log");
    let mut config = config(vec![route("/**", "app")]);
    config.access_log = AccessLog::File(path.clone());
    let world = World::with(config, &[&service], None);
    let (mut leaving, mut staying) = (upgraded(&world), upgraded(&world));
    let address = world.gateway.address();
    let gateway = world.gateway;
    let draining =
        std::thread::spawn(move || block_on(gateway.drain(Duration::from_millis(1_500))));
    while std::net::TcpStream::connect(address).is_ok() {
        std::thread::sleep(Duration::from_millis(10));
    }
    for client in [&mut leaving, &mut staying] {
        client.send("ping");
        assert_eq!(client.0.exactly(4).unwrap(), b"ping");
    }
    drop(leaving);
    assert!(staying.0.closed());
    // They are no requests, so no request was cut off; and both are in the log.
    assert_eq!(draining.join().unwrap(), 0);
    for _ in 0..500 {
        if std::fs::read_to_string(&path).unwrap().lines().count() == 2 {
            std::fs::remove_dir_all(&folder).unwrap();
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not all of them are in the log");
}
