//! What requests carry, checked.

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, header, request::Parts},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sinew_coordination::registry::ServiceId;
use sinew_core::{Error, InstanceId, Kind, Name};

use super::{problem::Refusal, selection};

/// The longest body. The largest valid registration has 64 pairs of metadata, 72 KiB.
const BODY_BYTES: usize = 256 * 1024;

/// The longest routes. The stored document may have 4 MiB without its blanks.
const ROUTES_BYTES: usize = 8 * 1024 * 1024;

/// The longest import. Contents may need several bytes for each of theirs as JSON.
const CONFIG_BYTES: usize = 32 * 1024 * 1024;

/// `{service}` and `{id}` of the path, with the namespace of the query.
pub(super) struct InstancePath(pub(super) ServiceId, pub(super) InstanceId);

/// A JSON body.
pub(super) struct JsonBody<T>(pub(super) T);

/// `{name}` of the path.
pub(super) struct NamePath(pub(super) Name);

/// Routes, or a route, as a JSON body.
pub(super) struct RoutesBody(pub(super) Value);

/// A body of the config centre: contents, or many of them.
pub(super) struct ConfigBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for ConfigBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        json(request, CONFIG_BYTES).await.map(Self)
    }
}

/// The version in `If-Match`, if there is one.
pub(super) struct Expected(pub(super) Option<u64>);

impl<S: Send + Sync> FromRequestParts<S> for InstancePath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Path((service, id)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(bad_path)?;
        instance(parts, &service, &id)
    }
}

/// `{service}`, `{id}` and `{check}` of the path, with the namespace of the query.
pub(super) struct CheckPath(
    pub(super) ServiceId,
    pub(super) InstanceId,
    pub(super) String,
);

impl<S: Send + Sync> FromRequestParts<S> for CheckPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<(String, String, String)>::from_request_parts(parts, state).await;
        let Path((service, id, check)) = path.map_err(bad_path)?;
        let InstancePath(service, id) = instance(parts, &service, &id)?;
        Ok(Self(service, id, check))
    }
}

fn instance(parts: &Parts, service: &str, id: &str) -> Result<InstancePath, Refusal> {
    let service = ServiceId::new(selection::namespace(parts)?, Name::new(service)?);
    Ok(InstancePath(service, InstanceId::new(id)?))
}

/// The query of the URL.
pub(super) struct QueryOf<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for QueryOf<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(error) => {
                let message = format!("the query cannot be read: {}", error.body_text());
                Err(Error::new(Kind::InvalidArgument, "api.query_invalid", message).into())
            }
        }
    }
}

fn bad_path(error: impl std::error::Error) -> Refusal {
    let message = format!("the path cannot be read: {error}");
    Error::new(Kind::InvalidArgument, "api.path_invalid", message).into()
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        json(request, BODY_BYTES).await.map(Self)
    }
}

impl<S: Send + Sync> FromRequest<S> for RoutesBody {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        json(request, ROUTES_BYTES).await.map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for NamePath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Path(name) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(bad_path)?;
        Ok(Self(Name::new(&name)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Expected {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let Some(value) = parts.headers.get(header::IF_MATCH) else {
            return Ok(Self(None));
        };
        // An entity tag as this API gives them, or the number alone.
        let number = value.to_str().ok().and_then(|text| {
            let text = text.trim();
            let bare = text
                .strip_prefix('"')
                .and_then(|rest| rest.strip_suffix('"'));
            bare.unwrap_or(text).parse().ok()
        });
        match number {
            Some(version) => Ok(Self(Some(version))),
            None => Err(Error::new(
                Kind::InvalidArgument,
                "api.if_match_invalid",
                "`If-Match` is not a version: send the one that was read, such as `If-Match: \"7\"`, \
                 or \"0\" when there must be none",
            )
            .into()),
        }
    }
}

async fn json<T: DeserializeOwned>(request: Request, most: usize) -> Result<T, Refusal> {
    let media_type = request.headers().get(header::CONTENT_TYPE);
    if !media_type.is_some_and(|value| is_json(value.as_bytes())) {
        let error = Error::new(
            Kind::InvalidArgument,
            "api.body_not_json",
            "send a JSON body with the header `Content-Type: application/json`",
        );
        return Err(Refusal::with_status(
            error,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ));
    }
    let bytes = read(request.into_body(), most).await?;
    // Its messages name the field, what was expected, and line and column.
    serde_json::from_slice(&bytes).map_err(|error| {
        let message = format!("the body is not as expected: {error}");
        Error::new(Kind::InvalidArgument, "api.body_invalid", message).into()
    })
}

async fn read(body: Body, most: usize) -> Result<bytes::Bytes, Refusal> {
    match Limited::new(body, most).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let error = Error::new(
                Kind::InvalidArgument,
                "api.body_too_large",
                format!("the body is longer than {most} bytes"),
            );
            Err(Refusal::with_status(error, StatusCode::PAYLOAD_TOO_LARGE))
        }
        Err(error) => {
            let message = "the body broke off";
            Err(
                Error::new(Kind::InvalidArgument, "api.body_invalid", message)
                    .with_context(error.to_string())
                    .into(),
            )
        }
    }
}

fn is_json(media_type: &[u8]) -> bool {
    let essence = media_type
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default();
    essence
        .trim_ascii()
        .eq_ignore_ascii_case(b"application/json")
}
