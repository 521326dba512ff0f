//! What goes back to the client.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use sinew_core::Error;

use super::{views::Document, wire::Form};

/// What is answered when all is well.
pub(super) enum Reply {
    Done(StatusCode),
    Document(Form, Document),
}

/// An error on its way to the client, as plain text.
pub(super) struct Refusal(pub(super) Error);

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        match self {
            Self::Done(status) => status.into_response(),
            Self::Document(form, document) => {
                let mut response = document.bytes.into_response();
                let headers = response.headers_mut();
                let value = header::HeaderValue::from_static;
                headers.insert(header::CONTENT_TYPE, value(form.media_type()));
                headers.insert(header::VARY, value("accept, accept-encoding"));
                if document.gzip {
                    headers.insert(header::CONTENT_ENCODING, value("gzip"));
                }
                response
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let problem = error.problem();
        let code = error.code();
        let status = match code {
            "api.method_unknown" => StatusCode::METHOD_NOT_ALLOWED,
            "api.body_too_large" => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        };
        if status.is_server_error() {
            tracing::warn!(
                code,
                error = error.detail(),
                "a request of a Eureka client failed"
            );
        }
        let mut response = (status, format!("{} ({code})\n", error.message())).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let value = header::HeaderValue::from_static("Basic realm=\"sinew\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}
