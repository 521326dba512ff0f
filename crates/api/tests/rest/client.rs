//! A client that hides nothing of what the server sends.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

const LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) token: Option<String>,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl Client {
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        Answer::of(self.open("GET", path, None, headers).await).await
    }

    pub(crate) async fn post(&self, path: &str) -> Answer {
        self.send("POST", path, None).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, None).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, Some(("application/json", body.to_string())))
            .await
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, String)>,
    ) -> Answer {
        Answer::of(self.open(method, path, body, &[]).await).await
    }

    pub(crate) async fn send_if_match(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, String)>,
        tag: &str,
    ) -> Answer {
        Answer::of(self.open(method, path, body, &[("if-match", tag)]).await).await
    }

    async fn open(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, String)>,
        headers: &[(&str, &str)],
    ) -> Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "node");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some((media_type, _)) = &body {
            request = request.header("content-type", *media_type);
        }
        let body = Full::new(Bytes::from(body.map(|(_, body)| body).unwrap_or_default()));
        let request = request.body(body).unwrap();
        timeout(LIMIT, sender.send_request(request))
            .await
            .unwrap()
            .unwrap()
    }
}

impl Answer {
    async fn of(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let body = timeout(LIMIT, body.collect())
            .await
            .unwrap()
            .unwrap()
            .to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        let json = serde_json::from_str(&text).unwrap_or_default();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text,
            json,
        }
    }

    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status.as_u16(), &self.json["code"]),
            (status, &code.into())
        );
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.json["status"], status);
        assert_eq!(self.json["type"], format!("urn:sinew:error:{code}"));
    }
}

/// An open stream of server-sent events.
pub(crate) struct Events {
    body: Incoming,
    text: String,
}

#[derive(Debug, Default)]
pub(crate) struct Event {
    pub(crate) event: String,
    pub(crate) id: String,
    pub(crate) data: Value,
}

impl Event {
    /// The service and how many instances it has.
    pub(crate) fn counted(&self) -> (&str, usize) {
        let name = self.data["name"].as_str().unwrap();
        (name, self.data["instances"].as_array().unwrap().len())
    }
}

impl Events {
    pub(crate) async fn open(client: &Client, path: &str) -> Self {
        Self::open_after(client, path, "").await
    }

    /// Goes on after the event of this id.
    pub(crate) async fn open_after(client: &Client, path: &str, id: &str) -> Self {
        let headers = [("last-event-id", id)];
        let headers = &headers[usize::from(id.is_empty())..];
        let response = client.open("GET", path, None, headers).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            body: response.into_body(),
            text: String::new(),
        }
    }

    pub(crate) async fn next(&mut self) -> Event {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let mut event = Event::default();
                for line in block.lines() {
                    match line.split_once(": ").unwrap() {
                        ("event", text) => event.event = text.into(),
                        ("id", text) => event.id = text.into(),
                        ("data", text) => event.data = serde_json::from_str(text).unwrap(),
                        ("", _) => {}
                        other => panic!("{other:?}"),
                    }
                }
                self.text = rest.to_owned();
                if !event.event.is_empty() {
                    return event;
                }
            }
            let chunk = self.chunk().await.expect("the stream has not ended");
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    pub(crate) async fn ended(&mut self) -> bool {
        while let Some(chunk) = self.chunk().await {
            assert!(chunk.starts_with(b":"), "{chunk:?}");
        }
        true
    }

    async fn chunk(&mut self) -> Option<Bytes> {
        let frame = timeout(LIMIT, self.body.frame()).await.unwrap()?;
        Some(frame.unwrap().into_data().unwrap())
    }
}
