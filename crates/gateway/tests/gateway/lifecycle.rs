//! Start, change, watch and stop.

use std::time::Duration;

use sinew_gateway::{
    AccessLog, FixedDiscovery, Gateway, LogField, Logging, QueryValues, Route, Routing, Share,
};

use crate::support::*;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

#[test]
fn routes_change_while_connections_stay() {
    let (old, new) = (Service::saying("old"), Service::saying("new"));
    let world = World::with(config(vec![route("/**", "old")]), &[], None);
    world.discovery.set_addresses(&name("old"), &[old.address]);
    world.discovery.set_addresses(&name("new"), &[new.address]);
    let mut client = world.client();
    let mut ask = || {
        client.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
        client.response()
    };
    assert_eq!(ask().text(), "old");
    assert_eq!(
        world
            .gateway
            .set_routing(Routing {
                routes: vec![route("/x/**", "new")],
                ..Routing::default()
            })
            .unwrap(),
        2
    );
    assert_eq!(ask().text(), "new");
    let twice = vec![route("/x", "old"), route("/x", "new")];
    assert_eq!(
        world
            .gateway
            .set_routing(Routing {
                routes: twice,
                ..Routing::default()
            })
            .unwrap_err()
            .code(),
        "gateway.routes_invalid"
    );
    assert_eq!(ask().text(), "new");
    let (version, routes) = world.gateway.routes();
    assert_eq!(
        (
            version,
            routes.iter().map(|r| Route::label(r)).collect::<Vec<_>>()
        ),
        (2, vec!["/x/**".to_owned()])
    );
    assert_eq!(
        world.metric("sinew_gateway_upstream_connections_idle{service=\"old\"}"),
        0.0
    );
    assert_eq!(world.gateway.set_routing(Routing::default()).unwrap(), 3);
    assert_eq!(ask().code(), "gateway.no_route");
}

#[test]
fn a_taken_port_is_said_to_be() {
    let world = World::of(&[]);
    let mut same = config(Vec::new());
    same.address = world.gateway.address();
    let discovery = std::sync::Arc::new(FixedDiscovery::new());
    let error = Gateway::start(same, discovery, None).unwrap_err();
    assert_eq!(error.code(), "gateway.address_in_use");
    assert!(
        error
            .message()
            .contains(&world.gateway.address().to_string()),
        "{error}"
    );
}

#[test]
fn wrong_configurations_are_refused() {
    let start = |change: fn(&mut sinew_gateway::GatewayConfig)| {
        let mut config = config(Vec::new());
        change(&mut config);
        let discovery = std::sync::Arc::new(FixedDiscovery::new());
        Gateway::start(config, discovery, None)
            .unwrap_err()
            .code()
            .to_owned()
    };
    assert_eq!(
        start(|config| config.threads = Some(0)),
        "gateway.config_invalid"
    );
    assert_eq!(
        start(|config| config.limits.headers = 257),
        "gateway.config_invalid"
    );
    assert_eq!(
        start(|config| config.limits.head_bytes = 10),
        "gateway.config_invalid"
    );
    assert_eq!(
        start(|config| config.access_log = AccessLog::File("/nowhere/x/y".into())),
        "gateway.access_log"
    );
    let twice = |config: &mut sinew_gateway::GatewayConfig| {
        config.routing.routes = vec![route("/", "a"), route("/", "b")]
    };
    assert_eq!(start(twice), "gateway.routes_invalid");
}

#[test]
fn all_threads_answer() {
    let service = Service::saying("hello");
    let mut config = config(vec![route("/**", "app")]);
    config.threads = Some(4);
    let world = World::with(config, &[&service], None);
    for _ in 0..100 {
        assert_eq!(world.get("/").text(), "hello");
    }
    world.eventually("all are counted", |world| {
        world.gateway.stats().requests == 100
    });
    let text = world.gateway.metrics_text();
    let busy =
        (0..4).filter(|n| !text.contains(&format!("connections_total{{thread=\"{n}\"}} 0\n")));
    assert!(busy.count() > 1, "{text}");
}

