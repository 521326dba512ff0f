//! One shopper's connection to the gateway: HTTP/1.1, kept alive, one request at a time, as a
//! browser's would be.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, StatusCode,
    client::conn::http1::{self, SendRequest},
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sinew_core::Backoff;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{Operation, recorder::Recorder};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the gateway's own limit, so that its answer is seen.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_BODY: usize = 1 << 20;
/// A wait that a server asks for is honoured up to here.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// What to ask.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) operation: Operation,
    pub(super) path: String,
    pub(super) token: Option<Arc<str>>,
    /// The Idempotency-Key.
    pub(super) key: Option<String>,
    pub(super) body: Option<Value>,
    /// Whether it does no harm to ask twice.
    pub(super) repeatable: bool,
}

impl Ask {
    pub(super) fn new(operation: Operation, path: impl Into<String>) -> Self {
        let repeatable = operation.method() != hyper::Method::POST;
        let path = path.into();
        Self {
            operation,
            path,
            token: None,
            key: None,
            body: None,
            repeatable,
        }
    }

    pub(super) fn token(mut self, token: &Arc<str>) -> Self {
        self.token = Some(token.clone());
        self
    }

    pub(super) fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    pub(super) fn key(mut self, key: String) -> Self {
        self.key = Some(key);
        self.repeatable = true;
        self
    }

    pub(super) fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }
}

/// An answer that means something for the shopper: neither a 5xx nor a request to come back later.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Value,
    /// When it was first asked, on the clock's monotonic time.
    pub(super) asked: Duration,
    /// Whether an earlier attempt failed and may have been carried out all the same.
    pub(super) repeated: bool,
}

impl Answer {
    /// The problem's code, or an empty text.
    pub(super) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    pub(super) fn text(&self, field: &str) -> String {
        self.body[field].as_str().unwrap_or_default().to_owned()
    }
}

/// No answer could be had, or the run is over: start again from the beginning.
pub(super) struct Abandoned;

/// One attempt.
enum Attempt {
    Answer(StatusCode, Value),
    Throttled(Duration),
    Failed(Option<Duration>),
}

pub(super) struct Client {
    gateway: SocketAddr,
    host: HeaderValue,
    connection: Option<SendRequest<Full<Bytes>>>,
    pub(super) recorder: Arc<Recorder>,
    /// Ends waiting between attempts.
    hurry: CancellationToken,
}

impl Client {
    pub(super) fn new(
        gateway: SocketAddr,
        recorder: Arc<Recorder>,
        hurry: CancellationToken,
    ) -> Self {
        let host = HeaderValue::try_from(gateway.to_string());
        let host = host.expect("an address is made of digits, letters and punctuation");
        Self {
            gateway,
            host,
            connection: None,
            recorder,
            hurry,
        }
    }

    /// Asks until there is an answer, for at most `patience`: waits as long as it is told to, and
    /// repeats what failed where that does no harm.
    pub(super) async fn ask(&mut self, ask: &Ask, patience: Duration) -> Result<Answer, Abandoned> {
        let asked = self.recorder.clock.monotonic();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut repeated = false;
        loop {
            let wait = match self.attempt(ask).await {
                Attempt::Answer(status, body) => {
                    return Ok(Answer {
                        status,
                        body,
                        asked,
                        repeated,
                    });
                }
                Attempt::Throttled(wait) => wait,
                Attempt::Failed(_) if !ask.repeatable => return Err(Abandoned),
                Attempt::Failed(wait) => {
                    repeated = true;
                    wait.unwrap_or_else(|| backoff.next_delay())
                }
            };
            let waited = self.recorder.clock.monotonic().saturating_sub(asked);
            if waited + wait > patience {
                if !repeated {
                    self.recorder
                        .failed(ask.operation, asked, "throttled for too long".to_owned());
                }
                return Err(Abandoned);
            }
            tokio::select! {
                () = self.recorder.clock.sleep(wait) => {}
                () = self.hurry.cancelled() => return Err(Abandoned),
            }
        }
    }

