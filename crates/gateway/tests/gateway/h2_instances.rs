//! Instances that speak HTTP/2, and gRPC.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, Request, Response};
use sinew_core::InstanceId;
use sinew_gateway::{Endpoint, EndpointStatus, Protocol, Route};

use crate::{
    h2_support::{ask, connect, get, post, read, run},
    support::{World, config, name, route},
};

type Answering = Pin<Box<dyn Future<Output = ()>>>;

/// An instance that speaks HTTP/2 alone.
struct Instance {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Instance {
    /// `answer` gets each request with its number, from 0. A connection ends gracefully after
    /// `per_connection` requests.
    fn start(
        per_connection: usize,
        answer: impl Fn(usize, Request<RecvStream>, SendResponse<Bytes>) -> Answering
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let (answer, number) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
            tokio::task::LocalSet::new().block_on(&runtime, async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((socket, _)) = listener.accept().await {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let (answer, number) = (answer.clone(), number.clone());
                    tokio::task::spawn_local(async move {
                        let mut connection = h2::server::handshake(socket).await.unwrap();
                        let mut left = per_connection;
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            let number = number.fetch_add(1, Ordering::SeqCst);
                            tokio::task::spawn_local(answer(number, request, respond));
                            left -= 1;
                            if left == 0 {
                                connection.graceful_shutdown();
                            }
                        }
                    });
                }
            });
        });
        Self {
            address,
            connections,
        }
    }

    /// Answers with what it got, and trailers.
    fn echoing() -> Self {
        Self::start(usize::MAX, |_, request, mut respond| {
            Box::pin(async move {
                let (head, mut body) = request.into_parts();
                let mut got = Vec::new();
                while let Some(data) = body.data().await {
                    let data = data.unwrap();
                    body.flow_control().release_capacity(data.len()).unwrap();
                    got.extend_from_slice(&data);
                }
                let trailers = body.trailers().await.unwrap().unwrap_or_default();
                let told = |name: &str| {
                    let value = head.headers.get(name);
                    value.map_or("", |value| value.to_str().unwrap()).to_owned()
                };
                let response = Response::builder()
                    .header("x-uri", head.uri.to_string())
                    .header("x-te", told("te"))
                    .header("x-left", told("grpc-timeout"))
                    .header("x-forwarded", told("x-forwarded-for"));
                let mut send = respond
                    .send_response(response.body(()).unwrap(), false)
                    .unwrap();
                send.send_data(got.into(), false).unwrap();
                let mut back = HeaderMap::new();
                back.insert("x-trailers", trailers.len().into());
                back.insert("grpc-status", "0".parse().unwrap());
                send.send_trailers(back).unwrap();
            })
        })
    }
}

/// A gateway before instances that say what they speak.
fn world(instances: &[&Instance], routes: Vec<Route>) -> World {
    let world = World::with(config(routes), &[], None);
    let metadata = BTreeMap::from([("protocol".to_owned(), "h2".to_owned())]);
    let metadata = Arc::new(metadata);
    let endpoint = |instance: &&Instance| Endpoint {
        id: InstanceId::new(&format!("app-{}", instance.address.port())).unwrap(),
        address: instance.address,
        status: EndpointStatus::Up,
        metadata: metadata.clone(),
    };
    let endpoints = instances.iter().map(endpoint).collect();
    world.discovery.set(&name("app"), endpoints);
    world
}

fn call(path: &str, timeout: &str) -> Request<()> {
    Request::post(format!("http://a{path}"))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(())
        .unwrap()
}

