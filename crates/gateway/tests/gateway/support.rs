//! A client and a service that speak raw bytes, and a gateway between them.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::authority;
use sinew_core::Name;
use sinew_gateway::{FixedDiscovery, Gateway, GatewayConfig, Keys, Route, Routing, Upstream};

/// Nothing in a test takes this long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn route(path: &str, service: &str) -> Route {
    Route::new(path.parse().unwrap(), name(service))
}

/// A gateway on one thread, so that pools and counters are exact.
pub(crate) fn config(routes: Vec<Route>) -> GatewayConfig {
    GatewayConfig {
        address: "127.0.0.1:0".parse().unwrap(),
        threads: Some(1),
        routing: Routing {
            routes,
            ..Routing::default()
        },
        ..GatewayConfig::default()
    }
}

/// The same with this policy for `app`.
pub(crate) fn config_with(routes: Vec<Route>, upstream: Upstream) -> GatewayConfig {
    let mut config = config(routes);
    config.routing.upstreams = vec![upstream];
    config
}

pub(crate) struct World {
    pub(crate) gateway: Gateway,
    pub(crate) discovery: Arc<FixedDiscovery>,
    /// Where clients connect to.
    way_in: SocketAddr,
}

/// Where the gateway finds an instance that listens here.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    if authority::over_tls() {
        authority::out_of_tls(address)
    } else {
        address
    }
}

impl World {
    /// A gateway that takes everything to these instances of `app`.
    pub(crate) fn of(instances: &[&Service]) -> Self {
        Self::with(config(vec![route("/**", "app")]), instances, None)
    }

    pub(crate) fn with(
        config: GatewayConfig,
        instances: &[&Service],
        keys: Option<Arc<dyn Keys>>,
    ) -> Self {
        let discovery = Arc::new(FixedDiscovery::new());
        let addresses: Vec<_> = instances.iter().map(|service| service.address).collect();
        let mut config = config;
        if authority::over_tls() {
            authority::add_tls(&mut config);
        }
        let gateway = Gateway::start(config, discovery.clone(), keys).unwrap();
        let way_in = match gateway.tls_address() {
            Some(address) if authority::over_tls() => authority::into_tls(address),
            _ => gateway.address(),
        };
        let world = Self {
            gateway,
            discovery,
            way_in,
        };
        world.set_addresses(&addresses);
        world
    }

    /// Says where the instances of `app` are.
    pub(crate) fn set_addresses(&self, addresses: &[SocketAddr]) {
        let addresses: Vec<_> = addresses.iter().copied().map(reachable).collect();
        self.discovery.set_addresses(&name("app"), &addresses);
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.way_in)
    }

    /// Sends one request on a new connection.
    pub(crate) fn ask(&self, request: &str) -> Response {
        let mut client = self.client();
        client.send(request);
        client.response()
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
    }

    /// The value of a series, by the line's beginning.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.gateway.metrics_text();
        let line = text.lines().find(|line| line.starts_with(series));
        let line = line.unwrap_or_else(|| panic!("no {series} in\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    pub(crate) fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..1_000 {
            if holds(self) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("never: {what}");
    }
}

/// One end of a connection that reads HTTP/1.1 messages.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    pub(crate) read: Vec<u8>,
    /// The trailers of the last chunked message.
    pub(crate) trailers: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) first: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

pub(crate) type Response = Message;

impl Message {
    pub(crate) fn status(&self) -> u16 {
        self.first.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The values of all headers of this name, joined.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let named = self
            .headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let values: Vec<_> = named.map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(" | "))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of a problem.
    pub(crate) fn code(&self) -> String {
        assert_eq!(
            self.header("content-type").as_deref(),
            Some("application/problem+json"),
            "{self:?}"
        );
        let problem: sinew_core::Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.status, self.status());
        assert_eq!(problem.type_, format!("urn:sinew:error:{}", problem.code));
        problem.code
    }
}

