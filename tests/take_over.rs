//! A node is replaced by another process under load: no request fails, no connection is refused, and what the store
//! holds is still there.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::json;

use crate::harness::{Program, address_of, http, http_until, read, until};

/// A service that answers every request, on connections that are kept.
struct Service(SocketAddr);

impl Service {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut wire = Wire::new(stream);
                    while wire.head().is_ok() {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        if wire.stream.write_all(answer).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self(address)
    }
}

struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    fn new(stream: TcpStream) -> Self {
        let limit = Some(Duration::from_secs(120));
        stream.set_read_timeout(limit).unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    fn connect(address: SocketAddr) -> std::io::Result<Self> {
        TcpStream::connect(address).map(Self::new)
    }

    /// Reads up to the end of a head.
    fn head(&mut self) -> std::io::Result<String> {
        loop {
            let end = self.read.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                let rest = self.read.split_off(end + 4);
                let head = std::mem::replace(&mut self.read, rest);
                return Ok(String::from_utf8_lossy(&head).into_owned());
            }
            let mut some = [0; 1024];
            match self.stream.read(&mut some)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => self.read.extend_from_slice(&some[..count]),
            }
        }
    }

    /// One request; whether the connection goes on.
    fn ask(&mut self) -> std::io::Result<bool> {
        self.stream
            .write_all(b"GET /hello HTTP/1.1\r\nhost: a\r\n\r\n")?;
        let head = self.head()?.to_ascii_lowercase();
        while self.read.len() < 2 {
            let mut some = [0; 16];
            match self.stream.read(&mut some)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => self.read.extend_from_slice(&some[..count]),
            }
        }
        let body: Vec<u8> = self.read.drain(..2).collect();
        if !head.starts_with("http/1.1 200") || body != b"ok" {
            return Err(std::io::Error::other(format!("{head}{body:?}")));
        }
        Ok(!head.contains("connection: close"))
    }
}

/// Clients that ask without a pause, half of them on a new connection each time.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(gateway: SocketAddr) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let client = |keeps: bool| {
            let (stop, done) = (stop.clone(), done.clone());
            std::thread::spawn(move || {
                let (mut failed, mut kept) = (Vec::new(), None);
                while !stop.load(Ordering::Relaxed) {
                    let wire = kept.take().map_or_else(|| Wire::connect(gateway), Ok);
                    let asked = wire.and_then(|mut wire| Ok((wire.ask()?, wire)));
                    match asked {
                        Ok((goes_on, wire)) => kept = (keeps && goes_on).then_some(wire),
                        Err(error) => failed.push(error.to_string()),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    // So that the machine does something else, too.
                    std::thread::sleep(Duration::from_millis(1));
                }
                failed
            })
        };
        let clients = (0..8).map(|index| client(index % 2 == 0)).collect();
        Self {
            stop,
            done,
            clients,
        }
    }

    fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    async fn more(&self, count: usize) {
        let target = self.done() + count;
        until("requests are answered", || self.done() >= target).await;
    }

    /// How many were asked; panics when one failed.
    fn finish(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            let failed = client.join().unwrap();
            assert!(failed.is_empty(), "{} failed: {failed:?}", failed.len());
        }
        self.done.load(Ordering::Relaxed)
    }
}

const ROUTES: &str = "[[routes]]\npath = \"/**\"\nservice = \"hello\"\nretries = 0\n";

fn serve(folder: &Path, more: &[&str]) -> Program {
    serve_on("127.0.0.1:0", folder, more)
}

fn serve_on(gateway: &str, folder: &Path, more: &[&str]) -> Program {
    let config = folder.join("sinew.toml");
    let (config, data) = (config.to_str().unwrap(), folder.join("data"));
    let args = [
        "serve",
        "--config",
        config,
        "--data",
        data.to_str().unwrap(),
        "--gateway",
        gateway,
        "--control",
        "127.0.0.1:0",
    ];
    Program::start(&[&args[..], more].concat())
}