#[test]
fn both_kinds_of_clients_reach_an_instance_over_one_connection() {
    let instance = Instance::echoing();
    let world = world(&[&instance], vec![route("/**", "app")]);
    let mut client = world.client();
    client.send("POST /x?y=1 HTTP/1.1\r\nHost: b.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status(), response.text().as_str()), (200, "abc"));
    assert_eq!(
        response.header("x-uri").as_deref(),
        Some("http://b.example/x?y=1")
    );
    assert_eq!(response.header("x-forwarded").as_deref(), Some("127.0.0.1"));
    assert!(client.0.trailers.contains(&"x-trailers: 1".to_owned()));
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.0.message(true).unwrap().status(), 200);
    run(async {
        let sender = connect(world.gateway.address()).await;
        let big = vec![b'x'; 900_000];
        let asked: Vec<_> = (0..30)
            .map(|_| {
                let (sender, big) = (sender.clone(), big.clone());
                tokio::task::spawn_local(async move { ask(&sender, post("/"), Some(&big)).await })
            })
            .collect();
        for one in asked {
            let answer = one.await.unwrap().unwrap();
            assert_eq!((answer.status, answer.body.len()), (200, 900_000));
            assert!(answer.trailers.is_some());
        }
    });
    assert_eq!(instance.connections.load(Ordering::SeqCst), 1);
    let connects = "sinew_gateway_upstream_connects_total{service=\"app\"}";
    assert_eq!(world.metric(connects), 1.0);
}

#[test]
fn a_route_can_say_what_its_instances_speak() {
    let instance = Instance::echoing();
    let mut grpc = route("/**", "app");
    grpc.protocol = Some(Protocol::H2);
    let world = World::with(config(vec![grpc]), &[], None);
    world
        .discovery
        .set_addresses(&name("app"), &[instance.address]);
    assert_eq!(world.get("/").status(), 200);
    for (text, protocol) in [
        ("http1", Protocol::Http1),
        ("h2", Protocol::H2),
        ("grpc", Protocol::H2),
    ] {
        let route = format!("path = \"/\"\nservice = \"a\"\nprotocol = \"{text}\"");
        assert_eq!(
            toml::from_str::<Route>(&route).unwrap().protocol,
            Some(protocol)
        );
    }
}

#[test]
fn a_refused_stream_is_sent_again_whatever_it_asks() {
    let instance = |refuses: bool| {
        Instance::start(usize::MAX, move |_, _, mut respond| {
            Box::pin(async move {
                if refuses {
                    respond.send_reset(Reason::REFUSED_STREAM);
                } else {
                    respond.send_response(Response::new(()), true).unwrap();
                }
            })
        })
    };
    let (refusing, taking) = (instance(true), instance(false));
    let world = world(&[&refusing, &taking], vec![route("/**", "app")]);
    run(async {
        let sender = connect(world.gateway.address()).await;
        for _ in 0..10 {
            let answer = ask(&sender, call("/a.B/C", "20S"), Some(b"message")).await;
            assert_eq!(answer.unwrap().status, 200);
        }
    });
}

#[test]
fn a_connection_that_is_to_end_is_replaced() {
    let instance = Instance::start(3, |_, _, mut respond| {
        Box::pin(async move {
            respond.send_response(Response::new(()), true).unwrap();
        })
    });
    let world = world(&[&instance], vec![route("/**", "app")]);
    run(async {
        let sender = connect(world.gateway.address()).await;
        for _ in 0..20 {
            let request = Request::post("http://a/").body(()).unwrap();
            assert_eq!(ask(&sender, request, None).await.unwrap().status, 200);
        }
    });
    assert!(instance.connections.load(Ordering::SeqCst) >= 6);
}

#[test]
fn a_request_taken_back_is_taken_back_from_the_instance() {
    let (told, heard) = std::sync::mpsc::channel();
    let instance = Instance::start(usize::MAX, move |_, _, mut respond| {
        let told = told.clone();
        Box::pin(async move {
            told.send("asked".to_owned()).unwrap();
            let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            told.send(format!("{:?}", reset.unwrap())).unwrap();
        })
    });
    let world = world(&[&instance], vec![route("/**", "app")]);
    run(async {
        let sender = connect(world.gateway.address()).await;
        let next = || async {
            loop {
                match heard.try_recv() {
                    Ok(text) => return text,
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                }
            }
        };
        let (_response, mut send) = sender.clone().send_request(get("/"), true).unwrap();
        assert_eq!(next().await, "asked");
        send.send_reset(Reason::CANCEL);
        assert_eq!(next().await, "CANCEL");
    });
}

