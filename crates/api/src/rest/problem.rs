//! Errors as problem details (RFC 9457).

use std::time::Duration;

use axum::{
    extract::OriginalUri,
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use sinew_core::{Error, Kind, Problem, Retry};

/// An error on its way to the client. Its HTTP status is its kind's, or a more exact one.
#[derive(Debug)]
pub(super) struct Refusal {
    error: Error,
    status: Option<StatusCode>,
}

impl Refusal {
    pub(super) fn with_status(error: Error, status: StatusCode) -> Self {
        Self {
            error,
            status: Some(status),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self {
            error,
            status: None,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut problem = self.error.problem();
        if let Some(status) = self.status {
            problem.status = status.as_u16();
        }
        // Here is where errors of the API are handled, so here is where they are logged.
        if problem.status >= 500 {
            tracing::warn!(
                code = problem.code,
                error = self.error.detail(),
                "a request failed"
            );
        }
        let status =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&problem).expect("strings and numbers serialise");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(Problem::MEDIA_TYPE),
        );
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        let retry_after = match self.error.retry() {
            Retry::After(wait) => Some(wait.as_millis().div_ceil(1000).max(1)),
            Retry::Yes if status == StatusCode::SERVICE_UNAVAILABLE => Some(1),
            _ => None,
        };
        if let Some(seconds) = retry_after
            && let Ok(seconds) = HeaderValue::try_from(seconds.to_string())
        {
            headers.insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

/// 404 for paths that are none.
pub(super) async fn not_found(OriginalUri(uri): OriginalUri) -> Refusal {
    let path: String = uri.path().chars().take(128).collect();
    Error::new(
        Kind::NotFound,
        "api.path_unknown",
        format!("there is no {path:?} here; the API is described at /v1/openapi.json"),
    )
    .into()
}

/// 405 for methods that a path does not have.
pub(super) async fn method_not_allowed(method: Method) -> Refusal {
    let error = Error::new(
        Kind::InvalidArgument,
        "api.method_unknown",
        format!("{method} cannot be used here; the API is described at /v1/openapi.json"),
    );
    Refusal::with_status(error, StatusCode::METHOD_NOT_ALLOWED)
}

/// 504 for requests that took too long.
pub(super) fn timeout(limit: Duration) -> Refusal {
    Error::new(
        Kind::DeadlineExceeded,
        "api.timeout",
        format!(
            "no answer within {} s; it may have happened",
            limit.as_secs()
        ),
    )
    .into()
}
