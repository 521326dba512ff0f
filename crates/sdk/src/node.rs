//! The node's control API, as far as a service needs it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header, uri::Authority};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::Value;
use sinew_core::{Error, InstanceId, Kind, Name, Result};

use crate::{client::Transport, environment::NodeAddress};

/// One answer, head and body.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_REPLY_BYTES: usize = 1024 * 1024;

pub(crate) struct Node {
    authority: Authority,
    authorization: Option<HeaderValue>,
    transport: Transport,
}

/// One instance, as the registry shows it; what a caller needs of it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Listed {
    pub(crate) id: InstanceId,
    pub(crate) address: String,
    pub(crate) port: u16,
    pub(crate) status: String,
}

/// All instances of one service.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ServiceList {
    pub(crate) name: Name,
    pub(crate) instances: Vec<Listed>,
}

#[derive(Deserialize)]
struct Lease {
    ttl_ms: u64,
}

impl Node {
    pub(crate) fn new(address: &NodeAddress, transport: Transport) -> Result<Self> {
        let authorization = match &address.token {
            None => None,
            Some(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                    .map_err(|_| crate::environment::invalid("SINEW_TOKEN", "it is no token"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self {
            authority: address.authority.clone(),
            authorization,
            transport,
        })
    }

    /// Registers; answers the lease's time to live.
    pub(crate) async fn register(
        &self,
        service: &Name,
        id: &InstanceId,
        body: &Value,
    ) -> Result<Duration> {
        let path = format!("/v1/services/{service}/instances/{id}");
        self.lease(Method::PUT, &path, Some(body)).await
    }

    /// Keeps the lease alive; `registry.instance_unknown` when there is none.
    pub(crate) async fn heartbeat(&self, service: &Name, id: &InstanceId) -> Result<Duration> {
        let path = format!("/v1/services/{service}/instances/{id}/heartbeat");
        self.lease(Method::POST, &path, None).await
    }

    pub(crate) async fn set_status(
        &self,
        service: &Name,
        id: &InstanceId,
        status: &str,
    ) -> Result<()> {
        let path = format!("/v1/services/{service}/instances/{id}/status");
        let body = serde_json::json!({ "status": status });
        self.call(Method::PUT, &path, Some(&body)).await.map(drop)
    }

    pub(crate) async fn deregister(&self, service: &Name, id: &InstanceId) -> Result<()> {
        let path = format!("/v1/services/{service}/instances/{id}");
        self.call(Method::DELETE, &path, None).await.map(drop)
    }

    /// Opens the event stream for these services.
    pub(crate) async fn watch<'a>(
        &self,
        services: impl Iterator<Item = &'a Name>,
    ) -> Result<Incoming> {
        let query: Vec<String> = services.map(|name| format!("service={name}")).collect();
        let path = format!("/v1/watch/services?{}", query.join("&"));
        let request = self.request(Method::GET, &path, None)?;
        let response = self.send(request).await?;
        if response.status() != StatusCode::OK {
            return Err(refused(response.status(), &[]));
        }
        Ok(response.into_body())
    }

    /// Opens the event stream of a configuration, after the event of this id.
    pub(crate) async fn follow(&self, path: &str, last: Option<&str>) -> Result<Incoming> {
        let mut request = self.request(Method::GET, path, None)?;
        if let Some(last) = last.and_then(|last| HeaderValue::try_from(last).ok()) {
            request.headers_mut().insert("last-event-id", last);
        }
        let response = self.send(request).await?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response.into_body());
        }
        let body = Limited::new(response.into_body(), MAX_REPLY_BYTES).collect();
        let body = tokio::time::timeout(CALL_TIMEOUT, body).await;
        let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes());
        Err(refused(status, &body.unwrap_or_default()))
    }

    async fn lease(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Duration> {
        let reply = self.call(method, path, body).await?;
        let lease: Lease = serde_json::from_slice(&reply)
            .map_err(|error| unavailable("the node's answer cannot be read").with_source(error))?;
        // A wrong answer must not turn the heartbeat into a busy loop, or into none.
        Ok(Duration::from_millis(lease.ttl_ms.clamp(500, 600_000)))
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Bytes> {
        let request = self.request(method, path, body)?;
        let answer = async {
            let response = self.send(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_REPLY_BYTES)
                .collect()
                .await;
            let body = body
                .map_err(|error| unavailable("the node's answer broke off").with_source(error))?
                .to_bytes();
            if status.is_success() {
                Ok(body)
            } else {
                Err(refused(status, &body))
            }
        };
        tokio::time::timeout(CALL_TIMEOUT, answer)
            .await
            .unwrap_or_else(|_| Err(unavailable("the node does not answer")))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.authority));
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let body = match body {
            None => Full::default(),
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Full::from(body.to_string())
            }
        };
        request.body(body).map_err(|error| {
            Error::new(
                Kind::Internal,
                "sdk.request_invalid",
                "the request cannot be built",
            )
            .with_source(error)
        })
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<http::Response<Incoming>> {
        tokio::time::timeout(CALL_TIMEOUT, self.transport.request(request))
            .await
            .map_err(|_| unavailable("the node does not answer"))?
            .map_err(|error| unavailable("the node cannot be reached").with_source(error))
    }
}

fn unavailable(message: &str) -> Error {
    Error::new(Kind::Unavailable, "sdk.node_unavailable", message)
}

/// The node's own error, or one for the bare status.
fn refused(status: StatusCode, body: &[u8]) -> Error {
    match serde_json::from_slice::<sinew_core::Problem>(body) {
        Ok(problem) => problem.into(),
        Err(_) => unavailable(&format!("the node answered {status}")),
    }
}
