//! What goes back: JSON with an index, or an error as plain text.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use sinew_core::{Error, Kind, Result, Retry};

const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");

/// An error on its way to the client, as plain text.
#[derive(Debug)]
pub(super) struct Refusal {
    error: Error,
    status: StatusCode,
}

impl Refusal {
    pub(super) fn with_status(error: Error, status: StatusCode) -> Self {
        Self { error, status }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = match error.code() {
            "keyspace.value_too_large" | "consul.body_too_large" => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::from_u16(error.kind().http_status())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        };
        Self { error, status }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { error, status } = self;
        if status.is_server_error() {
            tracing::warn!(
                code = error.code(),
                error = error.detail(),
                "a request in Consul's dialect failed"
            );
        }
        let text = format!("{} ({})", error.message(), error.code());
        let mut response = (status, text).into_response();
        if let Retry::After(wait) = error.retry()
            && let Ok(seconds) = HeaderValue::try_from(wait.as_secs().max(1).to_string())
        {
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

/// 400: the request is wrong.
pub(super) fn invalid(why: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, "consul.request_invalid", why)
}

/// 400: Consul has it, and this has not.
pub(super) fn unsupported(why: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, "consul.unsupported", why)
}

/// 404: there is no such service or check.
pub(super) fn unknown(what: &str, id: &str) -> Error {
    let id: String = id.chars().take(128).collect();
    let why =
        format!("Unknown {what} ID {id:?}. Ensure that the {what} ID is passed, not the name.");
    Error::new(Kind::NotFound, "consul.unknown_id", why)
}

/// JSON without an index.
pub(super) fn json(value: &Value) -> Response {
    body(
        serde_json::to_vec(value)
            .expect("plain data serialises")
            .into(),
    )
}

fn body(bytes: Bytes) -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], bytes).into_response()
}

/// JSON with an index.
pub(super) fn indexed(bytes: Bytes, index: u64) -> Response {
    with_index(body(bytes), index)
}

/// Adds the index, and what goes with it.
pub(super) fn with_index(mut response: Response, index: u64) -> Response {
    let headers = response.headers_mut();
    headers.insert(INDEX, HeaderValue::from(index.max(1)));
    headers.insert(KNOWN_LEADER, HeaderValue::from_static("true"));
    headers.insert(LAST_CONTACT, HeaderValue::from_static("0"));
    response
}

/// Reads a body of at most so many bytes.
pub(super) async fn read(body: Body, most: usize) -> Result<Bytes> {
    match Limited::new(body, most).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Error::new(
            Kind::InvalidArgument,
            "consul.body_too_large",
            format!("Request body too large, max size: {most} bytes"),
        )),
        Err(error) => Err(invalid("the body broke off").with_context(error.to_string())),
    }
}

/// Says that the answer may be so old.
pub(super) fn stale(response: &mut Response, age: std::time::Duration) {
    let headers = response.headers_mut();
    let millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    headers.insert(LAST_CONTACT, HeaderValue::from(millis));
    headers.insert(KNOWN_LEADER, HeaderValue::from_static("false"));
}
