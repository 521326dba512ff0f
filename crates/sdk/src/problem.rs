use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value};
use sinew_core::{Error, Kind, Retry};

/// A reply that says what went wrong, as problem details (RFC 9457). Made from any
/// [`sinew_core::Error`], by `?` too; the error's private context goes to the log, not to the client.
///
/// 429 and 503 always carry `Retry-After`: from the error's [`Retry::After`], or one second.
#[derive(Debug)]
pub struct Problem {
    error: Error,
    status: Option<StatusCode>,
    extra: Map<String, Value>,
    headers: Vec<(http::HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of this kind; see [`Error::new`].
    pub fn new(kind: Kind, code: &'static str, message: impl Into<String>) -> Self {
        Error::new(kind, code, message).into()
    }

    /// With another status than the kind's own, such as 405 or 413.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// With one more member in the body, such as `errors` or `order_id`. The members of RFC 9457 and
    /// of [`sinew_core::Problem`] cannot be replaced. A value that cannot be JSON is left out.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Serialize) -> Self {
        if let Ok(value) = serde_json::to_value(value) {
            self.extra.insert(name.into(), value);
        }
        self
    }

    /// With a header.
    #[must_use]
    pub fn with_header(mut self, name: http::HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The error that it reports.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// The status that it answers.
    pub fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| {
            StatusCode::from_u16(self.error.kind().http_status())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        })
    }

    fn body(&self) -> Map<String, Value> {
        let mut problem = self.error.problem();
        problem.status = self.status().as_u16();
        let mut body = self.extra.clone();
        if let Ok(Value::Object(members)) = serde_json::to_value(&problem) {
            body.extend(members);
        }
        body
    }

    fn retry_after(&self) -> Option<HeaderValue> {
        let wait = match self.error.retry() {
            Retry::After(wait) => wait.as_millis().div_ceil(1000).clamp(1, 86_400) as u64,
            _ if matches!(self.status().as_u16(), 429 | 503) => 1,
            _ => return None,
        };
        Some(HeaderValue::from(wait))
    }

    fn log(&self) {
        let (code, error) = (self.error.code(), self.error.detail());
        match self.error.kind() {
            Kind::Internal | Kind::DataLoss => tracing::error!(code, error, "request failed"),
            _ if self.status().is_server_error() => tracing::warn!(code, error, "request failed"),
            _ => tracing::debug!(code, error, "request refused"),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self {
            error,
            status: None,
            extra: Map::new(),
            headers: Vec::new(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.log();
        let body = Value::Object(self.body()).to_string();
        let mut response = (self.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(sinew_core::Problem::MEDIA_TYPE),
        );
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, seconds);
        }
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_problem_carries_extra_members_and_retry_after() {
        let error = Error::new(Kind::Unavailable, "shop.store_busy", "the store is busy")
            .with_context("secret path")
            .with_retry(Retry::After(Duration::from_millis(1500)));
        let problem = Problem::from(error)
            .with("order_id", "o-1")
            .with("status", 200);
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        let body = axum::body::to_bytes(response.into_body(), 4096)
            .await
            .unwrap();
        assert!(!String::from_utf8_lossy(&body).contains("secret"));
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["order_id"], "o-1");
        assert_eq!(
            (&body["status"], &body["code"]),
            (&503.into(), &"shop.store_busy".into())
        );
    }

    #[test]
    fn another_status_shows_in_the_body_too() {
        let problem = Problem::new(Kind::InvalidArgument, "shop.too_much", "too much")
            .with_status(StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(problem.body()["status"], 413);
    }
}
