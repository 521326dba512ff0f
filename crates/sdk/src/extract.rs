//! axum's extractors with problem details for what cannot be read.

use axum::{
    extract::{FromRequest, FromRequestParts, Request, rejection::JsonRejection},
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts};
use serde::{Serialize, de::DeserializeOwned};
use sinew_core::{Error, Kind};

use crate::Problem;

/// A JSON body, read or written. Reading answers 400 `sdk.body_invalid` for JSON that does not fit,
/// 413 `sdk.body_too_large`, and 415 `sdk.body_not_json` without `Content-Type: application/json`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json<T>(pub T);

/// The parameters of the path; 400 `sdk.path_invalid` when they do not fit.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

/// The query string; 400 `sdk.query_invalid` when it does not fit.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match axum::Json::from_request(request, state).await {
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(body_problem(rejection)),
        }
    }
}

fn body_problem(rejection: JsonRejection) -> Problem {
    let invalid = |code, text: String| Problem::new(Kind::InvalidArgument, code, text);
    match rejection {
        JsonRejection::MissingJsonContentType(_) => invalid(
            "sdk.body_not_json",
            "send JSON with Content-Type: application/json".into(),
        )
        .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE),
        rejection if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            invalid("sdk.body_too_large", "the body is too large".into())
                .with_status(StatusCode::PAYLOAD_TOO_LARGE)
        }
        rejection => {
            // The innermost error is serde's, which names the place; axum's own adds nothing.
            let mut cause: &dyn std::error::Error = &rejection;
            while let Some(next) = cause.source() {
                cause = next;
            }
            invalid(
                "sdk.body_invalid",
                format!("the body does not fit: {cause}"),
            )
        }
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) if rejection.status().is_server_error() => {
                let error = Error::new(Kind::Internal, "sdk.route_wrong", "the route is wrong");
                Err(error.with_context(rejection.body_text()).into())
            }
            Err(rejection) => Err(Problem::new(
                Kind::InvalidArgument,
                "sdk.path_invalid",
                format!("the path does not fit: {}", rejection.body_text()),
            )),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::new(
                Kind::InvalidArgument,
                "sdk.query_invalid",
                format!("the query does not fit: {}", rejection.body_text()),
            )),
        }
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<T> From<T> for Json<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}