#[test]
fn calls_pass_with_what_is_left_of_their_time() {
    let instance = Instance::echoing();
    let world = world(&[&instance], vec![route("/**", "app")]);
    run(async {
        let sender = connect(world.gateway.address()).await;
        let answer = ask(&sender, call("/a.B/C", "20S"), Some(b"message")).await;
        let answer = answer.unwrap();
        assert_eq!(answer.text(), "message");
        assert_eq!(answer.header("x-te"), Some("trailers"));
        let left = answer.header("x-left").unwrap().strip_suffix('m').unwrap();
        assert!((1..=20_000).contains(&left.parse::<u32>().unwrap()));
        assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");

        // Both sides at once: each message is answered before the next is sent.
        let echo = Instance::start(usize::MAX, |_, request, mut respond| {
            Box::pin(async move {
                let mut body = request.into_body();
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                while let Some(data) = body.data().await {
                    send.send_data(data.unwrap(), false).unwrap();
                }
                send.send_trailers(HeaderMap::new()).unwrap();
            })
        });
        world.discovery.set(
            &name("app"),
            vec![Endpoint {
                id: InstanceId::new("echo").unwrap(),
                address: echo.address,
                status: EndpointStatus::Up,
                metadata: Arc::new(BTreeMap::from([("protocol".into(), "grpc".into())])),
            }],
        );
        let request = call("/a.B/Chat", "20S");
        let (response, mut send) = sender.clone().send_request(request, false).unwrap();
        let mut response = response.await.unwrap();
        for text in ["one", "two", "three"] {
            send.send_data(text.into(), false).unwrap();
            let data = response.body_mut().data().await.unwrap().unwrap();
            assert_eq!(data, text.as_bytes());
        }
        send.send_data(Bytes::new(), true).unwrap();
        assert!(read(response).await.unwrap().body.is_empty());
    });
}

#[test]
fn errors_to_calls_are_in_the_words_of_grpc() {
    let silent = Instance::start(usize::MAX, |number, request, mut respond| {
        Box::pin(async move {
            let mut send = None;
            if number > 0 {
                let begun = respond.send_response(Response::new(()), false);
                send = Some(begun.unwrap());
            }
            if request.uri().path().ends_with("/Broken") {
                let mut send = send.take().unwrap();
                send.send_data("half".into(), false).unwrap();
                tokio::task::yield_now().await;
                send.send_reset(Reason::INTERNAL_ERROR);
            }
            std::future::pending::<()>().await;
            drop(send);
        })
    });
    let routes = vec![route("/a.B/**", "app"), route("/none/**", "none")];
    let world = world(&[&silent], routes);
    run(async {
        let sender = connect(world.gateway.address()).await;
        for (path, status, code) in [
            ("/none/X", "14", "gateway.no_instance"),
            ("/nobody/X", "5", "gateway.no_route"),
            ("/a.B/../X", "3", "gateway.path_refused"),
            ("/a.B/Silent", "4", "gateway.total_timeout"),
        ] {
            let answer = ask(&sender, call(path, "200m"), None).await.unwrap();
            assert_eq!(answer.status, 200, "{path}");
            assert_eq!(answer.header("content-type"), Some("application/grpc"));
            assert_eq!(answer.header("grpc-status"), Some(status), "{path}");
            let message = answer.header("grpc-message").unwrap();
            assert!(message.starts_with(code), "{path}: {message}");
            assert!(answer.body.is_empty() && answer.trailers.is_none());
        }
        // The answer has begun: what is left are its trailers.
        for (path, time, status) in [("/a.B/Late", "200m", "4"), ("/a.B/Broken", "20S", "14")] {
            let answer = ask(&sender, call(path, time), None).await.unwrap();
            assert_eq!(answer.trailers.unwrap()["grpc-status"], status, "{path}");
        }
    });
}