    /// Takes note of an answer that should not have come.
    pub(super) fn surprised(&self, operation: Operation, answer: &Answer) -> Abandoned {
        let detail = answer.body["detail"].as_str().unwrap_or_default();
        let why = format!("{} {} {detail}", answer.status, answer.code());
        self.recorder.failed(operation, answer.asked, why);
        Abandoned
    }

    async fn attempt(&mut self, ask: &Ask) -> Attempt {
        let began = self.recorder.clock.monotonic();
        let exchange = tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(ask)).await;
        let (status, retry_after, body) = match exchange {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => {
                self.connection = None;
                self.recorder.failed(ask.operation, began, why);
                return Attempt::Failed(None);
            }
            Err(_) => {
                self.connection = None;
                self.recorder
                    .failed(ask.operation, began, "no answer in time".to_owned());
                return Attempt::Failed(None);
            }
        };
        let took = self.recorder.clock.monotonic().saturating_sub(began);
        self.recorder.answered(ask.operation, took);
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let code = body["code"].as_str().unwrap_or_default();
        // These say "later", not "something is broken": too many at once, or another replica is just
        // at work on the order.
        let later = match code {
            "shop.hashing_saturated" | "shop.store_busy" | "shop.order_busy" => true,
            _ => status == StatusCode::TOO_MANY_REQUESTS,
        };
        if later {
            self.recorder.throttled(ask.operation);
            return Attempt::Throttled(retry_after.unwrap_or(Duration::from_millis(200)));
        }
        if status.is_server_error() {
            let why = format!(
                "{status} {code} {}",
                body["detail"].as_str().unwrap_or_default()
            );
            self.recorder.failed(ask.operation, began, why);
            return Attempt::Failed(retry_after);
        }
        Attempt::Answer(status, body)
    }

    async fn exchange(
        &mut self,
        ask: &Ask,
    ) -> Result<(StatusCode, Option<Duration>, Bytes), String> {
        let mut fresh = false;
        loop {
            let mut connection = match self.connection.take().filter(|open| !open.is_closed()) {
                Some(open) => open,
                None => {
                    fresh = true;
                    self.connect().await?
                }
            };
            let response = match connection.send_request(self.request(ask)?).await {
                Ok(response) => response,
                // Closed by the other side while it was idle: nothing was sent yet.
                Err(error) if error.is_canceled() && !fresh => continue,
                Err(error) => return Err(format!("the connection broke: {error}")),
            };
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await;
            let body = body
                .map_err(|error| format!("the answer broke off: {error}"))?
                .to_bytes();
            self.connection = Some(connection);
            let wait = head
                .headers
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.parse().ok());
            let wait = wait.map(|secs| Duration::from_secs(secs).min(MAX_WAIT));
            return Ok((head.status, wait, body));
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(self.gateway)).await;
        let stream = stream
            .map_err(|_| "the gateway did not accept in time".to_owned())?
            .map_err(|error| format!("the gateway cannot be reached: {error}"))?;
        // Without it, small requests may wait for acknowledgements of earlier ones.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| format!("no HTTP with the gateway: {error}"))?;
        tokio::spawn(async move {
            // Why it ended is told to the request that notices.
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn request(&self, ask: &Ask) -> Result<Request<Full<Bytes>>, String> {
        // Parts of these came from the services, so they may be anything.
        let unfit = |what: &str| format!("{what} cannot be put into a request");
        let mut request = Request::new(Full::default());
        *request.method_mut() = ask.operation.method();
        *request.uri_mut() = ask.path.parse().map_err(|_| unfit(&ask.path))?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        if let Some(token) = &ask.token {
            let value = HeaderValue::try_from(format!("Bearer {token}"));
            headers.insert(AUTHORIZATION, value.map_err(|_| unfit("the token"))?);
        }
        if let Some(key) = &ask.key {
            let value = HeaderValue::try_from(key).map_err(|_| unfit("the key"))?;
            headers.insert("idempotency-key", value);
        }
        if let Some(body) = &ask.body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.body_mut() = Full::new(Bytes::from(body.to_string()));
        }
        Ok(request)
    }
}