#[test]
fn draining_finishes_what_is_in_flight_and_takes_nothing_new() {
    let (answer, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let service = Service::start(move |wire| {
        while wire.message(false).is_some() {
            let _ = wait.lock().unwrap().recv();
            wire.send(&ok("finished"));
        }
    });
    let world = World::of(&[&service]);
    let (mut busy, mut idle) = (world.client(), world.client());
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    world.eventually("two connections, one request", |world| {
        let stats = world.gateway.stats();
        (stats.connections, stats.in_flight) == (2, 1)
    });
    let address = world.gateway.address();
    let gateway = world.gateway;
    let draining = std::thread::spawn(move || block_on(gateway.drain(PATIENCE)));
    assert!(idle.0.closed());
    // The listener goes before the idle connections do.
    assert!(std::net::TcpStream::connect(address).is_err());
    answer.send(()).unwrap();
    let response = busy.response();
    assert_eq!(response.text(), "finished");
    assert_eq!(response.header("connection").as_deref(), Some("close"));
    assert!(busy.0.closed());
    assert_eq!(draining.join().unwrap(), 0);
}

#[test]
fn draining_ends_at_its_limit() {
    let service = Service::start(|wire| {
        wire.message(false);
        wire.fill();
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    world.eventually("one request", |world| world.gateway.stats().in_flight == 1);
    assert_eq!(block_on(world.gateway.drain(Duration::from_millis(100))), 1);
    assert!(client.0.closed());
}

#[test]
fn the_access_log_tells_of_requests_and_keeps_secrets() {
    let folder = std::env::temp_dir().join(format!("sinew-gateway-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("access.log");
    let service = Service::saying("hello");
    let mut config = config(vec![route("/**", "app")]);
    config.access_log = AccessLog::File(path.clone());
    let world = World::with(config, &[&service], None);
    world.ask("GET /a?page=2&token=SECRET1 HTTP/1.1\r\nHost: Shop:1\r\nAuthorization: Bearer SECRET2\r\nCookie: SECRET3\r\nX-Request-Id: r1\r\n\r\n");
    world.ask("GET /a//b HTTP/1.1\r\nHost: a\r\n\r\n");
    let read = || std::fs::read_to_string(&path).unwrap();
    world.eventually("two lines", |_| read().lines().count() == 2);
    let text = read();
    assert!(!text.contains("SECRET"), "{text}");
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for (key, value) in [
        ("request_id", "r1"),
        ("method", "GET"),
        ("host", "shop"),
        ("path", "/a"),
        ("query", "page=[redacted]&token=[redacted]"),
        ("route", "/**"),
        ("service", "app"),
        ("peer", "127.0.0.1"),
    ] {
        assert_eq!(lines[0][key], value, "{key}");
    }
    assert_eq!(
        (lines[0]["status"].as_u64(), lines[0]["body_out"].as_u64()),
        (Some(200), Some(5))
    );
    assert_eq!(
        (lines[1]["status"].as_u64(), lines[1]["code"].as_str()),
        (Some(400), Some("gateway.path_refused"))
    );
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_access_log_says_what_is_wanted_of_which_is_wanted() {
    let folder = std::env::temp_dir().join(format!("sinew-gateway-log-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("access.log");
    let service = Service::saying("hello");
    let mut config = config(vec![route("/up", "app"), route("/down", "nobody")]);
    config.access_log = AccessLog::File(path.clone());
    config.logging = Logging {
        fields: vec![
            LogField::Status,
            LogField::Path,
            LogField::Query,
            LogField::TraceId,
            LogField::UserAgent,
            LogField::Referer,
        ],
        sample: Share::try_from(0.0).unwrap(),
        slow: Duration::from_secs(3_600),
        query: QueryValues::Shown,
    };
    let world = World::with(config, &[&service], None);
    let headers = "Host: a\r\nUser-Agent: shopper/2\r\nReferer: http://a/b?q=SECRET\r\nAuthorization: Bearer SECRET\r\nCookie: SECRET\r\n";
    let traced = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    world.ask(&format!("GET /up HTTP/1.1\r\n{headers}\r\n"));
    world.ask(&format!(
        "GET /down?page=2&token=SECRET HTTP/1.1\r\n{headers}{traced}\r\n"
    ));
    let read = || std::fs::read_to_string(&path).unwrap();
    world.eventually("a line", |_| read().ends_with('\n'));
    assert_eq!(
        read(),
        "{\"status\":503,\"path\":\"/down\",\"query\":\"page=2&token=[redacted]\",\
         \"trace_id\":\"4bf92f3577b34da6a3ce929d0e0e4736\",\"user_agent\":\"shopper/2\",\
         \"referer\":\"http://a/b\"}\n"
    );
    let left_out = "sinew_gateway_access_log_sampled_out_total{thread=\"0\"}";
    assert_eq!(world.metric(left_out), 1.0);
    drop(world);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_trace_that_the_gateway_began_is_in_its_log() {
    let folder = std::env::temp_dir().join(format!("sinew-gateway-trace-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("access.log");
    let service = Service::saying("hello");
    let mut config = config(vec![route("/**", "app")]);
    config.access_log = AccessLog::File(path.clone());
    config.logging.fields = vec![LogField::TraceId];
    let world = World::with(config, &[&service], None);
    world.get("/");
    let read = || std::fs::read_to_string(&path).unwrap();
    world.eventually("a line", |_| read().ends_with('\n'));
    let line: serde_json::Value = serde_json::from_str(&read()).unwrap();
    let trace = line["trace_id"].as_str().unwrap();
    assert_eq!(trace.len(), 32, "{line}");
    let told = service.requests()[0].header("traceparent").unwrap();
    assert!(told.starts_with(&format!("00-{trace}-")), "{told}");
    drop(world);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn metrics_tell_what_happened() {
    let service = Service::saying("hello");
    let world = World::of(&[&service]);
    world.get("/");
    world.get("/../x");
    world.ask("GET / HTTP/1.1\r\n\r\n");
    world.eventually("three requests", |world| {
        world.gateway.stats().requests == 3
    });
    for (series, value) in [
        (
            "sinew_gateway_requests_total{route=\"/**\",service=\"app\",status=\"2xx\"}",
            1.0,
        ),
        (
            "sinew_gateway_requests_total{route=\"(none)\",service=\"\",status=\"4xx\"}",
            2.0,
        ),
        (
            "sinew_gateway_request_duration_seconds_count{route=\"/**\",service=\"app\"}",
            1.0,
        ),
        (
            "sinew_gateway_response_body_bytes_total{route=\"/**\",service=\"app\"}",
            5.0,
        ),
        ("sinew_gateway_requests_malformed_total{thread=\"0\"}", 1.0),
        (
            "sinew_gateway_upstream_connections_idle{service=\"app\"}",
            1.0,
        ),
        ("sinew_gateway_requests_in_flight{thread=\"0\"}", 0.0),
    ] {
        assert_eq!(world.metric(series), value, "{series}");
    }
    world.discovery.set_addresses(&name("app"), &[]);
    world.get("/");
    assert_eq!(
        world.metric("sinew_gateway_upstream_connections_idle{service=\"app\"}"),
        0.0
    );
}

#[test]
fn another_gateway_goes_on_with_the_sockets() {
    let service = Service::saying("hello");
    let world = World::of(&[&service]);
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut idle = world.client();
    idle.send(request);
    assert_eq!(idle.response().status(), 200);

    let sockets = || world.gateway.listeners().unwrap().unwrap();
    let mut elsewhere = config(vec![route("/**", "app")]);
    elsewhere.address = "127.0.0.2:0".parse().unwrap();
    let refused = Gateway::start_on(elsewhere, sockets(), world.discovery.clone(), None);
    assert_eq!(refused.unwrap_err().code(), "gateway.listeners_differ");
    let same = config(vec![route("/**", "app")]);
    let next = Gateway::start_on(same, sockets(), world.discovery.clone(), None).unwrap();
    assert_eq!(next.address(), world.gateway.address());

    // Nobody knows when the client asks next: it is answered once more, and told to come again.
    let gateway = world.gateway;
    let leaving = std::thread::spawn(move || block_on(gateway.leave(3 * PATIENCE)));
    let told = (0..1_000).any(|_| {
        idle.send(request);
        let response = idle.response();
        assert_eq!(response.text(), "hello");
        std::thread::sleep(Duration::from_millis(10));
        response.header("connection").as_deref() == Some("close")
    });
    assert!(told && idle.0.closed());
    assert_eq!(leaving.join().unwrap(), 0);
    let mut client = Client::connect(next.address());
    client.send(request);
    assert_eq!(client.response().text(), "hello");
}
