use std::{fmt::Display, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header, uri::PathAndQuery};
use serde::Serialize;
use sinew_core::{Error, Kind, Name, Result};

use super::{Inner, Response, attempts};
use crate::service_key;

/// A call in the making.
///
/// What [`Request::send`] does about failures: an instance that cannot be connected to is set aside
/// and another is tried, whatever the method. A request that may be repeated (GET, HEAD, PUT, DELETE,
/// OPTIONS, or marked [`Request::idempotent`]) is also sent to another instance when the answer is
/// 503, the connection breaks, or one try takes too long; at most three tries in all, within a budget
/// of one retry for five requests. Everything ends at the deadline: that of the request itself or,
/// when it is nearer, that of the request being handled.
#[must_use = "nothing happens before `send`"]
pub struct Request {
    pub(super) client: Arc<Inner>,
    pub(super) parts: Result<Parts>,
}

pub(super) struct Parts {
    pub(super) method: Method,
    pub(super) service: Name,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) idempotent: bool,
    pub(super) timeout: Duration,
    pub(super) try_timeout: Option<Duration>,
    pub(super) max_response: usize,
}

impl Request {
    pub(super) fn new(client: Arc<Inner>, method: Method, service: &str, path: &str) -> Self {
        let parts = Name::new(service).and_then(|service| {
            // A path that does not begin with `/` would become part of the host.
            if !path.starts_with('/') || path.parse::<PathAndQuery>().is_err() {
                return Err(invalid(
                    "the path does not begin with / or holds odd characters",
                ));
            }
            Ok(Parts {
                idempotent: method.is_idempotent(),
                method,
                service,
                path: path.to_owned(),
                headers: HeaderMap::new(),
                body: Bytes::new(),
                timeout: Duration::from_secs(5),
                try_timeout: None,
                max_response: 2 * 1024 * 1024,
            })
        });
        Self { client, parts }
    }

    fn with(mut self, change: impl FnOnce(&mut Parts) -> Result<()>) -> Self {
        if let Ok(parts) = &mut self.parts
            && let Err(error) = change(parts)
        {
            self.parts = Err(error);
        }
        self
    }

    /// With this value as JSON body.
    pub fn json(self, body: &impl Serialize) -> Self {
        self.with(|parts| {
            let json = serde_json::to_vec(body)
                .map_err(|error| invalid("the body cannot be JSON").with_source(error))?;
            parts.body = json.into();
            let json = HeaderValue::from_static("application/json");
            parts.headers.insert(header::CONTENT_TYPE, json);
            Ok(())
        })
    }

    /// With these bytes as body.
    pub fn body(self, body: impl Into<Bytes>) -> Self {
        self.with(|parts| {
            parts.body = body.into();
            Ok(())
        })
    }

    /// With one more parameter in the query string; the value is escaped.
    pub fn query(self, name: &str, value: impl Display) -> Self {
        self.with(|parts| {
            parts
                .path
                .push(if parts.path.contains('?') { '&' } else { '?' });
            escape(name, &mut parts.path);
            parts.path.push('=');
            escape(&value.to_string(), &mut parts.path);
            Ok(())
        })
    }

    /// With this header in place of any earlier one of the name.
    pub fn header(self, name: &str, value: impl AsRef<str>) -> Self {
        self.with(|parts| {
            let name = HeaderName::try_from(name)
                .map_err(|error| invalid("a header's name is wrong").with_source(error))?;
            let value = HeaderValue::try_from(value.as_ref())
                .map_err(|error| invalid("a header's value is wrong").with_source(error))?;
            parts.headers.insert(name, value);
            Ok(())
        })
    }

    /// With `Authorization: Bearer <token>`.
    pub fn bearer(self, token: impl AsRef<str>) -> Self {
        self.with(|parts| {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.as_ref()))
                .map_err(|error| invalid("the token is wrong").with_source(error))?;
            value.set_sensitive(true);
            parts.headers.insert(header::AUTHORIZATION, value);
            Ok(())
        })
    }

    /// With the key that services know one another by (`SINEW_SERVICE_KEY`). Sending fails with
    /// `sdk.service_key_missing` when this service has none.
    pub fn internal(self) -> Self {
        let secret = self.client.secret.clone();
        self.with(|parts| {
            let secret = secret.ok_or_else(|| {
                Error::new(
                    Kind::Unauthenticated,
                    "sdk.service_key_missing",
                    "this service has no key to call others with; set SINEW_SERVICE_KEY",
                )
            })?;
            parts.headers.insert(service_key::HEADER, secret.header);
            Ok(())
        })
    }

    /// Says whether the request may be sent more than once, such as a POST with an idempotency key.
    pub fn idempotent(self, idempotent: bool) -> Self {
        self.with(|parts| {
            parts.idempotent = idempotent;
            Ok(())
        })
    }

    /// How long all tries together may take; 5 s unless set.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|parts| {
            parts.timeout = timeout;
            Ok(())
        })
    }

    /// How long one try may take. Unless set, half of the whole for a request that may be repeated,
    /// and all of it for others.
    pub fn try_timeout(self, timeout: Duration) -> Self {
        self.with(|parts| {
            parts.try_timeout = Some(timeout);
            Ok(())
        })
    }

    /// How many bytes the answer's body may have; 2 MiB unless set.
    pub fn max_response(self, bytes: usize) -> Self {
        self.with(|parts| {
            parts.max_response = bytes;
            Ok(())
        })
    }

    /// Sends it. Any status is an `Ok`; see [`Response::error_for_status`].
    ///
    /// Errors: `sdk.service_unavailable` (no instance is up or can be connected to),
    /// `sdk.call_timeout`, `sdk.call_failed` (the connection broke; the request may have been
    /// carried out), `sdk.response_too_large`, `sdk.request_invalid`, `sdk.service_key_missing`.
    pub async fn send(self) -> Result<Response> {
        let parts = self.parts?;
        // The future is large and lives in every handler that makes calls.
        Box::pin(attempts::send(&self.client, parts)).await
    }
}

fn invalid(message: &str) -> Error {
    Error::new(
        Kind::Internal,
        "sdk.request_invalid",
        format!("a call cannot be made: {message}"),
    )
}

/// Percent-encodes all but the unreserved characters of RFC 3986 §2.3.
pub(super) fn escape(text: &str, out: &mut String) {
    use std::fmt::Write;
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte.into());
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}
