use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use sinew_core::{Error, Kind, Problem, Result, Retry};

/// What another service answered, read whole.
#[derive(Debug)]
pub struct Response {
    service: String,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Response {
    pub(super) fn new(
        service: String,
        status: StatusCode,
        headers: HeaderMap,
        body: Bytes,
    ) -> Self {
        Self {
            service,
            status,
            headers,
            body,
        }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The body.
    pub fn bytes(&self) -> &Bytes {
        &self.body
    }

    /// The body as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// The body as JSON. Errors: `sdk.response_invalid`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Error::new(
                Kind::Internal,
                "sdk.response_invalid",
                format!("the answer of {} cannot be read", self.service),
            )
            .with_source(error)
        })
    }

    /// The problem details that the other service answered, if these are ones.
    pub fn problem(&self) -> Option<Problem> {
        let media_type = self.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        if !media_type.starts_with(Problem::MEDIA_TYPE) {
            return None;
        }
        serde_json::from_slice(&self.body).ok()
    }

    /// The response itself when its status is below 400, otherwise the error that the other service
    /// answered, with its code, kind, message and time to retry. Without problem details the code is
    /// `sdk.response_status` and the kind follows the status.
    pub fn error_for_status(self) -> Result<Self> {
        if self.status.as_u16() < 400 {
            return Ok(self);
        }
        let error = match self.problem() {
            Some(problem) => Error::from(problem),
            None => Error::new(
                kind(self.status),
                "sdk.response_status",
                format!("{} answered {}", self.service, self.status),
            ),
        };
        let error = match (error.retry(), self.retry_after()) {
            (Retry::After(_), _) | (_, None) => error,
            (_, Some(wait)) => error.with_retry(Retry::After(wait)),
        };
        Err(error.with_context(format!("answered by {}", self.service)))
    }

    /// `Retry-After` in seconds; a date is passed over.
    fn retry_after(&self) -> Option<Duration> {
        let seconds = self
            .headers
            .get(header::RETRY_AFTER)?
            .to_str()
            .ok()?
            .parse()
            .ok()?;
        Some(Duration::from_secs(seconds))
    }
}

fn kind(status: StatusCode) -> Kind {
    match status.as_u16() {
        401 => Kind::Unauthenticated,
        403 => Kind::PermissionDenied,
        404 => Kind::NotFound,
        409 => Kind::Aborted,
        412 => Kind::FailedPrecondition,
        429 => Kind::ResourceExhausted,
        400..=499 => Kind::InvalidArgument,
        502 | 503 => Kind::Unavailable,
        504 => Kind::DeadlineExceeded,
        _ => Kind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, media_type: &str, body: &'static str) -> Response {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, media_type.parse().unwrap());
        headers.insert(header::RETRY_AFTER, "3".parse().unwrap());
        let status = StatusCode::from_u16(status).unwrap();
        Response::new(
            "payments".into(),
            status,
            headers,
            Bytes::from_static(body.as_bytes()),
        )
    }

    #[test]
    fn problem_details_become_the_error_again() {
        let body = r#"{"type":"urn:sinew:error:shop.declined","title":"x","status":412,
            "detail":"declined","code":"shop.declined","kind":"failed_precondition","order_id":"o"}"#;
        let error = response(412, "application/problem+json", body)
            .error_for_status()
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (Kind::FailedPrecondition, "shop.declined")
        );
        assert_eq!(error.message(), "declined");
    }

    #[test]
    fn other_errors_follow_the_status() {
        let error = response(503, "text/plain", "busy")
            .error_for_status()
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (Kind::Unavailable, "sdk.response_status")
        );
        assert_eq!(error.retry(), Retry::After(Duration::from_secs(3)));
        assert!(response(302, "text/plain", "").error_for_status().is_ok());
        let error = response(200, "text/plain", "x").json::<u8>().unwrap_err();
        assert_eq!(error.code(), "sdk.response_invalid");
    }
}
