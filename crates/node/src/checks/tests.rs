use std::time::Duration;

use axum::{Router, http::StatusCode, routing::get};
use sinew_coordination::registry::{Check, Config, Probe, Registration, ServiceId, Status};
use sinew_core::{InstanceId, Name};
use sinew_engine::kv::MemoryKv;
use tokio::net::TcpListener;

use super::*;

fn due(probe: Probe, port: u16) -> Due {
    Due {
        key: CheckKey {
            service: ServiceId::from(Name::new("orders").unwrap()),
            instance: InstanceId::new("orders-1").unwrap(),
            check: "check".into(),
        },
        probe,
        timeout: Duration::from_secs(30),
        address: "127.0.0.1".into(),
        port,
    }
}

fn http(target: &str) -> Probe {
    Probe::Http {
        target: target.into(),
        method: "GET".into(),
        from: 200,
        to: 299,
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A port on which nobody listens.
async fn nobody() -> u16 {
    listen().await.1
}

async fn serve() -> u16 {
    let (listener, port) = listen().await;
    let router = Router::new()
        .route("/health", get(|| async { "well" }))
        .route("/busy", get(|| async { StatusCode::TOO_MANY_REQUESTS }))
        .route("/ill", get(|| async { StatusCode::SERVICE_UNAVAILABLE }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

/// A health service that answers what `status` says of each service.
async fn serve_grpc(answer: &'static [u8]) -> u16 {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            tokio::spawn(async move {
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let response = hyper::Response::builder().body(()).unwrap();
                    let mut body = respond.send_response(response, false).unwrap();
                    body.send_data(answer.into(), false).unwrap();
                    let mut trailers = hyper::HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    body.send_trailers(trailers).unwrap();
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn http_checks_look_at_the_status() {
    let port = serve().await;
    let see = async |target: &str, port| probe::run(&due(http(target), port), false).await;
    assert_eq!(see("/health", port).await, Ok(Health::Passing));
    assert_eq!(see("/busy", port).await, Ok(Health::Warning));
    assert_eq!(see("/ill", port).await, Err("it answered 503".to_owned()));
    let whole = format!("http://127.0.0.1:{port}/health");
    assert_eq!(see(&whole, 1).await, Ok(Health::Passing));
    assert!(see("/health", nobody().await).await.is_err());
    let elsewhere = see("http://localhost:1/", port).await.unwrap_err();
    assert!(elsewhere.contains("check_other_hosts"), "{elsewhere}");
    let whole = format!("http://localhost:{port}/health");
    let allowed = probe::run(&due(http(&whole), 1), true).await;
    assert_eq!(allowed, Ok(Health::Passing));
}

#[tokio::test]
async fn tcp_checks_connect() {
    let (_listener, port) = listen().await;
    let tcp = |target: String| Probe::Tcp {
        target: target.into(),
    };
    let own = probe::run(&due(tcp(String::new()), port), false).await;
    assert_eq!(own, Ok(Health::Passing));
    let named = due(tcp(format!("127.0.0.1:{port}")), 1);
    assert_eq!(probe::run(&named, false).await, Ok(Health::Passing));
    let refused = due(tcp(String::new()), nobody().await);
    assert!(probe::run(&refused, false).await.is_err());
}

#[tokio::test]
async fn grpc_checks_ask_the_health_service() {
    let see = async |port| {
        let probe = Probe::Grpc {
            target: "".into(),
            service: "shop.Orders".into(),
        };
        probe::run(&due(probe, port), false).await
    };
    let serving = serve_grpc(&[0, 0, 0, 0, 2, 8, 1]).await;
    assert_eq!(see(serving).await, Ok(Health::Passing));
    let not_serving = serve_grpc(&[0, 0, 0, 0, 2, 8, 2]).await;
    assert!(see(not_serving).await.is_err());
    let nonsense = serve_grpc(b"nonsense").await;
    assert!(see(nonsense).await.is_err());
    assert!(see(serve().await).await.is_err(), "it speaks no HTTP/2");
}

/// Two nodes over one store: one of them looks, both see.
#[tokio::test]
async fn an_instance_that_falls_ill_is_taken_out_and_comes_back() {
    let clock = Clock::system();
    let kv: Arc<dyn Kv> = Arc::new(MemoryKv::new(clock.clone()));
    let start = async || {
        let registry = Registry::start(kv.clone(), clock.clone(), Config::default());
        let registry = registry.await.unwrap();
        let checker = Checker::start(registry.clone(), kv.clone(), clock.clone(), false);
        (registry, checker)
    };
    let (a, first) = start().await;
    let (b, _second) = start().await;
    let (listener, port) = listen().await;
    let service = ServiceId::from(Name::new("orders").unwrap());
    let id = InstanceId::new("orders-1").unwrap();
    let mut registration = Registration::new(service.clone(), id, "127.0.0.1", port);
    registration.persistent = true;
    let tcp = Probe::Tcp { target: "".into() };
    registration.checks.push(Check {
        interval: Duration::from_millis(500),
        ..Check::new("tcp", tcp)
    });
    a.register(registration).await.unwrap();
    let seen = async |registry: &Registry, health: Health| {
        let mut list = registry.watch(&service);
        let is = list.wait_for(|service| service.instances[0].health() == health);
        let is = tokio::time::timeout(Duration::from_secs(60), is).await;
        is.expect("it is seen in time").unwrap().instances[0].effective()
    };
    assert_eq!(seen(&b, Health::Passing).await, Status::Up);
    drop(listener);
    assert_eq!(seen(&a, Health::Critical).await, Status::Down);
    assert_eq!(seen(&b, Health::Critical).await, Status::Down);
    // If that node did the checks, the other takes over when its lease ends.
    drop(first);
    let address = format!("127.0.0.1:{port}");
    let _again = TcpListener::bind(address).await.unwrap();
    assert_eq!(seen(&b, Health::Passing).await, Status::Up);
}