async fn endpoints_of(program: &Program, folder: &Path) -> serde_json::Value {
    let path = folder.join("data/endpoints.json");
    let endpoints = || -> Option<serde_json::Value> {
        serde_json::from_slice(&std::fs::read(&path).ok()?).ok()
    };
    let is_its = || endpoints().is_some_and(|found| found["pid"] == program.pid());
    until("the node is up", is_its).await;
    endpoints().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_takes_over_and_nobody_notices() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("sinew.toml"), ROUTES).unwrap();
    let service = Service::start();
    // There is none to take over from: it starts as usual.
    let mut running = serve(folder.path(), &["--take-over"]);
    let first = endpoints_of(&running, folder.path()).await;
    let control = first["control"].as_str().unwrap().to_owned();
    let gateway = address_of(first["gateway"].as_str().unwrap());
    let bearer = format!("Bearer {}", read(folder.path().join("data/admin-token")));
    let auth = [("authorization", bearer.as_str())];
    let url = format!("{control}/v1/services/hello/instances/hello-1");
    let instance = json!({ "address": "127.0.0.1", "port": service.0.port(), "ttl_ms": 60_000 });
    let registered = http("PUT", &url, &auth, Some(instance)).await.unwrap();
    assert!([200, 201].contains(&registered.0), "{registered:?}");
    http_until(
        200,
        "GET",
        &format!("{}/x", first["gateway"].as_str().unwrap()),
        &[],
        None,
    )
    .await;

    let load = Load::start(gateway);
    for _ in 0..3 {
        load.more(500).await;
        let next = serve(folder.path(), &["--take-over"]);
        let ended = std::mem::replace(&mut running, next).ended().await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        let now = endpoints_of(&running, folder.path()).await;
        assert_eq!(now["gateway"], first["gateway"]);
        assert_eq!(now["control"], first["control"]);
        load.more(500).await;
        // The store went along.
        let services = http_until(200, "GET", &format!("{control}/v1/services"), &auth, None).await;
        assert_eq!(services["services"][0]["instances"][0]["id"], "hello-1");
    }
    assert!(load.finish() >= 3_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_leaves_the_other_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("sinew.toml");
    std::fs::write(&config, ROUTES).unwrap();
    let service = Service::start();
    let mut running = serve(folder.path(), &[]);
    let first = endpoints_of(&running, folder.path()).await;
    let control = first["control"].as_str().unwrap().to_owned();
    let gateway = address_of(first["gateway"].as_str().unwrap());
    let bearer = format!("Bearer {}", read(folder.path().join("data/admin-token")));
    let auth = [("authorization", bearer.as_str())];
    let url = format!("{control}/v1/services/hello/instances/hello-1");
    let instance = json!({ "address": "127.0.0.1", "port": service.0.port(), "ttl_ms": 60_000 });
    http("PUT", &url, &auth, Some(instance)).await.unwrap();
    http_until(
        200,
        "GET",
        &format!("{}/x", first["gateway"].as_str().unwrap()),
        &[],
        None,
    )
    .await;
    let load = Load::start(gateway);

    // One that would listen elsewhere goes before anything has happened.
    let elsewhere = serve_on("127.0.0.1:1", folder.path(), &["--take-over"]);
    let ended = elsewhere.ended().await;
    assert_ne!(ended.code, Some(0));
    assert!(
        ended.err.contains("gateway.listeners_differ"),
        "{}",
        ended.err
    );

    // One that fails when the store is its own already: the other one takes it back.
    let broken = "[gateway]\naccess_log = \"/proc/none/access.log\"\n";
    std::fs::write(&config, format!("{broken}{ROUTES}")).unwrap();
    let ended = serve(folder.path(), &["--take-over"]).ended().await;
    assert_ne!(ended.code, Some(0));
    let goes_on = running.errors(|line| line.contains("this one goes on"));
    until("it says that it goes on", || goes_on().len() == 1).await;
    let services = http_until(200, "GET", &format!("{control}/v1/services"), &auth, None).await;
    assert_eq!(services["services"][0]["instances"][0]["id"], "hello-1");
    load.more(500).await;

    // And can be taken over from afterwards.
    std::fs::write(&config, ROUTES).unwrap();
    let next = serve(folder.path(), &["--take-over"]);
    let ended = std::mem::replace(&mut running, next).ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    endpoints_of(&running, folder.path()).await;
    load.more(500).await;
    load.finish();
}
