//! Requests to one bucket: signed, on connections that are kept, tried again where that changes nothing.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use sinew_core::{Backoff, Clock, Error, Result};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{ENGINE, sign, sign::Signer, xml};
use crate::{fault, socket::Connector};

/// Connections that wait for work.
const IDLE: usize = 64;
/// The longest answer that is read into memory: a page of a thousand entries.
const ANSWER: usize = 8 << 20;

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// The object; the bucket itself without one.
    pub(super) key: Option<&'a str>,
    pub(super) query: Vec<(&'a str, String)>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
    /// Whether it may be sent again when its fate is unknown.
    pub(super) again: bool,
}

impl<'a> Ask<'a> {
    pub(super) fn new(method: Method, key: Option<&'a str>) -> Self {
        Self {
            again: method != Method::POST,
            method,
            key,
            query: Vec::new(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    pub(super) fn query(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(super) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// It must be sent at most once: sent twice, the second would see what the first did.
    pub(super) fn once(mut self) -> Self {
        self.again = false;
        self
    }
}

/// A good answer whose body is still to come.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Incoming,
}

/// Why there is none.
pub(super) enum Refusal {
    /// S3 said no.
    Said {
        status: StatusCode,
        code: String,
        message: String,
    },
    /// Nothing, or nothing that can be read.
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(why: Error) -> Self {
        Self::Failed(why)
    }
}

impl Refusal {
    pub(super) fn is(&self, codes: &[&str]) -> bool {
        matches!(self, Self::Said { code, .. } if codes.contains(&code.as_str()))
    }

    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Said { status, .. } => status.as_u16(),
            Self::Failed(_) => 0,
        }
    }

    /// The error for a refusal that says nothing about the object.
    pub(super) fn general(self) -> Error {
        let (status, code, message) = match self {
            Self::Failed(why) => return why,
            Self::Said {
                status,
                code,
                message,
            } => (status, code, message),
        };
        let text = format!("{status}: {code}: {message}");
        match (status.as_u16(), code.as_str()) {
            (_, "NoSuchBucket") => fault::unsuitable(ENGINE, "there is no such bucket"),
            (401 | 403, _) => fault::denied(ENGINE, text),
            (408 | 429 | 500..=599, _) | (_, "OperationAborted" | "ConditionalRequestConflict") => {
                fault::unavailable(ENGINE, text)
            }
            _ => fault::unexpected(ENGINE, text),
        }
    }
}

type Sender = SendRequest<Full<Bytes>>;

pub(super) struct Client {
    pub(super) connector: Connector,
    /// `host:port`, as it stands in the `Host` header.
    pub(super) authority: String,
    pub(super) bucket: String,
    pub(super) signer: Signer,
    pub(super) clock: Clock,
    pub(super) timeout: Duration,
    /// Told when a request failed, so that the health is looked at.
    pub(super) doubt: Notify,
    pub(super) idle: Mutex<Vec<Sender>>,
}

impl Client {
    pub(super) async fn ask(&self, ask: &Ask<'_>) -> Result<Answer, Refusal> {
        let deadline = Instant::now() + self.timeout;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            let (why, unsent) = match self.attempt(ask).await {
                Ok(answer) => return Ok(answer),
                Err(why) => why,
            };
            let passing = match &why {
                Refusal::Failed(why) => why.code() == "engine.unavailable",
                Refusal::Said { status, .. } => matches!(status.as_u16(), 429 | 500..=599),
            };
            if passing {
                self.doubt.notify_one();
            }
            let delay = backoff.next_delay();
            if !passing || !(unsent || ask.again) || Instant::now() + delay > deadline {
                return Err(why);
            }
            sleep(delay).await;
        }
    }

    /// The whole answer.
    pub(super) async fn read(&self, ask: &Ask<'_>) -> Result<(HeaderMap, String), Refusal> {
        let answer = self.ask(ask).await?;
        let text = self.text(answer.body).await?;
        // S3 may find out late that it cannot, when its 200 is on the way already.
        match xml::text(&text, "Code").filter(|_| text.contains("<Error>")) {
            Some(code) => Err(Refusal::Said {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                code: code.into_owned(),
                message: xml::text(&text, "Message").unwrap_or_default().into_owned(),
            }),
            None => Ok((answer.headers, text)),
        }
    }