impl Wire {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            read: Vec::new(),
            trailers: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// Reads once more; `false` at the end.
    pub(crate) fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        let count = match self.stream.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(error) => panic!(
                "nothing came: {error}; so far {:?}",
                String::from_utf8_lossy(&self.read)
            ),
        };
        self.read.extend_from_slice(&buffer[..count]);
        count > 0
    }

    /// Reads a line without its end; `None` when the stream ends before.
    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.read[..end]).into_owned();
                self.read.drain(..end + 2);
                return Some(line);
            }
            if !self.fill() {
                return None;
            }
        }
    }

    pub(crate) fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.read.len() < length {
            if !self.fill() {
                return None;
            }
        }
        Some(self.read.drain(..length).collect())
    }

    /// First line and headers; `None` when the stream ends before.
    pub(crate) fn head(&mut self) -> Option<Message> {
        let first = self.line()?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(Message {
                    first,
                    headers,
                    body: Vec::new(),
                });
            }
            let (name, value) = line
                .split_once(": ")
                .unwrap_or_else(|| panic!("header {line:?}"));
            headers.push((name.to_owned(), value.to_owned()));
        }
    }

    /// A chunk of a chunked body, empty at its end; `None` when the stream ends before.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.line()?;
        let size =
            usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("chunk size {size:?}"));
        if size == 0 {
            self.trailers.clear();
            while let Some(line) = Some(self.line()?).filter(|line| !line.is_empty()) {
                self.trailers.push(line);
            }
            return Some(Vec::new());
        }
        let data = self.exactly(size)?;
        assert_eq!(self.line()?, "");
        Some(data)
    }

    /// A whole message; `None` when the stream ends before its end.
    pub(crate) fn message(&mut self, to_head: bool) -> Option<Message> {
        let mut message = self.head()?;
        let is_response = message.first.starts_with("HTTP/");
        if to_head || (is_response && matches!(message.status(), 100..=199 | 204 | 304)) {
            return Some(message);
        }
        if message.header("transfer-encoding").is_some() {
            loop {
                let chunk = self.chunk()?;
                if chunk.is_empty() {
                    break;
                }
                message.body.extend(chunk);
            }
        } else if let Some(length) = message.header("content-length") {
            message.body = self.exactly(length.parse().unwrap())?;
        } else if is_response {
            while self.fill() {}
            message.body = std::mem::take(&mut self.read);
        }
        Some(message)
    }

    /// Whether the other side ends the connection without another byte.
    pub(crate) fn closed(&mut self) -> bool {
        self.read.is_empty() && !self.fill()
    }
}

pub(crate) struct Client(pub(crate) Wire);

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self(Wire::new(TcpStream::connect(address).unwrap()))
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.0.send(text);
    }

    pub(crate) fn response(&mut self) -> Response {
        self.0.message(false).expect("a whole response")
    }
}

/// A service with one instance. Each connection runs `serve` on a thread of its own.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Message>>>,
}

impl Service {
    pub(crate) fn start(serve: impl Fn(&mut Wire) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let serve = serve.clone();
                std::thread::spawn(move || serve(&mut Wire::new(stream)));
            }
        });
        Self {
            address,
            requests: Arc::default(),
        }
    }

    /// Answers every request with what `answer` says, and remembers the requests.
    pub(crate) fn answering(answer: impl Fn(&Message) -> String + Send + Sync + 'static) -> Self {
        let requests: Arc<Mutex<Vec<Message>>> = Arc::default();
        let seen = requests.clone();
        let service = Self::start(move |wire| {
            while let Some(request) = wire.message(false) {
                let answer = answer(&request);
                seen.lock().unwrap().push(request);
                wire.send(&answer);
            }
        });
        Self {
            requests,
            ..service
        }
    }

    /// Answers 200 with this text.
    pub(crate) fn saying(text: &'static str) -> Self {
        Self::answering(move |_| ok(text))
    }

    /// What it was asked so far.
    pub(crate) fn requests(&self) -> Vec<Message> {
        self.requests.lock().unwrap().clone()
    }
}

pub(crate) fn ok(text: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    )
}

/// An address where nobody listens.
pub(crate) fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}
