//! The gateway's routes: what is served, what is stored, and changes.

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderName, header},
};
use serde::Deserialize;
use sinew_core::{Error, Kind};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api, By,
    extract::{Expected, JsonBody, NamePath, QueryOf, RoutesBody},
    model::{
        Problem, Routes, RoutesCheck, RoutesDocument, RoutesVersion, RoutesVersions, RoutesWritten,
    },
    problem::Refusal,
};

/// Who changes something, and why.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    /// Who makes the change, as they say themselves, to 128 bytes; `admin` when absent.
    author: Option<String>,
    /// Why, to 1024 bytes.
    note: Option<String>,
}

/// Which version comes back.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    /// The version whose content shall be the current one again; 0 for no routes.
    version: u64,
}

impl Why {
    fn by(self, expected: Expected) -> By {
        By {
            author: self.author.unwrap_or_else(|| "admin".to_owned()),
            note: self.note.unwrap_or_default(),
            expected: expected.0,
        }
    }
}

/// A body with the stored version as its entity tag.
type Tagged<T> = ([(HeaderName, String); 1], Json<T>);

fn tagged<T>(version: &RoutesVersion, body: T) -> Tagged<T>
where
    T: Clone,
{
    let tag = format!("\"{}\"", version.version);
    ([(header::ETAG, tag)], Json(body))
}

fn written(written: RoutesWritten) -> Tagged<RoutesWritten> {
    let version = written.version.clone();
    tagged(&version, written)
}

/// What this node's gateway serves: the routes of its `sinew.toml` and the stored ones.
#[utoipa::path(
    get, path = "/v1/routes", tag = "routes",
    responses((status = 200, description = "The routes", body = Routes)),
)]
pub(super) async fn served(State(api): State<Api>) -> Json<Routes> {
    Json(api.0.node.routes().served())
}

/// Replace the stored routes as a whole.
///
/// This node serves them when this returns; others over the same store follow within milliseconds.
#[utoipa::path(
    put, path = "/v1/routes", tag = "routes",
    params(Why, ("If-Match" = Option<String>, Header, description = "The version that must be the current one; \"0\" when there must be none")),
    request_body(content = Object, description = "What the routing tables of `sinew.toml` would be as JSON", example = json!({"routes": [{"name": "orders", "path": "/api/orders/**", "service": "orders"}]})),
    responses(
        (status = 200, description = "They are stored", body = RoutesWritten),
        (status = 400, description = "They contradict one another or themselves", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "They do not go together with those of this node's `sinew.toml`", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "Another version is the current one", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn replace(
    State(api): State<Api>,
    expected: Expected,
    QueryOf(why): QueryOf<Why>,
    RoutesBody(document): RoutesBody,
) -> Result<Tagged<RoutesWritten>, Refusal> {
    let by = why.by(expected);
    Ok(written(api.0.node.routes().replace(document, by).await?))
}

/// Add a stored route, or replace the one of this name.
#[utoipa::path(
    put, path = "/v1/routes/{name}", tag = "routes",
    params(
        ("name" = String, Path, description = "The route's name"),
        Why,
        ("If-Match" = Option<String>, Header, description = "The version that must be the current one"),
    ),
    request_body(content = Object, description = "The route; it may leave out its name", example = json!({"path": "/api/orders/**", "service": "orders"})),
    responses(
        (status = 200, description = "It is stored", body = RoutesWritten),
        (status = "4XX", description = "Refused, as for all routes", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn set(
    State(api): State<Api>,
    NamePath(name): NamePath,
    expected: Expected,
    QueryOf(why): QueryOf<Why>,
    RoutesBody(route): RoutesBody,
) -> Result<Tagged<RoutesWritten>, Refusal> {
    let by = why.by(expected);
    Ok(written(api.0.node.routes().set(name, route, by).await?))
}

/// Take a stored route out.
#[utoipa::path(
    delete, path = "/v1/routes/{name}", tag = "routes",
    params(
        ("name" = String, Path, description = "The route's name"),
        Why,
        ("If-Match" = Option<String>, Header, description = "The version that must be the current one"),
    ),
    responses(
        (status = 200, description = "It is gone", body = RoutesWritten),
        (status = 404, description = "No stored route has this name", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It stands in this node's `sinew.toml`", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "Another version is the current one", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    NamePath(name): NamePath,
    expected: Expected,
    QueryOf(why): QueryOf<Why>,
) -> Result<Tagged<RoutesWritten>, Refusal> {
    let by = why.by(expected);
    Ok(written(api.0.node.routes().delete(name, by).await?))
}

/// What storing these routes would change, and what is wrong with them. Stores nothing.
#[utoipa::path(
    post, path = "/v1/routes/check", tag = "routes",
    request_body(content = Object, description = "As for `PUT /v1/routes`"),
    responses((status = 200, description = "What would become of them", body = RoutesCheck)),
)]
pub(super) async fn check(
    State(api): State<Api>,
    RoutesBody(document): RoutesBody,
) -> Result<Json<RoutesCheck>, Refusal> {
    Ok(Json(api.0.node.routes().check(document).await?))
}

/// The stored versions that are kept.
#[utoipa::path(
    get, path = "/v1/routes/versions", tag = "routes",
    responses((status = 200, description = "The versions", body = RoutesVersions)),
)]
pub(super) async fn versions(State(api): State<Api>) -> Result<Json<RoutesVersions>, Refusal> {
    Ok(Json(api.0.node.routes().versions().await?))
}

/// A stored version: its number, or `current`.
#[utoipa::path(
    get, path = "/v1/routes/versions/{version}", tag = "routes",
    params(("version" = String, Path, description = "A number, or `current`")),
    responses(
        (status = 200, description = "The version with its content", body = RoutesDocument),
        (status = 404, description = "It never was, or is no longer kept", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn version(
    State(api): State<Api>,
    Path(version): Path<String>,
) -> Result<Tagged<RoutesDocument>, Refusal> {
    let number = match version.as_str() {
        "current" => None,
        number => Some(number.parse().map_err(|_| {
            let message = "a version is a number or `current`";
            Error::new(Kind::InvalidArgument, "api.path_invalid", message)
        })?),
    };
    let document = api.0.node.routes().version(number).await?;
    let version = document.version.clone();
    Ok(tagged(&version, document))
}

/// Store the content of an earlier version again, as a new version.
#[utoipa::path(
    post, path = "/v1/routes/rollback", tag = "routes",
    params(Why, ("If-Match" = Option<String>, Header, description = "The version that must be the current one")),
    request_body = Rollback,
    responses(
        (status = 200, description = "It is the current content", body = RoutesWritten),
        (status = "4XX", description = "Refused, as for all routes", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn roll_back(
    State(api): State<Api>,
    expected: Expected,
    QueryOf(why): QueryOf<Why>,
    JsonBody(rollback): JsonBody<Rollback>,
) -> Result<Tagged<RoutesWritten>, Refusal> {
    let by = why.by(expected);
    let control = api.0.node.routes();
    Ok(written(control.roll_back(rollback.version, by).await?))
}