    async fn text(&self, body: Incoming) -> Result<String> {
        match timeout(self.timeout, Limited::new(body, ANSWER).collect()).await {
            Err(_) => Err(fault::timeout(ENGINE, self.timeout)),
            Ok(Err(why)) => Err(fault::unavailable(ENGINE, why.to_string())),
            Ok(Ok(body)) => String::from_utf8(body.to_bytes().into())
                .map_err(|_| fault::unexpected(ENGINE, "an answer that is not UTF-8")),
        }
    }

    /// The second says whether nothing was sent for certain.
    async fn attempt(&self, ask: &Ask<'_>) -> Result<Answer, (Refusal, bool)> {
        let sender = match timeout(self.timeout, self.connection()).await {
            Ok(Ok(sender)) => sender,
            Ok(Err(why)) => return Err((why.into(), true)),
            Err(_) => {
                let why = fault::unavailable(ENGINE, "no connection in time");
                return Err((why.into(), true));
            }
        };
        let mut sender = sender;
        // A second for each MiB that must get there first.
        let patience = self.timeout + Duration::from_secs(ask.body.len() as u64 >> 20);
        let request = self.request(ask).map_err(|why| (why.into(), true))?;
        let response = match timeout(patience, sender.send_request(request)).await {
            Err(_) => return Err((fault::timeout(ENGINE, patience).into(), false)),
            Ok(Err(why)) => {
                // Canceled: the connection had ended before the request was on it.
                let unsent = why.is_canceled();
                return Err((fault::unavailable(ENGINE, why.to_string()).into(), unsent));
            }
            Ok(Ok(response)) => response,
        };
        {
            // It takes the next request when this answer has been read.
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE {
                idle.push(sender);
            }
        }
        let (head, body) = response.into_parts();
        if head.status.is_success() {
            return Ok(Answer {
                headers: head.headers,
                body,
            });
        }
        let text = self.text(body).await.map_err(|why| (why.into(), false))?;
        let said = |name| xml::text(&text, name).unwrap_or_default().into_owned();
        let refusal = Refusal::Said {
            status: head.status,
            code: said("Code"),
            message: said("Message"),
        };
        Err((refusal, false))
    }

    async fn connection(&self) -> Result<Sender> {
        {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|sender| !sender.is_closed());
            if let Some(place) = idle.iter().rposition(SendRequest::is_ready) {
                return Ok(idle.swap_remove(place));
            }
        }
        let socket = self.connector.connect().await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
            .await
            .map_err(|why| fault::unavailable(ENGINE, why.to_string()))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    fn request(&self, ask: &Ask<'_>) -> Result<Request<Full<Bytes>>> {
        let path = match ask.key {
            Some(key) => format!("/{}/{}", sign::path(&self.bucket), sign::path(key)),
            None => format!("/{}", sign::path(&self.bucket)),
        };
        let query = sign::query(&ask.query);
        let stamp = sign::stamp(self.clock.now());
        let sha256 = sign::sha256(&ask.body);
        let mut headers = ask.headers.clone();
        headers.push(("host".to_owned(), self.authority.clone()));
        headers.push(("x-amz-content-sha256".to_owned(), sha256.clone()));
        headers.push(("x-amz-date".to_owned(), stamp.clone()));
        headers.sort();
        let method = ask.method.as_str();
        let signed = self
            .signer
            .sign(method, &path, &query, &headers, &sha256, &stamp);
        let uri = if query.is_empty() {
            path
        } else {
            format!("{path}?{query}")
        };
        let mut request = Request::builder().method(ask.method.clone()).uri(uri);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request
            .header("authorization", signed)
            .body(Full::new(ask.body.clone()))
            .map_err(|why| fault::unexpected(ENGINE, why.to_string()))
    }
}
